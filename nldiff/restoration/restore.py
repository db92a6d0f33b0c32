"""From a recording of any rate, level, channel count and length to a `Restoration`.

Chunks and channels of a recording share one curve: it is estimated by sampling on the loudest chunks jointly, then held
fixed while the chunks are restored one after the other, so memory does not grow with the length. Increasing curves
leave little to sample: there the chunks are refined, and the curve is estimated on an excerpt.
"""

import dataclasses
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nldiff import sound
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators.distortions import Distortion
from nldiff.priors.choice import choose_prior, load_candidates
from nldiff.priors.saved import Prior
from nldiff.restoration.chunks import evaluations, restored_chunks
from nldiff.restoration.estimate import estimate_curve
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.restoration.task import Curve, Progress, make_task
from nldiff.sampling.posterior import SamplerSettings
from nldiff.sound.chunks import joined
from nldiff.sound.recording import Recording
from nldiff.version import __version__


@dataclass(frozen=True)
class Fit:
    """How a recording was explained, in the levels of the prior.

    Attributes:
        curve: maps clean samples [1, n] to observed ones at the prior's levels.
        observation_gain: prior level = `observation_gain` * observed sample.
        cost: mean of eq. 8 over the jointly restored items in every diffusion step; none if nothing was sampled.
        evaluations: network evaluations per item, those for the curve included.
        seconds: wall time of sampling.
        settings: sampler settings.
        restored_band_hz: upper end of the band that was restored, Hz: that of the recording where signals were refined,
            else that of the prior if it is lower; above it the result is silent, or observed (`above_band` of
            `RestoreConfig`).
        grid: clean values [points] at which the curve was noted.
        curves: the curve at them after every diffusion step, [steps, points]; no rows for a known distortion.
    """

    curve: Curve
    observation_gain: float
    cost: tuple[float, ...]
    evaluations: int
    seconds: float
    settings: SamplerSettings
    restored_band_hz: float
    grid: np.ndarray
    curves: np.ndarray


@dataclass(frozen=True)
class Restoration:
    """A restored recording and the curve of what distorted it.

    Attributes:
        audio: restored signal, float32, same shape as the input; RMS of the input, never above full scale.
        sample_rate: Hz.
        curve: maps samples of `audio` to samples of the input, any shape.
        explained_db: SDR of `curve(audio)` against the input, dB.
        cost, evaluations, seconds, settings: see `Fit`.
        config: the `RestoreConfig` as a dictionary.
        versions: of nldiff, torch and Python.
        prior: name of the prior; None for methods that have none.
        prior_scores: why it was chosen, see `nldiff.priors.choice.Choice`; empty if it was named.
        restored_band_hz: see `Fit`; None for methods without a prior.
        evolution: see `curve_evolution`; None for methods without one.
        scale: what `audio` was multiplied by, for the RMS of the input, from the scale that a known distortion fixes.
    """

    audio: np.ndarray
    sample_rate: int
    curve: Callable[[np.ndarray], np.ndarray]
    explained_db: float
    cost: tuple[float, ...]
    evaluations: int
    seconds: float
    settings: SamplerSettings
    config: dict[str, Any]
    versions: dict[str, str]
    prior: str | None = None
    prior_scores: dict[str, float] = field(default_factory=dict)
    restored_band_hz: float | None = None
    evolution: tuple[np.ndarray, np.ndarray] | None = None
    scale: float = 1.0


