"""Blocks of NCSN++ in two families: BigGAN (the paper's) and magnitude-preserving.

A block takes features [batch, channels, frequency, time] and the embedding of the noise level, and returns features.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nldiff.networks.layers import Conv, MagnitudePreservingLayer, channels_last, normalised_activation, per_channel

# Initial gain of the last convolutions of the residual branches and of the output.
NEARLY_ZERO = 1e-5


class FourierEmbedding(nn.Module):
    """Embedding of the noise level: `width` / 2 random Fourier features and two layers, float32."""

    frequencies: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", torch.randn(width // 4, generator=generator) * scale)
        self.mlp = nn.Sequential(nn.Linear(width // 4 * 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, c_noise: Tensor) -> Tensor:
        """`c_noise` [batch] float32 -> [batch, width] float32."""
        phase = 2 * math.pi * c_noise[:, None] * self.frequencies
        return self.mlp(torch.cat([phase.sin(), phase.cos()], dim=-1))


class GroupNorm(nn.Module):
    """Group normalisation with scale and shift, then `activation`.

    Groups have at least 4 channels, and there are at most 32 of them.
    """

    def __init__(self, channels: int, activation: str = "silu") -> None:
        super().__init__()
        self.groups, self.activation = max(1, min(channels // 4, 32)), activation
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups")
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, channels, frequency, time] -> same shape, type and memory order."""
        gain, offset = (p[None, :, None, None] for p in (self.weight, self.bias))
        return normalised_activation(x, gain, offset, self.groups, 1e-6, self.activation)


def halve(x: Tensor) -> Tensor:
    """Halve frequency and time: mean of 2 x 2 neighbours."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Double frequency and time: every value 2 x 2 times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class BigGANBlock(nn.Module):
    """Residual block of NCSN++: group norm, swish and 3 x 3 convolution, twice; the sum is divided by sqrt(2).

    `resample` ("halve", "double" or "") acts on both axes, after the first swish and in the skip connection. Where the
    published block adds several constants per channel to the same activation, this one has their sum.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str = "") -> None:
        super().__init__()
        self.resample = {"": None, "halve": halve, "double": double}[resample]
        self.norm_in, self.norm_out = GroupNorm(inputs), GroupNorm(outputs)
        self.first = Conv(inputs, outputs, (3, 3))
        self.modulation = nn.Linear(embedding, outputs)
        self.second = Conv(outputs, outputs, (3, 3), gain=NEARLY_ZERO)
        self.shift = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.skip = Conv(inputs, outputs) if inputs != outputs or resample else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, inputs, F, T], `embedding` [batch, embedding] -> [batch, outputs, F', T'], type of `x`."""
        y = self.norm_in(x)
        if self.resample is not None:
            x, y = self.resample(x), self.resample(y)
        y = self.first(y) + per_channel(self.modulation(embedding)[:, :, None, None], x)
        y = self.second(self.norm_out(y))
        x = x if self.skip is None else self.skip(x)
        return (torch.add(x, y) + per_channel(self.shift[None], x)) * 0.5**0.5


class Attention(nn.Module):
    """Self-attention with one head over all frequencies and frames; the residual sum is divided by sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, activation="none")
        self.query_key_value = Conv(channels, 3 * channels)
        self.output = Conv(channels, channels, gain=NEARLY_ZERO)
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, channels, frequency, time] -> same shape and type; the noise level is not used."""
        parts = rearrange(self.query_key_value(self.norm(x)), "b c f t -> b 1 (f t) c").chunk(3, dim=-1)
        y = rearrange(F.scaled_dot_product_attention(*parts), "b 1 (f t) c -> b c f t", f=x.shape[2])
        return (torch.add(x, self.output(y)) + per_channel(self.shift[None], x)) * 0.5**0.5


class MagnitudePreservingBlock(nn.Module):
    """`MagnitudePreservingLayer` after a projection to its number of channels, where that differs."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.projection = Conv(inputs, outputs, normalise=True) if inputs != outputs else None
        self.layer = MagnitudePreservingLayer(outputs, embedding)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, inputs, F, T], `embedding` [batch, embedding, 1, 1] -> [batch, outputs, F, T], type of `x`."""
        return self.layer(x if self.projection is None else self.projection(x), embedding)


class MagnitudePreservingResampler(nn.Module):
    """Halve or double both axes without loss: fold 2 x 2 neighbours into channels, or unfold them.

    `pixel_shuffle` keeps channels_last in both passes; a rearrangement by einops takes twice as long.
    """

    def __init__(self, channels: int, resample: str) -> None:
        super().__init__()
        self.halve = resample == "halve"
        sizes = (4 * channels, channels) if self.halve else (channels, 4 * channels)
        self.conv = Conv(*sizes, normalise=True)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, channels, F, T] -> half or double F and T; the noise level is not used."""
        if self.halve:
            return self.conv(channels_last(F.pixel_unshuffle(x, 2)))
        return channels_last(F.pixel_shuffle(self.conv(x), 2))
