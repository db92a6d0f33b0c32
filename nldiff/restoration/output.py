"""Restoring files: streaming in and out, and the four results of every input."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nldiff import sound
from nldiff.curves import Curve
from nldiff.errors import NldiffError
from nldiff.figures import plots
from nldiff.operators import Operator, Recipe
from nldiff.restoration.inputs import KnownOperator, PriorLike, checked_operator, loaded_priors
from nldiff.restoration.job import Job, OnStep
from nldiff.restoration.methods import Method, find_method
from nldiff.restoration.pipeline import run_method
from nldiff.restoration.result import Fit, settle, shown_range, versions
from nldiff.restoration.scoring import check_scores, scores
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.sound.recording import Recording
from nldiff.writing import write_json

_PICTURE_SAMPLES = 1_000_000
_SUFFIXES = (".restored.wav", ".curve.csv", ".curve.png", ".json")


@dataclass(frozen=True)
class Outputs:
    """Paths written for one input, and the content of the JSON report (there, None for what is not finite)."""

    audio: Path
    curve_table: Path
    curve_picture: Path
    report_path: Path
    report: dict[str, Any]


def restore_file(
    source: str | Path,
    folder: str | Path,
    prior: PriorLike = "auto",
    config: RestoreConfig | None = None,
    *,
    stem: str | None = None,
    known: KnownOperator = None,
    distort: Recipe | None = None,
    method: str | Method | None = None,
    weights: str | None = None,
    on_step: OnStep = None,
) -> Outputs:
    """Restore one file and write STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json.

    Args:
        source: distorted recording; with `distort` a clean one.
        folder: where the results go; created if needed.
        prior: as in `nldiff.restore`.
        config: everything else; its `prior` is not used.
        stem: of the results; that of `source` by default.
        known: the operator, in the units of the file's samples, if it is known, as in `nldiff.restore`.
        distort: operator to apply first; the report then has scores against the truth, and the whole file is kept in
            memory.
        method: as in `nldiff.restore`, or as `find_method` gave it.
        weights: name or path of the weights of a method that is a network; None chooses them.
        on_step: called with (steps done, steps in all); steps of methods from signal to signal are chunks.

    Raises:
        NldiffError: unusable input, settings or folder. Files of an earlier run are then still as they were.
    """
    source, folder, config, operator = Path(source), Path(folder), config or RestoreConfig(), checked_operator(known)
    check_config(config)
    chosen = find_method(method or ("informed" if operator else "blind"), weights)
    recording, truth, clean = _distorted(source, distort)
    job = Job(recording, config, loaded_priors(prior, config, chosen), weights, operator, clean)
    chosen.check(job)
    results = [folder / f"{stem or source.stem}{suffix}" for suffix in _SUFFIXES]
    # Everything is written to one side first: an earlier run's files are replaced by a complete set or not at all.
    with scratch_folder(folder) as scratch:
        _require_files(results)
        raw = scratch / "raw.wav"
        with _create_audio(raw, recording, "RF64") as file:
            fit = run_method(chosen, job, lambda block: file.write(block.T), on_step)
        report = _report(source, job, fit) | {"method": chosen.name}
        report |= _write_results([scratch / path.name for path in results], raw, job, fit, truth)
        write_json(scratch / results[-1].name, report)
        for path in results:
            (scratch / path.name).replace(path)
    return Outputs(results[0], results[1], results[2], results[3], report)


def _write_results(paths: list[Path], raw: Path, job: Job, fit: Fit, truth: Operator | None) -> dict[str, Any]:
    """Write audio, table and picture from what the method emitted; returns what the report says of them."""
    audio, table, picture, _ = paths
    recording = job.recording
    gain, function, explained_db = settle(fit, recording, partial(_read, raw))
    curve = Curve.from_function(function, _write_scaled(raw, audio, recording, gain))
    curve.save(table)
    samples = _some_samples(audio, recording)
    plots.save_figure(curve.plot(samples), picture)
    report = {"curve_range": shown_range(samples), "restored": audio.name, "explained_db": explained_db, "gain": gain}
    if job.clean is None or truth is None:
        return report
    restored, observed = _read(audio, 0, recording.frames), recording.read(0, recording.frames)
    return report | {"distortion": str(truth), "scores": scores(job.clean, observed, restored, truth, curve)}


def _require_files(results: list[Path]) -> None:
    for path in results:
        if path.is_dir():
            raise NldiffError(f"{path} is a folder: it is in the way of a result")


def _some_samples(audio: Path, recording: Recording) -> np.ndarray:
    """Samples of a restored file, evenly picked, at most about a million of a channel."""
    stride = max(1, recording.frames // _PICTURE_SAMPLES)
    return np.concatenate([_read(audio, start, n)[:, ::stride].ravel() for start, n in recording.blocks()])


def _distorted(source: Path, distort: Recipe | None) -> tuple[Recording, Operator | None, np.ndarray | None]:
    """The recording; distorted first if that is asked for, with the operator and the clean signal."""
    recording = Recording.from_file(source)
    if distort is None:
        return recording, None, None
    clean = recording.read(0, recording.frames)
    truth = distort.build(torch.from_numpy(clean), recording.sample_rate)
    observed = truth(torch.from_numpy(clean)).numpy()
    check_scores(source, clean, observed)
    return Recording.from_array(observed, recording.sample_rate, str(source)), truth, clean


def _report(source: Path, job: Job, fit: Fit) -> dict[str, Any]:
    return {
        "input": source.name,
        "sample_rate": job.recording.sample_rate,
        "channels": job.recording.channels,
        "frames": job.recording.frames,
        "known": str(job.known) if job.known else None,
        "config": dataclasses.asdict(job.config),
        "seed": job.config.seed,
        "versions": versions(),
        **fit.values(),
    }


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Hidden folder in `folder` that goes away with everything left in it.

    `folder` is created if needed; if nothing is left in it, it goes away again.

    Raises:
        NldiffError: `folder` cannot be written, or an operating system's or sound file error came out of the block.
    """
    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".nldiff-") as scratch:
            yield Path(scratch)
    except (OSError, soundfile.SoundFileError) as error:
        raise NldiffError(f"results cannot be written to folder {folder}: {error}") from error
    finally:
        if created:
            with suppress(OSError):
                folder.rmdir()


def _write_scaled(raw: Path, audio: Path, recording: Recording, gain: float) -> float:
    """Write `gain` times the samples of one file to another; returns the peak."""
    peak = 0.0
    with _create_audio(audio, recording, "WAV") as file:
        for start, frames in recording.blocks():
            block = _read(raw, start, frames) * gain
            peak = max(peak, float(np.abs(block).max()))
            file.write(block.T)
    return peak


def _create_audio(path: Path, recording: Recording, container: str) -> soundfile.SoundFile:
    rate, channels = recording.sample_rate, recording.channels
    return soundfile.SoundFile(sound.sound_path(path), "w", rate, channels, subtype="FLOAT", format=container)


def _read(path: Path, start: int, frames: int) -> np.ndarray:
    return sound.read(path, start, frames)[0]
