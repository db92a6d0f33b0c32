"""A recording at the level of a prior: the curve from its loudest chunks, and its chunks given the curve.

The prior samples at its own rate. Signals are refined at the rate of the recording: resampled, what was clipped
overshoots and is no function of the clean samples any more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from nldiff import audio as audio_io
from nldiff.diffusion import karras_schedule
from nldiff.nonlinearities import Distortion, estimate_input_rms
from nldiff.priors import Prior
from nldiff.recording import Recording, above_band, chunk_starts, from_rate
from nldiff.refine import (
    IncreasingCurve,
    increasing_curve,
    known_increasing_curve,
    matched_curve,
    plain_curves,
    polish,
    sparsest_consistent,
    spread,
)
from nldiff.sampling import Posterior, SamplerSettings, Step, generators, sample
from nldiff.settings import RestoreConfig, configured_waveshaper, sampler_settings
from nldiff.warmstart import histogram_match
from nldiff.waveshapers import Waveshaper

Curve = Callable[[Tensor], Tensor]

# Where the curve is noted after every step, in multiples of the prior's level.
_NOTED_SIGMAS, _NOTED_POINTS = 4.0, 201
# Clean samples are not larger, in the same multiples.
_LARGEST_SIGMAS = 12.0
# One in so many of the iterations that the signal needs is enough for the curve.
_FEWER = 4
# The tolerance of the curve in its rounds of fitting, in multiples of the last one: samples that are held in the
# intervals of a wrong curve confirm it.
_LOOSER = (4, 2, 1)
# Those of a plain curve, which is about right or does not count.
_AS_STRICT = (1, 1, 1)
# How often the tolerance is halved for the result, under a curve that was found and one that is known, and by how much
# the spread may grow each time: noise that does not fit between the bounds makes it grow by more.
_HALVINGS, _HALVINGS_KNOWN = 3, 5
_GROWTH = 0.04


@dataclass(frozen=True)
class Task:
    """What is needed to work on a recording at the level of a prior; see `make_task`.

    Attributes:
        recording, prior, config: what to restore, and how.
        known: the distortion in the units of the recording, where it is known.
        settings: of the sampler.
        starts, length: of the chunks, in frames of the recording.
        joint: the loudest chunks, ascending: the curve is estimated on them.
        loudest: what of each of them it is estimated on, [channels, n].
        whole: that is all of them, not an excerpt.
        gain: prior level = `gain` * observed sample.
        first_guess: observed samples [batch, time] at the prior's level to a first estimate of the clean ones.
    """

    recording: Recording
    prior: Prior
    config: RestoreConfig
    known: Distortion | None
    settings: SamplerSettings
    starts: list[int]
    length: int
    joint: list[int]
    loudest: list[np.ndarray]
    whole: bool
    gain: float
    first_guess: Callable[[Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        """Where the prior is."""
        return next(self.prior.denoiser.parameters()).device

    @property
    def batch_size(self) -> int:
        """Chunks times channels in one network call."""
        return self.config.batch_size or (1 if self.device.type == "cpu" else 8)

    @property
    def windows(self) -> list[int]:
        """Lengths of those of the refinement in samples of the recording, multiples of 4."""
        ratio = self.recording.sample_rate / self.prior.sample_rate
        return [4 * next_fast_len(max(1, round(n * ratio / 4))) for n in self.settings.refine_windows]

    def read(self, chunk: int) -> np.ndarray:
        """A chunk [channels, length] of the recording."""
        return self.recording.read(self.starts[chunk], self.length)

    def observed(self, pieces: list[np.ndarray]) -> Tensor:
        """Pieces [channels, n] of the recording at the prior's level, [pieces * channels, n]."""
        return torch.from_numpy(np.concatenate(pieces) * np.float32(self.gain)).to(self.device)

    def at_prior_rate(self, x: Tensor) -> Tensor:
        """Signals [batch, n] at the rate of the recording to that of the prior, [batch, time]."""
        rates = self.recording.sample_rate, self.prior.sample_rate
        return torch.from_numpy(audio_io.resample(x.cpu().numpy(), *rates)).to(x.device)

    def at_own_rate(self, x: Tensor, length: int) -> Tensor:
        """The way back: [batch, time] to [batch, length]."""
        back = from_rate(x.cpu().numpy(), self.prior.sample_rate, self.recording.sample_rate, length)
        return torch.from_numpy(back).to(x.device)

    def sources(self, chunks: list[int]) -> list[torch.Generator]:
        """A random generator for every channel of the chunks."""
        channels = range(self.recording.channels)
        return generators([_seed(self.config.seed, chunk, channel) for chunk in chunks for channel in channels])

    def sampled(
        self, chunks: list[int], y: Tensor, curve: Curve, level: float | None, callback: Callable[[Step], None]
    ) -> Posterior:
        """Samples at the prior's rate for `y` [chunks * channels, n] at that of the recording, see `sample`."""
        s, y = self.settings, self.at_prior_rate(y)
        return sample(
            self.prior.denoiser,
            y,
            curve,
            karras_schedule(s.steps, s.sigma_min, s.sigma_max, s.rho).to(self.device),
            s,
            self.sources(chunks),
            start=self.first_guess(y),
            level=level,
            batch_size=self.batch_size,
            callback=callback,
        )

    def refined(self, x: Tensor, low: Tensor, high: Tensor, iterations: int) -> Tensor:
        """The sparsest signal between the bounds, from the estimate `x`, all [batch, n] at the recording's rate."""
        return sparsest_consistent(x, low, high, self.windows, iterations)

    def polished(self, chunks: list[int], x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """What the prior makes of `x` [chunks * channels, n] at the recording's rate, see `polish`."""
        rates = self.at_prior_rate, partial(self.at_own_rate, length=x.shape[1])
        return polish(self.prior.denoiser, x, low, high, self.settings, self.sources(chunks), *rates)

    def samples_are_result(self, increasing: bool) -> bool:
        """Whether sampling for the curve restores the joint chunks: an excerpt does not, and refining is better.

        Args:
            increasing: whether the curve is, and signals are refined for that reason; so in the methods below.
        """
        return self.whole and not increasing

    def calls(self, increasing: bool) -> list[list[int]]:
        """Chunks that are left to restore once the curve is known, in order, those of one network call together."""
        ready = self.joint if self.samples_are_result(increasing) else []
        chunks = [chunk for chunk in range(len(self.starts)) if chunk not in ready]
        per_call = max(1, self.batch_size // self.recording.channels)
        return [chunks[i : i + per_call] for i in range(0, len(chunks), per_call)]

    def steps(self, increasing: bool, sampled: bool = True) -> int:
        """Steps that progress counts in all: those of sampling for the curve, if there is any, and of every call."""
        in_a_call = 1 if increasing else self.settings.steps
        return sampled * self.settings.steps + in_a_call * len(self.calls(increasing))


@dataclass
class Progress:
    """Counts steps: `on_step`, where there is one, is called with (steps done, steps in all)."""

    on_step: Callable[[int, int], None] | None
    planned: int
    done: int = 0

    def advance(self) -> None:
        """One more step is done."""
        self.done += 1
        if self.on_step:
            self.on_step(self.done, self.planned)

    def plan(self, steps: int) -> None:
        """There are `steps` in all after all; says so where all of them are done already."""
        changed, self.planned = steps != self.planned, steps
        if changed and self.done == steps and self.on_step:
            self.on_step(self.done, self.planned)


@dataclass(frozen=True)
class Estimate:
    """The curve of a recording; see `estimate_curve`.

    Attributes:
        curve: maps clean samples [1, n] to observed ones at the prior's level.
        increasing: the increasing curve nearest to it, for signals to be refined; None where they are to be sampled.
        posterior: what was sampled along with it; None for a known increasing curve, which needs no sampling.
        polarity: -1 if the restored signal is upside down, else 1.
        grid: clean values [points] at which the curve was noted.
        noted: the curve at them after every diffusion step, [steps, points]; no rows for a known distortion.
    """

    curve: Curve
    increasing: IncreasingCurve | None
    posterior: Posterior | None
    polarity: int
    grid: np.ndarray
    noted: np.ndarray


def make_task(recording: Recording, prior: Prior, config: RestoreConfig, known: Distortion | None) -> Task:
    """Find the loudest chunks, the level, and from both the first guess.

    Raises:
        NldiffError: unusable settings of the sampler.
    """
    settings = sampler_settings(prior, config)
    starts, length = chunk_starts(recording, config)
    powers = np.array([_mean_square(recording.read(start, length)) for start in starts])
    count = max(1, config.joint_items // recording.channels)
    joint = np.sort(np.argsort(-powers, kind="stable")[:count]).tolist()
    excerpt = round(config.excerpt_seconds * recording.sample_rate) if settings.refine_iterations else length
    loudest = [_loudest(recording.read(starts[chunk], length), excerpt) for chunk in joint]
    rms = float(np.sqrt(np.mean([piece.astype(np.float64) ** 2 for piece in loudest])))
    gain = prior.sigma_data / (estimate_input_rms(known, rms) if known else rms)
    return Task(
        recording=recording,
        prior=prior,
        config=config,
        known=known,
        settings=settings,
        starts=starts,
        length=length,
        joint=joint,
        loudest=loudest,
        whole=excerpt >= length,
        gain=gain,
        first_guess=_first_guess(config, np.concatenate(loudest, axis=1) * gain, prior.sigma_data),
    )


def estimate_curve(task: Task, progress: Progress) -> Estimate:
    """Estimate the curve on the loudest frames by sampling.

    If the settings ask for refinement, an increasing curve is fitted once more, to the refined signal; and one that is
    known needs no sampling.

    Raises:
        NldiffError: sampling diverged.
    """
    y = task.observed(task.loudest)
    curve, level = _first_curve(task)
    grid = torch.linspace(-_NOTED_SIGMAS, _NOTED_SIGMAS, _NOTED_POINTS) * task.prior.sigma_data
    noted: list[np.ndarray] = []
    refine = task.settings.refine_iterations > 0
    if refine and task.known:
        limit = _LARGEST_SIGMAS * task.prior.sigma_data
        if increasing := known_increasing_curve(curve, limit, y):
            x = task.refined(task.first_guess(y), *_bounds(increasing, y), _iterations(task))
            increasing = tightened(task, increasing, x, y, _HALVINGS_KNOWN)
            return Estimate(curve, increasing, None, 1, grid.numpy(), np.zeros((0, _NOTED_POINTS)))

    def stepped(step: Step) -> None:
        if isinstance(step.curve, Waveshaper):
            with torch.no_grad():
                noted.append(step.curve.curve(grid.to(task.device))[0].cpu().numpy())
        progress.advance()

    posterior = task.sampled(task.joint, y, curve, level, stepped)
    restored = task.at_own_rate(posterior.audio, y.shape[1])
    increasing = increasing_curve(curve, restored, y) if refine else None
    if increasing and isinstance(curve, Waveshaper):
        # Unlike a waveshaper, the table goes on sensibly where there were no samples to fit it on.
        restored, increasing = refitted(task, increasing, restored, y)
        curve = increasing = tightened(task, increasing, restored, y, _HALVINGS)
    if isinstance(curve, Waveshaper):
        curve.requires_grad_(False)
    polarity = -1 if torch.sum((restored - restored.mean()) * (y - y.mean())) < 0 else 1
    curves = np.reshape(noted, (-1, _NOTED_POINTS))
    return Estimate(curve, increasing, posterior, polarity, grid.numpy(), curves)


def refitted(task: Task, increasing: IncreasingCurve, restored: Tensor, y: Tensor) -> tuple[Tensor, IncreasingCurve]:
    """Refine what the prior sampled, fit the curve to what comes out, and again; the same from plain curves.

    What was sampled may have a part of the distortion left, and its curve the rest. Under a wrong curve the refined
    signal is less sparse than under the true one, so that the sparsest of the results is kept.

    Args:
        task: the recording, prior and settings.
        increasing: the curve that was sampled.
        restored: the signals that were sampled [batch, n], at the recording's rate.
        y: what was observed of them, at the prior's level, same shape.

    Returns:
        The refined signals at the prior's level, and their curve.
    """
    starts = [(increasing, restored, _LOOSER), *((curve, y, _AS_STRICT) for curve in plain_curves(y))]
    found = []
    for curve, x, looser in starts:
        for factor in looser:
            x = task.refined(x, *_bounds(replace(curve, tolerance=factor * curve.tolerance), y), _iterations(task))
            curve = matched_curve(x, y)
        found.append((spread(x, task.windows), x, curve))
    _, x, curve = min(found, key=itemgetter(0))
    gain = task.prior.sigma_data / float(x.square().mean().sqrt())
    return gain * x, matched_curve(gain * x, y)


def tightened(task: Task, curve: IncreasingCurve, x: Tensor, y: Tensor, halvings: int) -> IncreasingCurve:
    """Halve the tolerance of a curve as long as the refined signal stays about as sparse.

    The smaller the tolerance, the less is lost of signals that were distorted a little; but where there is noise in the
    observation, the steep inverse of a saturated curve makes large errors of it.

    Args:
        task: the recording, prior and settings.
        curve: as it was fitted, or is known.
        x: refined under it, [batch, n] at the recording's rate.
        y: what was observed, at the prior's level, same shape.
        halvings: how many at most.
    """
    before = spread(x, task.windows)
    for _ in range(halvings):
        finer = replace(curve, tolerance=curve.tolerance / 2)
        x = task.refined(x, *_bounds(finer, y), _iterations(task))
        after = spread(x, task.windows)
        if after > before + _GROWTH:
            break
        curve, before = finer, after
    return curve


def restored_chunks(task: Task, estimate: Estimate, progress: Progress) -> Iterator[np.ndarray]:
    """The restored chunks [channels, length] at the recording's rate and the prior's level, in order.

    Raises:
        NldiffError: sampling diverged.
    """
    increasing = estimate.increasing is not None
    ready: dict[int, np.ndarray] = {}
    if estimate.posterior and task.samples_are_result(increasing):
        ready = _finished(task, task.joint, task.at_own_rate(estimate.posterior.audio, task.length), estimate)
    calls = iter(task.calls(increasing))
    for chunk in range(len(task.starts)):
        if chunk not in ready:
            chunks = next(calls)
            ready |= _finished(task, chunks, _restored(task, chunks, estimate, progress), estimate)
        yield ready.pop(chunk)


def evaluations(task: Task, estimate: Estimate) -> int:
    """Network evaluations per item, those for the curve included."""
    spent = estimate.posterior.evaluations if estimate.posterior else 0
    if estimate.increasing:
        return spent + (task.settings.polish_steps if task.settings.polish_sigma else 0)
    return spent if task.samples_are_result(increasing=False) else 2 * spent


def _first_guess(config: RestoreConfig, samples: np.ndarray, rms: float) -> Callable[[Tensor], Tensor]:
    """See `Task`; from observed samples [channels, n] at the prior's level and the RMS of clean ones."""
    if config.warm_start == "observation":
        return lambda y: y
    match = histogram_match(samples, rms)
    return lambda y: torch.from_numpy(match(y.cpu().numpy())).to(y.device)


def _first_curve(task: Task) -> tuple[Curve, float | None]:
    """The known distortion or a waveshaper to be fitted, and the level to hold the signal at, if it is not given."""
    if task.known:
        return partial(_at_level, task.known, task.gain), None
    waveshaper = configured_waveshaper(task.config).to(task.device)
    samples = np.concatenate(task.loudest, axis=1) * task.gain
    sources = generators([_seed(task.config.seed, -1, 0)])
    waveshaper.reset(torch.from_numpy(samples.reshape(1, -1)).to(task.device), sources)
    return waveshaper, task.prior.sigma_data


def _restored(task: Task, chunks: list[int], estimate: Estimate, progress: Progress) -> Tensor:
    """Clean signals [chunks * channels, length] at the recording's rate and the prior's level."""
    y = task.observed([task.read(chunk) for chunk in chunks])
    if not estimate.increasing:
        posterior = task.sampled(chunks, y, estimate.curve, None, lambda step: progress.advance())
        return task.at_own_rate(posterior.audio, task.length)
    low, high = _bounds(estimate.increasing, y)
    x = task.refined(task.first_guess(y), low, high, task.settings.refine_iterations)
    if task.settings.polish_sigma:
        x = task.polished(chunks, x, low, high)
    progress.advance()
    return x


def _finished(task: Task, chunks: list[int], restored: Tensor, estimate: Estimate) -> dict[int, np.ndarray]:
    """Chunks [channels, length] from `restored` [chunks * channels, length], both at the prior's level."""
    given, used = task.recording.sample_rate, task.prior.sample_rate
    pieces = dict(zip(chunks, restored.cpu().numpy().reshape(len(chunks), task.recording.channels, -1), strict=True))
    if estimate.increasing or task.config.above_band == "drop" or given <= used:
        return pieces
    gain = estimate.polarity * task.gain
    return {chunk: x + above_band(task.read(chunk) * gain, given, used) for chunk, x in pieces.items()}


def _seed(*parts: int) -> int:
    """Independent 63-bit seed for every combination of numbers."""
    return int(np.random.default_rng([part + 1 for part in parts]).integers(2**63))


def _mean_square(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


def _loudest(chunk: np.ndarray, excerpt: int) -> np.ndarray:
    """The loudest stretch [channels, excerpt] of a chunk, on a grid of quarters of it; all of a shorter chunk."""
    starts = range(0, max(1, chunk.shape[1] - excerpt + 1), max(1, excerpt // 4))
    best = starts[int(np.argmax([_mean_square(chunk[:, i : i + excerpt]) for i in starts]))]
    return chunk[:, best : best + excerpt]


def _iterations(task: Task) -> int:
    """Of a refinement of the joint chunks."""
    return 1 + task.settings.refine_iterations // _FEWER


def _bounds(increasing: IncreasingCurve, y: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the clean samples of `y` [batch, time]; those of an item do not depend on its neighbours."""
    low, high = zip(*(increasing.bounds(item) for item in y), strict=True)
    return torch.stack(low), torch.stack(high)


def _at_level(known: Distortion, gain: float, x: Tensor) -> Tensor:
    """A distortion that is defined for file samples, applied at the prior's level."""
    return known(x / gain) * gain
