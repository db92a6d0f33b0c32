"""Curves as monotone pieces, and the clean values that every piece offers for an observed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch

from nldiff.errors import NldiffError
from nldiff.operators import Operator

# Points of the table that finds the pieces, and of the table of every piece.
_SEARCH_POINTS, _PIECE_POINTS = 1 << 14, 1 << 13
# Turning points are looked for again between their neighbours, so many times, on so many points.
_ZOOMS, _ZOOM_POINTS = 8, 65
# Labels of pieces have 8 bits with a sign, see `nldiff.restoration.viterbi.search`.
_MOST_PIECES = 128
# Steps of the search table that are smaller than this fraction of the curve's range count as flat.
_FLAT_STEP = 1e-13
# Values that lie further outside a piece than this fraction of the curve's range are not its own: rounding, not noise.
_ROUNDING = 1e-6

_Function: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidates:
    """Clean values that the pieces of a curve offer for observed ones; NaN where a piece offers none.

    Attributes:
        low: smallest clean value, [time, pieces].
        high: largest clean value, same shape; that of `low` where the piece is not flat.
        slope: magnitude of the curve's slope there, same shape; 0 where the piece is flat.
    """

    low: np.ndarray
    high: np.ndarray
    slope: np.ndarray


@dataclass(frozen=True)
class PiecewiseCurve:
    """A curve cut at its turning points.

    Attributes:
        inputs: tables of the pieces, ascending, [pieces, points]; a piece begins where the one before it ends.
        outputs: the curve there, same shape; every row rises, falls or is constant.
    """

    inputs: np.ndarray
    outputs: np.ndarray

    def __post_init__(self) -> None:
        """Validate the tables."""
        steps = np.diff(self.outputs, axis=1)
        if self.inputs.shape != self.outputs.shape or not ((steps >= 0).all(1) | (steps <= 0).all(1)).all():
            raise NldiffError("piecewise curve: two tables [pieces, points] with monotone rows expected")

    @property
    def turning_points(self) -> np.ndarray:
        """Inputs where a piece ends and the next one begins, ascending."""
        return self.inputs[1:, 0]

    @property
    def increasing(self) -> bool:
        """The curve falls nowhere."""
        return bool((self.outputs[:, -1] >= self.outputs[:, 0]).all())

    @property
    def even(self) -> bool:
        """The curve makes the same of a value and of its negative."""
        slack = _ROUNDING * np.array([np.ptp(self.inputs), np.ptp(self.outputs)])
        mirrored = [np.abs(self.inputs + self.inputs[::-1, ::-1]), np.abs(self.outputs - self.outputs[::-1, ::-1])]
        return all(bool((each <= limit).all()) for each, limit in zip(mirrored, slack, strict=True))

    def candidates(self, observed: np.ndarray, tolerance: float = 0.0) -> Candidates:
        """Clean values of observed ones [time], of every piece.

        A value outside the range of a piece by up to the tolerance belongs to the end of the piece; so does one that is
        outside the range of all pieces, to the end that is nearest to it.

        Args:
            observed: float64.
            tolerance: how far off observed values may be, in their units.
        """
        ends = np.sort(self.outputs[:, [0, -1]], axis=1)
        slack = tolerance + _ROUNDING * float(np.ptp(self.outputs))
        ascending = np.argsort(observed)  # tables are read much faster in order
        y = observed[ascending, None]
        outside = np.maximum(ends[:, 0] - y, y - ends[:, 1])  # [time, pieces]
        valid = outside <= np.maximum(slack, outside.min(1, keepdims=True))
        low, high, slope = (np.full(outside.shape, np.nan) for _ in range(3))
        for i, (inputs, outputs) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            mine = valid[:, i]
            rows = ascending[mine]
            low[rows, i], high[rows, i], slope[rows, i] = _inverse(inputs, outputs, y[mine, 0])
        return Candidates(low, high, slope)


def piecewise(operator: Operator, limit: float) -> PiecewiseCurve:
    """Cut the static curve of an operator into monotone pieces.

    Args:
        operator: with one parameter set.
        limit: largest magnitude of clean samples; the curve is not looked at beyond it.

    Raises:
        NldiffError: the curve has more than 128 pieces.
    """
    parameter = next(iter(getattr(operator, "parameters", list)()), torch.zeros((), dtype=torch.float64))

    def curve(inputs: np.ndarray) -> np.ndarray:
        samples = torch.from_numpy(inputs).to(parameter.dtype).to(parameter.device)
        return operator.portrait(samples).curve[0].cpu().double().numpy()

    grid = np.linspace(-limit, limit, _SEARCH_POINTS)
    cuts = [-limit, *_turning_points(curve, grid), limit]
    if len(cuts) - 1 > _MOST_PIECES:
        raise NldiffError(
            f"the curve turns {len(cuts) - 2} times within the range of clean samples, and {_MOST_PIECES - 1} times at "
            "most can be undone: are its parameters in the units of the recording?"
        )
    ramp = (1 - np.cos(np.linspace(0, np.pi, _PIECE_POINTS))) / 2  # dense at the ends, where inverses are steep
    inputs = np.stack([np.append((a + (b - a) * ramp)[:-1], b) for a, b in pairwise(cuts)])
    outputs = np.stack([curve(row) for row in inputs])
    return PiecewiseCurve(inputs, np.stack([_monotone(row) for row in outputs]))


def _turning_points(curve: _Function, grid: np.ndarray) -> list[float]:
    """Inputs at which the curve starts or stops to rise, fall or be constant, ascending."""
    values = curve(grid)
    steps = np.diff(values)
    direction = np.where(np.abs(steps) <= _FLAT_STEP * np.ptp(values), 0, np.sign(steps))
    # A single flat step is the top of a hill.
    lonely = (direction == 0) & (np.roll(direction, 1) != 0) & (np.roll(direction, -1) != 0)
    direction[lonely] = np.roll(direction, 1)[lonely]
    found = []
    for i in np.flatnonzero(np.diff(direction)) + 1:
        before, after = direction[i - 1], direction[i]
        found.append(_extreme(curve, grid[i - 1], grid[i + 1], before) if before * after < 0 else float(grid[i]))
    return found


def _extreme(curve: _Function, low: float, high: float, sign: float) -> float:
    """Input of the largest value of `sign` times the curve between two inputs, which has one hill there."""
    for _ in range(_ZOOMS):
        points = np.linspace(low, high, _ZOOM_POINTS)
        best = int(np.argmax(sign * curve(points)))
        low, high = points[max(best - 1, 0)], points[min(best + 1, _ZOOM_POINTS - 1)]
    return float(low + high) / 2


def _monotone(outputs: np.ndarray) -> np.ndarray:
    """A row without the rounding errors that make it rise and fall."""
    return np.maximum.accumulate(outputs) if outputs[-1] >= outputs[0] else np.minimum.accumulate(outputs)


def _inverse(inputs: np.ndarray, outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smallest and largest input, and slope, of one piece [points] at the observed values `y` [n]."""
    if outputs[0] == outputs[-1]:
        return np.full(y.shape, inputs[0]), np.full(y.shape, inputs[-1]), np.zeros(y.shape)
    if outputs[0] > outputs[-1]:
        inputs, outputs = inputs[::-1], outputs[::-1]
    cell = np.searchsorted(outputs, y).clip(1, len(outputs) - 1)
    rise, run = outputs[cell] - outputs[cell - 1], inputs[cell] - inputs[cell - 1]
    share = ((y - outputs[cell - 1]) / np.where(rise > 0, rise, 1)).clip(0, 1)
    x = inputs[cell - 1] + share * run
    return x, x, rise / np.abs(run)
