"""Time and memory of the whole program, start to end: ``python benchmarks/restore_time.py [SECONDSxCHANNELS ...]``.

The example recording is repeated to the length asked for and restored by ``infer.py`` in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "guit_em9_distorted.flac"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row of a Markdown table for every case."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "cases",
        nargs="*",
        type=case,
        metavar="SECONDSxCHANNELS",
        default=[(6.0, 1), (60.0, 2)],
        help="recordings to restore (default: 6x1 60x2)",
    )
    parser.add_argument("--prior", default="guitar", help="shipped prior or prior file (default: guitar)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of infer.py")
    options = parser.parse_args(arguments)
    print(f"{options.prior}, {options.device}, {options.threads} threads {' '.join(options.set)}\n")
    print("| recording | wall time (s) | CPU time (s) | peak memory (MiB) |\n|---|---:|---:|---:|")
    for seconds, channels in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording.wav"
            write_recording(path, seconds, channels)
            command = [sys.executable, ROOT / "infer.py", path, "--output", Path(folder) / "out", "--quiet"]
            command += ["--prior", options.prior, "--device", options.device, *options.set]
            code, wall, cpu, memory = measure([str(part) for part in command], options.threads)
        if code:
            return code
        kind = "mono" if channels == 1 else "stereo"
        print(f"| {seconds:g} s, {kind} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)
    return 0


def case(text: str) -> tuple[float, int]:
    """Read "6x1" as 6 seconds of one channel."""
    seconds, _, channels = text.partition("x")
    if channels not in ("1", "2"):
        raise argparse.ArgumentTypeError(f"'{text}': SECONDSx1 or SECONDSx2 expected")
    return float(seconds), int(channels)


def write_recording(path: Path, seconds: float, channels: int) -> None:
    """Write the example, repeated; the second channel is half of the example behind the first."""
    samples, rate = soundfile.read(EXAMPLE, dtype="float32")
    times = np.arange(round(seconds * rate))[:, None] + np.arange(channels) * (len(samples) // 2)
    soundfile.write(path, samples[times % len(samples)], rate)


def measure(command: list[str], threads: int) -> tuple[int, float, float, float]:
    """Run a process; returns exit code, wall time (s), CPU time (s) and peak memory (MiB)."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
