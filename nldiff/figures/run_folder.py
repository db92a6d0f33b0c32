"""The folder that `nldiff evaluate` writes: reading its table of cells, audio, curves and traces."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.metrics import METRICS
from nldiff.metrics.sdr import FloatArray, Signal
from nldiff.reading import regular_file

OBSERVED = "observed"
"""Name of the method that returns the distorted input unchanged."""

CLEAN = "clean"
"""Name of the reference's audio file; not a method."""

_DERIVED_COLUMNS = {
    "rr_mse_unfitted": ("RR-MSE unfitted", "rr_mse"),
    "redistorted_lsd": ("LSD re-distorted", "lsd"),
    "delta_sdr": ("ΔSDR", "sdr"),
    "delta_sdr_clipped": ("ΔSDR on clipped", "sdr"),
    "explained_db": ("explained", "sdr"),
}
"""Columns of an experiment that are not in `METRICS`: label, and the metric that has the same unit and direction."""

_COLUMNS = ("task", "distortion", "level", "level_name", "method", "clip", "seed", "status", "error", "seconds")


@dataclass(frozen=True)
class Cell:
    """One method on one distorted clip with one seed.

    Attributes:
        task: family of the distortion.
        distortion: text of the distortion, as in the experiment's configuration.
        level: strength of the distortion in dB; None where no single number describes it.
        level_name: meaning of `level`, "input SDR" or "gain".
        method, clip: names.
        seed: seed of the random numbers, as text.
        failed: whether there is no result.
        error: the reason, in one line.
        scores: metric to value, finite values only.
    """

    task: str
    distortion: str
    level: float | None
    level_name: str
    method: str
    clip: str
    seed: str
    failed: bool = False
    error: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Folder name of this distorted clip in `audio`, `curves` and `traces`."""
        return slug(f"{self.distortion}__{self.clip}__{self.seed}")


def slug(text: str) -> str:
    """Turn a name into a file name: letters, digits and `_.-` stay, everything else becomes `-`."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def read_cells(run_dir: Path) -> list[Cell]:
    """Read results.csv.

    Raises:
        NldiffError: the table is missing, empty or lacks a column, or a level or score is not a number.
    """
    path = run_dir / "results.csv"
    rows = read_table(path)
    if not rows:
        raise NldiffError(f"{path} holds no results")
    missing = [name for name in _COLUMNS if name not in rows[0]]
    if missing:
        raise NldiffError(f"{path} has no column '{missing[0]}'")
    metrics = [name for name in rows[0] if name not in _COLUMNS]
    cells = []
    for row in rows:
        scores = {name: _number(path, name, row[name]) for name in metrics if row[name]}
        cells.append(
            Cell(
                row["task"],
                row["distortion"],
                _level(path, row["level"]),
                row["level_name"],
                row["method"],
                row["clip"],
                row["seed"],
                row["status"] != "ok",
                row["error"],
                {name: value for name, value in scores.items() if math.isfinite(value)},
            )
        )
    return cells


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Raises:
        NldiffError: the file cannot be read, or a row is not as long as the header.
    """
    regular_file(path)
    try:
        with path.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NldiffError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():  # DictReader's mark of a row that is too long or too short
            raise NldiffError(f"{path}: row {number} is not as long as the header")
    return rows


def read_columns(path: Path) -> dict[str, FloatArray]:
    """Read a CSV file of numbers: column name to values.

    Raises:
        NldiffError: as `read_table`, or the file has no rows, or a value is not a number.
    """
    rows = read_table(path)
    if not rows:
        raise NldiffError(f"{path} holds no rows")
    return {name: np.array([_number(path, name, row[name]) for row in rows]) for name in rows[0]}


def tables_of(folder: Path, methods: Iterable[str], suffix: str = ".csv") -> dict[str, dict[str, FloatArray]]:
    """Tables METHOD`suffix` of a folder, for the methods that have one, in the order of `methods`.

    Raises:
        NldiffError: as `read_columns`.
    """
    paths = {method: folder / f"{slug(method)}{suffix}" for method in methods}
    return {method: read_columns(path) for method, path in paths.items() if path.exists()}


def example_signals(run_dir: Path, group: str, methods: Iterable[str]) -> tuple[dict[str, Signal], int] | None:
    """Audio of a distorted clip: input, target, then the methods that have a file, channels mixed.

    Returns:
        Name to samples `[time]`, and the sample rate in Hz; None where no audio was kept.

    Raises:
        NldiffError: a file cannot be read.
    """
    names = [OBSERVED, CLEAN, *estimators(methods)]
    files = {name: run_dir / "audio" / group / f"{slug(name)}.flac" for name in names}
    loaded = {name: sound.read(path) for name, path in files.items() if path.exists()}
    if not loaded:
        return None
    return {name: samples.mean(axis=0) for name, (samples, _) in loaded.items()}, next(iter(loaded.values()))[1]


def truth_of(folder: Path) -> dict[str, FloatArray] | None:
    """True curve of a folder of curves; None where there is none."""
    path = folder / "truth.csv"
    return read_columns(path) if path.exists() else None


def estimators(methods: Iterable[str]) -> list[str]:
    """All methods but `OBSERVED`."""
    return [method for method in methods if method != OBSERVED]


def setting_name(cell: Cell) -> str:
    """Name of the cell's distortion within its task: its level where it has one, else its text."""
    return cell.distortion if cell.level is None else f"{cell.level_name} {cell.level:g} dB".strip()


def metrics_of(cells: Iterable[Cell]) -> list[str]:
    """Metrics with a value in any of the cells, in the order of the table."""
    return list(dict.fromkeys(name for cell in cells for name in cell.scores))


def metric_label(name: str) -> str:
    """Label of a column of scores with its unit and, as an arrow, its better direction."""
    label, like = _DERIVED_COLUMNS.get(name, (None, name))
    metric = METRICS.get(like)
    if metric is None:
        return name
    unit = f" ({metric.unit.replace('^2', '²')})" if metric.unit else ""
    return f"{label or metric.label}{unit}{' ↑' if metric.better == 'higher' else ' ↓'}"


def _level(path: Path, text: str) -> float | None:
    level = _number(path, "level", text) if text else math.nan
    return level if math.isfinite(level) else None


def _number(path: Path, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise NldiffError(f"{path}: {column} {text[:50]!r} is not a number") from None
