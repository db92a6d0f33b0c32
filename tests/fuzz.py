"""Damaged inputs of every kind, from seeds: each must be used or refused in one line, within five CPU seconds.

`make fuzz MINUTES=10` runs it; `tests/test_fuzz.py` a short part of it. A finding is repeated by its kind and seed:
`python tests/fuzz.py --kinds audio --first 1234 --count 1`.
"""

import argparse
import io
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from damage import damaged_once
from helpers import TINY_RATE, load_tiny_prior, plucked, save_tiny_baseline, save_tiny_prior
from run_folders import write_run
from torch import nn

from nldiff.baselines.saved import load_baseline
from nldiff.cli.terminal import one_line
from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.evaluation.finished import read_row, remove_damaged
from nldiff.figures import run_folder
from nldiff.figures.style import looks_of
from nldiff.priors import load_prior
from nldiff.restoration.settings import RestoreConfig, Settings, check_config, resolve_settings
from nldiff.sound.recording import Recording
from nldiff.training.run_files import Logs, State

LIMIT, PATIENCE = 5.0, 60.0  # seconds of the processor, and of the clock, on which others may work as well
_CONTAINERS = (
    ("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"),
    ("aiff", "PCM_24"), ("au", "PCM_16"), ("w64", "PCM_16"), ("rf64", "FLOAT"), ("caf", "PCM_16"), ("opus", "OPUS"),
)  # fmt: skip
_VALUES = (
    "", "null", "{}", "[]", "{a: 3}", "[1, x]", "-1", "0", "1e400", "nan", "1000000000000", "true", "x" * 300,
    "!!python/x",
    "[[[[1]]]]", "${a}", "${oc.env:NOTHING}", "'", "\"", "\\n", "\0", "1.5", "auto", "[0.5]", "{1: {2: {3: 4}}}",
)  # fmt: skip


class Hang(BaseException):
    """An input took longer than `LIMIT` or `PATIENCE`."""


