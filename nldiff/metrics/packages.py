"""Helpers of the metrics that wrap other packages: import, sample rate, one call for each signal."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from nldiff.errors import NldiffError
from nldiff.metrics.sdr import FloatArray
from nldiff.sound import resample


def import_package(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Raises:
        NldiffError: the module or one of its dependencies is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NldiffError(f'{module} cannot be imported ({error}): pip install "nldiff[{extra}]"') from error


def for_each(function: Callable[..., Any], *signals: FloatArray) -> FloatArray:
    """Call a function of signals `[time]` for each item of signals `[..., time]` of one shape.

    Returns:
        Values of the function, `[...]` plus the shape of one value (a numpy scalar for one number).
    """
    items = zip(*(signal.reshape(-1, signal.shape[-1]) for signal in signals), strict=True)
    values = np.array([function(*item) for item in items], dtype=np.float64)
    return values.reshape(signals[0].shape[:-1] + values.shape[1:])[()]


def at_rate(signal: FloatArray, sample_rate: int, wanted: int) -> FloatArray:
    """Resample `[..., time]` from `sample_rate` to `wanted`, both in Hz (see `nldiff.sound.resample`)."""
    if sample_rate == wanted:
        return signal
    rows = resample(signal.reshape(-1, signal.shape[-1]).astype(np.float32), sample_rate, wanted)
    return rows.reshape(*signal.shape[:-1], rows.shape[-1]).astype(np.float64)
