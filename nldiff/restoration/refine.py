"""For increasing curves: the sparsest signal that the curve maps to exactly what was observed.

A sample from the prior explains the observation to a few per cent, and a weak prior makes loud passages too quiet. Once
the curve is known, every observed value says in which interval the clean sample lies: a point where the curve rises,
everything above a clipping level. Spectra of music and speech are sparse, and shrinking small coefficients while
keeping every sample in its interval carries what the reliable samples say into the distorted ones. The shrinkage is
the persistent empirical Wiener of Siedenburg, Kowalski and Dörfler, "Audio declipping with social sparsity" (2014);
here the constraint is that of any increasing curve. The sparsest signal has no noise floor and no breath; a few steps
of the prior from a low noise level, held inside the same intervals, put them back (`polish`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from nldiff.priors.edm import Denoiser
from nldiff.sampling.posterior import SamplerSettings, draw_noise
from nldiff.transforms.stft import overlap_add, stft

# Of the RMS of the observation: how far off the curve may be.
_TOLERANCE = 1 / 25
_POINTS = 4096
# The least slope of a curve that counts as steep.
_STEEP = 0.5
# Rarer extreme values than this share of the samples do not determine the curve.
_RARE = 1e-4
# Of the power of the observation: a curve with a larger error tells nothing of the clean samples.
_UNEXPLAINED = 0.3
# A curve counts as increasing if forcing it to be raises its error by less than this factor.
_EXCESS = 2.0
# Of plain curves: how far they are tabulated, in multiples of the RMS of the observation, and where the one with the
# round knee ends, in multiples of the extremes.
_LARGEST_RMS, _ABOVE_EXTREME = 12.0, 1.02
# Of the mean energy: what smaller coefficients have does not count.
_FLOOR = 0.01
_FIRST_THRESHOLD, _LAST_THRESHOLD = 0.1, 1e-4
_MOMENTUM = 0.97


@dataclass(frozen=True)
class IncreasingCurve:
    """A non-decreasing curve as a table; flat outside it.

    Attributes:
        x, y: values in and out, [points], float64 on the CPU; neither ever falls.
        tolerance: how far `y` may be off, in the units of `y`.
        exact_where_steep: where the slope is at least 1/2, so that errors of `y` at most double on the way back, `y`
            counts as exact.
    """

    x: Tensor
    y: Tensor
    tolerance: float
    exact_where_steep: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Distort samples of any shape; same type and device."""
        y = np.interp(x.detach().cpu().double().numpy(), self.x.numpy(), self.y.numpy())
        return torch.from_numpy(y).to(x.dtype).to(x.device)

    def bounds(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest clean value for every observed sample, both like `observed`; may be infinite.

        Observed values are known to the curve's tolerance, or to half the distance to the next other value in
        `observed` if that is larger, as it is between the levels of a quantiser. Beyond the outermost values the
        distance is taken to be the same as on their inner side. Where the curve counts as exact the tolerance is zero.
        """
        # The CPU: not every accelerator has float64.
        values, which = torch.unique(observed.cpu().double(), return_inverse=True)
        low, high = self._interval(values, self.tolerance)
        if self.exact_where_steep:
            steep = (high - low) * _STEEP <= 2 * self.tolerance
            low, high = (
                torch.where(steep, *pair) for pair in zip(self._interval(values, 0.0), (low, high), strict=True)
            )
        low, high = (bound[which].to(observed.dtype).to(observed.device) for bound in (low, high))
        return low, high

    def _interval(self, values: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """`bounds` of different, ascending values."""
        margins = values.new_full((len(values) + 1,), tolerance)  # of every value, downwards and upwards
        margins[1:-1] = (values.diff() / 2).clamp(min=tolerance)
        margins[[0, -1]] = margins[[1, -2]]
        # Where the curve saturates too low, the way to its very end would be demanded of every saturated sample.
        low = self._inverse((values - margins[:-1]).clamp(max=float(self.y[-1]) - tolerance), right=False)
        high = self._inverse((values + margins[1:]).clamp(min=float(self.y[0]) + tolerance), right=True)
        return low, high

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
    """The increasing curve nearest to `curve`, or None if that explains the observation badly or much worse.

    Args:
        curve: maps clean samples [1, n] to observed ones.
        x: clean samples or an estimate of them, any shape; where they lie the curve is trusted.
        y: observed samples, same shape.
    """
    samples, observed = x.flatten().cpu().double().numpy(), y.flatten().cpu().double().numpy()
    low, high = np.quantile(samples, [_RARE, 1 - _RARE])
    grid = np.linspace(low, high, _POINTS)
    found = _sampled(curve, grid, x).clip(observed.min(), observed.max())
    # Where samples are rare the curve is what the waveshaper makes of nothing: it must not count as much as elsewhere.
    counts = np.histogram(samples, bins=_POINTS, range=(low, high))[0]
    increasing = isotonic_regression(found, weights=counts + _RARE).x
    error, forced = (np.mean((np.interp(samples, grid, f) - observed) ** 2) for f in (found, increasing))
    tolerance = _tolerance(observed)
    if error > _UNEXPLAINED * np.mean(observed**2) or forced > _EXCESS * error + tolerance**2:
        return None
    return IncreasingCurve(torch.from_numpy(grid), torch.from_numpy(increasing), tolerance)


def known_increasing_curve(curve: Callable[[Tensor], Tensor], limit: float, y: Tensor) -> IncreasingCurve | None:
    """The table of a known curve, or None if it falls somewhere by more than its tolerance.

    Args:
        curve: maps clean samples [1, n] to observed ones.
        limit: largest magnitude of clean samples.
        y: observed samples, any shape; they determine the tolerance.
    """
    grid = np.linspace(-limit, limit, _POINTS)
    found = _sampled(curve, grid, y)
    tolerance, highest = _tolerance(y.flatten().cpu().double().numpy()), np.maximum.accumulate(found)
    if np.max(highest - found) > tolerance:
        return None
    return IncreasingCurve(torch.from_numpy(grid), torch.from_numpy(highest), tolerance)


def plain_curves(y: Tensor) -> tuple[IncreasingCurve, IncreasingCurve]:
    """The identity as far as the extremes of `y`, and flat beyond: with a sharp and with a round knee.

    The second is `x / (1 + |x / c|^3)^(1/3)` with limits c a little above the extremes. Where `y` has one sign only,
    both are 0 on the other side.

    Args:
        y: observed samples, any shape.
    """
    observed = y.flatten().cpu().double().numpy()
    low, high = np.quantile(observed, [_RARE, 1 - _RARE])
    limit = _LARGEST_RMS * np.sqrt(np.mean(observed**2))
    grid = np.linspace(-limit, limit, _POINTS)
    line = grid.clip(min(low, 0), max(high, 0))
    ends = _ABOVE_EXTREME * np.where(grid < 0, -line[0], line[-1])
    knee = grid * ends / (ends**3 + np.abs(grid) ** 3) ** (1 / 3)
    x, tolerance = torch.from_numpy(grid), _tolerance(observed)
    return IncreasingCurve(x, torch.from_numpy(line), tolerance), IncreasingCurve(x, torch.from_numpy(knee), tolerance)


def matched_curve(x: Tensor, y: Tensor) -> IncreasingCurve:
    """The increasing curve that gives samples distributed like `x` the distribution of `y`: quantile to quantile.

    Where every sample of the estimate `x` is a little off, the mean of `y` at some `x` is a flattened curve without
    knees; the distributions keep them.

    Args:
        x: an estimate of the clean samples, any shape.
        y: observed samples, any shape.
    """
    shares = np.linspace(0, 1, _POINTS)
    samples, observed = (signal.flatten().cpu().double().numpy() for signal in (x, y))
    x_table, y_table = (torch.from_numpy(np.quantile(values, shares)) for values in (samples, observed))
    return IncreasingCurve(x_table, y_table, _tolerance(observed))


def spread(x: Tensor, windows: Sequence[int]) -> float:
    """How evenly the energy of `x` is spread over short-time spectra; less for sparser signals, whatever their level.

    Mean of `log(0.01 + |X|^2 / mean |X|^2)` over the coefficients X, and over the windows: 0.01 if all magnitudes are
    the same, and towards log 0.01 = -4.6 if a few coefficients have all the energy.

    Args:
        x: signals [batch, time], not silent.
        windows: lengths of the Hann windows in samples, multiples of 4.
    """
    energies = (stft(x, window, window // 4).abs().square() for window in windows)
    return float(torch.stack([(e / e.mean() + _FLOOR).log().mean() for e in energies]).mean())


def sparsest_consistent(x: Tensor, low: Tensor, high: Tensor, windows: Sequence[int], iterations: int) -> Tensor:
    """Move `x` to a sparse signal between `low` and `high`.

    Iterative shrinkage with momentum: the threshold falls from a tenth to a ten-thousandth of the largest
    coefficient of each item, by the same factor in every iteration, and every iteration starts with putting the
    samples back into their intervals. What is sparse depends on the window; the mean of what different windows give
    has a smaller error than most of them, and is put into the intervals once more.

    Args:
        x: estimates of the clean signal [batch, time].
        low: smallest value of every sample, same shape; may be -infinite.
        high: largest value of every sample, not below `low`; may be infinite.
        windows: lengths of the Hann windows in samples, multiples of 4.
        iterations: how many, for each window.

    Returns:
        [batch, time], inside the intervals.
    """
    # Otherwise the way into the intervals would count as momentum, and be overshot several times over.
    x = x.clamp(low, high)
    return torch.stack([_sparsest(x, low, high, window, iterations) for window in windows]).mean(0).clamp(low, high)


@torch.no_grad()
def polish(
    denoiser: Denoiser,
    x: Tensor,
    low: Tensor,
    high: Tensor,
    settings: SamplerSettings,
    sources: Sequence[torch.Generator],
    at_prior_rate: Callable[[Tensor], Tensor] = lambda x: x,
    at_own_rate: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Let the prior go over `x`: noise is added, removed by the prior, and the samples put back into their intervals.

    What the prior changes is added to `x`, so that nothing is lost where its band is the narrower one.

    Args:
        denoiser: D(x, sigma).
        x: estimates of the clean signal [batch, time] at the prior's level.
        low: smallest value of every sample, same shape; may be -infinite.
        high: largest value of every sample; may be infinite.
        settings: `polish_steps` noise levels fall from `polish_sigma` to `sigma_min`, by the same factor each.
        sources: one CPU generator per item.
        at_prior_rate: resamples signals like `x` to the rate of the prior, where that is another one.
        at_own_rate: and back.

    Returns:
        [batch, time], inside the intervals.
    """
    for sigma in np.geomspace(settings.polish_sigma, settings.sigma_min, settings.polish_steps).tolist():
        before = at_prior_rate(x)
        after = denoiser(before + sigma * draw_noise(before, sources), x.new_full((len(x),), sigma))
        x = (x + at_own_rate(after - before)).clamp(low, high)
    return x


def _sparsest(x: Tensor, low: Tensor, high: Tensor, window: int, iterations: int) -> Tensor:
    """`sparsest_consistent` with one window and a start `x` inside the intervals."""
    hop, half, samples = window // 4, window // 2, x.shape[1]
    hann = torch.hann_window(window, device=x.device, dtype=x.dtype)
    spectrum = stft(x, window, hop)
    largest = spectrum.abs().amax((1, 2), keepdim=True)
    inside = slice(half, half + samples)
    weight = overlap_add(hann.square().expand(1, spectrum.shape[1], -1), hop)[:, inside].reciprocal()
    ahead = previous = x
    for i in range(iterations):
        progress = i / max(1, iterations - 1)
        threshold = _FIRST_THRESHOLD * (_LAST_THRESHOLD / _FIRST_THRESHOLD) ** progress * largest
        spectrum = stft(ahead.clamp(low, high), window, hop)
        energy = _mean_of_neighbours((spectrum * spectrum.conj()).real)
        noise_share = energy.clamp_(min=torch.finfo(energy.dtype).tiny).reciprocal_().mul_(threshold**2)
        gain = noise_share.neg_().add_(1).clamp_(min=0)
        frames = torch.fft.irfft(spectrum.mul_(gain), n=window).mul_(hann)
        current = overlap_add(frames, hop)[:, inside] * weight
        ahead = torch.lerp(previous, current, 1 + _MOMENTUM)
        previous = current
    return previous


def _mean_of_neighbours(energy: Tensor) -> Tensor:
    """Mean over every frame of `energy` [batch, frames, bins] and those beside it, of which the ends have one."""
    total = energy.clone()
    total[:, 1:] += energy[:, :-1]
    total[:, :-1] += energy[:, 1:]
    counts = total.new_full((energy.shape[1], 1), 3.0)
    counts[0] -= 1
    counts[-1] -= 1
    return total.div_(counts)


@torch.no_grad()
def _sampled(curve: Callable[[Tensor], Tensor], grid: np.ndarray, like: Tensor) -> np.ndarray:
    """A curve of tensors like `like` at the values `grid` [points]."""
    return curve(torch.from_numpy(grid).to(like.dtype).to(like.device)[None])[0].cpu().double().numpy()


def _tolerance(observed: np.ndarray) -> float:
    return float(_TOLERANCE * np.sqrt(np.mean(observed**2)))
