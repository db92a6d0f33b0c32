"""Spectrograms: the invertible one of networks and masks, and those of measures and pictures."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from nldiff.errors import NldiffError


class Spectrogram:
    """Complex short-time spectrum with one frame per `hop` samples and a Hann window, and its least-squares inverse.

    White noise of variance 1 has real and imaginary parts of variance 1 each (the first and the last bin are real).

    Args:
        n_fft: length of window and transform, samples, even; there are `n_fft` / 2 + 1 bins.
        hop: samples between frames, even, at most n_fft / 2.

    Raises:
        ValueError: a number is odd or out of range.
    """

    def __init__(self, n_fft: int, hop: int) -> None:
        if not 0 < hop <= n_fft // 2 or n_fft % 2 or hop % 2:
            raise ValueError(f"n_fft {n_fft} and hop {hop}: even numbers expected, hop at most half of n_fft")
        self.n_fft, self.hop, self.bins = n_fft, hop, n_fft // 2 + 1
        # The variance of a coefficient would be the sum of the window's squares, 0.375 n_fft; it shall be 2.
        self.scale = math.sqrt(2 / (0.375 * n_fft))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, time], padded with zeros to whole frames -> [batch, bins, ceil(time / hop)].

        Frame m is centred on sample (m + 1/2) hop.
        """
        margin = (self.n_fft - self.hop) // 2
        x = F.pad(x, (margin, margin + -x.shape[1] % self.hop))
        frames = x.unfold(1, self.n_fft, self.hop) * self._window(x) * self.scale
        return rearrange(torch.fft.rfft(frames), "b frames bins -> b bins frames")

    def inverse(self, spectrum: Tensor) -> Tensor:
        """`spectrum` [batch, bins, frames] -> [batch, frames * hop]."""
        frames = torch.fft.irfft(rearrange(spectrum, "b bins frames -> b frames bins"), n=self.n_fft)
        window = self._window(frames)
        weight = window.square().expand(1, frames.shape[1], -1)
        return self._overlap_add(frames * (window / self.scale)) / self._overlap_add(weight)

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        samples, margin = frames.shape[1] * self.hop, (self.n_fft - self.hop) // 2
        columns = rearrange(frames, "b frames n -> b n frames")
        y = F.fold(columns, (1, samples + 2 * margin), (1, self.n_fft), stride=(1, self.hop))
        return y[:, 0, 0, margin : margin + samples]


def power_spectrogram(
    signal: NDArray[np.float64], n_fft: int, hop: int, window_length: int | None = None
) -> NDArray[np.float64]:
    """Squared magnitudes of a short-time Fourier transform with a periodic Hann window of peak 1, not scaled.

    Frame m is centred on sample m * hop; the signal is mirrored beyond its ends.

    Args:
        signal: `[..., time]`.
        n_fft: length of the transform, samples, even.
        hop: step between frames, samples.
        window_length: length of the window, samples, even, at most `n_fft` (its default); it lies in the middle.

    Returns:
        `[..., 1 + time // hop, n_fft // 2 + 1]`.

    Raises:
        NldiffError: the signal has at most `n_fft // 2` samples and cannot be mirrored.
    """
    if signal.shape[-1] <= n_fft // 2:
        raise NldiffError(f"{signal.shape[-1]} samples are too few for a spectrum of {n_fft} samples")
    margins = [(0, 0)] * (signal.ndim - 1) + [(n_fft // 2, n_fft // 2)]
    padded = np.pad(signal, margins, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::hop, :]
    length = window_length or n_fft
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length), (n_fft - length) // 2)
    return np.abs(np.fft.rfft(frames * window)) ** 2


def constant_q_magnitudes(
    signal: NDArray[np.float64], sample_rate: int, hop: int, lowest: float = 55.0, bins_per_octave: int = 24
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitudes on a logarithmic frequency axis (nnAudio's constant-Q transform), up to 90 % of half the rate.

    A sinusoid of amplitude 1 has the magnitude 1 in the band at its frequency. Frame m is centred on sample m * hop;
    there is silence beyond the ends. This transform is for pictures; `ConstantQ` is invertible.

    Args:
        signal: `[time]`.
        sample_rate: in Hz, above 2.3 times `lowest`.
        hop: step between frames, samples.
        lowest: centre of the lowest band, Hz.
        bins_per_octave: bands per octave.

    Returns:
        Magnitudes `[bands, 1 + time // hop]` in float32 precision, and the centres of the bands, Hz, `[bands]`.
    """
    from nnAudio.features import CQT1992v2  # takes long to import

    bands = 1 + int(bins_per_octave * math.log2(0.45 * sample_rate / lowest))
    sizes = {"hop_length": hop, "fmin": lowest, "n_bins": bands, "bins_per_octave": bins_per_octave}
    transform = CQT1992v2(sample_rate, **sizes, pad_mode="constant", verbose=False)
    x = torch.from_numpy(signal.astype(np.float32))
    return transform(x, normalization_type="wrap")[0].double().numpy(), transform.frequencies
