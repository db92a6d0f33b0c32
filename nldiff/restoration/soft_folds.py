"""Folding curves of unknown shape with round hills: found by soft knees first, then bent to what is most predictable.

Around the turning point of a smooth curve every curve that turns at the same value, and as roundly, gives the same
branches. The clean samples that it gives are then the true ones behind an increasing map, which the evidence for bent
curves finds; the curve is bent by it, and branches are searched again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from operator import attrgetter

import numpy as np
import torch
from scipy.integrate import cumulative_trapezoid

from nldiff.operators import TabulatedCurve
from nldiff.restoration.bent import BentSettings, bent_curve
from nldiff.restoration.branches import BranchSettings, chosen, evidence, select_branches
from nldiff.restoration.fold_trials import STRAYING, TOLERANCE, Family, Fit, rms_of, trial
from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.piecewise import piecewise
from nldiff.restoration.prediction import framewise

# Widths of knees, as fractions of the smaller turning value, and slopes beyond them that are tried; factors by which
# these are changed then.
_KNEES, _SLOPES, _STEPS = (0.2, 0.5, 1.0), (0.7, 1.0, 1.4), (1.3, 1.15)
# Points of the table of every piece.
_POINTS = 1025
# Rounds of branches and bending, searches in the first of them; knots more in every round, and from which one on bends
# are cheap.
_ROUNDS, _SEARCHES, _MORE_KNOTS, _FREE = 4, 2, 3, 3
_CHEAP = 0.1
# Least gain of predictability over an increasing curve, nats.
_LEAST_GAIN = 0.4


def soft_families(top: float, bottom: float, limit: float) -> list[Family]:
    """Curves that rise between two round turning points and fall beyond them, some of those that there are.

    Args:
        top: turning value above zero.
        bottom: magnitude of that below zero.
        limit: largest magnitude of clean samples.
    """
    curve = partial(soft_fold, top, bottom, limit)
    return [Family(curve, (knee, slope, slope)) for knee in _KNEES for slope in _SLOPES]


def soft_fold(
    top: float, bottom: float, limit: float, knee: float, upper_slope: float, lower_slope: float
) -> TabulatedCurve:
    """A curve that turns at the value `top` and at `-bottom`, with a slope of about 1 between.

    Args:
        top: turning value above zero.
        bottom: magnitude of that below zero.
        limit: largest magnitude of inputs.
        knee: width of the turns, as a fraction of the smaller turning value.
        upper_slope: magnitude of the slope far above the upper turning point.
        lower_slope: far below the lower one.
    """
    width, far = knee * min(top, bottom), max(limit, 2 * top, 2 * bottom)
    ends = np.array([-far, -bottom, top, far])
    ramp = (1 - np.cos(np.linspace(0, np.pi, _POINTS))) / 2  # dense where the curve turns
    inputs = np.unique(ends[:-1, None] + np.diff(ends)[:, None] * ramp)
    above, below = (top - inputs) / width, (inputs + bottom) / width
    slopes = np.tanh(above) * np.tanh(below)
    for inside, slope in ((above, upper_slope), (below, lower_slope)):
        slopes *= 1 + (slope - 1) * np.tanh(np.minimum(inside, 0)) ** 2
    outputs = cumulative_trapezoid(slopes, inputs, initial=0)
    low, high = np.interp([-bottom, top], inputs, outputs)
    outputs = (outputs - low) * (top + bottom) / (high - low) - bottom
    rising = (inputs >= -bottom) & (inputs <= top)
    return TabulatedCurve(
        torch.from_numpy(inputs - np.interp(0, outputs[rising], inputs[rising])), torch.from_numpy(outputs)
    )


def climbed(fit: Fit, y: np.ndarray, limit: float, sample_rate: int, settings: BranchSettings) -> Fit:
    """Change the parameters of a family step by step while that makes more predictable what it gives.

    The arguments are those of `fold_trials.refined`. Nothing is presumed of the first branches: they are searched anew
    for all parameters.
    """
    for step in _STEPS:
        for i in range(len(fit.family.parameters)):
            for factor in (step, 1 / step):
                parameters = list(fit.family.parameters)
                parameters[i] *= factor
                family = replace(fit.family, parameters=tuple(parameters))
                fit = max(fit, trial(family, y, limit, sample_rate, settings), key=attrgetter("gain"))
    return fit


def bent_fold(
    curve: TabulatedCurve,
    y: np.ndarray,
    limit: float,
    sample_rate: int,
    branches: BranchSettings,
    bending: BentSettings,
    table: CurveSettings,
) -> TabulatedCurve | None:
    """Bend the inputs of a folding curve until the clean signal is as predictable as it gets.

    Returns None where an increasing curve does nearly as well, as where a soft one saturates.

    Args:
        curve: with exact turning values, and a shape that gives the right branches for the most part.
        y: what was observed, [time], float64.
        limit: largest magnitude of clean samples.
        sample_rate: Hz.
        branches: settings of the searches.
        bending: settings of the bends.
        table: settings of increasing curves.
    """
    rival = _increasing(y, sample_rate, bending, table) - _LEAST_GAIN
    predictor, noise, frame = None, (STRAYING * rms_of(y)) ** 2, round(branches.frame_seconds * sample_rate)
    best, least, x = curve, np.inf, y
    for i in range(_ROUNDS):
        offered = piecewise(curve, limit).candidates(y, TOLERANCE * rms_of(y))
        search = replace(branches, rounds=1 if i else _SEARCHES)
        found = select_branches(y, offered, noise, sample_rate, search, predictor)
        loss = evidence(found.x, y, chosen(offered.slope, found.labels), sample_rate)
        if loss < least:
            best, least, x = curve, loss, found.x
        if i and least >= rival:
            return None
        finer = replace(
            bending,
            knots=bending.knots + i * _MORE_KNOTS,
            smoothness=bending.smoothness * (_CHEAP if i >= _FREE else 1),
        )
        bent = bent_curve(torch.from_numpy(x[None]), sample_rate, finer, table)
        if bent is None:
            break
        curve = TabulatedCurve(torch.from_numpy(_before(bent.table, best.inputs.numpy())), best.outputs)
        predictor = framewise(_before(bent.table, x), branches.order, frame)
        noise = float(np.quantile(predictor.variances, branches.noise_quantile))
    return best


def _increasing(y: np.ndarray, sample_rate: int, bending: BentSettings, table: CurveSettings) -> float:
    """Evidence of what an increasing curve makes of `y` [time], which may be none."""
    bent = bent_curve(torch.from_numpy(y[None]), sample_rate, bending, table)
    if bent is None:
        return evidence(y, y, np.ones_like(y), sample_rate)
    x = _before(bent.table, y)
    rise = np.gradient(bent.table.outputs.numpy(), bent.table.inputs.numpy())
    return evidence(x, y, np.interp(x, bent.table.inputs.numpy(), rise), sample_rate)


def _before(curve: TabulatedCurve, outputs: np.ndarray) -> np.ndarray:
    """Inputs [n] of an increasing curve; with its mean slope beyond its ends."""
    x, y = curve.inputs.numpy(), curve.outputs.numpy()
    slope = (x[-1] - x[0]) / (y[-1] - y[0])
    beyond = np.minimum(outputs - y[0], 0) + np.maximum(outputs - y[-1], 0)
    return np.interp(outputs, y, x) + slope * beyond
