"""Damaged inputs of every kind, from seeds: each must be used or refused in one line, within five CPU seconds.

`make fuzz MINUTES=10` runs it; `tests/test_fuzz.py` a short part of it. A finding is repeated by its kind and seed:
`python tests/fuzz.py --kinds audio --first 1234 --count 1`.
"""

import argparse
import dataclasses
import io
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile as sf
import torch
from damage import damaged_once
from experiments import quick, timeless
from helpers import TINY_RATE, load_tiny_prior, plucked, save_tiny_baseline, save_tiny_prior
from run_folders import write_run
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nldiff.baselines.saved import load_baseline
from nldiff.cli.terminal import one_line
from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.evaluation import evaluate
from nldiff.evaluation.finished import read_row, remove_damaged
from nldiff.figures import run_folder
from nldiff.figures.style import looks_of
from nldiff.priors import load_prior
from nldiff.restoration.settings import RestoreConfig, Settings, check_config, resolve_settings
from nldiff.sound.recording import Recording
from nldiff.training.run_files import Logs, State
from nldiff.weight_files import checksum

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


_SETTINGS = [(f.name, getattr(RestoreConfig(), f.name)) for f in dataclasses.fields(RestoreConfig)] + [
    (f"{group.name}.{f.name}", getattr(getattr(Settings(), group.name), f.name))
    for group in dataclasses.fields(Settings)
    for f in dataclasses.fields(getattr(Settings(), group.name))
] + [(name, 1) for name in ("x", "a.b.c", "", "sampler.heun")]  # fmt: skip


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
        (folder / "clips").mkdir()
        sf.write(folder / "clips" / "a.wav", plucked(0.4, TINY_RATE), TINY_RATE)
        self.experiment = quick(folder / "clips", prior, "save_audio=true", "seconds=0.3", f"rate={TINY_RATE}")
        self.finished = folder / "finished"
        self._evaluate(self.finished)
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
        keys = [_SETTINGS[index] for index in random.integers(len(_SETTINGS), size=random.integers(1, 4))]
        values = [_near(default, random) if random.random() < 0.7 else random.choice(_VALUES) for _, default in keys]
        overrides = [f"{key}={value}" for (key, _), value in zip(keys, values, strict=True)]
        path = None
        if seed % 2:
            path = self.folder / "settings.yaml"
            named = zip(keys, values, strict=True)
            text = "\n".join(f"{key.replace('.', ': {')}: {value}{'}' * key.count('.')}" for (key, _), value in named)
            path.write_bytes(damaged_once(text.encode(), seed) if seed % 4 == 1 else text.encode())
            overrides = []
        config = load_config(RestoreConfig, path, overrides)
        check_config(config)
        resolve_settings(self.prior, config)

    def weights(self, seed: int) -> None:
        load, content = self.weight_files[seed % 2]
        path = self.folder / "damaged.safetensors"
        if seed % 4 < 2:
            path.write_bytes(damaged_once(content, seed))
        else:  # a checksum does not stop those who can write one
            _write_foreign(content, seed, path)
        model: Any = load(path)
        if seed % 2:
            model(torch.zeros(1, 100))
        else:
            resolve_settings(model, RestoreConfig())
            model.denoiser(torch.zeros(1, TINY_RATE // 4), torch.ones(1))

    def run_folders(self, seed: int) -> None:
        if seed % 16 == 0:
            self._resumed(seed)
        elif seed % 16 < 4:
            self._cell(seed)
        else:
            self._reading(seed)

    def _resumed(self, seed: int) -> None:
        """An experiment goes on in a folder with a damaged file, and ends as an undamaged one."""
        run = self.folder / "resumed"
        shutil.copytree(self.finished, run)
        try:
            paths = sorted(path for path in run.rglob("*") if path.is_file())
            path = paths[seed // 16 % len(paths)]
            path.write_bytes(damaged_once(path.read_bytes(), seed))
            self._evaluate(run)
            if timeless(run) != timeless(self.finished):
                raise AssertionError(f"{path}: other results")
        finally:
            shutil.rmtree(run)

    def _evaluate(self, run: Path) -> None:
        with patch("nldiff.figures.draw"):  # takes seconds, and reads what was just written
            evaluate(self.experiment, run)

    def _cell(self, seed: int) -> None:
        """The row of a cell."""
        cell = self.folder / "cell.json"
        blank = {"task": "x", "seed": 0, "status": "ok", "error": "", "si_sdr": 1.5, "problems": [], "files": None}
        cell.write_bytes(damaged_once(json.dumps(blank).encode(), seed))
        row = read_row(cell, blank)
        if row["task"] != "x" or row["seed"] != 0:
            raise AssertionError(row)

    def _reading(self, seed: int) -> None:
        """Tables, curves, traces and audio are read for pictures and pages."""
        source = self.run_files[seed % len(self.run_files)]
        content = source.read_bytes()
        source.write_bytes(damaged_once(content, seed))
        try:
            cells = run_folder.read_cells(self.run)
            looks = looks_of(cell.method for cell in cells)
            for group in {cell.group for cell in cells}:
                run_folder.truth_of(self.run / "curves" / group)
                for kind in ("curves", "traces"):
                    run_folder.tables_of(self.run / kind / group, looks)
                run_folder.example_signals(self.run, group, looks)
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


def _near(default: Any, random: np.random.Generator) -> str:
    """A value of the same type as the default of a setting."""
    if isinstance(default, bool):
        return str(random.choice(("true", "false")))
    if isinstance(default, int | float):
        value = default * random.choice((0.5, 0.9, 1, 2, 10, -1)) + random.choice((0, 0, 1, 1e-9))
        return str(round(value) if isinstance(default, int) else value)
    if isinstance(default, list | tuple):
        return f"[{', '.join(_near(value, random) for value in default[: random.integers(len(default) + 1)])}]"
    return "{}" if isinstance(default, dict) else str(default)


def _write_foreign(content: bytes, seed: int, path: Path) -> None:
    """A weights file with a changed configuration or a changed tensor, and the checksum of these."""
    random = np.random.default_rng(seed)
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    if random.random() < 0.7:
        config = json.loads(metadata["config"])
        inner = config.get(random.choice(["network", "settings"]), config)
        group = inner if random.random() < 0.7 else config
        value = random.choice([*_VALUES, "2", "3", "8", "0.06"])
        try:
            group[str(random.choice([*group, "x"]))] = json.loads(value)
        except ValueError:
            group[str(random.choice([*group, "x"]))] = value
        metadata["config"] = json.dumps(config)
    else:
        name = str(random.choice(sorted(tensors)))
        tensor = tensors.pop(name)
        changes = [
            lambda: tensor.to(torch.int32), lambda: tensor.double(), lambda: tensor * torch.nan, lambda: tensor * 1e30,
            lambda: tensor.reshape(-1), lambda: tensor.reshape(-1)[:0], lambda: tensor.bool(),
            lambda: tensor.to(torch.complex64), lambda: tensor.to(torch.float8_e5m2),
        ]  # fmt: skip
        if (number := random.integers(len(changes) + 1)) < len(changes):
            tensors[name] = changes[number]()
    metadata["checksum"] = checksum(tensors, metadata["config"])
    save_file(tensors, path, metadata=metadata)


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
