"""Wave-U-Net: a U-Net on the waveform that halves the rate from level to level.

Stoller, Ewert and Dixon, "Wave-U-Net: a multi-scale neural network for end-to-end audio source separation" (2018), in
the form with decimation, linear interpolation and zero padding.

Imort et al. 2022 (sec. 4) reduced it to "approximately 1M" parameters with 8 levels instead of 12. The original adds 24
channels at every level, with which 8 levels would have 3.4 M; `channels=13` has 0.98 M. Unlike in the original, no tanh
limits the output: restored peaks go beyond those of the input.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_SLOPE = 0.2  # slope of the leaky ReLU below zero


class WaveUNet(nn.Module):
    """U-Net on the waveform with concatenated skip connections; level k has k * `channels` channels.

    A level of the encoder is a convolution, leaky ReLU and decimation by 2. A level of the decoder interpolates
    linearly between neighbours, appends the skip connection and convolves. The output layer, a convolution of length 1,
    also gets the input itself, so that the network computes a correction of it. Signals are padded with zeros at the
    end to a multiple of 2^`levels` samples.

    Args:
        levels: number of halvings of the rate.
        channels: channels that every level adds.
        down_kernel, up_kernel: lengths of the convolutions in encoder and decoder, samples, odd.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, levels: int = 8, channels: int = 13, down_kernel: int = 15, up_kernel: int = 5) -> None:
        super().__init__()
        if levels < 1 or channels < 1:
            raise ValueError(f"{levels} levels of {channels} channels: at least 1 of 1 expected")
        if down_kernel % 2 == 0 or up_kernel % 2 == 0:
            raise ValueError(f"kernels {down_kernel} and {up_kernel}: odd numbers expected")
        widths = [channels * (k + 1) for k in range(levels + 1)]
        self.encoder = nn.ModuleList(
            nn.Conv1d(inputs, outputs, down_kernel, padding=down_kernel // 2)
            for inputs, outputs in zip([1, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            nn.Conv1d(widths[k] + widths[k + 1], widths[k], up_kernel, padding=up_kernel // 2)
            for k in reversed(range(levels))
        )
        self.output = nn.Conv1d(1 + channels, 1, 1)

    def forward(self, y: Tensor) -> Tensor:
        """`y` [batch, time] float32 at unit RMS -> [batch, time] float32; any length."""
        samples, levels = y.shape[1], len(self.decoder)
        y = F.pad(y, (0, -samples % 2**levels))[:, None]
        x, skips = y, []
        for k, layer in enumerate(self.encoder):
            x = F.leaky_relu(layer(x), _SLOPE)
            if k < levels:
                skips.append(x)
                x = x[..., ::2]
        for layer in self.decoder:
            x = F.leaky_relu(layer(torch.cat([skips.pop(), interpolate(x)], dim=1)), _SLOPE)
        return self.output(torch.cat([y, x], dim=1))[:, 0, :samples]


def interpolate(x: Tensor) -> Tensor:
    """`x` [batch, channels, time] -> [batch, channels, 2 time]: `x` at even times, means of neighbours between.

    The last value, which has no neighbour, is repeated.
    """
    following = torch.cat([x[..., 1:], x[..., -1:]], dim=-1)
    return rearrange(torch.stack([x, (x + following) / 2], dim=-1), "b c t n -> b c (t n)")
