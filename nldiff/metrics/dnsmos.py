"""Speech quality without a reference: DNSMOS P.835 and P.808, through the package speechmos."""

import numpy as np

from nldiff.errors import NldiffError
from nldiff.metrics.packages import at_rate, for_each, import_package
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_signal

DNSMOS_SCALES = ("ovrl", "sig", "bak", "p808")


def dnsmos(estimate: Signal, sample_rate: int) -> FloatArray:
    """Overall quality of P.835 (Reddy et al. 2022), the first of `dnsmos_scores`.

    Args, Raises: as `dnsmos_scores`.

    Returns:
        `[...]` (a numpy scalar for `[time]`), opinion score of nominally 1 to 5.
    """
    return dnsmos_scores(estimate, sample_rate)["ovrl"]


def dnsmos_scores(estimate: Signal, sample_rate: int) -> dict[str, FloatArray]:
    """Opinion scores of speech as networks predict them (Reddy et al. 2021 and 2022).

    The scores are means over windows of 9.01 s, one starting each second; shorter signals are repeated.

    Args:
        estimate: speech, `[..., time]`, tensor or array, -1 to 1.
        sample_rate: in Hz; the signal is resampled to 16 kHz.

    Returns:
        Opinion scores of nominally 1 to 5, `[...]` each: "ovrl" (overall), "sig" (the speech), "bak" (freedom from
        background noise) of P.835 and "p808" (overall of P.808).

    Raises:
        NldiffError: speechmos or onnxruntime is missing, or a value is not finite or beyond full scale.
    """
    package = import_package("speechmos.dnsmos", "dnsmos")
    y = as_float64_signal(estimate)
    peak = np.max(np.abs(y))
    if peak > 1:
        raise NldiffError(f"estimate has a peak of {peak:.4g}: DNSMOS takes samples of -1 to 1")
    resampled = np.clip(at_rate(y, sample_rate, 16000), -1, 1)  # overshoots of the resampling filter

    def scores(y: FloatArray) -> list[float]:
        results = package.run(y, 16000)
        return [results[f"{scale}_mos"] for scale in DNSMOS_SCALES]

    values = for_each(scores, resampled)
    return {scale: values[..., i][()] for i, scale in enumerate(DNSMOS_SCALES)}
