"""Folding curves found blindly: where the distribution of samples breaks off, and what is most predictable there.

Signals that are folded back leave no plateau at the turning value, but the density of their samples drops there: below
it lie the samples of two branches, above it those of none, or of one far away. Clipped ones have a plateau, and clean
ones no drop. Every family of folding curves is then tried at that value where the recording is loudest; the value is
found exactly by a search for what is most predictable on the same branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from nldiff.operators import Distortion, Operator, TabulatedCurve
from nldiff.restoration.branches import BranchSettings, select_branches
from nldiff.restoration.evidence import EvidenceSettings, predictability
from nldiff.restoration.piecewise import PiecewiseCurve, piecewise
from nldiff.restoration.prediction import framewise

# Width of the intervals in which samples are counted, as a fraction of the RMS; values are tried in steps of an eighth.
_WIDTH = 0.04
# Least turning value that is looked for, as a fraction of the RMS.
_LEAST_VALUE = 0.4
# Least drop of the density, in standard deviations of the counts, and by how much it must drop.
_LEAST_DROP, _DROP = 8.0, 2.0
# Interval next to the drop against the one before: more is a plateau; a sine folder has 2.4.
_PLATEAU = 3.2
# How far rectified samples may lie beyond zero, what counts as held there, in fractions of the RMS; largest share of
# such samples.
_ONE_SIDED, _HELD, _HELD_SHARE = 0.01, 1e-3, 0.25
# Seconds that families are compared on, searches after the first one there, and branches that tell survivors apart.
_TRIAL_SECONDS, _TRIAL_SEARCHES, _TRIAL_MEMORY = 0.5, 2, 3
# Largest clean sample, in multiples of the RMS of the recording.
_LARGEST = 15.0
# How far values may lie beyond a turning value, and how far off clean ones may be, while it is not exact.
_TOLERANCE, _STRAYING = 0.01, 0.005
# Slopes below this one count as this one.
_LEAST_SLOPE = 1e-3
# How far parameters are looked for in the rounds in which they and the branches are found in turns, relative to how far
# they may be off; how exactly, relative to that.
_REACHES, _EXACT = (1.0, 0.1, 0.02), 0.01
# Least gain of predictability over the same curve without its folds, nats.
_LEAST_GAIN = 0.1
# Gains that differ by less are tied: the simpler family comes first.
_TIED = 0.02
# Predictability counts down to errors 60 dB below the signal.
_QUIET = EvidenceSettings(noise_db=-60.0)


@dataclass(frozen=True)
class Drop:
    """Where the density of samples breaks off.

    Attributes:
        value: of the samples.
        deviations: of the drop, in standard deviations of the counts.
    """

    value: float
    deviations: float


@dataclass(frozen=True)
class Family:
    """Folding curves with parameters.

    Attributes:
        operator: parameters to curve.
        parameters: to start from.
        reach: how far they may be off, relative.
    """

    operator: Callable[..., Operator]
    parameters: tuple[float, ...]
    reach: float = 0.01

    @property
    def curve(self) -> Operator:
        """The curve with these parameters."""
        return self.operator(*self.parameters)


@dataclass(frozen=True)
class Fit:
    """What a family makes of a stretch of a recording.

    Attributes:
        family: with the parameters that were used.
        x: the clean signal, [time].
        labels: branches of its samples, [time].
        gain: how much more predictable it is than the recording, and than what the same curve gives without folds,
            nats; the smaller of the two.
    """

    family: Family
    x: np.ndarray
    labels: np.ndarray
    gain: float


def find_folds(y: np.ndarray, sample_rate: int, settings: BranchSettings) -> Iterator[Operator]:
    """Folding curves under which a recording would be much more predictable than it is, the best one first.

    Args:
        y: items [batch, time] of one curve, float64.
        sample_rate: Hz.
        settings: of the branch search.
    """
    families = _families(y)
    if not families:
        return
    trial, limit, quick = _loudest(y, round(_TRIAL_SECONDS * sample_rate)), _LARGEST * _rms(y), _quick(settings)
    fits = [_trial(family, trial, limit, sample_rate, quick) for family in families]
    largest = max(fit.gain for fit in fits)
    if largest >= _LEAST_GAIN:
        best = next(fit for fit in fits if fit.gain >= largest - _TIED)
        yield _refined(best, trial, limit, sample_rate, quick).family.curve


def find_rectifier(y: np.ndarray, sample_rate: int, settings: BranchSettings) -> Operator | None:
    """The full-wave rectifier, or its negative, if a recording would be much more predictable without it.

    Args:
        y: items [batch, time] of one curve, float64.
        sample_rate: Hz.
        settings: of the branch search.
    """
    rms, trial = _rms(y), _loudest(y, round(_TRIAL_SECONDS * sample_rate))
    sign, limit = (1 if y.max() > -y.min() else -1), _LARGEST * rms
    held = np.mean(np.abs(trial) <= _HELD * rms)  # half of the samples behind a half-wave rectifier
    if (sign * y).min() < -_ONE_SIDED * rms or held > _HELD_SHARE:
        return None
    inputs = torch.tensor([-limit, 0, limit], dtype=torch.float64)
    curve = Distortion("full_wave") if sign > 0 else TabulatedCurve(inputs, -inputs.abs())
    gain = _trial(Family(lambda: curve, ()), trial, limit, sample_rate, _quick(settings)).gain
    return curve if gain >= _LEAST_GAIN else None


def _quick(settings: BranchSettings) -> BranchSettings:
    """Settings for trials."""
    return replace(settings, rounds=_TRIAL_SEARCHES, memory=min(settings.memory, _TRIAL_MEMORY))


def _families(y: np.ndarray) -> list[Family]:
    """Families that have turning values where the density of samples drops."""
    rms = _rms(y)
    if rms == 0:
        return []
    samples = y.ravel()
    if np.median(np.diff(np.unique(samples))) > _WIDTH * rms / 8:  # quantised: there are no densities
        return []
    both = density_drop(np.abs(samples), rms)
    top, bottom = density_drop(samples, rms), density_drop(-samples, rms)
    found = []
    if both:
        magnitudes = np.abs(samples)
        top_of_hills = float(magnitudes[magnitudes <= both.value + _WIDTH * rms].max())  # round ones: it is reached
        found = [
            Family(lambda t: Distortion("wavefold", {"threshold": t}), (both.value,)),
            Family(lambda t: Distortion("triangle_fold", {"threshold": t}), (both.value,)),
            Family(lambda a: Distortion("sine_fold", {"amplitude": a}), (top_of_hills,), 0.0005),
        ]
    if top and bottom and abs(top.value - bottom.value) > 2 * _WIDTH * rms:
        found.append(Family(partial(_folded_once, limit=_LARGEST * rms), (top.value, bottom.value)))
    elif top and not bottom:
        found.append(Family(partial(_folded_once, bottom=2 * _LARGEST * rms, limit=_LARGEST * rms), (top.value,)))
    elif bottom and not top:
        found.append(
            Family(lambda t: _folded_once(2 * _LARGEST * rms, t, _LARGEST * rms), (bottom.value,)),
        )
    return found


def density_drop(samples: np.ndarray, rms: float) -> Drop | None:
    """Where the density of samples [n] drops most as they grow, if it does so without a plateau; None if nowhere.

    Args:
        samples: those that count; values below a fraction of the RMS are not looked at.
        rms: of the recording.
    """
    width, ordered = _WIDTH * rms, np.sort(samples)
    values = np.arange(_LEAST_VALUE * rms, ordered[-1] + width, width / 8)
    if not len(values):
        return None
    before, inside, outside = (
        np.diff(np.searchsorted(ordered, [values + shift, values + shift + width]), axis=0)[0]
        for shift in (-2 * width, -width, 0.0)
    )
    drop = (inside - outside) / np.sqrt(inside + outside + 1.0)
    drop[np.minimum(before, inside) < _DROP * outside] = 0
    best = int(np.argmax(drop))
    plateau = inside[best] > _PLATEAU * before[best]
    return None if drop[best] < _LEAST_DROP or plateau else Drop(float(values[best]), float(drop[best]))


def _folded_once(top: float, bottom: float, limit: float) -> Operator:
    """`x` between `-bottom` and `top`, and reflected there; as a table for inputs up to the limit."""
    inputs = torch.tensor([-max(limit, 2 * bottom), -bottom, top, max(limit, 2 * top)], dtype=torch.float64)
    outputs = torch.stack([-2 * bottom - inputs[0], inputs[1], inputs[2], 2 * top - inputs[3]])
    return TabulatedCurve(inputs, outputs)


def _loudest(y: np.ndarray, length: int) -> np.ndarray:
    """The stretch [length] of all items [batch, time] where slopes have most energy; all of shorter ones.

    Where a clean signal is loudest its folded one need not be, but it is as steep.
    """
    slopes = np.diff(y, axis=1, prepend=y[:, :1]) ** 2
    if y.shape[1] <= length:
        return y[int(np.argmax(np.sum(slopes, axis=1)))]
    energy = np.pad(np.cumsum(slopes, axis=1), ((0, 0), (1, 0)))
    gained = energy[:, length:] - energy[:, :-length]
    item, start = np.unravel_index(np.argmax(gained), gained.shape)
    return y[item, start : start + length]


def _trial(family: Family, y: np.ndarray, limit: float, sample_rate: int, settings: BranchSettings) -> Fit:
    """Search branches under the parameters that a family starts from, which are right to a fraction of the width."""
    offered = piecewise(family.curve, limit).candidates(y, _TOLERANCE * _rms(y))
    noise = (_STRAYING * _rms(y)) ** 2
    found = select_branches(y, offered, noise, sample_rate, settings)
    return _fit(family, y, found.x, found.labels, limit, sample_rate)


def _refined(fit: Fit, y: np.ndarray, limit: float, sample_rate: int, settings: BranchSettings) -> Fit:
    """Find the parameters of a family exactly: parameters for branches, branches for parameters, in turns.

    Args:
        fit: of the family.
        y: what was observed, [time].
        limit: largest magnitude of clean samples.
        sample_rate: Hz.
        settings: of the search.
    """
    frame, once = round(settings.frame_seconds * sample_rate), replace(settings, rounds=0)
    for reach in _REACHES if fit.family.parameters else ():
        family = fit.family
        for i in range(len(family.parameters)):
            family = _nearby(replace(fit, family=family), i, reach * family.reach, y, limit, sample_rate)
        predictor = framewise(fit.x, settings.order, frame)
        noise = float(np.quantile(predictor.variances, settings.noise_quantile))
        offered = piecewise(family.curve, limit).candidates(y, _TOLERANCE * _rms(y))
        found = select_branches(y, offered, noise, sample_rate, once, predictor)
        fit = max(fit, _fit(family, y, found.x, found.labels, limit, sample_rate), key=attrgetter("gain"))
    return fit


def _nearby(fit: Fit, index: int, reach: float, y: np.ndarray, limit: float, sample_rate: int) -> Family:
    """The family with the value of a parameter, within a relative reach, that is most predictable on the same branches.

    Clean samples depend on the parameter nearly linearly there.
    """
    parameters = fit.family.parameters

    def with_value(factor: float) -> Family:
        changed = factor * parameters[index]
        return replace(fit.family, parameters=(*parameters[:index], changed, *parameters[index + 1 :]))

    def ends(factor: float) -> tuple[np.ndarray, np.ndarray]:
        curve = piecewise(with_value(factor).curve, factor * limit)  # as many pieces as before
        offered = curve.candidates(y, 2 * _TOLERANCE * _rms(y))
        return _chosen(offered.low, fit.labels), _chosen(offered.slope, fit.labels)

    (low, low_slope), (high, high_slope) = ends(1 - reach), ends(1 + reach)
    lost = np.isnan(low + high)
    low[lost], high[lost], low_slope[lost], high_slope[lost] = fit.x[lost], fit.x[lost], 1.0, 1.0

    def loss(change: float) -> float:
        share = (change / reach + 1) / 2
        return _evidence(low + share * (high - low), y, low_slope + share * (high_slope - low_slope), sample_rate)

    found = minimize_scalar(loss, bounds=(-reach, reach), method="bounded", options={"xatol": _EXACT * reach})
    return with_value(1 + float(found.x)) if found.fun < loss(0.0) else fit.family


def _fit(family: Family, y: np.ndarray, x: np.ndarray, labels: np.ndarray, limit: float, sample_rate: int) -> Fit:
    """Judge branches [time] by how predictable they make the signal `x`, observed as `y`."""
    curve = piecewise(family.curve, limit)
    middle = int(np.searchsorted(curve.turning_points, 0.0, side="right"))
    plain = PiecewiseCurve(curve.inputs[[middle]], curve.outputs[[middle]]).candidates(y)
    slope = _chosen(curve.candidates(y, _TOLERANCE * _rms(y)).slope, labels)
    others = (
        _evidence(y, y, np.ones_like(y), sample_rate),
        _evidence(plain.low[:, 0], y, plain.slope[:, 0], sample_rate),
    )
    return Fit(family, x, labels, min(others) - _evidence(x, y, slope, sample_rate))


def _evidence(x: np.ndarray, y: np.ndarray, slope: np.ndarray, sample_rate: int) -> float:
    """Full form of J of a signal [time] that is observed as `y`."""
    tensors = (torch.from_numpy(np.ascontiguousarray(signal))[None] for signal in (x, y, slope.clip(min=_LEAST_SLOPE)))
    signal, observed, slopes = tensors
    return predictability(signal, sample_rate, observed, slope=slopes, settings=_QUIET)


def _chosen(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Those of the branches `labels` [time] among `values` [time, branches]."""
    return np.take_along_axis(values, labels[:, None].astype(np.int64), axis=1)[:, 0]


def _rms(y: np.ndarray) -> float:
    return float(np.sqrt(np.mean(y**2)))
