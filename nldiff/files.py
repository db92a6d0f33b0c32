"""Restoring files: streaming in and out, and the four outputs of every input."""

import csv
import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nldiff import audio as audio_io
from nldiff import plotting
from nldiff.metrics import lsd, rr_mse, si_sdr
from nldiff.nonlinearities import Distortion, calibrate
from nldiff.priors import Prior
from nldiff.restore import Fit, Recording, RestoreConfig, restore_blocks, settle, versions

_CURVE_POINTS = 1001
_PICTURE_SAMPLES = 1_000_000
# Level at which the papers state the ramp-response error.
_RAMP_RMS = 0.06


@dataclass(frozen=True)
class Outputs:
    """Paths written for one input, and the content of the JSON report."""

    audio: Path
    curve_table: Path
    curve_picture: Path
    report_path: Path
    report: dict[str, Any]


def restore_file(
    source: Path,
    folder: Path,
    prior: Prior,
    config: RestoreConfig,
    *,
    stem: str | None = None,
    known: Distortion | None = None,
    distort: tuple[str, dict[str, float]] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Restore one file and write STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json.

    Args:
        source: distorted recording; with `distort` a clean one.
        folder: where the outputs go; created if needed.
        prior: loaded prior.
        config: settings.
        stem: of the outputs; that of `source` by default.
        known: the distortion, in the units of the file's samples, if it is known.
        distort: name and parameters (or `sdr`) of a distortion to apply first; the report then has scores against
            the truth, and the whole file is kept in memory.
        on_step: called with (steps done, steps in all).

    Raises:
        NldiffError: unusable input, settings or folder; no output is left half-written.
    """
    stem = stem or source.stem
    recording = Recording.from_file(source)
    clean, truth = None, None
    if distort is not None:
        clean = recording.read(0, recording.frames)
        truth = applied_distortion(clean, *distort)
        distorted = truth(torch.from_numpy(clean)).numpy()
        recording = Recording.from_array(distorted, recording.sample_rate, source.name)
    _make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".nldiff-") as scratch:
        raw = Path(scratch) / "raw.wav"
        with soundfile.SoundFile(
            raw, "w", recording.sample_rate, recording.channels, subtype="FLOAT", format="RF64"
        ) as file:
            fit = restore_blocks(recording, prior, config, lambda block: file.write(block.T), known, on_step)
        read_raw = partial(_read, raw)
        gain, curve, explained_db = settle(fit, recording, read_raw)
        outputs = [folder / f"{stem}{suffix}" for suffix in (".restored.wav", ".curve.csv", ".curve.png", ".json")]
        peak = _write_audio(outputs[0], recording, lambda start, frames: read_raw(start, frames) * gain)

    stride = max(1, recording.frames // _PICTURE_SAMPLES)
    shown = np.concatenate(
        [_read(outputs[0], start, frames)[:, ::stride].ravel() for start, frames in recording.blocks()]
    )
    grid = np.linspace(-peak, peak, _CURVE_POINTS)
    values = curve(grid)
    with audio_io.atomic_path(outputs[1]) as path, open(path, "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["input", "output"])
        writer.writerows((f"{x:.7g}", f"{y:.7g}") for x, y in zip(grid, values, strict=True))
    figure = plotting.plot_curve(grid, values, shown, title=f"{source.name}: estimated transfer curve")
    plotting.save_figure(figure, outputs[2])

    report = _report(source, recording, prior, config, fit, known) | {
        "restored": outputs[0].name,
        "explained_db": explained_db,
        "gain": gain,
    }
    if clean is not None and truth is not None:
        restored = _read(outputs[0], 0, recording.frames)
        observed = recording.read(0, recording.frames)
        report["distortion"] = str(truth)
        report["scores"] = scores(clean, observed, restored, truth, curve)
    with audio_io.atomic_path(outputs[3]) as path:
        path.write_text(json.dumps(report, indent=2, allow_nan=True) + "\n", encoding="utf-8")
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
    restored signal brought to RMS 0.06 and after a fit of the input scale; "before" takes the identity as the curve.
    """

    def level(signal: np.ndarray) -> float:
        return audio_io.rms(signal) / _RAMP_RMS

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
        }
    return result


def _report(
    source: Path,
    recording: Recording,
    prior: Prior,
    config: RestoreConfig,
    fit: Fit,
    known: Distortion | None,
) -> dict[str, Any]:
    return {
        "input": source.name,
        "sample_rate": recording.sample_rate,
        "channels": recording.channels,
        "frames": recording.frames,
        "prior": prior.name,
        "known": str(known) if known else None,
        "config": dataclasses.asdict(config),
        "sampler": dataclasses.asdict(fit.settings),
        "seed": config.seed,
        "versions": versions(),
        "cost": fit.cost,
        "network_evaluations": fit.evaluations,
        "seconds": fit.seconds,
    }


def _make_folder(folder: Path) -> None:
    """Find out before the work that the outputs can be written."""
    with audio_io.atomic_path(folder / ".nldiff-probe") as probe:
        probe.touch()
    (folder / ".nldiff-probe").unlink()


def _read(path: Path, start: int, frames: int) -> np.ndarray:
    return audio_io.read(path, start, frames)[0]


def _write_audio(path: Path, recording: Recording, read: Callable[[int, int], np.ndarray]) -> float:
    """Write float32 WAV block by block; returns the peak."""
    peak = 0.0
    with (
        audio_io.atomic_path(path) as temporary,
        soundfile.SoundFile(
            temporary, "w", recording.sample_rate, recording.channels, subtype="FLOAT", format="WAV"
        ) as file,
    ):
        for start, frames in recording.blocks():
            block = read(start, frames)
            peak = max(peak, float(np.abs(block).max()))
            file.write(block.T)
    return peak
