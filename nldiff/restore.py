"""From a recording of any rate, level, channel count and length to a `Restoration`.

The one place that knows rates, channels, chunks and levels. Chunks and channels of a recording share one curve: it is
estimated by sampling on the loudest chunks jointly, then held fixed while the chunks are restored one after the
other, so memory does not grow with the length. Increasing curves leave little to sample: there the chunks are restored
by `nldiff.refine`, and the curve is estimated on an excerpt.
"""

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nldiff
from nldiff import audio as audio_io
from nldiff.choose import choose_prior, load_candidates
from nldiff.diffusion import karras_schedule
from nldiff.errors import NldiffError
from nldiff.nonlinearities import Distortion, estimate_input_rms
from nldiff.priors import Prior
from nldiff.recording import Recording, above_band, chunk_starts, from_rate, joined
from nldiff.refine import IncreasingCurve, increasing_curve, polish, sparsest_consistent
from nldiff.sampling import Posterior, SamplerSettings, Step, fit_operator, generators, sample
from nldiff.settings import RestoreConfig, check_config, choose_device, configured_waveshaper, sampler_settings
from nldiff.warmstart import histogram_match
from nldiff.waveshapers import Waveshaper

Curve = Callable[[Tensor], Tensor]

# Where the curve is noted after every step, in multiples of the prior's level.
_NOTED_SIGMAS, _NOTED_POINTS = 4.0, 201


@dataclass(frozen=True)
class Fit:
    """How a recording was explained, in the levels of the prior.

    Attributes:
        curve: maps clean samples [1, n] to observed ones at the prior's levels.
        observation_gain: prior level = `observation_gain` * observed sample.
        cost: mean of eq. 8 over the jointly restored items in every diffusion step.
        evaluations: network evaluations per item, those for the curve included.
        seconds: wall time of sampling.
        settings: sampler settings.
        restored_band_hz: upper end of the band that the prior restored, Hz; above it the result is silent, or observed
            (`above_band` of `RestoreConfig`).
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
        prior_scores: why it was chosen, see `nldiff.choose.Choice`; empty if it was named.
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
    settings = sampler_settings(prior, config)
    device = next(prior.denoiser.parameters()).device
    schedule = karras_schedule(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho).to(device)
    starts, length = chunk_starts(recording, config)
    channels = recording.channels
    levels = np.array([_mean_square(recording, start, length) for start in starts])
    joint = np.sort(np.argsort(-levels, kind="stable")[: max(1, config.joint_items // channels)]).tolist()
    excerpt = round(config.excerpt_seconds * recording.sample_rate) if settings.refine_iterations else length
    loudest = [_loudest(recording, starts[chunk], length, excerpt) for chunk in joint]
    rms = float(np.sqrt(np.mean([piece.astype(np.float64) ** 2 for piece in loudest])))
    gain = prior.sigma_data / (estimate_input_rms(known, rms) if known else rms)
    samples = np.concatenate(loudest, axis=1) * gain
    match = histogram_match(samples, prior.sigma_data) if config.warm_start == "histogram" else None

    batch_size = config.batch_size or (1 if device.type == "cpu" else 8)
    per_call = max(1, batch_size // channels)
    every = list(range(len(starts)))
    others = [chunk for chunk in every if chunk not in joint]
    done, planned = 0, settings.steps * (1 + math.ceil(len(others) / per_call))
    if settings.refine_iterations:
        planned = settings.steps + math.ceil(len(every) / per_call)
    grid = torch.linspace(-_NOTED_SIGMAS, _NOTED_SIGMAS, _NOTED_POINTS) * prior.sigma_data
    noted: list[np.ndarray] = []

    def stepped(step: Step) -> None:
        nonlocal done
        done += 1
        if isinstance(step.curve, Waveshaper) and done <= settings.steps:
            with torch.no_grad():
                noted.append(step.curve.curve(grid.to(device))[0].cpu().numpy())
        if on_step:
            on_step(done, planned)

    def observed(pieces: list[np.ndarray]) -> Tensor:
        """Pieces [channels, n] of the recording at the prior's rate and level, [pieces * channels, time]."""
        at_rate = [_to_rate(piece * gain, recording.sample_rate, prior) for piece in pieces]
        return torch.from_numpy(np.concatenate(at_rate)).to(device)

    def first_guess(y: Tensor) -> Tensor:
        return torch.from_numpy(match(y.cpu().numpy())).to(device) if match else y

    def sources(chunks: list[int]) -> list[torch.Generator]:
        return generators([_seed(config.seed, c, channel) for c in chunks for channel in range(channels)])

    def run(chunks: list[int], y: Tensor, curve: Curve, level: float | None) -> Posterior:
        return sample(
            prior.denoiser, y, curve, schedule, settings, sources(chunks),
            start=first_guess(y), level=level, batch_size=batch_size, callback=stepped,
        )  # fmt: skip

    y = observed(loudest)
    if known:
        curve: Curve = partial(_at_level, known, gain)
        first = run(joint, y, curve, None)
    else:
        waveshaper = configured_waveshaper(config).to(device)
        waveshaper.reset(torch.from_numpy(samples.reshape(1, -1)).to(device), generators([_seed(config.seed, -1, 0)]))
        first = run(joint, y, waveshaper, prior.sigma_data)
        curve = waveshaper
    restored = first.audio
    increasing = increasing_curve(curve, restored, y) if settings.refine_iterations else None
    if increasing:
        windows, iterations = settings.refine_windows, settings.refine_iterations
        restored = sparsest_consistent(restored, *_bounds(increasing, y), windows, iterations)
        if isinstance(curve, Waveshaper):
            fit_operator(
                curve, restored, y, settings, generators([_seed(config.seed, -1, 1 + i) for i in range(len(y))])
            )
            # Unlike a waveshaper, the table goes on sensibly where there were no samples to fit it on.
            curve = increasing = increasing_curve(curve, restored, y) or increasing
    if isinstance(curve, Waveshaper):
        curve.requires_grad_(False)
    polarity = -1 if torch.sum((restored - restored.mean()) * (y - y.mean())) < 0 else 1

    def finished(chunks: list[int], restored: Tensor) -> dict[int, np.ndarray]:
        pieces = dict(zip(chunks, _chunks(restored, recording, prior, length), strict=True))
        if config.above_band == "drop" or recording.sample_rate <= prior.sample_rate:
            return pieces
        observations = {c: recording.read(starts[c], length) * (polarity * gain) for c in chunks}
        return {
            c: piece + above_band(observations[c], recording.sample_rate, prior.sample_rate)
            for c, piece in pieces.items()
        }

    def restored_chunks(chunks: list[int]) -> Tensor:
        nonlocal done
        y = observed([recording.read(starts[chunk], length) for chunk in chunks])
        if not increasing:
            return run(chunks, y, curve, None).audio
        low, high = _bounds(increasing, y)
        x = sparsest_consistent(first_guess(y), low, high, settings.refine_windows, settings.refine_iterations)
        if settings.polish_sigma:
            x = polish(prior.denoiser, x, low, high, settings, sources(chunks))
        done += 1
        if on_step:
            on_step(done, planned)
        return x

    # What was sampled is a result, unless it is an excerpt only or the refinement knows better.
    ready = {} if increasing or excerpt < length else finished(joint, restored)
    remaining = [chunk for chunk in every if chunk not in ready]
    calls = [remaining[i : i + per_call] for i in range(0, len(remaining), per_call)]
    evaluations = first.evaluations
    if not increasing:
        planned = settings.steps * (1 + len(calls))
        evaluations *= 1 if excerpt >= length else 2
    elif settings.polish_sigma:
        evaluations += settings.polish_steps

    def pieces() -> Iterator[np.ndarray]:
        for chunk in every:
            if chunk not in ready:
                chunks = calls.pop(0)
                ready.update(finished(chunks, restored_chunks(chunks)))
            yield ready.pop(chunk)

    for block in joined(pieces(), starts, recording.frames):
        emit(block)
    cost = tuple(first.cost.mean(1).tolist())
    band = min(recording.sample_rate, prior.sample_rate) / 2
    curves = np.reshape(noted, (-1, _NOTED_POINTS))
    return Fit(curve, gain, cost, evaluations, time.monotonic() - started, settings, band, grid.numpy(), curves)


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
    gain = audio_io.match_level((power / samples) ** 0.5, peak, (observed_power / samples) ** 0.5)
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
    return {"nldiff": nldiff.__version__, "torch": torch.__version__, "python": platform.python_version()}


