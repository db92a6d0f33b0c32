"""Ideal ratio mask, which needs the clean signal: the limit of networks that scale the observation's spectrogram.

Imort et al. 2022 (sec. 4) define it as "the ratio between the reference and the test spectrogram", with "the phase of
the input signal", and use it as the upper limit of Open-Unmix. The mask is therefore |X| / |Y|. Like that of Open-Unmix
it is not limited to 1: distortion lowers peaks, and a mask up to 1 could not raise them again. The masks of source
separation, |X| / (|X| + |Y - X|) and its powers (Narayanan and Wang 2013, their reference), have that limit.
"""

import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.transforms import Spectrogram


def ideal_ratio_mask(clean: Tensor, observed: Tensor, n_fft: int = 1024, hop: int = 256) -> Tensor:
    """Give the observation's spectrogram the magnitudes of the clean one and keep its phase.

    Args:
        clean: signal before the distortion, [batch, time] float32.
        observed: distorted signal, same shape.
        n_fft: length of the Hann window of the spectrogram, samples, even.
        hop: step of the window, samples, even, at most half of `n_fft`.

    Returns:
        [batch, time] float32, at the level of `clean`.

    Raises:
        NldiffError: shapes differ, or window and step do not fit.
    """
    if clean.shape != observed.shape:
        raise NldiffError(f"clean {tuple(clean.shape)} and observed {tuple(observed.shape)}: equal shapes expected")
    try:
        transform = Spectrogram(n_fft, hop)
    except ValueError as error:
        raise NldiffError(str(error)) from error
    magnitude, phase = transform.forward(clean).abs(), transform.forward(observed).angle()
    # This is |X| / |Y| * Y, and defined where Y is zero.
    return transform.inverse(torch.polar(magnitude, phase))[:, : clean.shape[1]]
