"""Running the cells of one distorted clip: restore, score, keep the files."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.evaluation.clips import Clip, read_clip
from nldiff.evaluation.config import EvaluationConfig
from nldiff.evaluation.methods import METHODS, Audio, Run, at_level, no_curve
from nldiff.evaluation.scoring import CURVE_METRICS, CURVE_POINTS, score
from nldiff.evaluation.tables import cell_name, clean_name, embedding_path
from nldiff.figures.run_folder import CLEAN, OBSERVED, slug
from nldiff.metrics.frechet import Embedding
from nldiff.operators.cases import Case, Task, make_case
from nldiff.priors.edm import karras_schedule
from nldiff.restoration.restore import Restoration
from nldiff.writing import atomic_path


@dataclass(frozen=True)
class Group:
    """The cells of all methods on one distorted clip with one seed."""

    clip: Clip
    task: Task
    seed: int
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """Folder in `audio`, `curves` and `traces`."""
        return slug(f"{self.task.text}__{self.clip.name}__{self.seed}")

    def cell(self, method: str) -> str:
        """Stem of the file in `cells`."""
        return cell_name(self.task.text, method, self.clip.name, self.seed)


class Runner:
    """Runs cells and writes what they leave into `folder`; the JSON file comes last, so it means a finished cell.

    Args:
        config: the experiment.
        folder: of the run.
        make_run: (seed, clean signal) -> what methods are made from.
        embeddings: whose results are kept for Fréchet distances, by name.
        warn: called with one line for every problem that does not fail a cell, once for each.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        folder: Path,
        make_run: Callable[[int, Audio], Run],
        embeddings: Mapping[str, Embedding],
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.folder, self.make_run, self.embeddings = config, folder, make_run, embeddings
        self.warn = cache(warn)

    def path(self, group: Group, method: str) -> Path:
        """JSON file of a cell."""
        return self.folder / "cells" / f"{group.cell(method)}.json"

    def run(self, group: Group, on_cell: Callable[[], object]) -> None:
        """Run the cells of a group that have no file yet; `on_cell` is called after each.

        Raises:
            NldiffError: a file cannot be written. Every other problem is noted in the cell.
        """
        missing = [method for method in group.methods if not self.path(group, method).exists()]
        if not missing:
            return
        case: Case | None = None
        failure = ""
        try:
            clean = read_clip(group.clip, self.config.seconds, self.config.rate, self.config.level)
            case = make_case(clean, self.config.rate, group.task)
        except NldiffError as error:
            failure = str(error)
        if case:
            self._keep_case(case, group)
        for method in missing:
            found = self._cell(case, group, method) if case else {"status": "failed", "error": failure}
            level, level_name = group.task.level
            row: dict[str, Any] = {
                "task": group.task.family, "distortion": group.task.text, "level": level, "level_name": level_name,
                "method": method, "clip": group.clip.name, "seed": group.seed, "status": "", "error": "",
                "seconds": None, **dict.fromkeys(self.config.metrics), "explained_db": None, "problems": [],
            } | found  # fmt: skip
            with atomic_path(self.path(group, method)) as temporary:
                temporary.write_text(json.dumps(row, allow_nan=False) + "\n", encoding="utf-8")
            on_cell()

    def _cell(self, case: Case, group: Group, method: str) -> dict[str, Any]:
        """Columns of a row that the method decides."""
        started = time.monotonic()
        error = ""
        try:
            restore = METHODS[method](self.make_run(group.seed, case.clean))
            result = restore(case.observed, case.sample_rate, case.truth)
            _check(result, case)
        except NldiffError as problem:
            error = str(problem)
        seconds = time.monotonic() - started
        if error:
            return {"status": "failed", "error": error, "seconds": seconds}
        if case.amplified:
            result = at_level(result, case.sigma)
        judged = result.curve is not no_curve
        metrics = [name for name in self.config.metrics if judged or name not in CURVE_METRICS]
        values, problems = score(metrics, case, result)
        values["explained_db"] = result.explained_db
        problems |= self._embed(result.audio, case.sample_rate, group.cell(method))
        lines = [f"{name}: {reason}" for name, reason in problems.items()]
        for line in lines:
            self.warn(line)
        self._keep_result(result, case, group, method)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {"status": "ok", "error": "; ".join(lines), "seconds": seconds, **finite, "problems": lines}

    def _keep_case(self, case: Case, group: Group) -> None:
        ramp = _ramp(case)
        truth = case.truth(torch.from_numpy(ramp)).numpy()
        _write_columns(self.folder / "curves" / group.name / "truth.csv", {"x": ramp, "y": truth})
        self._embed(case.clean, case.sample_rate, clean_name(group.clip.name))
        if self.config.save_audio:
            gain = case.sigma / sound.rms(case.observed) if case.amplified else 1.0
            for name, signal in ((CLEAN, case.clean), (OBSERVED, case.observed * gain)):
                _write_audio(self.folder / "audio" / group.name / f"{name}.flac", signal, case.sample_rate)

    def _keep_result(self, result: Restoration, case: Case, group: Group, method: str) -> None:
        ramp, name = _ramp(case), slug(method)
        if result.curve is not no_curve:
            _write_columns(self.folder / "curves" / group.name / f"{name}.csv", {"x": ramp, "y": result.curve(ramp)})
        if result.cost:
            settings = result.settings
            sigma = karras_schedule(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)[:-1].numpy()
            columns = {"step": np.arange(len(sigma)), "sigma": sigma, "cost": np.array(result.cost)}
            _write_columns(self.folder / "traces" / group.name / f"{name}.csv", columns)
        if result.evolution and len(result.evolution[1]):
            x, curves = result.evolution
            rising = np.argsort(x)  # a negative gain turns the grid around
            columns = {"x": x[rising]} | {str(i): curve[rising] for i, curve in enumerate(curves)}
            _write_columns(self.folder / "traces" / group.name / f"{name}.curves.csv", columns)
        if self.config.save_audio and method != OBSERVED:
            _write_audio(self.folder / "audio" / group.name / f"{name}.flac", result.audio, case.sample_rate)

    def _embed(self, signal: Audio, sample_rate: int, name: str) -> dict[str, str]:
        """Write the embeddings of a signal that are missing; returns kind -> what went wrong."""
        problems = {}
        for kind, embedding in self.embeddings.items():
            path = embedding_path(self.folder, kind, name)
            if path.exists():
                continue
            try:
                frames = embedding(signal.astype(np.float64), sample_rate).astype(np.float32)
            except NldiffError as error:
                problems[kind] = str(error)
            else:
                with atomic_path(path) as temporary:
                    np.save(temporary, frames)
        return problems


def _check(result: Restoration, case: Case) -> None:
    if result.audio.shape != case.observed.shape:
        raise NldiffError(f"result has shape {list(result.audio.shape)}, not {list(case.observed.shape)}")
    if not np.isfinite(result.audio).all():
        raise NldiffError("result contains NaN or infinite samples")


def _ramp(case: Case) -> NDArray[np.float64]:
    return np.linspace(-3 * case.sigma, 3 * case.sigma, CURVE_POINTS)


def _write_columns(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    values = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)
    with atomic_path(path) as temporary:
        np.savetxt(temporary, values, "%.7g", ",", header=",".join(columns), comments="")


def _write_audio(path: Path, audio: Audio, sample_rate: int) -> None:
    peak = max(1.0, float(np.abs(audio).max()))  # FLAC ends at full scale
    with atomic_path(path) as temporary:
        soundfile.write(temporary, audio / peak, sample_rate, format="FLAC", subtype="PCM_24")
