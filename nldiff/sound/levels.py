"""Levels of audio."""

import numpy as np
from numpy.typing import NDArray


def rms(audio: NDArray[np.floating]) -> float:
    """Root mean square over all samples and channels, computed in float64; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0
