"""Log-spectral distance between two signals."""

import numpy as np

from nldiff.errors import NldiffError
from nldiff.metrics.sdr import FloatArray, Signal, as_float64, as_float64_pair


def lsd(
    reference: Signal,
    estimate: Signal,
    n_fft: int = 2048,
    hop: int = 512,
    eps: float = 1e-8,
    frame_root: bool = False,
) -> FloatArray:
    """Log-spectral distance, Svento et al. 2025, eq. 15.

    The mean over all frames and bins of the squared difference of `log10(|Y|^2 + eps)`. Such a logarithm of
    a power counts bels, so the result is in bel^2: 1 means a typical difference of 10 dB. The value hangs on
    n_fft, hop and, very much, on eps and the signals' level, none of which the paper states: compare only
    values of equal settings.

    Args:
        reference: y, `[..., time]`, tensor or array, -1 to 1.
        estimate: of the same shape.
        n_fft: length of the periodic Hann window and of the transform, samples.
        hop: step from frame to frame, samples.
        eps: power added to each bin before the logarithm.
        frame_root: take the root of each frame's mean square before the mean over frames, the older
            definition of the distance, in bel (times 10 is dB).

    Returns:
        bel^2 (bel with `frame_root`), `[...]` (a numpy scalar for `[time]`); 0 where both are equal.

    Raises:
        NldiffError: shapes differ, a value is not finite, or the signals are too short for `n_fft`.
    """
    x, y = as_float64_pair(reference, estimate)
    difference = np.log10(power_spectrogram(x, n_fft, hop) + eps)
    difference -= np.log10(power_spectrogram(y, n_fft, hop) + eps)
    mean_square = np.mean(difference**2, axis=-1)
    return np.mean(np.sqrt(mean_square) if frame_root else mean_square, axis=-1)


def power_spectrogram(signal: Signal, n_fft: int, hop: int, window_length: int | None = None) -> FloatArray:
    """Squared magnitudes of a short-time Fourier transform with a periodic Hann window (peak 1, not scaled).

    Frame m is centred on sample m * hop; beyond its ends the signal is mirrored.

    Args:
        signal: `[..., time]`, tensor or array.
        n_fft: length of the transform, samples, even.
        hop: step from frame to frame, samples.
        window_length: of the window, samples, even, at most `n_fft` (in whose middle it lies), its default.

    Returns:
        `[..., 1 + time // hop, n_fft // 2 + 1]`.

    Raises:
        NldiffError: the signal has no more than `n_fft // 2` samples and cannot be mirrored.
    """
    samples = as_float64(signal)
    if samples.shape[-1] <= n_fft // 2:
        raise NldiffError(f"{samples.shape[-1]} samples are too few for a spectrum of {n_fft} samples")
    margins = [(0, 0)] * (samples.ndim - 1) + [(n_fft // 2, n_fft // 2)]
    padded = np.pad(samples, margins, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::hop, :]
    length = window_length or n_fft
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length), (n_fft - length) // 2)
    return np.abs(np.fft.rfft(frames * window)) ** 2
