"""Restoring files: streaming in and out, and the four results of every input."""

import csv
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.figures import plots
from nldiff.operators import Operator, Recipe
from nldiff.priors import Prior
from nldiff.restoration.estimation import Verdict
from nldiff.restoration.job import Job, OnStep
from nldiff.restoration.methods import Method, find_method
from nldiff.restoration.pipeline import run_method
from nldiff.restoration.result import Fit, settle, versions
from nldiff.restoration.scoring import check_scores, scores
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

_CURVE_POINTS = 1001
_PICTURE_SAMPLES = 1_000_000
# Share of the restored samples within the range of the curve that is shown.
_SHOWN = 0.9999
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
    source: Path,
    folder: Path,
    prior: Prior | Sequence[Prior],
    config: RestoreConfig,
    *,
    stem: str | None = None,
    known: Operator | None = None,
    distort: Recipe | None = None,
    method: str | Method | None = None,
    weights: str | None = None,
    on_step: OnStep = None,
) -> Outputs:
    """Restore one file and write STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json.

    Args:
        source: distorted recording; with `distort` a clean one.
        folder: where the results go; created if needed.
        prior: loaded prior, or several: the one that explains the recording best is used. Other methods need none.
        config: settings.
        stem: of the results; that of `source` by default.
        known: the operator, in the units of the file's samples, if it is known.
        distort: operator to apply first; the report then has scores against the truth, and the whole file is kept in
            memory.
        method: as in `nldiff.restore`, or as `find_method` gave it.
        weights: name or path of the weights of a method that is a network; None chooses them.
        on_step: told of the progress: (seconds so far, expected seconds in all, what is being done).

    Raises:
        NldiffError: unusable input, settings or folder. Files of an earlier run are then still as they were.
    """
    chosen = find_method(method or ("informed" if known else "blind"), weights)
    recording, truth, clean = _distorted(source, distort)
    priors = [prior] if isinstance(prior, Prior) else list(prior)
    job = Job(recording, config, priors, weights, known, clean)
    chosen.check(job)
    results = [folder / f"{stem or source.stem}{suffix}" for suffix in _SUFFIXES]
    # Everything is written to one side first: an earlier run's files are replaced by a complete set or not at all.
    with scratch_folder(folder) as scratch:
        _require_files(results)
        raw = scratch / "raw.wav"
        with _create_audio(raw, recording, "RF64") as file:
            fit = run_method(chosen, job, lambda block: file.write(block.T), on_step)
        report = _report(source, job, fit) | {"method": chosen.name, "weights": fit.weights}
        report |= _write_results([scratch / path.name for path in results], raw, job, fit, truth)
        text = json.dumps(_json_values(report), indent=2, allow_nan=False) + "\n"
        (scratch / results[-1].name).write_text(text, encoding="utf-8")
        for path in results:
            (scratch / path.name).replace(path)
    return Outputs(results[0], results[1], results[2], results[3], report)


def _write_results(paths: list[Path], raw: Path, job: Job, fit: Fit, truth: Operator | None) -> dict[str, Any]:
    """Write audio, table and picture from what the method emitted; returns what the report says of them."""
    audio, table, picture, _ = paths
    recording = job.recording
    gain, curve, explained_db = settle(fit, recording, partial(_read, raw))
    peak = _write_scaled(raw, audio, recording, gain)
    grid = np.linspace(-peak, peak, _CURVE_POINTS)
    outputs = curve(grid)
    _write_table(table, grid, outputs)
    samples = _some_samples(audio, recording)
    plots.save_figure(plots.plot_curve(grid, outputs, samples), picture)
    shown = float(np.quantile(np.abs(samples), _SHOWN))
    report = {"curve_range": shown, "restored": audio.name, "explained_db": explained_db, "gain": gain}
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
    truth = distort.build(torch.from_numpy(clean))
    observed = truth(torch.from_numpy(clean)).numpy()
    check_scores(source, clean, observed)
    return Recording.from_array(observed, recording.sample_rate, str(source)), truth, clean


def _report(source: Path, job: Job, fit: Fit) -> dict[str, Any]:
    sampling = fit.sampling
    return {
        "input": source.name,
        "sample_rate": job.recording.sample_rate,
        "channels": job.recording.channels,
        "frames": job.recording.frames,
        "prior": sampling.prior if sampling else None,
        "prior_scores": sampling.prior_scores if sampling else {},
        "restored_band_hz": fit.restored_band_hz,
        "known": str(job.known) if job.known else None,
        "config": dataclasses.asdict(job.config),
        "settings": dataclasses.asdict(sampling.settings) if sampling else None,
        "seed": job.config.seed,
        "versions": versions(),
        "verdict": _verdict(sampling.verdict) if sampling else None,
        "cost": sampling.cost if sampling else (),
        "network_evaluations": sampling.evaluations if sampling else 0,
        "seconds": fit.seconds,
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    judgement = dataclasses.asdict(verdict.judgement) | {"confidence": verdict.judgement.confidence}
    return {"finding": verdict.finding, "warnings": verdict.warnings, "judgement": judgement}


def _json_values(value: Any) -> Any:
    """The same with None for infinite and undefined numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _write_table(path: Path, inputs: np.ndarray, outputs: np.ndarray) -> None:
    with path.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["input", "output"])
        writer.writerows((f"{x:.7g}", f"{y:.7g}") for x, y in zip(inputs, outputs, strict=True))


def _create_audio(path: Path, recording: Recording, container: str) -> soundfile.SoundFile:
    rate, channels = recording.sample_rate, recording.channels
    return soundfile.SoundFile(sound.sound_path(path), "w", rate, channels, subtype="FLOAT", format=container)


def _read(path: Path, start: int, frames: int) -> np.ndarray:
    return sound.read(path, start, frames)[0]
