"""Linear prediction that wrong samples hardly disturb: regressions with heavy tails, of a signal or of its frames.

A signal that was put together from the branches of a curve has jumps where a branch is wrong. Least squares would bend
the filters to predict these; samples that are predicted badly count little here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

# Ridge of the normal equations, and least variance of a prediction, as fractions of the power.
_RIDGE, _LEAST_VARIANCE = 1e-9, 1e-13
# Ridge of those of a frame, which may be as good as periodic.
_FRAME_RIDGE = 1e-7
# Standard deviations of normal errors per median magnitude.
_NORMAL_MEDIAN = 1.4826
# An error of so many variances counts half.
_HALVING = 2.0
# Samples whose errors tell the local variance, more than twice as many as a wrong sample spoils.
_LOCAL = 65
# Frames that are solved for at once.
_BLOCK = 32


@dataclass(frozen=True)
class Predictor:
    """Linear prediction, frame by frame.

    Attributes:
        filters: coefficients, that of the sample before first, [frames, order].
        variances: of what is left, [frames].
        frames: frame of every sample, [time].
    """

    filters: np.ndarray
    variances: np.ndarray
    frames: np.ndarray

    def errors(self, x: np.ndarray) -> np.ndarray:
        """Of the prediction of every sample of `x` [time]; there is silence before the first."""
        order = self.filters.shape[1]
        before = np.lib.stride_tricks.sliding_window_view(np.pad(x, (order, 0))[:-1], order)[:, ::-1]
        return np.asarray(x - np.einsum("nk,nk->n", before, self.filters[self.frames]))

    def local_variances(self, x: np.ndarray | None) -> np.ndarray:
        """Variance of the prediction of every sample: that of its frame, or of attacks, which are noise for a moment.

        Args:
            x: the signal, right but for single samples, [time]; None: that of the frames everywhere.
        """
        variances = self.variances[self.frames]
        if x is None:
            return variances
        return np.maximum(variances, (_NORMAL_MEDIAN * median_filter(np.abs(self.errors(x)), _LOCAL)) ** 2)


def whole(y: np.ndarray, order: int, iterations: int = 6) -> Predictor:
    """One filter for a folded signal: its kinks are rare, and count little in a regression with heavy tails."""
    level = np.sqrt(uniform_filter1d(y**2, 128 * order, mode="constant") + 1e-6 * np.mean(y**2))[order:]
    rows = np.lib.stride_tricks.sliding_window_view(y, order + 1)[:, ::-1] / level[:, None]  # the newest first
    weights = np.ones(len(rows))
    for _ in range(iterations):
        products = (rows * weights[:, None]).T @ rows
        products[1:, 1:] += _RIDGE * products[0, 0] * np.eye(order)
        taps = np.linalg.solve(products[1:, 1:], products[1:, 0])
        errors = rows[:, 0] - rows[:, 1:] @ taps
        scale = 1.5 * np.median(np.abs(errors)) + np.sqrt(_LEAST_VARIANCE)
        weights = 1 / (1 + (errors / scale) ** 2)
    return Predictor(taps[None], np.array([scale**2 * np.mean(y**2)]), np.zeros(len(y), np.int64))


def framewise(x: np.ndarray, order: int, frame: int, iterations: int = 3) -> Predictor:
    """A filter for every Hann window; windows overlap by half.

    Iteratively reweighted least squares, covariance method. Variances are those of normal errors with the median
    magnitude that was found.

    Args:
        x: [time], float64.
        order: of the filters.
        frame: length of the windows, samples.
        iterations: of the weights.
    """
    hop = frame // 2
    count = len(x) // hop + 1
    rows = np.lib.stride_tricks.sliding_window_view(np.pad(x, (hop + order, 2 * hop)), order + 1)[:, ::-1]
    window, floor = np.hanning(2 * hop + 2)[1:-1], _LEAST_VARIANCE * np.mean(x**2) + np.finfo(float).tiny
    filters, variances = np.zeros((count, order)), np.zeros(count)
    for first in range(0, count, _BLOCK):
        block = slice(first, min(first + _BLOCK, count))
        pieces = np.stack([rows[n * hop : (n + 2) * hop] for n in range(block.start, block.stop)])
        weights = np.broadcast_to(window, pieces.shape[:2])
        for _ in range(iterations):
            products = (pieces * weights[..., None]).transpose(0, 2, 1) @ pieces
            power = np.trace(products, axis1=1, axis2=2) / (order + 1)
            products[:, 1:, 1:] += (_FRAME_RIDGE * power + np.finfo(float).tiny)[:, None, None] * np.eye(order)
            filters[block] = np.linalg.solve(products[:, 1:, 1:], products[:, 1:, :1])[..., 0]
            errors = pieces[..., 0] - (pieces[..., 1:] @ filters[block][..., None])[..., 0]
            middle = np.abs(errors[:, hop // 2 : -(hop // 2)])
            variances[block] = (_NORMAL_MEDIAN * np.median(middle, axis=1)) ** 2 + floor
            weights = window / (1 + errors**2 / (_HALVING * variances[block][:, None]))
    frames = np.minimum((np.arange(len(x)) + hop // 2) // hop, count - 1)
    return Predictor(filters, variances, frames)
