"""Restoring files: streaming in and out, and the four outputs of every input."""

import csv
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.figures import plots as plotting
from nldiff.metrics import lsd, rr_mse, si_sdr
from nldiff.operators.distortions import Distortion, calibrate
from nldiff.priors.choice import Choice, choose_prior
from nldiff.priors.saved import Prior
from nldiff.restoration.methods import BLIND, Job, Restorer, explain, make_restorer, process_blocks
from nldiff.restoration.restore import Fit, restore_blocks, settle, versions
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

_CURVE_POINTS = 1001
_PICTURE_SAMPLES = 1_000_000
# Share of the restored samples within the range of the curve that is shown.
_SHOWN = 0.9999
_SUFFIXES = (".restored.wav", ".curve.csv", ".curve.png", ".json")
# Level at which the papers state the ramp-response error.
_RAMP_RMS = 0.06


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
    known: Distortion | None = None,
    distort: tuple[str, dict[str, float]] | None = None,
    method: str = BLIND,
    weights: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Restore one file and write STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json.

    Args:
        source: distorted recording; with `distort` a clean one.
        folder: where the outputs go; created if needed.
        prior: loaded prior, or several: the one that explains the recording best is used. Other methods need none.
        config: settings.
        stem: of the outputs; that of `source` by default.
        known: the distortion, in the units of the file's samples, if it is known.
        distort: name and parameters (or `sdr`) of a distortion to apply first; the report then has scores against
            the truth, and the whole file is kept in memory.
        method: "blind", which is posterior sampling, told or not; or another of `make_restorer`, whose curve is
            fitted afterwards (`explain`).
        weights: name or path of the weights of a method that is a network; None chooses them.
        on_step: called with (steps done, steps in all); for other methods chunks.

    Raises:
        NldiffError: unusable input, settings or folder. Files of an earlier run are then still as they were.
    """
    outputs = [folder / f"{stem or source.stem}{suffix}" for suffix in _SUFFIXES]
    recording = Recording.from_file(source)
    clean, truth = None, None
    if distort is not None:
        clean = recording.read(0, recording.frames)
        truth = applied_distortion(clean, *distort)
        distorted = truth(torch.from_numpy(clean)).numpy()
        recording = Recording.from_array(distorted, recording.sample_rate, str(source))
        _check_scores(source, clean, distorted)
    choice: Choice | None = None
    restorer: Restorer | None = None
    if method == BLIND:
        choice = choose_prior(recording, [prior] if isinstance(prior, Prior) else prior)
    else:
        restorer = make_restorer(method, Job(recording, config, weights, known, clean))

    # Everything is written to one side first: an earlier run's files are replaced by a complete set or not at all.
    with scratch_folder(folder) as scratch:
        for path in outputs:
            if path.is_dir():
                raise NldiffError(f"{path} is a folder: it is in the way of a result")
        raw = scratch / "raw.wav"
        read_raw = partial(_read, raw)
        started = time.monotonic()
        with _create_audio(raw, recording, "RF64") as file:

            def emit(block: np.ndarray) -> None:
                file.write(block.T)

            if choice:
                fit = restore_blocks(recording, choice.prior, config, emit, known, on_step)
            if restorer:
                process_blocks(recording, restorer, config, emit, on_step)
        if restorer:
            fit = explain(recording, restorer, read_raw, started)
        gain, curve, explained_db = settle(fit, recording, read_raw)

        audio, table, picture, report_path = (scratch / path.name for path in outputs)
        peak = 0.0
        with _create_audio(audio, recording, "WAV") as file:
            for start, frames in recording.blocks():
                block = read_raw(start, frames) * gain
                peak = max(peak, float(np.abs(block).max()))
                file.write(block.T)

        grid = np.linspace(-peak, peak, _CURVE_POINTS)
        values = curve(grid)
        with table.open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["input", "output"])
            writer.writerows((f"{x:.7g}", f"{y:.7g}") for x, y in zip(grid, values, strict=True))

        stride = max(1, recording.frames // _PICTURE_SAMPLES)
        shown = [_read(audio, start, frames)[:, ::stride].ravel() for start, frames in recording.blocks()]
        samples = np.concatenate(shown)
        plotting.save_figure(plotting.plot_curve(grid, values, samples), picture)

        report = _report(source, recording, choice, config, fit, known) | {
            "method": method,
            "weights": restorer.weights if restorer else None,
            "curve_range": float(np.quantile(np.abs(samples), _SHOWN)),
            "restored": audio.name,
            "explained_db": explained_db,
            "gain": gain,
        }
        if clean is not None and truth is not None:
            restored, observed = _read(audio, 0, recording.frames), recording.read(0, recording.frames)
            report |= {"distortion": str(truth), "scores": scores(clean, observed, restored, truth, curve)}
        report_path.write_text(json.dumps(_json_values(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for path in outputs:
            (scratch / path.name).replace(path)
    return Outputs(outputs[0], outputs[1], outputs[2], outputs[3], report)


def applied_distortion(clean: np.ndarray, name: str, parameters: dict[str, float]) -> Distortion:
    """The distortion that `--distort` asks for: calibrated on `clean` [channels, time] if `sdr` is given."""
    if "sdr" in parameters:
        return calibrate(name, torch.from_numpy(clean), **parameters)
    return Distortion(name, parameters)


def scores(
    clean: np.ndarray,
    observed: np.ndarray,
    restored: np.ndarray,
    truth: Distortion,
    curve: Callable[[np.ndarray], np.ndarray],
) -> dict[str, dict[str, float]]:
    """SI-SDR (dB), LSD and RR-MSE (dB) of the observation ("before") and of the restoration ("after").

    Signals are [channels, time]; scores of channels are averaged. RR-MSE is stated at the papers' level, with clean and
    restored signal brought to RMS 0.06, after a fit of the input scale and ("unfitted") without; "before" takes the
    identity as the curve.
    """

    def level(signal: np.ndarray) -> float:
        return sound.rms(signal) / _RAMP_RMS

    def true_curve(r: torch.Tensor) -> torch.Tensor:
        return truth(r * level(clean)) / level(clean)

    def estimate(signal: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda r: torch.from_numpy(np.asarray(of(r.numpy() * level(signal)))) / level(clean)

    result = {}
    for when, signal, of in (("before", observed, np.asarray), ("after", restored, curve)):
        result[when] = {
            "si_sdr_db": float(np.mean(si_sdr(clean, signal))),
            "lsd": float(np.mean(lsd(clean, signal))),
            "rr_mse_db": rr_mse(true_curve, estimate(signal, of), _RAMP_RMS, fit_scale=True),
            "rr_mse_unfitted_db": rr_mse(true_curve, estimate(signal, of), _RAMP_RMS),
        }
    return result


def _report(
    source: Path,
    recording: Recording,
    choice: Choice | None,
    config: RestoreConfig,
    fit: Fit,
    known: Distortion | None,
) -> dict[str, Any]:
    return {
        "input": source.name,
        "sample_rate": recording.sample_rate,
        "channels": recording.channels,
        "frames": recording.frames,
        "prior": choice.prior.name if choice else None,
        "prior_scores": choice.scores if choice else {},
        "restored_band_hz": fit.restored_band_hz,
        "known": str(known) if known else None,
        "config": dataclasses.asdict(config),
        "sampler": dataclasses.asdict(fit.settings) if choice else None,
        "seed": config.seed,
        "versions": versions(),
        "cost": fit.cost,
        "network_evaluations": fit.evaluations,
        "seconds": fit.seconds,
    }


def _json_values(value: Any) -> Any:
    """The same with None for infinite and undefined numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_scores(source: Path, clean: np.ndarray, distorted: np.ndarray) -> None:
    """Find out before the work that the result can be scored."""
    try:
        si_sdr(clean, distorted)
        lsd(clean, distorted)
    except NldiffError as error:
        raise NldiffError(f"{source} cannot be scored: {error}") from error


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Hidden folder in `folder`, which is created if needed, that goes away with everything left in it.

    Raises:
        NldiffError: `folder` cannot be written, or an operating system's or sound file error came out of the block.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".nldiff-") as scratch:
            yield Path(scratch)
    except (OSError, soundfile.SoundFileError) as error:
        raise NldiffError(f"results cannot be written to folder {folder}: {error}") from error


def _create_audio(path: Path, recording: Recording, container: str) -> soundfile.SoundFile:
    rate, channels = recording.sample_rate, recording.channels
    return soundfile.SoundFile(sound.sound_path(path), "w", rate, channels, subtype="FLOAT", format=container)


def _read(path: Path, start: int, frames: int) -> np.ndarray:
    return sound.read(path, start, frames)[0]
