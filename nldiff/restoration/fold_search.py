"""Folding curves found blindly: where the distribution of samples breaks off, and what is most predictable there.

Signals that are folded back leave no plateau at the turning value, but the density of their samples drops there: below
it lie the samples of two branches, above it those of none, or of one far away. Clipped ones have a plateau, and clean
ones no drop. Every family of folding curves is then tried at that value where the recording is loudest; the value is
found exactly by a search for what is most predictable on the same branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np
import torch

from nldiff.operators import Distortion, Operator, TabulatedCurve
from nldiff.restoration.bent import BentSettings
from nldiff.restoration.branches import BranchSettings, louder
from nldiff.restoration.fold_trials import Family, quick, refined, rms_of, steepest, trial
from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.soft_folds import bent_fold, climbed, soft_families, soft_fold

# Seconds that families are compared on, and that curves of unknown shape are bent on.
_TRIAL_SECONDS, _BENDING_SECONDS = 0.5, 2.0
# Width of the intervals in which samples are counted, as a fraction of the RMS; values are tried in steps of an eighth.
_WIDTH = 0.04
# Least turning value that is looked for, as a fraction of the RMS.
_LEAST_VALUE = 0.4
# Least drop of the density, in standard deviations of the counts, and by how much it must drop.
_LEAST_DROP, _DROP = 8.0, 2.0
# Interval next to the drop against the one before: more is a plateau; a sine folder has 2.4.
_PLATEAU = 3.2
# Widths in which turning values are looked for, as fractions of that; how far away, in widths, and the least drop.
_ZOOMS, _ZOOM_REACH, _LEAST_RISE = (4, 16, 64, 256), 6, 3.0
# How far rectified samples may lie beyond zero, what counts as held there, in fractions of the RMS; largest share of
# such samples.
_ONE_SIDED, _HELD, _HELD_SHARE = 0.01, 1e-3, 0.25
# Largest clean sample, in multiples of the RMS of the recording.
_LARGEST = 15.0
# Least gain of predictability over the same curve without its folds, nats.
_LEAST_GAIN = 0.1
# Gains that differ by less are tied: the simpler family comes first.
_TIED = 0.02


@dataclass(frozen=True)
class Drop:
    """Where the density of samples breaks off.

    Attributes:
        value: of the samples.
        deviations: of the drop, in standard deviations of the counts.
    """

    value: float
    deviations: float


def find_folds(
    y: np.ndarray, sample_rate: int, settings: BranchSettings, bending: BentSettings, table: CurveSettings
) -> Iterator[Operator]:
    """Folding curves under which a recording would be much more predictable than it is, the best one first.

    Args:
        y: items [batch, time] of one curve, float64.
        sample_rate: Hz.
        settings: of the branch search.
        bending: of curves of unknown shape.
        table: of increasing curves.
    """
    samples, rms = y.ravel(), rms_of(y)
    drops = _Drops.of(samples, rms)
    if drops == _Drops(None, None, None):
        return
    stretch, limit, brief = steepest(y, round(_TRIAL_SECONDS * sample_rate)), _LARGEST * rms, quick(settings)
    where, there = (stretch, limit, sample_rate, brief), (stretch, limit, sample_rate, louder(brief))
    sharp = [trial(family, *where) for family in _families(samples, drops, rms)]
    hills = _hills(samples, drops, rms)
    soft = [trial(family, *there) for family in soft_families(*hills, limit)]
    largest = max([0.0, *(fit.gain for fit in sharp)])
    roundest = max(soft, key=attrgetter("gain"))
    curve = None
    if roundest.gain >= largest + _LEAST_GAIN:
        longer = steepest(y, round(_BENDING_SECONDS * sample_rate))
        start = soft_fold(*hills, limit, *climbed(roundest, *there).family.parameters)
        curve = bent_fold(start, longer, limit, sample_rate, louder(settings), bending, table)
    if curve:
        yield curve
    elif largest >= _LEAST_GAIN:
        best = next(fit for fit in sharp if fit.gain >= largest - _TIED)
        yield refined(best, *where).family.curve


def find_rectifier(y: np.ndarray, sample_rate: int, settings: BranchSettings) -> Operator | None:
    """The full-wave rectifier, or its negative, if a recording would be much more predictable without it.

    Args:
        y: items [batch, time] of one curve, float64.
        sample_rate: Hz.
        settings: of the branch search.
    """
    rms, stretch = rms_of(y), steepest(y, round(_TRIAL_SECONDS * sample_rate))
    sign, limit = (1 if y.max() > -y.min() else -1), _LARGEST * rms
    held = np.mean(np.abs(stretch) <= _HELD * rms)  # half of the samples behind a half-wave rectifier
    if (sign * y).min() < -_ONE_SIDED * rms or held > _HELD_SHARE:
        return None
    inputs = torch.tensor([-limit, 0, limit], dtype=torch.float64)
    curve = Distortion("full_wave") if sign > 0 else TabulatedCurve(inputs, -inputs.abs())
    gain = trial(Family(lambda: curve, ()), stretch, limit, sample_rate, quick(settings)).gain
    return curve if gain >= _LEAST_GAIN else None


@dataclass(frozen=True)
class _Drops:
    """Where densities break off; None where they do not.

    Attributes:
        both: that of the magnitudes.
        top: that of the samples.
        bottom: that of their negatives.
    """

    both: Drop | None
    top: Drop | None
    bottom: Drop | None

    @classmethod
    def of(cls, samples: np.ndarray, rms: float) -> _Drops:
        """Those of samples [n]."""
        if rms == 0 or np.median(np.diff(np.unique(samples))) > _WIDTH * rms / 8:  # quantised: there are no densities
            return cls(None, None, None)
        return cls(*(density_drop(each, rms) for each in (np.abs(samples), samples, -samples)))


def _families(samples: np.ndarray, drops: _Drops, rms: float) -> list[Family]:
    """Families of known shape that have turning values where the density of samples drops."""
    both, top, bottom = drops.both, drops.top, drops.bottom
    found = []
    if both:
        hill = turning_value(np.abs(samples), both, rms)
        found = [
            Family(lambda t: Distortion("wavefold", {"threshold": t}), (both.value,)),
            Family(lambda t: Distortion("triangle_fold", {"threshold": t}), (both.value,)),
            Family(lambda a: Distortion("sine_fold", {"amplitude": a}), (hill,), 0.0005),
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


def _hills(samples: np.ndarray, drops: _Drops, rms: float) -> tuple[float, float]:
    """Magnitudes of the turning values above and below zero; far away on a side without a drop."""
    top, bottom = (
        turning_value(side, drop, rms) if drop else 2 * _LARGEST * rms
        for side, drop in ((samples, drops.top or drops.both), (-samples, drops.bottom or drops.both))
    )
    return top, bottom


def turning_value(samples: np.ndarray, drop: Drop, rms: float) -> float:
    """The value at which dense samples [n] end near a drop of their density, as exactly as they say.

    Below the turning value of a round hill the density grows without bound.
    """
    ordered, value = np.sort(samples), drop.value
    for zoom in _ZOOMS:
        width = _WIDTH * rms / zoom
        near = ordered[np.abs(ordered - value) < _ZOOM_REACH * width]
        inside, outside = (
            np.diff(np.searchsorted(ordered, [near - below, near + above], side="right"), axis=0)[0]
            for below, above in ((width, 0.0), (0.0, width))
        )
        rise = (inside - outside) / np.sqrt(inside + outside + 1.0)
        if not len(near) or rise.max() < _LEAST_RISE:
            break
        value = float(near[np.argmax(rise)])
    return value


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
