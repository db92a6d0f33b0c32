"""A last step for increasing curves: the sparsest signal that the curve maps to exactly what was observed.

A sample from the prior explains the observation to a few per cent, and a weak prior makes loud passages too quiet. Once
the curve is known, every observed value says in which interval the clean sample lies: a point where the curve rises,
everything above a clipping level. Spectra of music and speech are sparse, and shrinking small coefficients while
keeping every sample in its interval carries what the reliable samples say into the distorted ones. The shrinkage is
the persistent empirical Wiener of Siedenburg, Kowalski and Dörfler, "Audio declipping with social sparsity" (2014);
here the constraint is that of any increasing curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor
from torch.nn.functional import avg_pool1d

# Of the level of the clean signal: how far off the observation the curve may be.
_TOLERANCE = 1 / 60
_POINTS = 4096
# Rarer extreme values than this share of the samples do not determine the curve.
_RARE = 1e-4
# A curve counts as increasing if forcing it to be raises its error by less than this factor.
_EXCESS = 2.0
_FIRST_THRESHOLD, _LAST_THRESHOLD = 0.1, 1e-4
_PERSISTENCE = 3
_MOMENTUM = 0.9


@dataclass(frozen=True)
class IncreasingCurve:
    """A non-decreasing curve as a table; flat outside it.

    Attributes:
        x, y: values in and out, [points], float64; x increases, y never falls.
        tolerance: error of `y`.
    """

    x: Tensor
    y: Tensor
    tolerance: float

    def bounds(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest clean value for every observed sample, both like `observed`; may be infinite.

        Observed values are known to the curve's tolerance, or to half the distance to the next other value in
        `observed` if that is larger, as it is between the levels of a quantiser.
        """
        values, which = torch.unique(observed.double(), return_inverse=True)
        gaps = values.diff() / 2
        edge = gaps.new_zeros(1)
        below = torch.cat([edge, gaps]).clamp(min=self.tolerance)
        above = torch.cat([gaps, edge]).clamp(min=self.tolerance)
        low = self._inverse((values - below).clamp(max=float(self.y[-1])), right=False)
        high = self._inverse((values + above).clamp(min=float(self.y[0])), right=True)
        return low[which].to(observed), high[which].to(observed)

    def _inverse(self, y: Tensor, right: bool) -> Tensor:
        """Where the curve first reaches, or last stays at or below, `y`; infinite where it does all along."""
        index = torch.searchsorted(self.y, y, right=right)
        inside = index.clamp(1, len(self.y) - 1)
        y0, y1, x0, x1 = self.y[inside - 1], self.y[inside], self.x[inside - 1], self.x[inside]
        # Not right: y0 < y <= y1; right: y0 <= y < y1. A step is never divided by, it is above 0 in both.
        crossing = x0 + (x1 - x0) * (y - y0) / torch.where(y1 > y0, y1 - y0, torch.ones_like(y))
        crossing = torch.where(index == 0, -torch.inf, crossing)
        return torch.where(index == len(self.y), torch.inf, crossing)


def increasing_curve(curve: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> IncreasingCurve | None:
    """The increasing curve nearest to `curve`, or None if that explains the observation much worse.

    Args:
        curve: maps clean samples [1, n] to observed ones.
        x: clean samples or an estimate of them, any shape; where they lie the curve is trusted.
        y: observed samples, same shape.
    """
    samples, observed = x.flatten().double().cpu().numpy(), y.flatten().double().cpu().numpy()
    low, high = np.quantile(samples, [_RARE, 1 - _RARE])
    grid = np.linspace(low, high, _POINTS)
    with torch.no_grad():
        found = curve(torch.from_numpy(grid).to(x)[None])[0].double().cpu().numpy()
    found = found.clip(observed.min(), observed.max())
    increasing = isotonic_regression(found).x
    error, forced = (np.mean((np.interp(samples, grid, f) - observed) ** 2) for f in (found, increasing))
    level = np.sqrt(np.mean(samples**2))
    tolerance = float(_TOLERANCE * level)
    if forced > _EXCESS * error + tolerance**2:
        return None
    to_tensor = lambda values: torch.from_numpy(values).to(x.device)  # noqa: E731
    return IncreasingCurve(to_tensor(grid), to_tensor(increasing), tolerance)


def sparsest_consistent(x: Tensor, low: Tensor, high: Tensor, window: int, iterations: int) -> Tensor:
    """Move `x` to a sparse signal between `low` and `high`.

    Iterative shrinkage with momentum: the threshold falls from a tenth to a ten-thousandth of the largest
    coefficient, and every iteration puts the samples back into their intervals.

    Args:
        x: estimates of the clean signal [batch, time].
        low, high: interval of every sample, same shape.
        window: length of the Hann window in samples, a multiple of 4.
        iterations: how many.

    Returns:
        [batch, time], inside the intervals.
    """
    hann = torch.hann_window(window, device=x.device, dtype=x.dtype)
    stft = {"n_fft": window, "hop_length": window // 4, "window": hann}

    def spectrum(signal: Tensor) -> Tensor:
        return torch.stft(signal, **stft, pad_mode="constant", return_complex=True)

    largest = spectrum(x).abs().amax((1, 2), keepdim=True)
    ahead = previous = x
    for i in range(iterations):
        progress = i / max(1, iterations - 1)
        threshold = _FIRST_THRESHOLD * (_LAST_THRESHOLD / _FIRST_THRESHOLD) ** progress * largest
        s = spectrum(ahead.clamp(low, high))
        energy = avg_pool1d((s * s.conj()).real, _PERSISTENCE, 1, _PERSISTENCE // 2, count_include_pad=False)
        s = s * (1 - threshold**2 / energy.clamp(min=torch.finfo(energy.dtype).tiny)).clamp(min=0)
        current = torch.istft(s, **stft, length=x.shape[1])
        ahead = current + _MOMENTUM * (current - previous)
        previous = current
    return previous.clamp(low, high)
