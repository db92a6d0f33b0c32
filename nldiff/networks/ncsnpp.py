"""NCSN++: the score network for speech, working on a complex spectrogram (Svento et al. 2025, sec. 3.3.1).

The published network is the NCSN++M of Lemercier et al. 2023 ("StoRM"), a small form of the NCSN++ of Song et al. 2021
("Score-Based Generative Modeling through Stochastic Differential Equations", appendix H).

The spectrogram is linear. Speech models that compress its magnitudes run the diffusion itself on compressed
coefficients; here noise is added to the waveform, because the distortion acts on samples, and only a linear transform
leaves it Gaussian and of one level. The inverse of a compression would also have an infinite slope at zero, which the
gradient of the guidance passes through.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nldiff.networks.layers import (
    Conv,
    MagnitudePreservingLayer,
    NoiseEmbedding,
    ScoreNetwork,
    channels_last,
    normalised_activation,
    per_channel,
)

# Last convolutions of the residual branches and of the output start this far below unit gain.
_NEARLY_ZERO = 1e-5


class Spectrogram:
    """Complex short-time spectrum with one frame per `hop` samples, Hann window, and its least-squares inverse.

    White noise of variance 1 has real and imaginary parts of variance 1 each (the first and the last bin are real).

    Args:
        n_fft: length of window and transform, samples; `n_fft` / 2 + 1 bins.
        hop: samples between frames, at most n_fft / 2.
    """

    def __init__(self, n_fft: int, hop: int) -> None:
        if not 0 < hop <= n_fft // 2 or n_fft % 2 or hop % 2:
            raise ValueError(f"n_fft {n_fft} and hop {hop}: even numbers expected, hop at most half of n_fft")
        self.n_fft, self.hop, self.bins = n_fft, hop, n_fft // 2 + 1
        # The window's mean square, 3/8, times the two real numbers of a coefficient.
        self.scale = math.sqrt(2 / (0.375 * n_fft))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, frames * hop] -> [batch, bins, frames]; frame m is centred on sample (m + 1/2) hop."""
        margin = (self.n_fft - self.hop) // 2
        frames = F.pad(x, (margin, margin)).unfold(1, self.n_fft, self.hop) * self._window(x) * self.scale
        return torch.fft.rfft(frames).transpose(1, 2)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """`spectrum` [batch, bins, frames] -> [batch, frames * hop]."""
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=self.n_fft)
        window = self._window(frames)
        weight = window.square().expand(1, frames.shape[1], -1)
        return self._overlap_add(frames * (window / self.scale)) / self._overlap_add(weight)

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        samples, margin = frames.shape[1] * self.hop, (self.n_fft - self.hop) // 2
        columns = frames.transpose(1, 2)
        y = F.fold(columns, (1, samples + 2 * margin), (1, self.n_fft), stride=(1, self.hop))
        return y[:, 0, 0, margin : margin + samples]


