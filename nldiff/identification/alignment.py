"""Alignment: by how many samples an observation is late, fractions included."""

import numpy as np
import scipy.fft


def find_delay(clean: np.ndarray, observed: np.ndarray) -> tuple[float, int]:
    """Delay of an observed recording after a clean one, by the extremum of their cross-correlation.

    Constants are left out, channels are added up, and a parabola through its neighbours refines the extremum.

    Args:
        clean: `[channels, time]`, not constant.
        observed: `[channels, other time]`, not constant.

    Returns:
        The delay in samples, with its fraction, and the polarity, 1 or -1.
    """
    clean, observed = (each - each.mean(axis=1, keepdims=True) for each in (clean, observed))
    size = scipy.fft.next_fast_len(clean.shape[1] + observed.shape[1], real=True)
    x, y = (scipy.fft.rfft(each, size) for each in (clean, observed))
    correlation = scipy.fft.irfft((y * x.conj()).sum(0), size)
    peak = int(np.argmax(np.abs(correlation)))
    before, at, after = correlation[[peak - 1, peak, (peak + 1) % size]]
    bend = before - 2 * at + after
    lag = peak if peak < observed.shape[1] else peak - size
    return lag + (float((before - after) / (2 * bend)) if bend else 0.0), 1 if at > 0 else -1


def aligned(clean: np.ndarray, observed: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The stretch [channels, frames] that both have, for an observation that is `lag` whole samples late."""
    clean, observed = clean[:, max(0, -lag) :], observed[:, max(0, lag) :]
    frames = min(clean.shape[1], observed.shape[1])
    return clean[:, :frames], observed[:, :frames]


def delayed(signal: np.ndarray, delay: float) -> np.ndarray:
    """Audio `[..., time]` that comes `delay` samples later, below half the sampling rate exactly; zeros around it."""
    if delay == 0:
        return signal
    frames = signal.shape[-1]
    size = scipy.fft.next_fast_len(frames + 2 * int(abs(delay)) + 64, real=True)
    turn = np.exp(-2j * np.pi * delay * np.arange(size // 2 + 1) / size)
    shifted: np.ndarray = scipy.fft.irfft(scipy.fft.rfft(signal, size) * turn, size)[..., :frames]
    return shifted
