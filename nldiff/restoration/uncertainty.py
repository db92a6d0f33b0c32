"""What to expect of a restoration: its error, and a band around its curve.

Both were calibrated on restorations of recordings that were made from training and validation clips, guitar and speech:
clipped hard and softly at 1 to 15 dB, rectified, quantised, through a carbon microphone, folded and overdriven, also
with noise, a codec, a resampler or a high-pass behind. Nine of ten of these are within the intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nldiff.restoration.evidence import Binding, Judgement

# Least share of samples, or of power, that is told from none; SDR above which what is guessed no longer matters, dB.
_LEAST, _MOST_DB = 1e-3, 25.0
# Points within a band's width that the curve is looked up at.
_POINTS = 9


@dataclass(frozen=True)
class Expected:
    """What SI-SDR a restoration is expected to have, dB: in nine of ten cases from `low` to `high`."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class _Calibration:
    """Of restorations by one hypothesis.

    Attributes:
        weights: of 1, the SDR that what is guessed leaves, and the logarithms of the shares of samples that are unknown
            and known to an interval: the expected SI-SDR, dB.
        below, above: ends of the interval, from there.
        input_error: of the inputs of the curve, as a fraction of them; None where that was not calibrated.
    """

    weights: tuple[float, float, float, float]
    below: float
    above: float
    input_error: float | None = None


_GUESSED = (11.5, 1.43, 4.1, 0.9)
_CALIBRATIONS = {
    "clipped": _Calibration(_GUESSED, -9.0, 9.0, 0.022),
    "filtered": _Calibration(_GUESSED, -9.0, 9.0),
    "bent": _Calibration((34.0, 0, 0, 0), -6.0, 20.0, 0.045),
    "overdriven": _Calibration((40.0, 0, 0, 0), -8.0, 40.0),
    "rectified": _Calibration((40.0, 0, 0, 0), -32.0, 42.0, 0.0005),
    "folded": _Calibration((45.0, 0, 0, 0), -40.0, 40.0, 0.0005),
}


def expected_sdr(hypothesis: str, judgement: Judgement) -> Expected | None:
    """The SI-SDR to expect of a restoration that is believed.

    What a curve tells exactly is right up to the errors of the curve; what it leaves open is guessed. How much that is,
    in the restored signal itself, says most of the error.

    Args:
        hypothesis: key of `nldiff.restoration.hypotheses.HYPOTHESES`.
        judgement: of the restoration.

    Returns:
        None for what was sampled: too few of the restorations were.
    """
    if hypothesis not in _CALIBRATIONS:
        return None
    calibration = _CALIBRATIONS[hypothesis]
    middle = _weighted(calibration.weights, judgement.guessed, judgement.unknown, judgement.interval)
    return Expected(middle + calibration.below, middle, middle + calibration.above)


def guessed_sdr(bound: Binding) -> float:
    """The SI-SDR to expect of a signal that an increasing curve binds so, dB."""
    return _weighted(_GUESSED, bound.guessed, bound.unknown, bound.interval)


def _weighted(weights: tuple[float, ...], guessed: float, unknown: float, interval: float) -> float:
    sdr = min(_MOST_DB, -10 * np.log10(max(guessed, 1e-9)))
    shares = [np.log10(max(share, 0.0) + _LEAST) for share in (unknown, interval)]
    return float(np.dot(weights, [1.0, sdr, *shares]))


def band(
    curve: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, hypothesis: str, rms: float, unexplained: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper end of the band that the true curve is believed to lie in, up to the scale of its inputs.

    Errors of a curve are errors of the restored samples that it was fitted to. The larger these are, the more they are
    off, and where the curve is steep it shows.

    Args:
        curve: from restored to observed samples.
        inputs: where the band is wanted, [points].
        hypothesis: key of `nldiff.restoration.hypotheses.HYPOTHESES`.
        rms: of the restored samples.
        unexplained: RMS of what the curve does not explain of the recording.

    Returns:
        Two arrays [points]; None where bands were not calibrated: sampled curves, and those of operators with memory.
    """
    calibration = _CALIBRATIONS.get(hypothesis)
    if calibration is None or calibration.input_error is None:
        return None
    error = calibration.input_error * (np.abs(inputs) + rms / 4)
    nearby = curve(inputs + np.linspace(-1, 1, _POINTS)[:, None] * error)
    return nearby.min(0) - unexplained, nearby.max(0) + unexplained
