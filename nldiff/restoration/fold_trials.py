"""Trials of folding curves on a short stretch: the branches that they lead to, and how predictable those make it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from scipy.optimize import minimize_scalar

from nldiff.operators import Operator
from nldiff.restoration.branches import BranchSettings, chosen, evidence, select_branches
from nldiff.restoration.piecewise import PiecewiseCurve, piecewise
from nldiff.restoration.prediction import framewise

# Searches after the first one, and branches that tell survivors apart.
_SEARCHES, _MEMORY = 2, 3
# How far values may lie beyond a turning value, and how far off clean ones may be, while it is not exact.
TOLERANCE, STRAYING = 0.01, 0.005
# How far parameters are looked for in the rounds in which they and the branches are found in turns, relative to how far
# they may be off; how exactly, relative to that.
_REACHES, _EXACT = (1.0, 0.1, 0.02), 0.01


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


def quick(settings: BranchSettings) -> BranchSettings:
    """Settings for trials."""
    return replace(settings, rounds=_SEARCHES, memory=min(settings.memory, _MEMORY))


def steepest(y: np.ndarray, length: int) -> np.ndarray:
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


def trial(family: Family, y: np.ndarray, limit: float, sample_rate: int, settings: BranchSettings) -> Fit:
    """Search branches under the parameters that a family starts from, which are right to a fraction of the width."""
    offered = piecewise(family.curve, limit).candidates(y, TOLERANCE * rms_of(y))
    noise = (STRAYING * rms_of(y)) ** 2
    found = select_branches(y, offered, noise, sample_rate, settings)
    return _fit(family, y, found.x, found.labels, limit, sample_rate)


def refined(fit: Fit, y: np.ndarray, limit: float, sample_rate: int, settings: BranchSettings) -> Fit:
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
        offered = piecewise(family.curve, limit).candidates(y, TOLERANCE * rms_of(y))
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
        offered = curve.candidates(y, 2 * TOLERANCE * rms_of(y))
        return chosen(offered.low, fit.labels), chosen(offered.slope, fit.labels)

    (low, low_slope), (high, high_slope) = ends(1 - reach), ends(1 + reach)
    lost = np.isnan(low + high)
    low[lost], high[lost], low_slope[lost], high_slope[lost] = fit.x[lost], fit.x[lost], 1.0, 1.0

    def loss(change: float) -> float:
        share = (change / reach + 1) / 2
        return evidence(low + share * (high - low), y, low_slope + share * (high_slope - low_slope), sample_rate)

    found = minimize_scalar(loss, bounds=(-reach, reach), method="bounded", options={"xatol": _EXACT * reach})
    return with_value(1 + float(found.x)) if found.fun < loss(0.0) else fit.family


def _fit(family: Family, y: np.ndarray, x: np.ndarray, labels: np.ndarray, limit: float, sample_rate: int) -> Fit:
    """Judge branches [time] by how predictable they make the signal `x`, observed as `y`."""
    curve = piecewise(family.curve, limit)
    middle = int(np.searchsorted(curve.turning_points, 0.0, side="right"))
    plain = PiecewiseCurve(curve.inputs[[middle]], curve.outputs[[middle]]).candidates(y)
    slope = chosen(curve.candidates(y, TOLERANCE * rms_of(y)).slope, labels)
    others = (
        evidence(y, y, np.ones_like(y), sample_rate),
        evidence(plain.low[:, 0], y, plain.slope[:, 0], sample_rate),
    )
    return Fit(family, x, labels, min(others) - evidence(x, y, slope, sample_rate))


def rms_of(y: np.ndarray) -> float:
    """Root of the mean square of all samples."""
    return float(np.sqrt(np.mean(y**2)))
