"""Bent curves: an increasing curve without plateaus, found as the one whose inverse makes audio most predictable.

The inverse `x = g(y)` is a cubic B-spline. It is fitted to the full form of evidence J, the entropy of the innovations
with the Jacobian of the curve, as in Taleb, Solé and Jutten, "Quasi-nonparametric blind inversion of Wiener systems"
(2001), but by quasi-Newton steps on few coefficients.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from nldiff.errors import require
from nldiff.operators import TabulatedCurve
from nldiff.restoration.increasing import CurveSettings, IncreasingCurve, with_tolerance

_DEGREE = 3


@dataclass(frozen=True)
class BentSettings:
    """How bent curves are fitted; the group `bent`.

    Attributes:
        knots: inner knots of the spline, half of them at quantiles of the observed samples, half evenly spaced.
        steps: of L-BFGS at most.
        order: of the linear prediction.
        frame_seconds: length of its frames.
        frames: loudest frames that are looked at, at most.
        least_frames: fewer do not say what is bent.
        noise_db: white noise that the inverted signal is taken to have, dB relative to its power.
        smoothness: cost of a squared change of the logarithm of the slope from a coefficient to the next, nats.
    """

    knots: int = 10
    steps: int = 40
    order: int = 32
    frame_seconds: float = 0.04
    frames: int = 200
    least_frames: int = 50
    noise_db: float = -80.0
    smoothness: float = 1e-3

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "bent", ("knots", "steps", "order", "frames", "least_frames"), least=1)
        require(self, "bent", ("frame_seconds",), above=0)
        require(self, "bent", ("noise_db",), below=0)
        require(self, "bent", ("smoothness",), least=0)


@dataclass(frozen=True)
class _Spline:
    """An increasing cubic B-spline as a function of the observed samples of frames.

    Attributes:
        knots: with the outer ones repeated.
        first: number of the first of the four coefficients of every sample, [frames, length].
        values, slopes: of the four basis functions there, [frames, length, 4].
    """

    knots: np.ndarray
    first: Tensor
    values: Tensor
    slopes: Tensor

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes [frames, length] for the logarithms of the steps between coefficients."""
        coefficients = torch.cat([steps.new_zeros(1), steps.exp().cumsum(0)])
        chosen = coefficients[self.first[..., None] + torch.arange(_DEGREE + 1)]
        return (chosen * self.values).sum(-1), (chosen * self.slopes).sum(-1)


def bent_curve(
    y: Tensor, sample_rate: int, settings: BentSettings, table_settings: CurveSettings
) -> IncreasingCurve | None:
    """The curve whose inverse makes the observed samples most predictable.

    Args:
        y: observed samples [batch, n] of one level.
        sample_rate: Hz.
        settings: of the fit.
        table_settings: of the table.

    Returns:
        The curve for clean signals of the RMS of `y`; None if that is too short.
    """
    samples = y.detach().cpu().double().numpy()
    length = max(2 * round(settings.frame_seconds * sample_rate / 2), 4 * (settings.order + 1))
    frames, weights = _loudest_frames(samples, length, settings.frames)
    if len(frames) < settings.least_frames:
        return None
    spline = _spline(frames, _knots(samples, settings.knots))
    greville = np.convolve(spline.knots, np.ones(_DEGREE) / _DEGREE, "valid")[1:-1]
    steps = torch.from_numpy(np.log(np.diff(greville))).requires_grad_()
    straight = steps.detach().clone()
    window = torch.from_numpy(np.hanning(length + 2)[1:-1])
    optimiser = torch.optim.LBFGS([steps], max_iter=settings.steps, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimiser.zero_grad()
        x, slope = spline(steps)
        innovations = weights @ _log_innovations((x - x.mean(1, keepdim=True)) * window, settings)
        entropy = innovations - 2 * weights @ _mean_log(slope, window)
        total = entropy + settings.smoothness * (steps - straight).diff().square().sum()
        total.backward()
        return total.detach()

    optimiser.step(cost)
    coefficients = np.concatenate([[0.0], np.exp(steps.detach().numpy()).cumsum()])
    inverse = BSpline(spline.knots, coefficients, _DEGREE)
    outputs = np.linspace(spline.knots[0], spline.knots[-1], table_settings.points)
    inputs, found = inverse(outputs), inverse(samples)
    scale = np.sqrt(np.mean(samples**2)) / found.std()
    table = TabulatedCurve(torch.from_numpy((inputs - found.mean()) * scale), torch.from_numpy(outputs))
    return with_tolerance(table, samples, table_settings)


def _knots(samples: np.ndarray, inner: int) -> np.ndarray:
    low, high = samples.min(), samples.max()
    evenly = np.linspace(low, high, inner // 2 + 2)[1:-1]
    quantiles = np.quantile(samples, np.linspace(0, 1, inner - inner // 2 + 2)[1:-1])
    between = np.sort(np.concatenate([evenly, quantiles]))
    # knots that coincide would leave the spline a kink
    apart = 1e-3 * (high - low)
    between = between[np.diff(between, prepend=low) > apart]
    between = between[between < high - apart]
    return np.concatenate([[low] * (_DEGREE + 1), between, [high] * (_DEGREE + 1)])


def _spline(frames: np.ndarray, knots: np.ndarray) -> _Spline:
    """The four basis functions that are not zero at every sample, and their slopes."""
    count = len(knots) - _DEGREE - 1
    inside = frames.clip(knots[0], knots[-1])
    first = np.searchsorted(knots[_DEGREE + 1 : count], inside, side="right")
    basis = BSpline(knots, np.eye(count), _DEGREE)
    at = np.arange(_DEGREE + 1) + first[..., None]
    values, slopes = (np.take_along_axis(f(inside), at, -1) for f in (basis, basis.derivative()))
    return _Spline(knots, *(torch.from_numpy(each) for each in (first, values, slopes)))


def _loudest_frames(samples: np.ndarray, length: int, count: int) -> tuple[np.ndarray, Tensor]:
    """Half overlapping frames [frames, length], and their share in the energy."""
    padded = np.pad(samples, ((0, 0), (0, max(0, length - samples.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, :: length // 2].reshape(-1, length)
    power = frames.var(1)
    loudest = np.sort(np.argsort(-power, kind="stable")[:count])
    return frames[loudest], torch.from_numpy(power[loudest] / power[loudest].sum())


def _log_innovations(x: Tensor, settings: BentSettings) -> Tensor:
    """Logarithm of the power of the innovations of windowed frames [frames, length], [frames]."""
    spectrum = torch.fft.rfft(x, 2 * x.shape[1])
    r = torch.fft.irfft(spectrum.abs().square())[:, : settings.order + 1] / x.shape[1]
    lags = torch.arange(settings.order + 1)
    noise = 10 ** (settings.noise_db / 10) * r[:, 0].mean()
    matrix = r[:, (lags[:, None] - lags).abs()] + noise * torch.eye(settings.order + 1, dtype=x.dtype)
    return 2 * torch.linalg.cholesky(matrix)[:, -1, -1].log()


def _mean_log(slope: Tensor, window: Tensor) -> Tensor:
    """Mean logarithm of the slopes of every frame, under the window."""
    weights = window.square()
    return (slope.log() @ weights) / weights.sum()
