"""Measures of restored audio and of estimated curves: pure functions on tensors or arrays."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nldiff.metrics.lsd import lsd
from nldiff.metrics.rr_mse import rr_mse
from nldiff.metrics.sdr import sdr, si_sdr


@dataclass(frozen=True)
class Metric:
    """One row of `METRICS`.

    Attributes:
        function: called with (reference, estimate), or with (estimate) if it needs no reference; further
            arguments have defaults.
        inputs: "signals", `[..., time]` each, or "curves", functions of a ramp (see `rr_mse`).
        range: smallest and largest value.
        unit: of the value.
        better: whether "higher" or "lower" values are better.
        needs_reference: whether the clean signal or true curve is needed.
    """

    function: Callable[..., Any]
    inputs: Literal["signals", "curves"]
    range: tuple[float, float]
    unit: str
    better: Literal["higher", "lower"]
    needs_reference: bool


METRICS: dict[str, Metric] = {
    "sdr": Metric(sdr, "signals", (-math.inf, math.inf), "dB", "higher", True),
    "si_sdr": Metric(si_sdr, "signals", (-math.inf, math.inf), "dB", "higher", True),
    "lsd": Metric(lsd, "signals", (0.0, math.inf), "bel^2", "lower", True),
    "rr_mse": Metric(rr_mse, "curves", (-math.inf, math.inf), "dB", "lower", True),
}

__all__ = ["METRICS", "Metric", "lsd", "rr_mse", "sdr", "si_sdr"]
