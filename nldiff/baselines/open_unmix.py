"""Open-Unmix: a bidirectional LSTM estimates a mask for the magnitude spectrogram; the phase is the input's.

Stöter, Uhlich, Liutkus and Mitsufuji, "Open-Unmix: a reference implementation for music source separation" (2019),
used for the removal of distortion by Imort et al. 2022 (sec. 4) at 16 kHz.

Two things differ from the reference. Batch normalisation is layer normalisation, so that the items of a batch do not
depend on each other and training and inference do the same. And the statistics that standardise the spectrogram, there
measured on the training data before training, start from a rule of thumb; they are trained in both.
"""

import torch
from torch import Tensor, nn

from nldiff.baselines.ideal_ratio_mask import spectrogram_of
from nldiff.networks.ncsnpp import Spectrogram

# Hz over sampling rate: above it, about 240 Hz at 16 kHz, the spectrum of music and speech falls like 1 / frequency.
_CORNER = 0.015


class OpenUnmix(nn.Module):
    """Mask network on magnitude spectrograms: linear layer, LSTM with a skip connection around it, two linear layers.

    The spectrogram is standardised per frequency (`input_mean`, `input_scale`), and so is the mask on its way out
    (`output_scale`, `output_mean`), before ReLU; all four are trained. A mask of 1 returns the input exactly, and the
    mask may be greater than 1. Frames see the whole signal through the LSTM.

    Args:
        hidden: width of the layers, even; the LSTM has half of it in either direction. 512 in the reference
            (5.8 M parameters here); the default has 1.6 M.
        layers: layers of the LSTM.
        n_fft, hop: window and step of the spectrogram, samples, even, `hop` at most half of `n_fft`. The default is 64
            and 16 ms at 16 kHz; the reference has 93 and 23 ms (4096 and 1024 samples at 44.1 kHz).
        initial_mask: factor of the untrained mask, otherwise about 1. Where the target is much quieter than the input,
            training would first make the mask smaller everywhere, down to zeros from which ReLU does not return.
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
        spectrum = spectrogram_of(y, self.spectrogram)
        x = self.enter((spectrum.abs().transpose(1, 2) + self.input_mean) * self.input_scale)
        x = self.leave(torch.cat([x, self.lstm(x)[0]], dim=-1))
        mask = torch.relu(x * self.output_scale + self.output_mean).transpose(1, 2)
        return self.spectrogram.inverse(spectrum * mask)[:, : y.shape[1]]
