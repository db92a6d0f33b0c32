"""From the method's level to that of the recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nldiff.errors import NldiffError
from nldiff.operators import Operator
from nldiff.restoration.explain import fitted_curve
from nldiff.restoration.fit import Fit
from nldiff.restoration.parts import Part, Read
from nldiff.restoration.uncertainty import band
from nldiff.sound.recording import Recording

_CEILING = 0.999
# Pairs of samples that the slope is found from; bins of equally many of them, distance of the bins that a slope is
# taken between, deviation of the kernel in the logarithm of the slope, and least share of bins of a straight part.
_PAIRS, _SLOPE_BINS, _APART, _KERNEL, _STRAIGHT = 1 << 13, 256, 4, 0.02, 0.05


@dataclass(frozen=True)
class Settled:
    """A restored part in the units of the recording.

    Attributes:
        part: its channels.
        fit: what the method found; with an operator.
        gain, shift: sample of the result = `gain` * sample at the method's level + `shift`.
        level_db: level of what was not distorted, in relation to the recording, dB; 0 where it stays where it is.
        error, power: squared error of the operator's output for the result, and of the recording, summed.
        rms: of the result without its mean.
        samples: in all channels.
    """

    part: Part
    fit: Fit
    gain: float
    shift: float
    level_db: float
    error: float
    power: float
    rms: float
    samples: int

    def curve(self, samples: np.ndarray) -> np.ndarray:
        """The curve from samples of the result to observed ones, any shape; of an operator with memory its static."""
        operator = self.fit.operator
        assert operator is not None
        inputs = np.divide(np.subtract(samples, self.shift), self.gain)
        return _apply(operator.static, operator, inputs) / self.fit.observation_gain + self.part.offset

    def band(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper end of the band around the curve [points], see `nldiff.restoration.uncertainty.band`.

        None where the operator was known or none was believed in, and after sampling.
        """
        verdict = self.fit.sampling.verdict if self.fit.sampling else None
        if verdict is None or verdict.finding != "distorted":
            return None
        return band(self.curve, samples, verdict.hypothesis, self.rms, (self.error / self.samples) ** 0.5)

    @property
    def explained_db(self) -> float:
        """SDR of the operator's output for the result against the recording, dB."""
        return explained_db([self])

    def scaled(self, factor: float) -> Settled:
        """The same part with `factor` times the amplitude, not 0."""
        return replace(
            self,
            gain=self.gain * factor,
            shift=self.shift * factor,
            level_db=self.level_db + 20 * float(np.log10(abs(factor))),
            rms=self.rms * abs(factor),
        )

    def place(self, raw: np.ndarray) -> np.ndarray:
        """Samples at the method's level, any shape, in the units of the recording."""
        return raw * self.gain + self.shift


def explained_db(parts: Sequence[Settled]) -> float:
    """SDR of what the operators make of the results against the recording, dB; minus infinity for silence."""
    error, power = sum(part.error for part in parts), sum(part.power for part in parts)
    return float(10 * np.log10(power / max(error, 1e-30))) if power > 0 else -np.inf


def settle(fits: Sequence[tuple[Part, Fit]], recording: Recording, raws: Sequence[Read], level: str) -> list[Settled]:
    """Bring the restored parts of a recording to its level.

    Args:
        fits: the parts, and what the method found; without an operator, the curve from result to recording is fitted.
        recording: the observation.
        raws: what the method emitted for every part.
        level: one of `nldiff.restoration.settings.LEVELS`, or "method": the scale that the method gives clean signals.

    Raises:
        NldiffError: the result of a part is silent.
    """
    sums = [_Sums.of(part.of(recording), raw, part.offset) for (part, _), raw in zip(fits, raws, strict=True)]
    settled = []
    for (part, fit), raw, each in zip(fits, raws, sums, strict=True):
        observed = part.of(recording)
        if not (fit.unchanged or any(each.ends)):
            raise NldiffError(f"the result for {recording.name} is silent")
        if fit.operator is None:
            fit = replace(fit, operator=fitted_curve(observed, raw))
        gain = each.gain(fit, level)
        shift = 0.0
        if fit.unchanged:
            shift = part.offset
        elif part.offset:
            shift = -gain * each.mean  # a constant that is left is the curve's as well
        level_db = 20 * float(np.log10(abs(gain) / each.slope)) if each.slope else 0.0
        error = _error(fit, observed, raw)
        settled.append(
            Settled(
                part,
                fit,
                gain,
                shift,
                level_db=0.0 if fit.unchanged else level_db,
                error=error,
                power=each.observed_power,
                rms=abs(gain) * each.deviation,
                samples=observed.channels * observed.frames,
            )
        )
    return _below_full_scale(settled, sums) if level in ("auto", "rms") else settled


def of_one(parts: Sequence[Settled], recording: Recording, audio: np.ndarray) -> tuple[Settled, ...]:
    """The parts of one of several recordings that were restored as one: what the operators explain of it.

    Args:
        parts: of all recordings.
        recording: the one.
        audio: its result, [channels, frames].
    """
    found = []
    for part in parts:
        observed, raw = part.part.of(recording), (audio[list(part.part.channels)] - part.shift) / part.gain
        error = _error(part.fit, observed, lambda start, frames, raw=raw: raw[:, start : start + frames])  # type: ignore[misc]
        power = sum(
            float(np.sum((observed.read(*block).astype(np.float64) + part.part.offset) ** 2))
            for block in observed.blocks()
        )
        samples = observed.channels * observed.frames
        found.append(replace(part, error=error, power=power, samples=samples))
    return tuple(found)


