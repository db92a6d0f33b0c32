"""What the tests of the command line share: recordings, a run of `nldiff restore`, its results, programs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from helpers import TINY_RATE, FakeSampler, clipped, use_sampler

from nldiff.cli import run_command

ROOT = Path(__file__).parents[1]
SUFFIXES = (".restored.wav", ".curve.csv", ".curve.png", ".json")


def write(path: Path, seconds: float = 0.2, seed: int = 0) -> Path:
    """Write a clipped recording."""
    sf.write(path, clipped(seconds, TINY_RATE, seed=seed).T, TINY_RATE)
    return path


def samples(value: Any, rate: int = TINY_RATE) -> Callable[[Path], None]:
    """Writes these samples to a path."""
    return lambda path: sf.write(path, np.asarray(value, dtype=np.float32), rate, subtype="FLOAT")


def results(*stems: str) -> set[str]:
    """Names of the results of inputs."""
    return {f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES}


def names(folder: Path) -> set[str]:
    """Names in a folder; none where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def restore(*arguments: str | Path) -> int:
    """`python infer.py`."""
    return run_command("restore", list(map(str, arguments)), "infer.py")


def run(prior: Path, output: Path, *arguments: str | Path) -> int:
    """`python infer.py` with a prior and a folder of results."""
    return restore(*arguments, "--output", output, "--prior", prior)


def report(output: Path, stem: str = "take") -> dict[str, Any]:
    """The JSON report of a result."""
    content: dict[str, Any] = json.loads((output / f"{stem}.json").read_text())
    return content


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pictures of curves empty."""
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())


def quick_sampler(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    """Neither sample nor draw."""
    sampler = FakeSampler()
    use_sampler(monkeypatch, sampler)
    undrawn(monkeypatch)
    return sampler


def program(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, as a program of its own."""
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=environment | ours | variables, capture_output=True, text=True, timeout=300, cwd=ROOT
    )
