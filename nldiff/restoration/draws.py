"""Several restorations of one recording: their mean, and how far they are apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from nldiff.errors import NldiffError
from nldiff.restoration.inputs import KnownOperator, PriorLike
from nldiff.restoration.job import OnStep
from nldiff.restoration.levels import Settled, settle
from nldiff.restoration.methods import Method
from nldiff.restoration.parts import Read
from nldiff.restoration.pipeline import prepared, read_array, restored_raws
from nldiff.restoration.settings import RestoreConfig

SAMPLES = 8
"""Number of draws by default."""


@dataclass(frozen=True)
class Draw:
    """One of several restorations of a recording.

    Attributes:
        parts: in the units of the recording.
        raws: what the method emitted for every part.
    """

    parts: Sequence[Settled]
    raws: Sequence[Read]


@dataclass(frozen=True)
class Draws:
    """Several restorations of a recording at one level.

    Attributes:
        mean: over the draws, float32, same shape as the input.
        spread: their standard deviation, sample by sample, same shape; 0 where they agree.
        audio: the draws, float32, [draws, *shape of the input].
        sample_rate: Hz.
        level_db: level of what was not distorted, in relation to the recording, dB.
    """

    mean: np.ndarray
    spread: np.ndarray
    audio: np.ndarray
    sample_rate: int
    level_db: float

    @property
    def spread_db(self) -> float:
        """RMS of the spread in relation to that of the mean, dB; minus infinity where all draws agree."""
        return relative_db(*(float(np.mean(x.astype(np.float64) ** 2) ** 0.5) for x in (self.spread, self.mean)))


def draw_config(config: RestoreConfig, number: int) -> RestoreConfig:
    """The settings of draw `number`, from 0: the seeds follow each other, and refined signals end with a draw."""
    return replace(config, seed=config.seed + number, drawing={"enabled": True, **config.drawing})


def check_samples(samples: int, method: Method) -> None:
    """Validate that there are draws that can differ.

    Raises:
        NldiffError: fewer than 2 draws, or a method that is not random.
    """
    if samples < 2:
        raise NldiffError(f"samples={samples}: the spread is that of at least 2")
    if not method.random:
        raise NldiffError(f"samples={samples}: method {method.name} gives the same every time")


def levelled(draws: Sequence[Draw]) -> tuple[Callable[[int, int], np.ndarray], float]:
    """Bring draws to one level: that of the softest of them, as peaks may have lowered them.

    Where nothing was sampled for the operator, they have the scale of the method in common, and samples that agree at
    its level agree exactly. Else, what was not distorted has one level.

    Returns:
        (start, frames) -> draws [draws, channels, frames], float64; and the level of what was not distorted, dB.
    """
    first = draws[0].parts
    channels = sum(len(part.part.channels) for part in first)
    lowered = np.array([[10 ** (part.level_db / 20) for part in draw.parts] for draw in draws])
    gains = np.array([[part.gain for part in draw.parts] for draw in draws]) / lowered
    ratios = np.where([_has_scale(draws, i) for i in range(len(first))], 1.0, gains / gains[0])
    lowest = lowered.min(0)

    def read(start: int, frames: int) -> np.ndarray:
        audio = np.empty((len(draws), channels, frames))
        for i, part in enumerate(first):
            shift = part.shift * lowest[i] / lowered[0, i]
            for k, draw in enumerate(draws):
                raw = draw.raws[i](start, frames).astype(np.float64)
                audio[k, list(part.part.channels)] = raw * (ratios[k, i] * gains[0, i] * lowest[i]) + shift
        return audio

    main = next((i for i, part in enumerate(first) if not part.fit.unchanged), 0)
    return read, float(20 * np.log10(lowest[main]))


def mean_and_spread(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of draws [draws, ...] over the first axis; that is exactly 0 where they are equal."""
    apart = audio - audio[0]
    return audio[0] + apart.mean(0), apart.std(0, ddof=1)


def relative_db(value: float, reference: float) -> float:
    """Ratio of two amplitudes, dB; minus infinity for none."""
    return float(20 * np.log10(value / reference)) if value > 0 and reference > 0 else -np.inf


def restore_draws(
    audio: np.ndarray,
    sample_rate: int,
    prior: PriorLike = "auto",
    *,
    samples: int = SAMPLES,
    method: str | Method | None = None,
    known: KnownOperator = None,
    config: RestoreConfig | None = None,
    weights: str | None = None,
    on_step: OnStep = None,
) -> Draws:
    """Restore a recording several times; what differs is not known from it.

    Draw k is what `restore` gives with `drawing.enabled` and the seed of `config` plus k, from 0, but for the level; it
    does not depend on the others. Each takes as long as a restoration. Where the recording comes back unchanged, all
    are equal; so are inverted folding curves and overdrives, although these may be wrong.

    Args:
        audio: as for `nldiff.restore`, like all that follow but `samples`.
        sample_rate: Hz.
        prior: shipped prior, file, loaded priors, or "auto".
        samples: number of draws, at least 2.
        method: one that is random.
        known: the operator, if it is known.
        config: everything else.
        weights: of a network.
        on_step: told of the progress.

    Raises:
        NldiffError: as `nldiff.restore`; fewer than 2 draws, or a method that gives the same every time.
    """
    chosen, job = prepared(audio, sample_rate, prior, method, known, config or RestoreConfig(), weights)
    check_samples(samples, chosen)
    draws: list[Draw] = []
    spent = 0.0

    def counted(done: float, total: float, phase: str) -> None:
        if on_step:
            on_step(spent + done, spent + (samples - len(draws)) * total, f"draw {len(draws) + 1}/{samples}: {phase}")

    for number in range(samples):
        own = replace(job, config=draw_config(job.config, number))
        fits, raws = restored_raws(chosen, own, counted)
        readers = [partial(read_array, raw) for raw in raws]
        draws.append(Draw(settle(fits, job.recording, readers, own.config.level), readers))
        spent += sum(fit.seconds for _, fit in fits)
    read, level_db = levelled(draws)
    found = read(0, job.recording.frames)
    shape = np.shape(audio)
    mean, spread = (each.reshape(shape).astype(np.float32) for each in mean_and_spread(found))
    return Draws(mean, spread, found.reshape(samples, *shape).astype(np.float32), job.recording.sample_rate, level_db)


def _has_scale(draws: Sequence[Draw], part: int) -> bool:
    """Whether a part has the same scale in all draws: a prior was used, but nothing was sampled for the operator."""
    found = [draw.parts[part].fit for draw in draws]
    return all(fit.unchanged or (fit.sampling is not None and not fit.sampling.cost) for fit in found)
