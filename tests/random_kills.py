"""Commands that are ended at random moments: nothing mixed, nothing left behind, and the end as if nothing had been.

`make kills COUNT=50` ends every command so often, by SIGKILL, SIGTERM and SIGINT in turn; `tests/test_random_kills.py`
some of them a few times. Each runs in a fork of this process, so that loading takes no time.
"""

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import soundfile as sf
import yaml
from experiments import command, quick, timeless
from helpers import TINY_NETWORK, TINY_RATE, clipped, plucked, save_tiny_prior
from run_folders import write_run
from safetensors.torch import load_file

from nldiff.cli import main as run_nldiff

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class Kind:
    """A command: how it is run, and what its folder holds; every method is called in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.prior = save_tiny_prior(folder / "tiny.safetensors")
        (folder / "clips").mkdir()
        sf.write(folder / "clips" / "clip.wav", plucked(0.5, TINY_RATE), TINY_RATE)
        self.prepare()

    def prepare(self) -> None:
        """Write the inputs."""

    def arguments(self) -> list[str]:
        """Of `nldiff`, for a run that begins or goes on."""
        raise NotImplementedError

    def content(self) -> dict[str, object]:
        """What the folder holds, without what differs from run to run, such as times."""
        return {str(path.relative_to(self.out)): self.read(path) for path in _files(self.out)}

    def read(self, path: Path) -> object:
        """The content of a file without times."""
        return path.read_bytes()

    def check(self, before: Mapping[str, object], final: Mapping[str, object]) -> None:
        """After an end at any moment: `before` is what the folder held, `final` what a whole run leaves."""


class Restore(Kind):
    """The results of another recording of the same name are replaced, as a set."""

    def prepare(self) -> None:
        sf.write(self.folder / "take.wav", clipped(0.4, TINY_RATE).T, TINY_RATE)

    def arguments(self) -> list[str]:
        return ["restore", str(self.folder / "take.wav"), "--prior", str(self.prior), "-o", str(self.out), "--quiet",
                "--preview"]  # fmt: skip

    def read(self, path: Path) -> object:
        if path.suffix == ".wav":
            return sf.read(io.BytesIO(path.read_bytes()))[0].tobytes()
        return _timeless(json.loads(path.read_bytes())) if path.suffix == ".json" else path.read_bytes()

    def check(self, before: Mapping[str, object], final: Mapping[str, object]) -> None:
        now = self.content()
        preview = {"take.preview.html"}
        if "take.json" in now:
            whole = final if now["take.json"] == final["take.json"] else before
            assert now.keys() | preview == whole.keys() | preview, now.keys()
            assert all(now[name] == whole[name] for name in now), "mixed"


class Report(Kind):
    """The page is replaced as a whole."""

    def prepare(self) -> None:
        self.run = write_run(self.folder / "run", {"a": plucked(0.5, TINY_RATE).astype(float)})

    def arguments(self) -> list[str]:
        return ["report", str(self.run), "--out", str(self.out)]

    def check(self, before: Mapping[str, object], final: Mapping[str, object]) -> None:
        now = self.content()
        assert now in ({}, before, final), "mixed"


class Evaluate(Kind):
    """Goes on where it was ended."""

    def prepare(self) -> None:
        config = quick(self.folder / "clips", self.prior, "save_audio=true", "seconds=0.4", f"rate={TINY_RATE}")
        self.line = command(config, self.out, self.folder)

    def arguments(self) -> list[str]:
        return self.line

    def content(self) -> dict[str, object]:
        names: dict[str, object] = {str(path.relative_to(self.out)): b"" for path in _files(self.out)}
        rows: dict[str, object] = {"rows": timeless(self.out)} if (self.out / "results.csv").exists() else {}
        fixed = (path for kind in ("curves", "traces") for path in sorted((self.out / kind).rglob("*.csv")))
        return names | rows | {str(path.relative_to(self.out)): path.read_bytes() for path in fixed}

    def check(self, before: Mapping[str, object], final: Mapping[str, object]) -> None:
        now = self.content()
        assert all(value == final[name] for name, value in now.items()), "mixed"


class Train(Kind):
    """Goes on where it was ended."""

    def prepare(self) -> None:
        settings = {
            "run_dir": str(self.out), "train_data": str(self.folder / "clips"), "val_data": str(self.folder / "clips"),
            "sample_rate": TINY_RATE, "network": TINY_NETWORK, "samples_per_step": 1920, "segment_lengths": [960],
            "noise_levels": {"name": "lognormal", "median": 0.05, "sigma_min": 0.001}, "steps": 60, "val_every": 20,
            "val_items": 2, "val_length": 960, "val_sigmas": [0.1], "checkpoint_every": 5, "precision": "float32",
        }  # fmt: skip
        (self.folder / "train.yaml").write_text(yaml.safe_dump(settings))

    def arguments(self) -> list[str]:
        resume = ["--resume"] if (self.out / "checkpoint.pt").exists() else []
        return ["train", "--config", str(self.folder / "train.yaml"), "--quiet", *resume]

    def read(self, path: Path) -> object:
        if path.name == "loss.csv":
            return [line.split(",")[:-1] for line in path.read_text().splitlines()]
        return path.read_bytes() if path.suffix in (".csv", ".yaml") else b""

    def content(self) -> dict[str, object]:
        found = super().content()
        if (path := self.out / "prior.safetensors").exists():
            found["weights"] = {name: tensor.tolist() for name, tensor in load_file(path).items()}
        return found


KINDS: dict[str, type[Kind]] = {"restore": Restore, "evaluate": Evaluate, "report": Report, "train": Train}


def attempt(kind: Kind, number: signal.Signals, moment: float) -> int:
    """Start the command, end it after some seconds; returns its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
        code: object = 70
        try:
            code = run_nldiff(kind.arguments())
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code if isinstance(code, int) else 70)
    until = time.monotonic() + moment
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.001)
    if ended[0] == 0:
        os.kill(child, number)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1])


