"""What the tests of experiments share: an experiment of 8 cells, tables of a run, a method that is known exactly."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from nldiff.config import load_config
from nldiff.evaluation import EvaluationConfig
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Emit, Job, OnStep

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "nldiff" / "configs" / "eval").glob("*.yaml"))
RATE = 16000
Row = dict[str, str]


def quick(clips: Path, prior: Path, *changes: str) -> EvaluationConfig:
    """An experiment of 8 cells that takes a second."""
    base = [
        f"data={json.dumps(str(clips))}", "seconds=1", f"rate={RATE}", "distortions=[hard_clip:sdr=3, half_wave]",
        "methods=[observed, ccr]", "metrics=[si_sdr, rr_mse]", f"restore.prior={json.dumps(str(prior))}",
        "restore.device=cpu", "restore.sampler.steps=2", "restore.refinement.name=none", "compare_to=ccr",
    ]  # fmt: skip
    return load_config(EvaluationConfig, None, [*base, *changes])


def command(config: EvaluationConfig, out: Path, tmp_path: Path) -> list[str]:
    """Arguments of `nldiff` that run `config` from a file."""
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config, default=vars))))
    return ["evaluate", str(path), "--out", str(out), "--quiet"]


def environment() -> dict[str, str]:
    """Environment of a process that runs nldiff from this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def table(folder: Path, name: str = "results.csv") -> list[Row]:
    """Rows of a table of a run."""
    with (folder / name).open(newline="") as text:
        return list(csv.DictReader(text))


def timeless(folder: Path) -> list[Row]:
    """The results of a run without the time that they took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder)]


def columns(path: Path) -> NDArray[np.float64]:
    """Columns of a table of numbers, [columns, rows]."""
    return np.loadtxt(path, delimiter=",", skiprows=1).T


def emitted(job: Job, emit: Emit, on_step: OnStep = None, factor: float = 1.0) -> Fit:
    """A method that changes the level only."""
    emit(np.float32(factor) * job.recording.read(0, job.recording.frames))
    return Fit(None, 1.0, 0.0, job.recording.sample_rate / 2)


def with_list(name: str, texts: Sequence[Any]) -> str:
    """`name=[...]` for texts that hold commas."""
    return f"{name}={json.dumps(list(texts))}"
