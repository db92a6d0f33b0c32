"""Measures of restored audio and of estimated curves: pure functions on tensors or arrays, and their statistics.

Each metric has a module; `METRICS` is the table of those that experiments ask for by name. `statistics` holds bootstrap
intervals and paired comparisons of scores. May import `errors`, `sound` and `transforms`, and knows nothing of models,
methods and experiments.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nldiff.errors import NldiffError
from nldiff.metrics.dnsmos import dnsmos, dnsmos_scores
from nldiff.metrics.frechet import frechet_audio_distance, frechet_distance, log_mel_distance
from nldiff.metrics.loudness import loudness, normalise_loudness
from nldiff.metrics.lsd import lsd
from nldiff.metrics.mrstft import mrstft
from nldiff.metrics.nisqa import nisqa, nisqa_scores
from nldiff.metrics.peaq import peaq_odg
from nldiff.metrics.pemo_q import pemo_q_odg
from nldiff.metrics.pesq import pesq
from nldiff.metrics.r_nonlin import r_nonlin
from nldiff.metrics.rr_mse import rr_mse
from nldiff.metrics.sdr import Signal, bss_sdr, delta_sdr, delta_sdr_clipped, sdr, si_sdr
from nldiff.metrics.stoi import estoi, stoi


@dataclass(frozen=True)
class Metric:
    """One row of `METRICS`.

    Attributes:
        label: name in figures and tables.
        function: called with (reference, estimate), or with (estimate) if it needs no reference, then with the
            sample rate in Hz if it takes one; further arguments have defaults.
        inputs: "signals", `[..., time]` each, or "curves", functions of a ramp (see `rr_mse`).
        range: smallest and largest value; the nominal ones of predicted opinion scores.
        unit: unit of the value, "" for none.
        better: whether "higher" or "lower" values are better.
        needs_reference: whether the clean signal or true curve is an argument.
        takes_sample_rate: whether the sample rate is the last argument without a default.
        extra: the optional dependencies it needs, as in `pip install "nldiff[extra]"`; None for none.
    """

    label: str
    function: Callable[..., Any]
    inputs: Literal["signals", "curves"]
    range: tuple[float, float]
    unit: str
    better: Literal["higher", "lower"]
    needs_reference: bool
    takes_sample_rate: bool = False
    extra: str | None = None


METRICS: dict[str, Metric] = {
    "sdr": Metric("SDR", sdr, "signals", (-math.inf, math.inf), "dB", "higher", True),
    "si_sdr": Metric("SI-SDR", si_sdr, "signals", (-math.inf, math.inf), "dB", "higher", True),
    "bss_sdr": Metric("SDR (BSS Eval)", bss_sdr, "signals", (-math.inf, math.inf), "dB", "higher", True),
    "lsd": Metric("LSD", lsd, "signals", (0.0, math.inf), "bel^2", "lower", True),
    "mrstft": Metric("MR-STFT distance", mrstft, "signals", (0.0, math.inf), "", "lower", True),
    "peaq_odg": Metric("PEAQ", peaq_odg, "signals", (-3.98, 0.22), "ODG", "higher", True, True),
    "pemo_q_odg": Metric("PEMO-Q", pemo_q_odg, "signals", (-4.0, 0.0), "ODG", "higher", True, True),
    "r_nonlin": Metric("R_nonlin", r_nonlin, "signals", (0.0, 1.0), "", "higher", True, True),
    "stoi": Metric("STOI", stoi, "signals", (-1.0, 1.0), "", "higher", True, True, "metrics"),
    "estoi": Metric("ESTOI", estoi, "signals", (-1.0, 1.0), "", "higher", True, True, "metrics"),
    "pesq": Metric("PESQ", pesq, "signals", (0.999, 4.6439), "MOS", "higher", True, True, "metrics"),
    "dnsmos": Metric("DNSMOS", dnsmos, "signals", (1.0, 5.0), "MOS", "higher", False, True, "dnsmos"),
    "nisqa": Metric("NISQA", nisqa, "signals", (1.0, 5.0), "MOS", "higher", False, True, "nisqa"),
    "rr_mse": Metric("RR-MSE", rr_mse, "curves", (-math.inf, math.inf), "dB", "lower", True),
}


def compute(names: Iterable[str], reference: Signal, estimate: Signal, sample_rate: int) -> dict[str, float]:
    """Compute metrics of signals by name.

    Args:
        names: keys of `METRICS` whose inputs are signals.
        reference: clean signal, `[..., time]`, tensor or array.
        estimate: same shape.
        sample_rate: rate of both signals in Hz.

    Returns:
        Name to value, the mean over all leading axes, in the order of the names.

    Raises:
        NldiffError: a name is unknown or belongs to a metric of curves, or the sample rate is not a positive whole
            number, both before anything is computed; or the metric's function refuses the signals.
    """
    names = list(names)
    known = [name for name, metric in METRICS.items() if metric.inputs == "signals"]
    for name in names:
        if name not in known:
            problem = "compares curves, not signals" if name in METRICS else "is unknown"
            raise NldiffError(f"metric '{name}' {problem} (metrics of signals: {', '.join(known)})")
    if not isinstance(sample_rate, int) or sample_rate < 1:
        raise NldiffError(f"sample rate {sample_rate}: a positive whole number of Hz expected")
    values = {}
    for name in names:
        metric = METRICS[name]
        signals = (reference, estimate) if metric.needs_reference else (estimate,)
        rate = (sample_rate,) if metric.takes_sample_rate else ()
        values[name] = float(np.mean(metric.function(*signals, *rate)))
    return values
