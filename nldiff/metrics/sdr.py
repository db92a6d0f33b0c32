"""Signal-to-distortion ratios in dB, in float64, over the last axis."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

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
    _refuse_silence(x)
    return _decibels(np.sum(x**2, axis=-1), np.sum((x - y) ** 2, axis=-1))


def si_sdr(reference: Signal, estimate: Signal) -> FloatArray:
    """Scale-invariant SDR (Le Roux et al., "SDR - half-baked or well done?", 2019); no mean is removed.

    With `a = <y, x> / <x, x>`: `20 log10(|a x| / |a x - y|)`. A change of level or sign of the estimate does
    not matter.

    Args:
        reference: x, `[..., time]`, tensor or array.
        estimate: y, same shape.

    Returns:
        dB, `[...]` (a numpy scalar for `[time]`); infinite where y is a multiple of x, minus infinite where
        nothing of x is in y, silence included.

    Raises:
        NldiffError: shapes differ, a value is not finite, or a reference is silent.
    """
    x, y = as_float64_pair(reference, estimate)
    _refuse_silence(x)
    a = np.sum(x * y, axis=-1, keepdims=True) / np.sum(x**2, axis=-1, keepdims=True)
    return _decibels(np.sum((a * x) ** 2, axis=-1), np.sum((a * x - y) ** 2, axis=-1))


def as_float64(values: Signal | Sequence[float]) -> FloatArray:
    """Turn a tensor (any device, with or without gradient), an array or a list into a float64 array."""
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def as_float64_pair(reference: Signal, estimate: Signal) -> tuple[FloatArray, FloatArray]:
    """Turn two signals `[..., time]` into float64 arrays and make sure that they can be compared.

    Raises:
        NldiffError: shapes differ, there are no samples, or a value is not finite.
    """
    x, y = as_float64(reference), as_float64(estimate)
    if x.shape != y.shape:
        raise NldiffError(f"reference has shape {list(x.shape)} but estimate {list(y.shape)}")
    if x.ndim == 0 or x.size == 0:
        raise NldiffError(f"signals of shape {list(x.shape)} have no samples to compare")
    for name, values in (("reference", x), ("estimate", y)):
        if not np.isfinite(values).all():
            raise NldiffError(f"{name} contains NaN or infinite samples")
    return x, y


def _refuse_silence(reference: FloatArray) -> None:
    if not np.any(reference, axis=-1).all():
        raise NldiffError("reference is silent: a ratio to it is not defined")


def _decibels(signal: FloatArray, distortion: FloatArray) -> FloatArray:
    """Power ratio in dB, where 0/0 (a silent estimate under SI-SDR) counts as no signal at all."""
    with np.errstate(divide="ignore"):
        return 10 * (np.log10(signal) - np.where(signal > 0, np.log10(distortion), 0.0))
