"""Log-spectral distance between two signals."""

import numpy as np

from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair
from nldiff.transforms.spectrogram import power_spectrogram


def lsd(
    reference: Signal,
    estimate: Signal,
    n_fft: int = 2048,
    hop: int = 512,
    eps: float = 1e-8,
    frame_root: bool = False,
) -> FloatArray:
    """Log-spectral distance, Svento et al. 2025, eq. 15.

    The distance is the mean over all frames and bins of the squared difference of `log10(|Y|^2 + eps)`. Such a
    logarithm of a power counts bels, so the unit is bel^2: 1 means a typical difference of 10 dB. The value depends on
    n_fft and hop, and strongly on eps and the signals' level. The paper states none of them: compare only values of
    equal settings.

    Args:
        reference: y, `[..., time]`, tensor or array, -1 to 1.
        estimate: estimate of y, same shape.
        n_fft: length of the periodic Hann window and of the transform, samples.
        hop: step between frames, samples.
        eps: power added to each bin before the logarithm.
        frame_root: take the root of each frame's mean square before the mean over frames. This is the older definition
            of the distance, in bel (times 10: dB).

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
