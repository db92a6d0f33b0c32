"""Sampling rates: resampling, the way back to the rate of a recording, and the band that resampling loses."""

import numpy as np
import soxr
from numpy.typing import NDArray


def resample(audio: NDArray[np.float32], from_rate: int, to_rate: int) -> NDArray[np.float32]:
    """Change the sample rate with soxr's linear-phase VHQ filter (no delay).

    Levels stay within 0.01 dB up to 0.44 times the lower of the two rates.

    Args:
        audio: `[channels, time]`.
        from_rate: present rate in Hz.
        to_rate: wanted rate in Hz; if it equals `from_rate`, `audio` itself is returned.

    Returns:
        float32 `[channels, round(time * to_rate / from_rate)]`.
    """
    if from_rate == to_rate:
        return audio
    length = round(audio.shape[1] * to_rate / from_rate)
    resampled = soxr.resample(audio.T, from_rate, to_rate, quality="VHQ").T[:, :length]
    padded = np.pad(resampled, ((0, 0), (0, length - resampled.shape[1])))
    return np.ascontiguousarray(padded, dtype=np.float32)


def from_rate(piece: np.ndarray, rate: int, sample_rate: int, length: int) -> np.ndarray:
    """Bring `piece` [channels, time] from `rate` to exactly `length` samples at `sample_rate`, both in Hz."""
    back = resample(piece, rate, sample_rate)[:, :length]
    return np.pad(back, ((0, 0), (0, length - back.shape[1])))


def above_band(piece: np.ndarray, sample_rate: int, rate: int) -> np.ndarray:
    """Part of `piece` [channels, time] at `sample_rate` that is lost by going to `rate` and back by `from_rate`."""
    within = resample(piece.astype(np.float32), sample_rate, rate)
    return piece - from_rate(within, rate, sample_rate, piece.shape[1])
