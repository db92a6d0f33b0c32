"""A recording at the level of a prior: its chunks, rates and levels, and what is done to chunks there.

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
from nldiff.errors import NldiffError
from nldiff.operators import Operator, estimate_input_rms
from nldiff.priors import Prior
from nldiff.restoration.drawing import drawn
from nldiff.restoration.evidence import binding
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.increasing import IncreasingCurve
from nldiff.restoration.job import OnShare
from nldiff.restoration.learned import Refiner, refiner_for
from nldiff.restoration.measures import loudest
from nldiff.restoration.polish import falling_levels, polish, polish_levels
from nldiff.restoration.progress import Progress
from nldiff.restoration.settings import RestoreConfig, Settings, resolve_settings
from nldiff.restoration.sparse import settled, sparse_by_window, sparsest_consistent, spread
from nldiff.restoration.uncertainty import guessed_sdr
from nldiff.sampling import CompressedSTFTCost, Posterior, Step, generators, sample
from nldiff.sampling.start import STARTS, FirstGuess
from nldiff.sound.chunks import chunk_starts
from nldiff.sound.recording import Recording

LISTENING, SAMPLING, FITTING = "listening", "sampling", "fitting the curve"
"""Phases: what comes before sampling; sampling for the operator; brief refinements."""
# Roughly, in seconds: a network evaluation and a guided diffusion step for a second of audio, and one iteration of the
# refinement for a sample and a window. Progress measures as soon as it can.
NETWORK_SECONDS, GUIDED_SECONDS, ITERATION_SECONDS = 0.03, 0.1, 1.5e-8


@dataclass(frozen=True)
class Workspace:
    """A recording at the level of a prior; see `make_workspace`.

    Attributes:
        recording, prior, config: what to restore, and how.
        known: the operator in the units of the recording, where it is known.
        settings: of the method, complete.
        starts, length: of the chunks, in frames of the recording.
        joint: the loudest chunks, ascending: the operator is estimated on them.
        excerpts: what of each of them it is estimated on, [channels, n].
        whole: that is all of them, not an excerpt.
        gain: prior level = `gain` * observed sample.
        first_guess: observed samples [batch, time] at the prior's level to a first estimate of the clean ones.
        sample: draws from the posterior, see `nldiff.sampling.sample`.
        progress: counts brief refinements.
        refiner: the refinement network, if there is one for such recordings.
    """

    recording: Recording
    prior: Prior
    config: RestoreConfig
    known: Operator | None
    settings: Settings
    starts: list[int]
    length: int
    joint: list[int]
    excerpts: list[np.ndarray]
    whole: bool
    gain: float
    first_guess: FirstGuess
    sample: Callable[..., Posterior]
    progress: Progress
    refiner: Refiner | None = None

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
        """Lengths of the refinement's windows in samples of the recording, multiples of 4."""
        ratio = self.recording.sample_rate / self.prior.sample_rate
        return [4 * next_fast_len(max(1, round(n * ratio / 4))) for n in self.settings.refinement.windows]

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
        back = sound.from_rate(x.cpu().numpy(), self.prior.sample_rate, self.recording.sample_rate, length)
        return torch.from_numpy(back).to(x.device)

    def sources(self, chunks: list[int]) -> list[torch.Generator]:
        """A random generator for every channel of the chunks."""
        channels = range(self.recording.channels)
        return generators([seed_of(self.config.seed, chunk, channel) for chunk in chunks for channel in channels])

    def sampled(
        self, chunks: list[int], y: Tensor, operator: Operator, level: float | None, callback: Callable[[Step], None]
    ) -> Posterior:
        """Samples at the prior's rate for `y` [chunks * channels, n] at that of the recording, see `sample`."""
        y = self.at_prior_rate(y)
        return self.sample(
            self.prior.denoiser,
            y,
            operator.at_rate(self.recording.sample_rate, self.prior.sample_rate),
            self.settings.sampler.schedule().to(self.device),
            self.settings.sampler,
            self.sources(chunks),
            fit=self.settings.operator_fit,
            cost=CompressedSTFTCost(self.settings.cost),
            start=self.first_guess(y),
            level=level,
            batch_size=self.batch_size,
            callback=callback,
        )

    def refined(self, x: Tensor, curve: IncreasingCurve, y: Tensor) -> Tensor:
        """About the sparsest signal under which the curve gives `y`: as good as an estimate of the curve needs it.

        Args:
            x: where to start from, [batch, n] at the recording's rate.
            curve: that of all items.
            y: what was observed, at the prior's level, same shape.
        """
        windows, iterations = self._brief
        x = sparsest_consistent(x, curve.feasible(y), windows, iterations, self.settings.refinement)
        self.progress.advance(FITTING)
        return x

    @property
    def _brief(self) -> tuple[list[int], int]:
        """Windows of a brief refinement, and iterations for each."""
        iterations = 1 + self.settings.refinement.iterations // self.settings.curve.iterations_divisor
        # The outer windows find the same curve as all.
        return self.windows[:: max(1, len(self.windows) - 1)], iterations

    def refinement_seconds(self, brief: bool) -> float:
        """Roughly what a refinement takes for one second of one channel."""
        settings = self.settings.refinement
        if brief:
            windows, iterations = self._brief
            passes = iterations * len(windows)
        else:
            passes = len(self.windows) * settings.iterations + (len(self.windows) + 1) * settings.settling
        return ITERATION_SECONDS * passes * self.recording.sample_rate / torch.get_num_threads()

    def restored(self, x: Tensor, curve: IncreasingCurve, y: Tensor, on_share: OnShare) -> Tensor:
        """The sparsest signal under which the curve gives `y`, after the refinement network if there is one for it.

        Args:
            x: where to start from, [batch, n] at the recording's rate.
            curve: that of all items.
            y: what was observed, at the prior's level, same shape.
            on_share: told after every part of the work which share of the whole it was.
        """
        settings, feasible, windows = self.settings.refinement, curve.feasible(y), self.windows
        passes = len(windows) * settings.iterations, (len(windows) + 1) * settings.settling
        share = passes[1] / sum(passes)
        first, last = (lambda done: on_share((1 - share) * done)), (lambda done: on_share(share * done))
        found = sparse_by_window(x, feasible, windows, settings.iterations, settings, first)
        x = self.refiner(found, feasible) if self.refiner else feasible.project(found.mean(1))
        return settled(x, feasible, windows, settings, last)

    def spread(self, x: Tensor) -> float:
        """See `spread`; `x` [batch, n] at the recording's rate."""
        return spread(x, self.windows, self.settings.refinement.energy_floor)

    def finished(self, chunks: list[int], x: Tensor, curve: IncreasingCurve, y: Tensor) -> Tensor:
        """What the prior makes of `x` [chunks * channels, n] under which the curve gives `y`.

        A draw if the settings ask for one, see `drawn`; else the polish, see `polish`, if they ask for that. Signals
        that are nearly right are left alone.
        """
        polishing, drawing, lowest = self.settings.polish, self.settings.drawing, self.settings.sampler.sigma_min
        if not self.settings.last_evaluations:
            return x
        share = drawing.share if drawing.enabled else polishing.share
        feasible, items = curve.feasible(y), range(len(x))
        errors = torch.stack([self._expected_error(x[[i]], feasible.of([i])) for i in items])
        far = [i for i in items if share * errors[i] > lowest]
        if not far:
            return x
        start = self.prior.denoiser, x[far], feasible.of(far)
        sources = [source for i, source in enumerate(self.sources(chunks)) if i in far]
        rates = self.at_prior_rate, partial(self.at_own_rate, length=x.shape[1])
        result = x.clone()
        if drawing.enabled:
            levels = falling_levels(share * errors[far], lowest, drawing.steps)
            result[far] = drawn(*start, levels, sources, *rates, drawing.trust)
        else:
            levels = polish_levels(polishing, lowest, errors[far])
            result[far] = polish(*start, levels, sources, *rates, polishing.draws, polishing.trust)
        return result

    def _expected_error(self, x: Tensor, feasible: Intervals) -> Tensor:
        """RMS of the error that an item [1, n] is expected to have; for draws only where the curve leaves it open."""
        bound = binding(x, feasible, self.settings.evidence)
        error = x.std(correction=0) * 10 ** (-guessed_sdr(bound) / 20)
        if not self.settings.drawing.enabled:
            return error
        return error / (1 - bound.exact) ** 0.5 if bound.exact < 1 else torch.zeros_like(error)


