"""Time of the metrics of signals: ``python benchmarks/metrics_time.py [--clips 50] [--processes 2]``.

Every clip is the example recording, repeated to 6 s and clipped at a level of its own. All metrics whose packages are
installed are computed clip by clip, as in ``nldiff evaluate``.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from nldiff.errors import NldiffError
from nldiff.metrics import METRICS, compute

EXAMPLE = Path(__file__).parents[1] / "examples" / "guit_em9_distorted.flac"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row of a Markdown table for every metric, and the time of all of them."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--clips", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each (default: 6)")
    parser.add_argument("--processes", type=int, default=2, help="with one thread each (default: 2)")
    options = parser.parse_args(arguments)
    names = []
    for name, metric in METRICS.items():
        try:
            if metric.inputs == "signals":
                clip_times([name], 1.0, 0)
                names.append(name)
        except NldiffError as error:
            print(f"left out: {name}: {error}")
    started = time.monotonic()
    with ProcessPoolExecutor(options.processes, initializer=partial(torch.set_num_threads, 1)) as pool:
        found = list(pool.map(partial(clip_times, names, options.seconds), range(options.clips)))
    wall = time.monotonic() - started
    total: Counter[str] = Counter()
    for times in found:
        total.update(times)
    print("\n| metric | CPU time per clip (s) | times real time |\n|---|---:|---:|")
    for name, seconds in total.most_common():
        mean = seconds / options.clips
        print(f"| {name} | {mean:.2f} | {options.seconds / mean:.0f} |")
    print(f"\n{options.clips} clips of {options.seconds:g} s, {options.processes} processes: {wall:.0f} s")
    return 0


def clip_times(names: Sequence[str], seconds: float, seed: int) -> dict[str, float]:
    """CPU time of each metric for one clip, seconds."""
    example, rate = soundfile.read(EXAMPLE)
    reference = np.resize(example, round(seconds * rate))
    level = np.abs(reference).max() * np.random.default_rng(seed).uniform(0.2, 0.8)
    times = {}
    for name in names:
        started = time.process_time()
        compute([name], reference, reference.clip(-level, level), rate)
        times[name] = time.process_time() - started
    return times


if __name__ == "__main__":
    raise SystemExit(main())
