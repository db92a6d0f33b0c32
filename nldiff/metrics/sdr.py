"""Signal-to-distortion ratios in dB, in float64, over the last axis."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from nldiff.errors import NldiffError

FloatArray: TypeAlias = NDArray[np.float64]
Signal: TypeAlias = torch.Tensor | NDArray[np.floating]


def sdr(reference: Signal, estimate: Signal) -> FloatArray:
    """Plain signal-to-distortion ratio of the declipping literature, `20 log10(|x| / |x - y|)`.

    Args:
        reference: x, `[..., time]`, tensor or array.
        estimate: y, same shape.

    Returns:
        dB, `[...]` (a numpy scalar for `[time]`); infinite where both are equal.

    Raises:
        NldiffError: shapes differ, a value is not finite, or a reference is silent.
    """
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    return _decibels(np.sum(x**2, axis=-1), np.sum((x - y) ** 2, axis=-1))


def si_sdr(reference: Signal, estimate: Signal) -> FloatArray:
    """Scale-invariant SDR (Le Roux et al., "SDR - half-baked or well done?", 2019); no mean is removed.

    With `a = <y, x> / <x, x>`: `20 log10(|a x| / |a x - y|)`. The value does not depend on level and sign
    of the estimate.

    Args:
        reference: x, `[..., time]`, tensor or array.
        estimate: y, same shape.

    Returns:
        dB, `[...]` (a numpy scalar for `[time]`); infinite where y is a multiple of x, minus
        infinite where y is orthogonal to x or silent.

    Raises:
        NldiffError: shapes differ, a value is not finite, or a reference is silent.
    """
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    a = np.sum(x * y, axis=-1, keepdims=True) / np.sum(x**2, axis=-1, keepdims=True)
    return _decibels(np.sum((a * x) ** 2, axis=-1), np.sum((a * x - y) ** 2, axis=-1))


def bss_sdr(reference: Signal, estimate: Signal, taps: int = 512) -> FloatArray:
    """SDR of BSSEval (Vincent et al. 2006): the part explained by a short FIR filter of the reference is signal.

    With s the orthogonal projection of y on x and its delays by 1 to taps - 1 samples: `20 log10(|s| / |y - s|)`.
    Never below `si_sdr` (one tap). Unlike `sdr` it ignores equalisation and small delays.

    Args:
        reference: x, `[..., time]`, tensor or array.
        estimate: y, same shape.
        taps: length of the filter; BSSEval takes 512.

    Returns:
        dB, `[...]` (a numpy scalar for `[time]`); over 150, limited by rounding, where a
        filter explains y fully.

    Raises:
        NldiffError: shapes differ, a value is not finite, or a reference is silent.
    """
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    length = x.shape[-1] + taps - 1
    n_fft = next_fast_len(length, real=True)
    spectrum_x, spectrum_y = rfft(x, n_fft), rfft(y, n_fft)
    autocorrelation = irfft(np.abs(spectrum_x) ** 2, n_fft)
    correlation = irfft(spectrum_x.conj() * spectrum_y, n_fft)[..., :taps]
    lags = np.abs(np.subtract.outer(np.arange(taps), np.arange(taps)))
    # The autocorrelation of a few tones is singular, hence the pseudo-inverse.
    inverse = np.linalg.pinv(autocorrelation[..., lags], rtol=taps * np.finfo(np.float64).eps, hermitian=True)
    h = (inverse @ correlation[..., None])[..., 0]
    s = irfft(spectrum_x * rfft(h, n_fft), n_fft)[..., :length]
    distortion = -s
    distortion[..., : y.shape[-1]] += y
    return _decibels(np.sum(s**2, axis=-1), np.sum(distortion**2, axis=-1))


def delta_sdr(reference: Signal, observed: Signal, estimate: Signal) -> FloatArray:
    """Improvement of the plain SDR by a restoration, `sdr(x, estimate) - sdr(x, observed)`.

    Args:
        reference: clean signal x, `[..., time]`, tensor or array.
        observed: the distorted signal, same shape.
        estimate: the restored signal, same shape.

    Returns:
        dB, `[...]` (a numpy scalar for `[time]`); infinite where the estimate equals the reference.

    Raises:
        NldiffError: as `sdr`, or an observed signal equals the reference.
    """
    before = sdr(reference, observed)
    if np.isposinf(before).any():
        raise NldiffError("observed signal equals the reference: there is no distortion to improve on")
    return sdr(reference, estimate) - before


def delta_sdr_clipped(
    reference: Signal, observed: Signal, estimate: Signal, clipped: Signal | NDArray[np.bool_] | float
) -> FloatArray:
    """`delta_sdr` over the clipped samples only; the two are equal for methods that keep all other samples.

    Args:
        reference: clean signal x, `[..., time]`, tensor or array.
        observed: the clipped signal, same shape.
        estimate: the restored signal, same shape.
        clipped: boolean mask of that shape, true at clipped samples, or the clipping threshold, linear: then
            samples of at least this magnitude are clipped (less half a step of 16 bit, so that a threshold finds
            its samples in a rounded file).

    Returns:
        dB, `[...]` (a numpy scalar for `[time]`).

    Raises:
        NldiffError: as `delta_sdr`, the mask has another shape, or no sample of a signal is clipped.
    """
    x, y = as_float64_pair(reference, observed)
    _, restored = as_float64_pair(x, estimate)
    clipped = as_float64(clipped)
    mask = np.abs(y) >= clipped - 2**-16 if clipped.ndim == 0 else clipped != 0
    if mask.shape != x.shape:
        raise NldiffError(f"mask of clipped samples has shape {list(mask.shape)} but the signals {list(x.shape)}")
    if not mask.any(axis=-1).all():
        raise NldiffError("no sample is clipped: there is no distortion to improve on")
    return delta_sdr(mask * x, mask * y, mask * restored)


def as_float64(values: Signal | NDArray[np.bool_] | Sequence[float] | float) -> FloatArray:
    """Convert a tensor (any device, with or without gradient), an array, a list or a number to a float64 array."""
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def as_float64_signal(signal: Signal, name: str = "estimate") -> FloatArray:
    """Convert a signal `[..., time]`, called `name` in messages, to a float64 array of finite samples.

    Raises:
        NldiffError: there are no samples, or a value is not finite.
    """
    samples = as_float64(signal)
    if samples.ndim == 0 or samples.size == 0:
        raise NldiffError(f"{name} of shape {list(samples.shape)} has no samples")
    if not np.isfinite(samples).all():
        raise NldiffError(f"{name} contains NaN or infinite samples")
    return samples


def as_float64_pair(reference: Signal, estimate: Signal) -> tuple[FloatArray, FloatArray]:
    """Convert two signals `[..., time]` to float64 arrays of finite samples of one shape.

    Raises:
        NldiffError: shapes differ, there are no samples, or a value is not finite.
    """
    x, y = as_float64(reference), as_float64(estimate)
    if x.shape != y.shape:
        raise NldiffError(f"reference has shape {list(x.shape)} but estimate {list(y.shape)}")
    return as_float64_signal(x, "reference"), as_float64_signal(y)


def refuse_silence(reference: FloatArray) -> None:
    """Validate that no reference `[..., time]` is all zeros.

    Raises:
        NldiffError: a reference is.
    """
    if not np.any(reference, axis=-1).all():
        raise NldiffError("reference is silent: nothing can be compared with it")


def _decibels(signal: FloatArray, distortion: FloatArray) -> FloatArray:
    """Power ratio in dB; 0/0 (a silent estimate under SI-SDR) gives minus infinity."""
    with np.errstate(divide="ignore"):
        return 10 * (np.log10(signal) - np.where(signal > 0, np.log10(distortion), 0.0))
