"""Loudness in LUFS (= LKFS), ITU-R BS.1770-4."""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import freqz

from nldiff.errors import NldiffError
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_signal

# Numerator and denominator at 48 kHz.
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_CHANNEL_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.41, 1.41])
_ABSOLUTE_GATE = -70.0
_RELATIVE_GATE = -10.0


def loudness(samples: Signal, sample_rate: int) -> float:
    """Integrated loudness of a programme, ITU-R BS.1770-4, annex 1.

    Power of the K-weighted signal in blocks of 400 ms that start each 100 ms, gated at -70 LUFS and 10 LU below
    the mean of the remaining blocks. An incomplete block at the end does not count.

    Args:
        samples: `[time]` or `[channels, time]`, tensor or array, -1 to 1; up to five channels in the order left,
            right, centre, left and right surround.
        sample_rate: in Hz.

    Returns:
        LUFS; minus infinity for silence. A full-scale sine of 997 Hz in one channel has -3.01 LUFS.

    Raises:
        NldiffError: shorter than 400 ms, more than five channels, or a value is not finite.
    """
    x = np.atleast_2d(as_float64_signal(samples, "signal"))
    if x.ndim != 2 or len(x) > len(_CHANNEL_WEIGHTS):
        raise NldiffError(f"signal of shape {list(x.shape)}: [time] or [channels, time] of 1 to 5 channels expected")
    hop = sample_rate // 10
    if x.shape[1] < 4 * hop:
        raise NldiffError(f"{x.shape[1]} samples at {sample_rate} Hz are too short for a loudness: 0.4 s needed")
    x = k_weighting(x, sample_rate)
    hops = x[:, : x.shape[1] // hop * hop].reshape(len(x), -1, hop)
    energy = _CHANNEL_WEIGHTS[: len(x)] @ np.sum(hops**2, axis=2)
    power = np.lib.stride_tricks.sliding_window_view(energy, 4).sum(axis=1) / (4 * hop)

    kept = power[_lufs(power) > _ABSOLUTE_GATE]
    if kept.size:
        kept = kept[_lufs(kept) > _lufs(np.mean(kept)) + _RELATIVE_GATE]
    return float(_lufs(np.mean(kept))) if kept.size else float("-inf")


def normalise_loudness(samples: Signal, sample_rate: int, lufs: float) -> FloatArray:
    """Bring audio to a loudness, but never above full scale.

    One gain for all samples: the gain that reaches `lufs`, or the smaller one that brings the largest sample to 1.
    Audio with high peaks therefore stays quieter than asked (measure it with `loudness`); it is never limited or
    clipped. Audio below the gate of -70 LUFS counts as silence and keeps its level.

    Args:
        samples: as in `loudness`.
        sample_rate: in Hz.
        lufs: the loudness to reach.

    Returns:
        float64, same shape, -1 to 1 (except for silence).

    Raises:
        NldiffError: as `loudness`.
    """
    x = as_float64_signal(samples, "signal")
    level = loudness(x, sample_rate)
    if level == float("-inf"):
        return x
    return x * min(10 ** ((lufs - level) / 20), 1 / np.max(np.abs(x)))


def k_weighting(samples: FloatArray, sample_rate: int) -> FloatArray:
    """Apply the two filters of the standard (annex 1, tables 1 and 2) by their frequency response.

    The standard tabulates them for 48 kHz and asks for the same response at other rates. Filters transformed to another
    rate miss it (by 0.1 dB at 16 kHz). Above 24 kHz, where the table ends, the response stays constant.

    Args:
        samples: `[..., time]`.
        sample_rate: in Hz.

    Returns:
        The same shape.
    """
    time = samples.shape[-1]
    n_fft = next_fast_len(time + sample_rate // 2, real=True)  # both filters have decayed after half a second
    frequency = np.minimum(rfftfreq(n_fft, 1 / sample_rate), 24000.0)
    response = np.prod([freqz(*coefficients, frequency, fs=48000)[1] for coefficients in (_SHELF, _HIGH_PASS)], axis=0)
    return irfft(rfft(samples, n_fft) * response, n_fft)[..., :time]


def _lufs(power: FloatArray | np.floating) -> FloatArray:
    with np.errstate(divide="ignore"):
        return -0.691 + 10 * np.log10(power)