def _below_full_scale(parts: list[Settled], sums: Sequence[_Sums]) -> list[Settled]:
    """All parts lowered alike so that those that were restored stay below full scale."""
    peaks = [
        max(abs(part.place(np.array(each.ends))))
        for part, each in zip(parts, sums, strict=True)
        if not part.fit.unchanged
    ]
    factor = min(1.0, _CEILING / max(peaks)) if peaks and max(peaks) > 0 else 1.0
    return parts if factor == 1 else [part.scaled(factor) for part in parts]


@dataclass(frozen=True)
class _Sums:
    """What the level of a part depends on.

    Attributes:
        mean, deviation, ends: of the samples that the method emitted; the lowest and the highest one.
        observed_deviation, observed_power, observed_peak: of the recording; sum of squares with the
            offset, highest magnitude around the mean.
        slope: of the recording over the result where the curve is straight, without its sign.
        upside_down: the result has the other polarity.
    """

    mean: float
    deviation: float
    ends: tuple[float, float]
    observed_deviation: float
    observed_power: float
    observed_peak: float
    slope: float
    upside_down: bool

    @classmethod
    def of(cls, recording: Recording, raw: Read, offset: float) -> _Sums:
        samples, stride = recording.channels * recording.frames, max(1, recording.channels * recording.frames // _PAIRS)
        sums, pairs, ends = np.zeros(5), [], []
        for start, frames in recording.blocks():
            x, y = (read(start, frames).astype(np.float64).ravel() for read in (raw, recording.read))
            sums += [x.sum(), y.sum(), x @ x, y @ y, x @ y]
            ends.append((x.min(), x.max(), y.min(), y.max()))
            pairs.append((x[::stride].copy(), y[::stride].copy()))  # views would keep the blocks
        mean, observed_mean, square, observed_square, product = sums / samples
        low, high, observed_low, observed_high = (
            f(e) for f, e in zip((min, max) * 2, zip(*ends, strict=True), strict=True)
        )
        # A blind method cannot tell (x, f) from (-x, f(-.)): the sign of the observation is the natural choice. Means
        # are left out: a constant that the curve added says nothing of the sign.
        covariance = product - mean * observed_mean
        x, y = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return cls(
            mean=mean,
            deviation=max(square - mean**2, 0.0) ** 0.5,
            ends=(low, high),
            observed_deviation=max(observed_square - observed_mean**2, 0.0) ** 0.5,
            observed_power=(observed_square + 2 * offset * observed_mean + offset**2) * samples,
            observed_peak=max(observed_high - observed_mean, observed_mean - observed_low),
            slope=straight_slope(-x if covariance < 0 else x, y),
            upside_down=bool(covariance < 0),
        )

    def gain(self, fit: Fit, level: str) -> float:
        """Of the result."""
        if fit.unchanged or level == "method" or not self.deviation:
            return 1 / fit.observation_gain
        peak = max(self.ends[1] - self.mean, self.mean - self.ends[0])
        ratios = {"rms": self.observed_deviation / self.deviation, "peak": self.observed_peak / peak}
        gain = ratios.get(level, self.slope or ratios["rms"])
        return -gain if self.upside_down else gain


def straight_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of `y` over `x`, [samples] each, where the curve between them is straight; 0 if it is so nowhere.

    The most frequent one of the slopes between means of samples that are neighbours in value.
    """
    order = np.argsort(x, kind="stable")
    x, y = (
        np.array([piece.mean() for piece in np.array_split(each[order], _SLOPE_BINS) if len(piece)]) for each in (x, y)
    )
    run, rise = x[_APART:] - x[:-_APART], y[_APART:] - y[:-_APART]
    rising = (run > 0) & (rise > 0)
    if not rising.any():
        return 0.0
    slopes = np.sort(np.log(rise[rising] / run[rising]))
    weights = np.exp(-0.5 * ((slopes[:, None] - slopes) / _KERNEL) ** 2)
    density = weights.sum(1)
    best = int(np.argmax(density))
    if density[best] < _STRAIGHT * len(run):
        return 0.0
    return float(np.exp(weights[best] @ slopes / density[best]))


def _error(fit: Fit, recording: Recording, raw: Read) -> float:
    """Squared error of what the operator makes of the restoration, summed, in the units of the recording."""
    operator, error = fit.operator, 0.0
    assert operator is not None
    for start, frames in recording.blocks():
        before = min(start - recording.beginning(start), operator.context)
        x = raw(start - before, before + frames)
        explained = np.stack([_apply(operator, operator, channel) for channel in x])[:, before:] / fit.observation_gain
        error += float(np.sum((recording.read(start, frames).astype(np.float64) - explained) ** 2))
    return error


@torch.no_grad()
def _apply(function: Callable[[torch.Tensor], torch.Tensor], operator: Operator, x: np.ndarray) -> np.ndarray:
    """A function of tensors [1, n] where the operator is, of an array of any shape; computed in float32."""
    device = next((p.device for p in getattr(operator, "parameters", list)()), torch.device("cpu"))
    inputs = torch.from_numpy(np.asarray(x, dtype=np.float32)).to(device)
    return function(inputs.reshape(1, -1)).reshape(inputs.shape).cpu().double().numpy()