def whole(kind: Kind) -> float:
    """Run the command to its end; returns the seconds that it took."""
    start = time.monotonic()
    code = attempt(kind, signal.SIGKILL, 600)
    assert code == 0, f"exit code {code}"
    assert _hidden(kind.folder) == [], f"left behind: {_hidden(kind.folder)}"
    return time.monotonic() - start


def ended_at_random(make: type[Kind], count: int, seed: int) -> Counter[str]:
    """End a command `count` times; returns how it ended how often. Raises AssertionError for what should not be."""
    for name in KINDS:
        import_module(f"nldiff.cli.{name}")
    random, outcomes = np.random.default_rng(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        kind = make(Path(name))
        seconds = whole(kind)
        final = kind.content()
        for turn in range(count):
            number, fresh = SIGNALS[turn % 3], turn % 5 == 0
            if fresh and kind.out.exists():
                shutil.rmtree(kind.out)
            before, hidden = kind.content() if kind.out.exists() else {}, set(_hidden(kind.folder))
            code = attempt(kind, number, float(random.uniform(0, 1.1 * seconds)))
            # Before the command's first and after its last step the signal itself ends the process; Ctrl-C never does.
            expected = {-number} if number != signal.SIGINT else set()
            expected |= {_CODES[number]} if number in _CODES else set()
            outcomes[f"{number.name}: {'ended' if code in expected else 'done' if code == 0 else f'code {code}'}"] += 1
            assert code in {0} | expected, f"turn {turn}, {number.name}: exit code {code}"
            if number != signal.SIGKILL:
                left = set(_hidden(kind.folder)) - hidden  # what SIGKILL left may be there, if this end came early
                assert not left, f"turn {turn}, {number.name} left {left}"
            kind.check(before, final)
            if turn % 5 == 4:
                whole(kind)
                assert kind.content() == final, f"turn {turn}: another end"
        whole(kind)
        assert kind.content() == final, "another end"
    return outcomes


def _files(folder: Path) -> list[Path]:
    found = folder.rglob("*") if folder.is_dir() else []
    return sorted(path for path in found if path.is_file() and not _is_hidden(path.relative_to(folder)))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".nldiff-") for part in path.parts)


def _hidden(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".nldiff-*")]


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {name: _timeless(entry) for name, entry in value.items() if "seconds" not in name}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def main() -> int:
    """End commands at random moments; returns 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = 0
    for name in options.kinds:
        start = time.monotonic()
        try:
            print(name, dict(ended_at_random(KINDS[name], options.count, options.seed)), end=" ")
        except AssertionError as error:
            found = 1
            print(f"{name}: {error}", end=" ")
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
