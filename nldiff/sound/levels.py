"""Levels of audio: RMS, and the gain that brings one signal to the level of another."""

import numpy as np
from numpy.typing import NDArray


def rms(audio: NDArray[np.floating]) -> float:
    """Root mean square over all samples and channels, computed in float64; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


def match_level(level: float, peak: float, reference: float, ceiling: float = 0.999) -> float:
    """Gain that brings a signal to the RMS of a reference, without exceeding a ceiling.

    Args:
        level: RMS of the signal, linear.
        peak: largest absolute sample of the signal, linear.
        reference: RMS to reach, linear.
        ceiling: largest absolute sample allowed after the gain, linear.

    Returns:
        `reference / level`, or `ceiling / peak` where that is less; 1 for silence.
    """
    return min(reference / level, ceiling / peak) if level > 0 else 1.0
