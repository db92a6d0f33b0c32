"""The way from a pair of recordings to the device between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike

from nldiff.curves import Curve
from nldiff.errors import NldiffError
from nldiff.identification.alignment import aligned, delayed, find_delay
from nldiff.identification.model import Excerpt, Model, exchanged, fit, search, stages_of
from nldiff.identification.stages import DelayStage, SplineStage, Stage
from nldiff.operators import Operator, Rescaled

# Share of the recordings, from their end, that the fit does not see.
HELD_OUT = 0.2
# Number and seconds of the stretches that a device is found and refined on, and seconds of their beginnings that do not
# count, since filters began in silence there; nor do the last samples, which a delay takes from beyond the end.
_SHORT, _LONG, _LEAD, _TAIL = (2, 0.4), (8, 0.6), 0.1, 128
_SHORTEST = 0.5
# Different first values of filters, how many of them go on, and iterations of the three rounds; no more first values
# are tried after one that leads to such an error, a power.
_STARTS, _KEPT, _FOUND = 4, 2, 1e-4
_ITERATIONS = (10, 20, 10)
_GRID = 15
# Power of the samples by which stretches are compared.
_PEAKS = 8


@dataclass(frozen=True)
class Identification:
    """A device, identified from a pair of recordings.

    Attributes:
        operator: from clean audio to the observed one.
        delay: by how many samples the observed recording is late.
        esr_db: error-to-signal ratio of the operator's output in dB: `10 log10(sum (y - f(x))^2 / sum y^2)`, on what
            it was fitted to.
        held_out_esr_db: the same on the last fifth of the recordings, which the fit did not see.
        sample_rate: Hz.
        peak: largest magnitude of the clean recording.
    """

    operator: Operator
    delay: float
    esr_db: float
    held_out_esr_db: float
    sample_rate: int
    peak: float

    @property
    def curve(self) -> Curve:
        """The operator without its filters."""

        def static(x: np.ndarray) -> np.ndarray:
            values = torch.from_numpy(np.asarray(x, dtype=np.float64))
            return self.operator.static(values.reshape(1, -1)).reshape(values.shape).numpy()

        return Curve.from_function(static, self.peak)


def identify(
    clean: ArrayLike, observed: ArrayLike, sample_rate: int, operator: str = "wiener_hammerstein", *, seed: int = 0
) -> Identification:
    """Fit a device to a clean and a distorted recording of the same performance.

    The two are aligned by cross-correlation; fractions of a sample are fitted along with the device. The fit is least
    squares (Levenberg and Marquardt) from several first values, on the loudest seconds of the first four fifths.
    Both recordings are kept in memory as a whole.

    Args:
        clean: what entered the device, `[time]` or `[channels, time]`.
        observed: what came out, as many channels; lengths may differ.
        sample_rate: of both, Hz, a whole number above 0.
        operator: what the device is made of: a text of `parse_operator` without dry paths round it, in which `curve`
            stands for any curve and parameters that are not given are fitted, such as "hard_clip > highpass:hz=20";
            or "wiener_hammerstein": equaliser, curve, equaliser and low-pass.
        seed: of the first values that are tried, not negative.

    Raises:
        NldiffError: the recordings, a number or the description cannot be used.

    Examples:
        >>> x = np.random.default_rng(0).laplace(scale=0.1, size=22050)
        >>> found = identify(x, np.clip(x, -0.2, 0.2), 44100, "hard_clip")
        >>> print(f"{found.operator.params['threshold']:.3f}")
        0.200
    """
    x, y = _checked("clean", clean), _checked("observed", observed)
    _check_numbers(sample_rate, seed)
    if len(x) != len(y):
        raise NldiffError(f"identify: {len(x)} channels of the clean and {len(y)} of the observed recording")
    delay, polarity = find_delay(x, y)
    lag = round(delay)
    x, y = aligned(x, y * polarity, lag)
    if x.shape[1] < _SHORTEST * sample_rate:
        raise NldiffError(
            f"identify: after alignment (delay {lag} samples) {x.shape[1] / sample_rate:.2g} s are left, "
            f"{_SHORTEST:g} s needed"
        )
    seen = round((1 - HELD_OUT) * x.shape[1])
    for name, samples in (("clean", x), ("observed", y)):
        if not (np.ptp(samples[:, :seen]) and np.ptp(samples[:, seen:])):
            raise NldiffError(
                f"identify: {name} recording: sound in the first four fifths and in the last one expected"
            )
    short, long = (_excerpt(x[:, :seen], y[:, :seen], sample_rate, *sizes) for sizes in (_SHORT, _LONG))
    _check_changing(short, long)
    # Devices do not change with time: a delay before them is one behind them, and costs less there.
    stages = [DelayStage(delay - lag), *stages_of(operator, sample_rate, x, y)]
    model, at = _fitted(Model(tuple(stages)), short, long, np.random.default_rng(seed))
    found = model.operator(at)
    rest = float(at[0])
    output = delayed(found(torch.from_numpy(x)).numpy(), rest)
    everything = [Excerpt(x, y, span) for span in (slice(0, seen), slice(seen, None))]
    esr, held_out = (10 * float(np.log10(max(each.error(output), 1e-30))) for each in everything)
    device = found if polarity == 1 else Rescaled(found, 1.0, -1.0)
    return Identification(device, lag + rest, esr, held_out, sample_rate, float(np.abs(x).max()))


def _fitted(model: Model, short: Excerpt, long: Excerpt, random: np.random.Generator) -> tuple[Model, np.ndarray]:
    """The model, its knots moved to where the signal is, and its coordinates."""
    cost = partial(model.cost, short)
    first = _with_curve(model, short, model.start())
    starts = [search(model, short, first, _GRID), *(_scattered(model, first, random) for _ in range(_STARTS - 1))]
    if not any(isinstance(stage, SplineStage) for stage in model.stages):
        starts = [search(model, short, start, _GRID) for start in starts]
    if all(len(stage.searched) == 0 for stage in model.stages):
        starts = starts[:1]
    round_one: list[np.ndarray] = []
    for at in starts:
        round_one.append(fit(model, short, at, _ITERATIONS[0]))
        if cost(round_one[-1]) < _FOUND:
            break
    round_one.sort(key=cost)
    at = min((fit(model, short, at, _ITERATIONS[1]) for at in round_one[:_KEPT]), key=cost)
    at = exchanged(model, short, at, _ITERATIONS[0])
    model, at = _moved_knots(model, at, long.clean)
    return model, fit(model, long, at, _ITERATIONS[2])


def _with_curve(model: Model, excerpt: Excerpt, at: np.ndarray) -> np.ndarray:
    """Fit the curves alone."""
    curves = [
        i
        for stage, part in zip(model.stages, model.slices, strict=True)
        if isinstance(stage, SplineStage)
        for i in range(part.start, part.stop)
    ]
    return fit(model, excerpt, at, 3, curves) if curves else at


def _scattered(model: Model, at: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other first values of what has a frequency: spread over the range, with small gains of either sign."""
    at = at.copy()
    for stage, part in zip(model.stages, model.slices, strict=True):
        for number, free in enumerate(stage.searched):
            if free.name == "hz":
                low, high = free.grid(2)
                share = random.uniform(0.2, 0.95)
                at[part.start + number] = low + share * (high - low)
            elif free.name == "gain_db" and free.low < 0:
                at[part.start + number] = random.normal() * 3
    return at