class Inputs:
    """Whole inputs of all kinds in a folder, and what is done with a damaged one; a method for each kind.

    Each takes a seed, and raises `NldiffError` where the input is refused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stereo = np.stack([plucked(0.5, 48000, seed) for seed in (1, 2)], axis=1)
        self.audio_files = []
        for suffix, subtype in _CONTAINERS:
            buffer = io.BytesIO()
            sf.write(buffer, stereo, 48000, format="OGG" if suffix == "opus" else suffix.upper(), subtype=subtype)
            self.audio_files.append((suffix, buffer.getvalue()))
        prior, baseline = save_tiny_prior(folder / "p.safetensors"), save_tiny_baseline(folder / "b.safetensors")
        files: list[tuple[Callable[[Path], Any], bytes]] = [
            (load_prior, prior.read_bytes()),
            (load_baseline, baseline.read_bytes()),
        ]
        self.weight_files = files
        self.prior = load_tiny_prior(folder)
        clips = {"a": plucked(0.4, TINY_RATE).astype(float)}
        self.run = write_run(folder / "run", clips, settings=[("hard_clip", "hard_clip:sdr=3", "3", "input SDR")])
        self.run_files = sorted(path for path in self.run.rglob("*") if path.is_file())
        self.state().save(folder / "c.pt")
        self.checkpoint = (folder / "c.pt").read_bytes()
        rows = [f"{step},0.5,1,0.001,{step}.25\r\n" for step in range(1, 40)]
        self.log = ("step,loss,gradient_norm,learning_rate,seconds\r\n" + "".join(rows)).encode()

    def audio(self, seed: int) -> None:
        suffix, content = self.audio_files[seed % len(self.audio_files)]
        path = self.folder / f"damaged.{suffix}"
        path.write_bytes(damaged_once(content, seed))
        recording = Recording.from_file(path, strict=False)
        for start, frames in recording.blocks():
            if not np.isfinite(recording.read(start, frames)).all():
                raise AssertionError("samples that are not finite")

    def settings(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        names = [f.name for f in fields(RestoreConfig)] + [
            f"{group.name}.{f.name}"
            for group in fields(Settings)
            for f in fields(group.type)  # type: ignore[arg-type]
        ]
        keys = [str(random.choice([*names, "x", "a.b.c", ""])) for _ in range(random.integers(1, 4))]
        overrides = [f"{key}={random.choice(_VALUES)}" for key in keys]
        path = None
        if seed % 2:
            path = self.folder / "settings.yaml"
            text = "\n".join(
                f"{key.replace('.', ': {')}: {random.choice(_VALUES)}{'}' * key.count('.')}" for key in keys
            )
            path.write_bytes(damaged_once(text.encode(), seed) if seed % 4 == 1 else text.encode())
            overrides = []
        config = load_config(RestoreConfig, path, overrides)
        check_config(config)
        resolve_settings(self.prior, config)

    def weights(self, seed: int) -> None:
        load, content = self.weight_files[seed % 2]
        path = self.folder / "damaged.safetensors"
        path.write_bytes(damaged_once(content, seed))
        model: Any = load(path)
        if seed % 2 == 0:
            resolve_settings(model, RestoreConfig())

    def run_folders(self, seed: int) -> None:
        source = self.run_files[seed % len(self.run_files)]
        content = source.read_bytes()
        source.write_bytes(damaged_once(content, seed))
        cell = self.folder / "cell.json"
        blank = {"task": "x", "seed": 0, "status": "ok", "error": "", "si_sdr": 1.5, "problems": [], "files": None}
        cell.write_bytes(damaged_once(repr(blank).replace("'", '"').replace("None", "null").encode(), seed))
        try:
            cells = run_folder.read_cells(self.run)
            looks = looks_of(cell.method for cell in cells)
            for group in {cell.group for cell in cells}:
                run_folder.truth_of(self.run / "curves" / group)
                for kind in ("curves", "traces"):
                    run_folder.tables_of(self.run / kind / group, looks)
                run_folder.example_signals(self.run, group, looks)
            read_row(cell, blank)
        finally:
            copy = self.folder / source.name
            shutil.copy(source, copy)
            if copy.suffix in (".csv", ".flac"):
                remove_damaged([copy], lambda line: None)
            source.write_bytes(content)

    def logs(self, seed: int) -> None:
        if seed % 2:
            path = self.folder / "loss.csv"
            path.write_bytes(damaged_once(self.log, seed))
            Logs(self.folder, ["value"], 39, None)
            for line in path.read_text().splitlines()[1:]:
                if len([float(value) for value in line.split(",")]) != 5:
                    raise AssertionError(line)
            return
        path = self.folder / "checkpoint.pt"
        path.write_bytes(damaged_once(self.checkpoint, seed))
        self.state().load(path)

    @staticmethod
    def state() -> State:
        """The state of a small training."""
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        optimiser = torch.optim.AdamW(network.parameters())
        network(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        return State(network, nn.Linear(3, 2), optimiser, step=7, history=[[1.0]], seconds=1.0)


KINDS = ("audio", "settings", "weights", "run_folders", "logs")


def attempt(use: Callable[[int], None], seed: int) -> str:
    """Use an input; returns "used", "refused", "hang", or the traceback of what should not happen."""

    def stop(*_: object) -> None:
        raise Hang

    timers = {signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE), signal.SIGPROF: (signal.ITIMER_PROF, LIMIT)}
    earlier = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        use(seed)
    except NldiffError as error:
        return "refused" if one_line(error) == str(error) else f"more than one line: {error}"
    except Hang:
        return "hang"
    except Exception:
        return traceback.format_exc()
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, earlier[number])
    return "used"


def main() -> int:
    """Fuzz for some minutes; returns 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="largest number of inputs of a kind")
    options = parser.parse_args()
    end, counts, found = time.monotonic() + 60 * options.minutes, Counter[tuple[str, str]](), 0
    with tempfile.TemporaryDirectory() as folder:
        inputs, seed = Inputs(Path(folder)), options.first
        while time.monotonic() < end and seed < options.first + options.count:
            for kind in options.kinds:
                outcome = attempt(getattr(inputs, kind), seed)
                counts[kind, outcome if outcome in ("used", "refused", "hang") else "traceback"] += 1
                if outcome not in ("used", "refused"):
                    found += 1
                    print(f"{kind}, seed {seed}: {outcome}", flush=True)
            seed += 1
    for kind in options.kinds:
        print(kind, {outcome: count for (name, outcome), count in sorted(counts.items()) if name == kind})
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
