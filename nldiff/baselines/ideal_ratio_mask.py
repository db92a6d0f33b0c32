"""Ideal ratio mask, which needs the clean signal: the limit of networks that scale the observation's spectrogram.

Imort et al. 2022 (sec. 4) define it as "the ratio between the reference and the test spectrogram", with "the phase of
the input signal", and compare with it as the upper limit of Open-Unmix. The mask is therefore |X| / |Y| without a limit
of 1, as Open-Unmix has none either: distortion lowers peaks, and a mask up to 1 could not raise them again. Masks that
divide by the sum of the target and the rest, |X| / (|X| + |Y - X|) and its powers, as used in source separation
(Narayanan and Wang 2013, their reference), have that limit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.networks.ncsnpp import Spectrogram


def ideal_ratio_mask(clean: Tensor, observed: Tensor, n_fft: int = 1024, hop: int = 256) -> Tensor:
    """Give the observation's spectrogram the magnitudes of the clean one and keep its phase.

    Args:
        clean: the signal before the distortion, [batch, time] float32.
        observed: the distorted signal, same shape.
        n_fft: length of the Hann window of the spectrogram, samples, even.
        hop: its step, samples, even, at most half of `n_fft`.

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
    x, y = spectrogram_of(clean, transform), spectrogram_of(observed, transform)
    # |X| / |Y| * Y, also where Y is zero
    return transform.inverse(torch.polar(x.abs(), y.angle()))[:, : clean.shape[1]]


def spectrogram_of(x: Tensor, transform: Spectrogram) -> Tensor:
    """`x` [batch, time] of any length, padded with zeros to whole steps -> complex [batch, bins, frames]."""
    return transform.forward(F.pad(x, (0, -x.shape[1] % transform.hop)))
