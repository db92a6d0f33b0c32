"""The cells of a distorted clip: restore, score, write the files."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.evaluation.clips import Audio, Case, Clip, make_case, read_clip
from nldiff.evaluation.config import EvaluationConfig
from nldiff.evaluation.finished import checksums, read_row, remove_damaged
from nldiff.evaluation.scoring import CURVE_METRICS, CURVE_POINTS, score
from nldiff.evaluation.tables import cell_name, clean_name, embedding_path
from nldiff.figures.run_folder import CLEAN, OBSERVED, slug
from nldiff.metrics.frechet import Embedding
from nldiff.operators import Recipe
from nldiff.priors import Prior
from nldiff.restoration.job import Job
from nldiff.restoration.methods import Method, find_method
from nldiff.restoration.pipeline import restore_job
from nldiff.restoration.result import Restoration
from nldiff.sound.recording import Recording
from nldiff.writing import atomic_path

_SILENT = 1e-12


@dataclass(frozen=True)
class Group:
    """The cells of one distorted clip and one seed: one for every method."""

    clip: Clip
    recipe: Recipe
    seed: int
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder in `audio`, `curves` and `traces`."""
        return slug(f"{self.recipe.text}__{self.clip.name}__{self.seed}")

    def cell(self, method: str) -> str:
        """Stem of the cell's file in `cells`."""
        return cell_name(self.recipe.text, method, self.clip.name, self.seed)


