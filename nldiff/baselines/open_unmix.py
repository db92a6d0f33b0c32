"""Open-Unmix: a bidirectional LSTM estimates a mask for the magnitude spectrogram; the phase is the input's.

Stöter, Uhlich, Liutkus and Mitsufuji, "Open-Unmix: a reference implementation for music source separation" (2019),
used for the removal of distortion by Imort et al. 2022 (sec. 4) at 16 kHz.

Two things differ from the reference. Layer normalisation takes the place of batch normalisation, so that the items of a
batch do not depend on each other, and training and inference compute the same. The statistics that standardise the
spectrogram are trained in both, but the reference first measures them on the training data; here they start from a rule
of thumb.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from nldiff.transforms import Spectrogram

# The spectrum of music and speech falls like 1 / frequency above this fraction of the sampling rate (240 Hz at 16 kHz).
_CORNER = 0.015


class OpenUnmix(nn.Module):
    """Mask network on magnitude spectrograms: linear layer, LSTM with a skip connection around it, two linear layers.

    The spectrogram is shifted and scaled per frequency on its way in (`input_mean`, `input_scale`), the mask on its way
    out (`output_scale`, `output_mean`), before a ReLU; all four are trained. A mask of 1 returns the input exactly, and
    the mask may be greater than 1. Every frame sees the whole signal through the LSTM.

    Args:
        hidden: width of the layers, even; the LSTM has half of it in either direction. The reference has 512
            (5.8 M parameters here); the default has 1.6 M.
        layers: layers of the LSTM.
        n_fft, hop: window and step of the spectrogram, samples, even, `hop` at most half of `n_fft`. The default is 64
            and 16 ms at 16 kHz; the reference has 93 and 23 ms (4096 and 1024 samples at 44.1 kHz).
        initial_mask: mask of the untrained network, about. Where the target is much quieter than the input, a network
            that starts at 1 first makes the mask smaller everywhere, down to zeros from which ReLU does not return.

    Raises:
        ValueError: `hidden` is odd, or window and step do not fit.
    """

    def __init__(
        self, hidden: int = 256, layers: int = 3, n_fft: int = 1024, hop: int = 256, initial_mask: float = 1.0
    ) -> None:
        super().__init__()
        if hidden < 2 or hidden % 2:
            raise ValueError(f"hidden {hidden}: an even number expected")
        self.spectrogram = Spectrogram(n_fft, hop)
        bins = self.spectrogram.bins
        self.input_mean = nn.Parameter(torch.zeros(bins))
        self.input_scale = nn.Parameter(1 + torch.arange(bins) / (_CORNER * n_fft))
        self.output_scale = nn.Parameter(torch.full((bins,), initial_mask))
        self.output_mean = nn.Parameter(torch.full((bins,), initial_mask))
        self.enter = nn.Sequential(nn.Linear(bins, hidden, bias=False), nn.LayerNorm(hidden), nn.Tanh())
        self.lstm = nn.LSTM(hidden, hidden // 2, layers, bidirectional=True, batch_first=True)
        self.leave = nn.Sequential(
            nn.Linear(2 * hidden, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, bins)
        )

    def forward(self, y: Tensor) -> Tensor:
        """`y` [batch, time] float32 at unit RMS -> [batch, time] float32; any length."""
        spectrum = self.spectrogram.forward(y)
        magnitudes = rearrange(spectrum.abs(), "b bins frames -> b frames bins")
        x = self.enter((magnitudes + self.input_mean) * self.input_scale)
        x = self.leave(torch.cat([x, self.lstm(x)[0]], dim=-1))
        mask = torch.relu(x * self.output_scale + self.output_mean)
        return self.spectrogram.inverse(spectrum * rearrange(mask, "b frames bins -> b bins frames"))[:, : y.shape[1]]