def restore(
    audio: np.ndarray,
    sample_rate: int,
    prior: str | Path | Prior = "auto",
    *,
    known: Distortion | None = None,
    config: RestoreConfig | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Restoration:
    """Recover the clean signal and the transfer curve of a distorted recording.

    Args:
        audio: samples [time] or [channels, time], at most two channels.
        sample_rate: Hz; the prior's rate is met by resampling there and back.
        prior: shipped prior, file or loaded prior; "auto": the shipped prior that explains the recording best.
        known: the distortion, if it is known; only the signal is estimated then. In the units of `audio`.
        config: everything else; its `prior` is not used.
        on_step: called with (steps done, steps in all).

    Raises:
        NldiffError: unusable audio or settings.
    """
    config = config or RestoreConfig()
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise NldiffError(f"audio of shape {list(samples.shape)}: [time] or [channels, time] expected")
    recording = Recording.from_array(np.atleast_2d(samples), sample_rate)
    check_config(config)
    candidates = [prior] if isinstance(prior, Prior) else load_candidates(prior, choose_device(config.device))
    choice = choose_prior(recording, candidates)
    blocks: list[np.ndarray] = []
    fit = restore_blocks(recording, choice.prior, config, blocks.append, known, on_step)
    raw = np.concatenate(blocks, axis=1)
    gain, curve, explained_db = settle(fit, recording, lambda start, frames: raw[:, start : start + frames])
    return Restoration(
        audio=(raw * gain).astype(np.float32).reshape(np.shape(audio)),
        sample_rate=sample_rate,
        curve=curve,
        explained_db=explained_db,
        cost=fit.cost,
        evaluations=fit.evaluations,
        seconds=fit.seconds,
        settings=fit.settings,
        config=dataclasses.asdict(config),
        versions=versions(),
        prior=choice.prior.name,
        prior_scores=choice.scores,
        restored_band_hz=fit.restored_band_hz,
        evolution=curve_evolution(fit, gain),
        scale=gain * fit.observation_gain,
    )


def restore_blocks(
    recording: Recording,
    prior: Prior,
    config: RestoreConfig,
    emit: Callable[[np.ndarray], None],
    known: Distortion | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Fit:
    """Restore piece by piece: `emit` gets consecutive blocks [channels, n] at the prior's level, in order.

    Raises:
        NldiffError: unusable settings, or sampling diverged.
    """
    started = time.monotonic()
    check_config(config)
    task = make_task(recording, prior, config, known)
    # Only the curve tells whether signals can be refined; until then they can, if the settings ask for it.
    progress = Progress(on_step, task.steps(increasing=task.settings.refine_iterations > 0))
    estimate = estimate_curve(task, progress)
    progress.plan(task.steps(increasing=estimate.increasing is not None, sampled=estimate.posterior is not None))
    for block in joined(restored_chunks(task, estimate, progress), task.starts, recording.frames):
        emit(block)
    rate = recording.sample_rate if estimate.increasing else min(recording.sample_rate, prior.sample_rate)
    return Fit(
        curve=estimate.curve,
        observation_gain=task.gain,
        cost=tuple(estimate.posterior.cost.mean(1).tolist()) if estimate.posterior else (),
        evaluations=evaluations(task, estimate),
        seconds=time.monotonic() - started,
        settings=task.settings,
        restored_band_hz=rate / 2,
        grid=estimate.grid,
        curves=estimate.noted,
    )


def settle(
    fit: Fit, recording: Recording, raw: Callable[[int, int], np.ndarray]
) -> tuple[float, Callable[[np.ndarray], np.ndarray], float]:
    """Bring a restoration from the prior's level to the recording's, reading both piecewise.

    Args:
        fit: what `restore_blocks` returned.
        recording: the observation.
        raw: (start, frames) -> what `restore_blocks` emitted, [channels, frames].

    Returns:
        The gain that gives `raw` the RMS and polarity of the recording (less if it would exceed full scale), the
        curve from samples so scaled to observed samples, and the SDR of that explanation in dB.
    """
    power = observed_power = product = total = observed_total = peak = 0.0
    for start, frames in recording.blocks():
        x, y = (read(start, frames).astype(np.float64) for read in (raw, recording.read))
        power, observed_power, product = power + np.sum(x**2), observed_power + np.sum(y**2), product + np.sum(x * y)
        total, observed_total, peak = total + x.sum(), observed_total + y.sum(), max(peak, np.abs(x).max())
    samples = recording.channels * recording.frames
    gain = sound.match_level((power / samples) ** 0.5, peak, (observed_power / samples) ** 0.5)
    # A blind method cannot tell (x, f) from (-x, f(-.)): the sign of the observation is the natural choice. Means are
    # left out: a constant that the curve added says nothing of the sign.
    covariance = product - total * observed_total / samples
    gain = float(-gain if covariance < 0 else gain)
    curve = user_curve(fit, gain)
    error = 0.0
    for start, frames in recording.blocks():
        explained = curve(raw(start, frames) * gain)
        error += np.sum((recording.read(start, frames).astype(np.float64) - explained) ** 2)
    return gain, curve, float(10 * np.log10(observed_power / max(error, 1e-30)))


def user_curve(fit: Fit, gain: float) -> Callable[[np.ndarray], np.ndarray]:
    """The fitted curve from samples of the output, which is `gain` times the prior's level, to observed samples."""
    device = next((p.device for p in getattr(fit.curve, "parameters", list)()), torch.device("cpu"))

    @torch.no_grad()
    def curve(samples: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.asarray(np.divide(samples, gain), dtype=np.float32)).to(device)
        y = fit.curve(x.reshape(1, -1)).reshape(x.shape)
        return y.cpu().double().numpy() / fit.observation_gain

    return curve


def curve_evolution(fit: Fit, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """How the curve came about: samples of the output, see `user_curve`, [points], and observed ones [steps, points].

    The last row is the curve before the refinement, which changes it once more.
    """
    return fit.grid * gain, fit.curves / fit.observation_gain


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"nldiff": __version__, "torch": torch.__version__, "python": platform.python_version()}