class Runner:
    """Runs cells and writes their files. The JSON file comes last: where it is, the cell is finished.

    Args:
        config: the experiment.
        folder: folder of the run.
        priors: priors for the methods that need one.
        embeddings: embeddings for the Fréchet distances, by name.
        warn: called with one line for every problem that does not fail a cell, once for each line.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        folder: Path,
        priors: Sequence[Prior],
        embeddings: Mapping[str, Embedding],
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.folder, self.priors, self.embeddings = config, folder, priors, embeddings
        self.warn = cache(warn)
        self._incomplete: set[str] = set()

    def path(self, group: Group, method: str) -> Path:
        """Path of a cell's JSON file."""
        return self.folder / "cells" / f"{group.cell(method)}.json"

    def check(self, group: Group) -> None:
        """Remove the damaged files of earlier runs, with the cells that they belong to; `run` does these again.

        Raises:
            NldiffError: a damaged file cannot be removed.
        """
        try:
            shared = [self.folder / "curves" / group.name / "truth.csv"]
            shared += [self.folder / "audio" / group.name / f"{name}.flac" for name in (CLEAN, OBSERVED)]
            shared += [embedding_path(self.folder, kind, clean_name(group.clip.name)) for kind in self.embeddings]
            if remove_damaged(shared, self.warn):
                self._incomplete.add(group.name)
            for method in group.methods:
                self._check_cell(group, method)
        except OSError as error:
            raise NldiffError(f"{error.filename} is damaged and cannot be removed: {error.strerror}") from error

    def _check_cell(self, group: Group, method: str) -> None:
        path, files = self.path(group, method), self._files(group, method)
        if not path.exists():
            return
        try:
            sums = self.row(group, method)["files"]
            if sums is None or sums == checksums(self.folder, files):
                return
            raise NldiffError(f"{path}: its tables, signal or embeddings are missing or damaged")
        except NldiffError as error:
            self.warn(f"{error}: done again")
        for damaged in [path, *files]:
            damaged.unlink(missing_ok=True)

    def _files(self, group: Group, method: str) -> list[Path]:
        """What a cell may have besides its row."""
        name, of_cell = slug(method), [embedding_path(self.folder, k, group.cell(method)) for k in self.embeddings]
        of_cell += [self.folder / kind / group.name / f"{name}.csv" for kind in ("curves", "traces")]
        of_cell.append(self.folder / "traces" / group.name / f"{name}.curves.csv")
        if method != OBSERVED:
            of_cell.append(self.folder / "audio" / group.name / f"{name}.flac")
        return of_cell

    def row(self, group: Group, method: str) -> dict[str, Any]:
        """The row of a finished cell, see `read_row`."""
        return read_row(self.path(group, method), self._blank(group, method))

    def _blank(self, group: Group, method: str) -> dict[str, Any]:
        """The row of a cell before there are results."""
        level, level_name = group.recipe.level
        return {
            "task": group.recipe.family, "distortion": group.recipe.text, "level": level, "level_name": level_name,
            "method": method, "clip": group.clip.name, "seed": group.seed, "status": "", "error": "",
            "seconds": None, **dict.fromkeys(self.config.metrics), "explained_db": None, "problems": [],
            "files": None,
        }  # fmt: skip

    def run(self, group: Group, on_cell: Callable[[], object]) -> None:
        """Run the cells of a group that have no file yet, and call `on_cell` after each.

        Raises:
            NldiffError: a file cannot be written. The cell itself holds every other problem.
        """
        missing = [method for method in group.methods if not self.path(group, method).exists()]
        if not missing and group.name not in self._incomplete:
            return
        case: Case | None = None
        failure = ""
        try:
            clean = read_clip(group.clip, self.config.seconds, self.config.rate, self.config.level)
            case = make_case(clean, self.config.rate, group.recipe)
        except NldiffError as error:
            failure = str(error)
        if case:
            self._keep_case(case, group)
        for method in missing:
            found = self._cell(case, group, method) if case else {"status": "failed", "error": failure}
            row = self._blank(group, method) | found
            row["files"] = checksums(self.folder, self._files(group, method))
            with atomic_path(self.path(group, method)) as temporary:
                temporary.write_text(json.dumps(row, allow_nan=False) + "\n", encoding="utf-8")
            on_cell()

    def _cell(self, case: Case, group: Group, method: str) -> dict[str, Any]:
        """The columns of a row that depend on the method's result."""
        started = time.monotonic()
        chosen = find_method(method)  # weights that cannot be loaded fail the cell, not the run
        try:
            result = self._restored(case, chosen, group.seed)
        except NldiffError as error:
            return {"status": "failed", "error": str(error), "seconds": time.monotonic() - started}
        seconds = time.monotonic() - started
        judged = chosen.finds_operator
        metrics = [name for name in self.config.metrics if judged or name not in CURVE_METRICS]
        values, problems = score(metrics, case, result)
        explains = judged or chosen.operator == "needs"
        values["explained_db"] = result.explained_db if explains else math.nan
        problems |= self._embed(result.audio, case.sample_rate, group.cell(method))
        lines = [f"{name}: {reason}" for name, reason in problems.items()]
        for line in lines:
            self.warn(line)
        self._keep_result(result, case, group, chosen)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {"status": "ok", "error": "; ".join(lines), "seconds": seconds, **finite, "problems": lines}

    def _restored(self, case: Case, method: Method, seed: int) -> Restoration:
        """Restore `[time]` at the scale that the method fixes or, without one, at the RMS of the clean signal."""
        job = Job(
            recording=Recording.from_array(case.observed[None], case.sample_rate),
            config=replace(self.config.restore, seed=seed),
            priors=self.priors,
            weights=self.config.weights.get(method.name),
            known=None if method.operator == "ignores" else case.truth,
            clean=case.clean[None] if method.needs_clean else None,
            spade=self.config.aspade,
        )
        result = restore_job(method, job, own_scale=method.fixes_scale)
        result = replace(result, audio=result.audio[0])
        if method.fixes_scale and case.truth.keeps_level:
            return result
        return result.scaled(case.sigma / max(sound.rms(result.audio), _SILENT))

    def _keep_case(self, case: Case, group: Group) -> None:
        ramp = _ramp(case)
        truth = case.truth.static(torch.from_numpy(ramp)).numpy()
        _write_columns(self.folder / "curves" / group.name / "truth.csv", {"x": ramp, "y": truth})
        self._embed(case.clean, case.sample_rate, clean_name(group.clip.name))
        if self.config.save_audio:
            gain = 1.0 if case.truth.keeps_level else case.sigma / sound.rms(case.observed)
            for name, signal in ((CLEAN, case.clean), (OBSERVED, case.observed * gain)):
                _write_audio(self.folder / "audio" / group.name / f"{name}.flac", signal, case.sample_rate)

    def _keep_result(self, result: Restoration, case: Case, group: Group, method: Method) -> None:
        ramp, name, sampling = _ramp(case), slug(method.name), result.fit.sampling
        if method.finds_operator:
            _write_columns(self.folder / "curves" / group.name / f"{name}.csv", {"x": ramp, "y": result.curve(ramp)})
        if sampling and sampling.cost:
            sigma = sampling.settings.sampler.schedule()[:-1].numpy()
            columns = {"step": np.arange(len(sigma)), "sigma": sigma, "cost": np.array(sampling.cost)}
            _write_columns(self.folder / "traces" / group.name / f"{name}.csv", columns)
        if result.evolution and len(result.evolution[1]):
            x, curves = result.evolution
            rising = np.argsort(x)  # a negative gain turns the grid around
            columns = {"x": x[rising]} | {str(i): curve[rising] for i, curve in enumerate(curves)}
            _write_columns(self.folder / "traces" / group.name / f"{name}.curves.csv", columns)
        if self.config.save_audio and method.name != OBSERVED:
            _write_audio(self.folder / "audio" / group.name / f"{name}.flac", result.audio, case.sample_rate)

    def _embed(self, signal: Audio, sample_rate: int, name: str) -> dict[str, str]:
        """Write the missing embeddings of a signal; returns name of the embedding -> what went wrong."""
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


def _ramp(case: Case) -> NDArray[np.float64]:
    return np.linspace(-3 * case.sigma, 3 * case.sigma, CURVE_POINTS)


def _write_columns(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    values = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)
    with atomic_path(path) as temporary:
        np.savetxt(temporary, values, "%.7g", ",", header=",".join(columns), comments="")


def _write_audio(path: Path, audio: Audio, sample_rate: int) -> None:
    peak = max(1.0, float(np.abs(audio).max()))  # FLAC cannot hold more than full scale
    with atomic_path(path) as temporary:
        soundfile.write(sound.sound_path(temporary), audio / peak, sample_rate, format="FLAC", subtype="PCM_24")