class FourierEmbedding(nn.Module):
    """`c_noise` [batch] -> features [batch, width], float32: `width` / 2 random Fourier features and two layers."""

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
    """Group normalisation with scale and shift, then `activation`: groups of at least 4 channels, at most 32 groups."""

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
    """Mean of 2 x 2 neighbours along frequency and time."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Every value 2 x 2 times along frequency and time."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class BigGANBlock(nn.Module):
    """Residual block of NCSN++: twice group norm, swish and 3 x 3 convolution; the sum is divided by sqrt(2).

    `resample` halves or doubles both axes after the first swish and in the skip connection. Where the published block
    adds several constants per channel to the same activation, this one has their sum.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str = "") -> None:
        super().__init__()
        self.resample = {"": None, "halve": halve, "double": double}[resample]
        self.norm_in, self.norm_out = GroupNorm(inputs), GroupNorm(outputs)
        self.first = Conv(inputs, outputs, (3, 3))
        self.modulation = nn.Linear(embedding, outputs)
        self.second = Conv(outputs, outputs, (3, 3), gain=_NEARLY_ZERO)
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
        self.output = Conv(channels, channels, gain=_NEARLY_ZERO)
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, channels, frequency, time] -> same shape and type; the noise level is not used."""
        parts = self.query_key_value(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)[:, None].chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(*parts)[:, 0].unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
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
    """Halve or double both axes without loss: 2 x 2 neighbours are folded into channels, or unfolded."""

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


class NCSNpp(ScoreNetwork):
    """U-Net on the complex spectrogram; every level halves frequency and time, skip connections are concatenated.

    Real and imaginary parts and `patch` x `patch` neighbouring coefficients are the input channels. Signals are padded
    with zeros at the end to a multiple of `granule` samples, one coefficient of the deepest level.

    Args:
        channels: channels per level.
        blocks: residual blocks per level in the encoder; the decoder has one more.
        layer: "biggan" (the paper's) or "magnitude_preserving".
        n_fft, hop: window and step of the spectrogram in samples.
        patch: coefficients folded into channels along both axes; 1 for the paper.
        progressive: add the pooled input at every level of the encoder and sum outputs of all levels of the decoder.
        attention: self-attention between the two blocks of the bottleneck; memory grows with the square of the length.
        position_embedding: add a learned offset per channel and frequency, so that layers know the frequency.
        embedding: width of the noise-level embedding.
        fourier_scale: standard deviation of the frequencies of that embedding; for "biggan".
        gradient_checkpointing: recompute residual blocks in the backward pass; slower, needs less memory.
    """

    def __init__(
        self,
        channels: list[int],
        blocks: int = 1,
        layer: str = "biggan",
        n_fft: int = 510,
        hop: int = 128,
        patch: int = 1,
        progressive: bool = True,
        attention: bool = True,
        position_embedding: bool = False,
        embedding: int = 512,
        fourier_scale: float = 16.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(n_fft, hop)
        self.patch, self.gradient_checkpointing = patch, gradient_checkpointing
        if len(channels) < 2 or blocks < 1 or patch < 1:
            raise ValueError(
                f"{len(channels)} levels of {blocks} blocks and patch {patch}: at least 2 of 1 and patch 1 expected"
            )
        bins, coarsest = self.spectrogram.bins, patch * 2 ** (len(channels) - 1)
        if bins % coarsest:
            raise ValueError(f"{bins} bins (n_fft {n_fft}) are no multiple of {coarsest}, patch * 2^(levels - 1)")
        self.granule = coarsest * hop
        if layer not in ("biggan", "magnitude_preserving"):
            raise ValueError(f"layer '{layer}': biggan or magnitude_preserving expected")
        normalise = layer == "magnitude_preserving"
        if normalise and (progressive or attention):
            raise ValueError("layer magnitude_preserving: progressive=false and attention=false expected")

        def block(inputs: int, outputs: int) -> nn.Module:
            if normalise:
                return MagnitudePreservingBlock(inputs, outputs, embedding)
            return BigGANBlock(inputs, outputs, embedding)

        def resampler(width: int, resample: str) -> nn.Module:
            if normalise:
                return MagnitudePreservingResampler(width, resample)
            return BigGANBlock(width, width, embedding, resample)

        folded, first, last = 2 * patch**2, channels[0], channels[-1]
        self.noise_embedding = (
            NoiseEmbedding(embedding, normalise=True) if normalise else FourierEmbedding(embedding, fourier_scale)
        )
        self.input = Conv(folded, first, (3, 3), normalise=normalise)
        self.position = nn.Parameter(torch.zeros(1, first, bins // patch, 1)) if position_embedding else None

        self.encoder, self.down, self.pyramid = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        skips, width = [first], first
        for k, outputs in enumerate(channels):
            if k:
                self.down.append(resampler(width, "halve"))
                skips.append(width)
                if progressive:
                    self.pyramid.append(Conv(folded, width))
            self.encoder.append(nn.ModuleList(block(width if i == 0 else outputs, outputs) for i in range(blocks)))
            skips.extend([outputs] * blocks)
            width = outputs
        self.bottleneck = nn.ModuleList([block(last, last), block(last, last)])
        if attention:
            self.bottleneck.insert(1, Attention(last))
        self.decoder = nn.ModuleList()
        for outputs in reversed(channels):
            level = nn.ModuleList()
            for _ in range(blocks + 1):
                level.append(block(width + skips.pop(), outputs))
                width = outputs
            self.decoder.insert(0, level)
        self.up = nn.ModuleList(resampler(c, "double") for c in channels[1:])

        # The output starts near zero: an untrained denoiser then returns c_skip * x.
        heads = channels if progressive else [first]
        self.head_norms = nn.ModuleList(nn.SiLU() if normalise else GroupNorm(c) for c in heads)
        self.heads = nn.ModuleList(
            Conv(c, folded, (3, 3), normalise=normalise, gain=1.0 if normalise else _NEARLY_ZERO) for c in heads
        )
        self.output = None if normalise else Conv(folded, folded)
        self.output_gain = nn.Parameter(torch.tensor(1e-3)) if normalise else None

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """`x` [batch, time] float32 at unit variance, `c_noise` [batch] -> [batch, time] float32. Any length."""
        samples = x.shape[-1]
        spectrum = self.spectrogram.forward(F.pad(x, (0, -samples % self.granule)))
        embedding = self.noise_embedding(c_noise)
        pyramid = self._enter(spectrum)

        h = self.input(pyramid)
        if self.position is not None:
            h = h + per_channel(self.position, h)
        skips = [h]
        for k, level in enumerate(self.encoder):
            if k:
                h = self._run(self.down[k - 1], h, embedding)
                if len(self.pyramid):
                    pyramid = halve(pyramid)
                    h = h + self.pyramid[k - 1](pyramid)
                skips.append(h)
            assert isinstance(level, nn.ModuleList)
            for block in level:
                h = self._run(block, h, embedding)
                skips.append(h)
        for block in self.bottleneck:
            h = self._run(block, h, embedding)
        output = None
        for k in reversed(range(len(self.decoder))):
            level = self.decoder[k]
            assert isinstance(level, nn.ModuleList)
            for block in level:
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), embedding)
            if k < len(self.heads):
                y = self.heads[k](self.head_norms[k](h))
                output = y if output is None else y + double(output)
            if k:
                h = self._run(self.up[k - 1], h, embedding)
        assert output is not None
        return self.spectrogram.inverse(self._leave(output))[:, :samples]

    def _run(self, block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, embedding, use_reentrant=False)
        return block(h, embedding)

    def _enter(self, spectrum: Tensor) -> Tensor:
        """Complex [batch, bins, frames] -> [batch, 2 patch^2, bins / patch, frames / patch] in the compute type."""
        x = torch.view_as_real(spectrum).permute(0, 3, 1, 2)
        return channels_last(F.pixel_unshuffle(x, self.patch).to(self.compute_dtype))

    def _leave(self, h: Tensor) -> Tensor:
        """Inverse of `_enter` after the last layer; complex64."""
        h = h if self.output is None else self.output(h)
        h = h.float() if self.output_gain is None else h.float() * self.output_gain
        return torch.view_as_complex(F.pixel_shuffle(h, self.patch).permute(0, 2, 3, 1).contiguous())
