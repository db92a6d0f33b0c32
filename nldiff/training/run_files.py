"""The files of a training run: its checkpoint and its logs."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from nldiff.errors import NldiffError
from nldiff.writing import atomic_path

_PARTS = ("network", "average", "optimiser")


@dataclass
class State:
    """Everything that training changes, and that a checkpoint keeps.

    Attributes:
        network: the network that is trained.
        average: the moving average of its weights.
        optimiser: optimiser of the network.
        step: optimiser steps done.
        history: values of every validation so far.
        seconds: time spent training, over all starts of the run.
    """

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    history: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write a checkpoint.

        Raises:
            NldiffError: the file cannot be written.
        """
        with atomic_path(path) as temporary:
            parts = {name: getattr(self, name).state_dict() for name in _PARTS}
            torch.save(parts | {"step": self.step, "history": self.history, "seconds": self.seconds}, temporary)

    def load(self, path: Path) -> None:
        """Take over the state of a checkpoint.

        Raises:
            NldiffError: the file is missing, damaged, or of another network.
        """
        if not path.is_file():
            raise NldiffError(f"nothing to resume: {path} does not exist")
        try:
            with ZipFile(path) as archive:  # torch does not check the sums that it writes
                if name := archive.testzip():
                    raise ValueError(f"wrong checksum of {name!r}")
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._take(state)
        except Exception as error:  # damage can make the readers of archives and pickles raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NldiffError(f"{path} is damaged or belongs to another configuration: {reason[:200]}") from error

    def _take(self, state: Any) -> None:
        """Take over the content of a checkpoint; raises all kinds of errors if it is not one."""
        step, seconds, history = state["step"], float(state["seconds"]), state["history"]
        if type(step) is not int or step < 0 or not 0 <= seconds < math.inf:
            raise ValueError(f"step {step!r} after {seconds} seconds")
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        for parameter, values in self.optimiser.state.items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor) and value.shape not in (parameter.shape, torch.Size()):
                    raise ValueError(f"{key} of shape {list(value.shape)} for a parameter of {list(parameter.shape)}")
        self.step, self.seconds = step, seconds
        self.history = [[float(value) for value in row] for row in history]


class Logs:
    """`loss.csv`, `validation.csv` and, where asked for, a run of Weights & Biases.

    Args:
        run_dir: folder of the CSV files.
        columns: names of the values of a validation.
        step: rows after this step are dropped; a resumed run writes them again.
        wandb: settings to log to Weights & Biases; None logs nothing there.

    Raises:
        NldiffError: a file cannot be written, or wandb is not installed.
    """

    def __init__(self, run_dir: Path, columns: Sequence[str], step: int, wandb: Mapping[str, Any] | None) -> None:
        self._losses, self._validations, self._columns = run_dir / "loss.csv", run_dir / "validation.csv", columns
        _start_log(self._losses, ["step", "loss", "gradient_norm", "learning_rate", "seconds"], step)
        _start_log(self._validations, ["step", *columns], step)
        self._wandb = None if wandb is None else _start_wandb(run_dir, wandb)

    def add_step(self, step: int, loss: float, gradient_norm: float, learning_rate: float, seconds: float) -> None:
        """Log one optimiser step."""
        _append(self._losses, [step, loss, gradient_norm, learning_rate, seconds])
        if self._wandb:
            self._wandb.log({"loss": loss, "gradient_norm": gradient_norm}, step=step)

    def add_validation(self, step: int, values: Sequence[float]) -> None:
        """Log the values of a validation after `step` steps."""
        _append(self._validations, [step, *values])
        if self._wandb:
            names = [f"val/{name.removeprefix('sigma_')}" for name in self._columns]
            self._wandb.log(dict(zip(names, values, strict=True)), step=step)

    def finish(self) -> None:
        """End the run of Weights & Biases."""
        if self._wandb:
            self._wandb.finish()


def _start_log(path: Path, header: list[str], step: int) -> None:
    """Begin a log, or cut an existing one back to the rows up to `step`."""
    rows = []
    if step and path.is_file():
        # A row without its end was being written when the power failed; others may be damaged.
        *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
        numbered = ((_row(line, len(header)), line) for line in lines[1:])
        rows = [line.strip().split(",") for values, line in numbered if values and 0 < values[0] <= step]
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _row(line: str, columns: int) -> list[float] | None:
    """The numbers of a row of a log; None where it is not one."""
    try:
        values = [float(text) for text in line.split(",")]
    except ValueError:
        return None
    return values if len(values) == columns and values[0].is_integer() else None


def _append(path: Path, row: list[Any]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file).writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])


def _start_wandb(run_dir: Path, settings: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise NldiffError('wandb=true needs wandb: pip install "nldiff[wandb]"') from error
    return wandb.init(project="nldiff", config=dict(settings), dir=str(run_dir))