def _seed(*parts: int) -> int:
    """Independent 63-bit seed for every combination of numbers."""
    return int(np.random.default_rng([part + 1 for part in parts]).integers(2**63))


def _mean_square(recording: Recording, start: int, length: int) -> float:
    return float(np.mean(recording.read(start, length).astype(np.float64) ** 2))


def _to_rate(piece: np.ndarray, sample_rate: int, prior: Prior) -> np.ndarray:
    return audio_io.resample(piece.astype(np.float32), sample_rate, prior.sample_rate)


def _bounds(increasing: IncreasingCurve, y: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the clean samples of `y` [batch, time]; those of an item do not depend on its neighbours."""
    low, high = zip(*(increasing.bounds(item) for item in y), strict=True)
    return torch.stack(low), torch.stack(high)


def _loudest(recording: Recording, start: int, length: int, excerpt: int) -> np.ndarray:
    """The loudest stretch [channels, excerpt] of a chunk, on a grid of quarters of it; all of a shorter chunk."""
    chunk = recording.read(start, length)
    starts = range(0, max(1, length - excerpt + 1), max(1, excerpt // 4))
    power = [np.mean(chunk[:, i : i + excerpt].astype(np.float64) ** 2) for i in starts]
    best = starts[int(np.argmax(power))]
    return chunk[:, best : best + excerpt]


def _chunks(restored: Tensor, recording: Recording, prior: Prior, length: int) -> list[np.ndarray]:
    """Chunks [channels, length] at the recording's rate from `restored` [chunks * channels, time] at the prior's."""
    pieces = restored.cpu().numpy().reshape(-1, recording.channels, restored.shape[1])
    return [from_rate(piece, prior.sample_rate, recording.sample_rate, length) for piece in pieces]


def _at_level(known: Distortion, gain: float, x: Tensor) -> Tensor:
    """A distortion that is defined for file samples, applied at the prior's level."""
    return known(x / gain) * gain
