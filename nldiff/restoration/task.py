"""What is needed to work on a recording at the level of a prior: its chunks, rates, level, and random numbers.

The prior samples at its own rate. Signals are refined at the rate of the recording: resampled, what was clipped
overshoots and is no function of the clean samples any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from nldiff import sound
from nldiff.operators.distortions import Distortion, estimate_input_rms
from nldiff.priors.edm import karras_schedule
from nldiff.priors.saved import Prior
from nldiff.restoration.refine import IncreasingCurve, polish, sparsest_consistent
from nldiff.restoration.settings import RestoreConfig, sampler_settings
from nldiff.sampling.posterior import Posterior, SamplerSettings, Step, generators, sample
from nldiff.sound.chunks import chunk_starts
from nldiff.sound.histogram import histogram_match
from nldiff.sound.rates import from_rate
from nldiff.sound.recording import Recording

Curve = Callable[[Tensor], Tensor]


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
        return torch.from_numpy(sound.resample(x.cpu().numpy(), *rates)).to(x.device)

    def at_own_rate(self, x: Tensor, length: int) -> Tensor:
        """The way back: [batch, time] to [batch, length]."""
        back = from_rate(x.cpu().numpy(), self.prior.sample_rate, self.recording.sample_rate, length)
        return torch.from_numpy(back).to(x.device)

    def sources(self, chunks: list[int]) -> list[torch.Generator]:
        """A random generator for every channel of the chunks."""
        channels = range(self.recording.channels)
        return generators([seed_of(self.config.seed, chunk, channel) for chunk in chunks for channel in channels])

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

    def refined(self, x: Tensor, curve: IncreasingCurve, y: Tensor, iterations: int) -> Tensor:
        """The sparsest signal under which the curve gives `y`, from the estimate `x`, at the recording's rate.

        Args:
            x: [batch, n].
            curve: that of all items.
            y: what was observed, at the prior's level, same shape.
            iterations: see `sparsest_consistent`.
        """
        return sparsest_consistent(x, *_bounds(curve, y), self.windows, iterations)

    def polished(self, chunks: list[int], x: Tensor, curve: IncreasingCurve, y: Tensor) -> Tensor:
        """What the prior makes of `x` [chunks * channels, n] under which the curve gives `y`, see `polish`."""
        rates = self.at_prior_rate, partial(self.at_own_rate, length=x.shape[1])
        return polish(self.prior.denoiser, x, *_bounds(curve, y), self.settings, self.sources(chunks), *rates)

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


def make_task(recording: Recording, prior: Prior, config: RestoreConfig, known: Distortion | None) -> Task:
    """Find the loudest chunks, the level, and from both the first guess.

    Raises:
        NldiffError: unusable settings of the sampler.
    """
    settings = sampler_settings(prior, config)
    starts, length = chunk_starts(recording, config.chunk_seconds, config.overlap_seconds)
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


def _first_guess(config: RestoreConfig, samples: np.ndarray, rms: float) -> Callable[[Tensor], Tensor]:
    """See `Task`; from observed samples [channels, n] at the prior's level and the RMS of clean ones."""
    if config.warm_start == "observation":
        return lambda y: y
    match = histogram_match(samples, rms)
    return lambda y: torch.from_numpy(match(y.cpu().numpy())).to(y.device)


def seed_of(*parts: int) -> int:
    """Independent 63-bit seed for every combination of numbers."""
    return int(np.random.default_rng([part + 1 for part in parts]).integers(2**63))


def _mean_square(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


def _loudest(chunk: np.ndarray, excerpt: int) -> np.ndarray:
    """The loudest stretch [channels, excerpt] of a chunk, on a grid of quarters of it; all of a shorter chunk."""
    starts = range(0, max(1, chunk.shape[1] - excerpt + 1), max(1, excerpt // 4))
    best = starts[int(np.argmax([_mean_square(chunk[:, i : i + excerpt]) for i in starts]))]
    return chunk[:, best : best + excerpt]


def _bounds(curve: IncreasingCurve, y: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the clean samples of `y` [batch, n]; those of an item do not depend on its neighbours."""
    low, high = zip(*(curve.bounds(item) for item in y), strict=True)
    return torch.stack(low), torch.stack(high)