def make_workspace(
    recording: Recording,
    prior: Prior,
    config: RestoreConfig,
    known: Operator | None,
    sample: Callable[..., Posterior] = sample,
    progress: Progress | None = None,
) -> Workspace:
    """Find the loudest chunks, the level, and from both the first guess.

    Raises:
        NldiffError: unusable settings of the method, or chunks that are too short for the memory of the operator.
    """
    settings = resolve_settings(prior, config)
    starts, length = chunk_starts(recording, config.chunk_seconds, _overlap_seconds(recording, config, known))
    powers = np.array([_mean_square(recording.read(start, length)) for start in starts])
    count = max(1, config.joint_items // recording.channels)
    joint = np.sort(np.argsort(-powers, kind="stable")[:count]).tolist()
    excerpt = round(config.excerpt_seconds * recording.sample_rate) if settings.refines else length
    excerpts = [loudest(recording.read(starts[chunk], length), excerpt) for chunk in joint]
    rms = float(np.sqrt(np.mean([piece.astype(np.float64) ** 2 for piece in excerpts])))
    gain = prior.sigma_data / (estimate_input_rms(known, rms) if known else rms)
    return Workspace(
        recording=recording,
        prior=prior,
        config=config,
        known=known,
        settings=settings,
        starts=starts,
        length=length,
        joint=joint,
        excerpts=excerpts,
        whole=excerpt >= length,
        gain=gain,
        first_guess=STARTS[config.warm_start](np.concatenate(excerpts, axis=1) * gain, prior.sigma_data),
        sample=sample,
        progress=progress or Progress(),
        refiner=refiner_for(settings.refinement, prior, recording.sample_rate),
    )


def seed_of(*parts: int) -> int:
    """Independent 63-bit seed for every combination of numbers."""
    return int(np.random.default_rng([part + 1 for part in parts]).integers(2**63))


def _overlap_seconds(recording: Recording, config: RestoreConfig, known: Operator | None) -> float:
    """Overlap of the chunks: at least what an operator with memory needs to forget that a chunk began in silence."""
    memory = known.context / recording.sample_rate if known else 0.0
    longer = recording.frames > round(config.chunk_seconds * recording.sample_rate)
    if longer and 2 * memory >= config.chunk_seconds:
        raise NldiffError(
            f"chunk_seconds={config.chunk_seconds:g}: more than twice the memory of {known}, {memory:.3g} s, expected"
        )
    return max(config.overlap_seconds, memory)


def _mean_square(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))
