"""Ramp-response error: distance of an estimated transfer curve from the true one."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from nldiff.errors import NldiffError
from nldiff.metrics.sdr import FloatArray, Signal, as_float64

Curve: TypeAlias = Callable[[torch.Tensor], Signal]

_MAX_SCALE = 2.0


def rr_mse(
    curve_true: Curve,
    curve_estimate: Curve,
    sigma: float = 0.06,
    points: int = 1000,
    fit_scale: bool = False,
) -> float:
    """Ramp-response mean squared error in dB, Svento et al. 2025, eq. 16 and the text below it.

    The mean of `(f(r) - f_hat(g r))^2` over a ramp r from -3 sigma to 3 sigma, at the better of g = 1 and
    g = -1 (see `input_gain`).

    Args:
        curve_true: f, called with a float32 CPU tensor `[points]`; returns a tensor or array `[points]`.
        curve_estimate: f_hat, called in the same way.
        sigma: standard deviation of clean audio, linear.
        points: number of points of the ramp.
        fit_scale: fit the scale of the input as well, |g| in 1/2 to 2.

    Returns:
        `10 log10` of the error (dB relative to full scale squared); minus infinity for equal curves.

    Raises:
        NldiffError: a curve gives another shape or a value that is not finite.
    """
    _, error = input_gain(curve_true, curve_estimate, sigma, points, fit_scale)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(error))


def input_gain(
    curve_true: Curve,
    curve_estimate: Curve,
    sigma: float = 0.06,
    points: int = 1000,
    fit_scale: bool = False,
) -> tuple[float, float]:
    """Find the gain g that brings an estimated curve, `f_hat(g r)`, closest to the true one, `f(r)`.

    A blind method knows y but neither sign nor scale of x: with x_hat = g x, `f_hat(x_hat) = y = f(x)` holds
    exactly for `f_hat(g r) = f(r)`. So the ambiguity lies in the argument: -f_hat(r) equals f_hat(-r) for odd
    curves only, and would be wrong for a half-wave rectifier, since the output is observed.

    Args:
        curve_true: f, as in `rr_mse`.
        curve_estimate: f_hat, as in `rr_mse`.
        sigma: the ramp runs from -3 sigma to 3 sigma.
        points: number of points of the ramp.
        fit_scale: search |g| in 1/2 to 2 (f_hat is then evaluated up to 6 sigma); otherwise |g| = 1.

    Returns:
        g and the mean squared error at g; the error with `fit_scale` is never above the one without.

    Raises:
        NldiffError: a curve gives another shape or a value that is not finite.
    """
    ramp = torch.linspace(-3 * sigma, 3 * sigma, points, dtype=torch.float64)
    target = _evaluate("true", curve_true, ramp)

    def error(log_scale: float, sign: float) -> float:
        estimate = _evaluate("estimated", curve_estimate, sign * np.exp(log_scale) * ramp)
        return float(np.mean((target - estimate) ** 2))

    candidates = [(error(0.0, sign), sign) for sign in (1.0, -1.0)]
    if fit_scale:
        # The error may have several minima over the scale: a grid finds the right one, a bounded search its bottom.
        logs, step = np.linspace(-np.log(_MAX_SCALE), np.log(_MAX_SCALE), 41, retstep=True)
        for sign in (1.0, -1.0):
            lowest, centre = min((error(log, sign), log) for log in logs)
            bounds = (max(centre - step, logs[0]), min(centre + step, logs[-1]))
            best = minimize_scalar(error, bounds=bounds, args=(sign,), method="bounded", options={"xatol": 1e-6})
            candidates += [(lowest, sign * float(np.exp(centre))), (best.fun, sign * float(np.exp(best.x)))]
    smallest, gain = min(candidates, key=lambda candidate: candidate[0])
    return gain, smallest


def _evaluate(name: str, curve: Curve, ramp: torch.Tensor) -> FloatArray:
    values = as_float64(curve(ramp.to(torch.float32)))
    if values.shape != ramp.shape:
        raise NldiffError(f"{name} curve gives shape {list(values.shape)} for {list(ramp.shape)} points")
    if not np.isfinite(values).all():
        raise NldiffError(f"{name} curve gives NaN or infinite values")
    return values
