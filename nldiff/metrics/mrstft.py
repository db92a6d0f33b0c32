"""Multi-resolution distance of magnitude spectra."""

import numpy as np

from nldiff.metrics.lsd import power_spectrogram
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair, refuse_silence

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
_MIN_POWER = 1e-8


def mrstft(
    reference: Signal, estimate: Signal, resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS
) -> FloatArray:
    """Multi-resolution STFT distance (Yamamoto et al., "Parallel WaveGAN", 2020, eq. 4-6).

    The mean over resolutions of spectral convergence, `|| |X| - |Y| || / || |X| ||` (Frobenius), plus the mean of
    `| ln |X| - ln |Y| |` over frames and bins; magnitudes below 1e-4 count as 1e-4. The resolutions are those of the
    package auraloss, in samples at any rate: compare only values of one sample rate.

    Args:
        reference: x, `[..., time]`, tensor or array.
        estimate: y, same shape.
        resolutions: length of the transform, hop and length of the Hann window for each resolution, in samples.

    Returns:
        `[...]` (a numpy scalar for `[time]`), no unit; 0 where both are equal.

    Raises:
        NldiffError: shapes differ, a value is not finite, a reference is silent, or the signals have no more
            than half as many samples as the longest transform.
    """
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    return np.mean([_distance(_magnitudes(x, *sizes), _magnitudes(y, *sizes)) for sizes in resolutions], axis=0)


def _magnitudes(signal: FloatArray, n_fft: int, hop: int, window_length: int) -> FloatArray:
    return np.sqrt(np.maximum(power_spectrogram(signal, n_fft, hop, window_length), _MIN_POWER))


def _distance(x: FloatArray, y: FloatArray) -> FloatArray:
    convergence = np.linalg.norm(x - y, axis=(-2, -1)) / np.linalg.norm(x, axis=(-2, -1))
    return convergence + np.mean(np.abs(np.log(x) - np.log(y)), axis=(-2, -1))