def _moved_knots(model: Model, at: np.ndarray, clean: np.ndarray) -> tuple[Model, np.ndarray]:
    """Knots where the signal that enters the curve is; the curve stays what it is."""
    outputs = [clean, *model.through(clean, at)]
    stages: list[Stage] = []
    coordinates = []
    for index, (stage, part) in enumerate(zip(model.stages, model.slices, strict=True)):
        values = at[part]
        if isinstance(stage, SplineStage):
            moved = SplineStage.over(outputs[index], len(stage.knots), stage.slope)
            stage, values = moved, stage.apply(moved.knots, values)
        stages.append(stage)
        coordinates.append(values)
    return replace(model, stages=tuple(stages)), np.concatenate(coordinates)


def _excerpt(clean: np.ndarray, observed: np.ndarray, sample_rate: int, count: int, seconds: float) -> Excerpt:
    """The stretch with the highest peaks of the clean signal in each of `count` equal parts: a curve needs them all."""
    lead = round(_LEAD * sample_rate)
    part = clean.shape[1] // count
    frames = min(round(seconds * sample_rate) + lead, part)
    power = np.cumsum(np.pad(np.sum((clean / np.abs(clean).max()) ** _PEAKS, axis=0), (1, 0)))
    spans = []
    for first in range(0, part * count, part):
        last = first + part - frames
        start = first + int(np.argmax(power[first + frames : last + frames + 1] - power[first : last + 1]))
        spans.append(slice(start, start + frames))
    x, y = (np.concatenate([signal[:, span] for span in spans]) for signal in (clean, observed))
    return Excerpt(x, y, slice(min(lead, frames // 2), frames - min(_TAIL, frames // 4)))


def _check_changing(*excerpts: Excerpt) -> None:
    for each in excerpts:
        for name, signal in (("clean", each.clean), ("observed", each.observed)):
            if not np.ptp(signal[:, each.judged], axis=1).any():
                raise NldiffError(f"identify: {name} recording: constant where the clean one is loudest")


def _check_numbers(sample_rate: int, seed: int) -> None:
    for name, value, least in (("sample_rate", sample_rate, 1), ("seed", seed, 0)):
        if not value >= least or value % 1:
            raise NldiffError(f"identify: {name}={value}: a whole number of at least {least} expected")


def _checked(name: str, audio: ArrayLike) -> np.ndarray:
    wanted = f"identify: {name} recording: finite samples [time] or [channels, time] expected"
    try:
        samples = np.atleast_2d(np.asarray(audio, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise NldiffError(wanted) from error
    if samples.ndim != 2 or not samples.size or not np.isfinite(samples).all():
        raise NldiffError(wanted)
    if not np.ptp(samples):
        raise NldiffError(f"identify: {name} recording is silent")
    return samples
