"""NCSN++: the score network for speech, working on a complex spectrogram (Svento et al. 2025, sec. 3.3.1).

The published network is the NCSN++M of Lemercier et al. 2023 ("StoRM"), a small form of the NCSN++ of Song et al. 2021
("Score-Based Generative Modeling through Stochastic Differential Equations", appendix H).

The spectrogram is linear. Speech models that compress its magnitudes run the diffusion itself on compressed
coefficients; here noise is added to the waveform, because the distortion acts on samples, and only a linear transform
leaves it Gaussian and of one level. The inverse of a compression would also have an infinite slope at zero, which the
gradient of the guidance passes through.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nldiff.networks.layers import Conv, NoiseEmbedding, ScoreNetwork, per_channel
from nldiff.networks.ncsnpp_blocks import (
    NEARLY_ZERO,
    Attention,
    BigGANBlock,
    FourierEmbedding,
    GroupNorm,
    MagnitudePreservingBlock,
    MagnitudePreservingResampler,
    double,
    halve,
)
from nldiff.transforms import Spectrogram


class NCSNpp(ScoreNetwork):
    """U-Net on the complex spectrogram: every level halves frequency and time, skip connections are concatenated.

    The input channels are the real and imaginary parts of `patch` x `patch` neighbouring coefficients. Signals are
    padded with zeros at the end to a multiple of `granule` samples, one coefficient of the deepest level.

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
        signals: number of input signals; the output is one.
        gradient_checkpointing: recompute residual blocks in the backward pass; slower, but needs less memory.

    Raises:
        ValueError: arguments that do not fit together.
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
        signals: int = 1,
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

        self.noise_embedding = (
            NoiseEmbedding(embedding, normalise=True) if normalise else FourierEmbedding(embedding, fourier_scale)
        )
        folded, first = 2 * patch**2, channels[0]
        self.input = Conv(signals * folded, first, (3, 3), normalise=normalise)
        self.position = nn.Parameter(torch.zeros(1, first, bins // patch, 1)) if position_embedding else None
        self._add_levels(channels, blocks, normalise, signals * folded * progressive, attention, embedding)

        # The output starts near zero, so that an untrained denoiser returns c_skip * x.
        heads = channels if progressive else [first]
        self.head_norms = nn.ModuleList(nn.SiLU() if normalise else GroupNorm(c) for c in heads)
        self.heads = nn.ModuleList(
            Conv(c, folded, (3, 3), normalise=normalise, gain=1.0 if normalise else NEARLY_ZERO) for c in heads
        )
        self.output = None if normalise else Conv(folded, folded)
        self.output_gain = nn.Parameter(torch.tensor(1e-3)) if normalise else None

    def _add_levels(
        self, channels: list[int], blocks: int, normalise: bool, pyramid: int, attention: bool, embedding: int
    ) -> None:
        """Make encoder, bottleneck and decoder; `pyramid`: channels of the pooled input, 0 without it.

        The skip connections are the outputs of all parts of the encoder.
        """

        def block(inputs: int, outputs: int) -> nn.Module:
            return (MagnitudePreservingBlock if normalise else BigGANBlock)(inputs, outputs, embedding)

        def resampler(width: int, resample: str) -> nn.Module:
            if normalise:
                return MagnitudePreservingResampler(width, resample)
            return BigGANBlock(width, width, embedding, resample)

        self.encoder, self.down, self.pyramid = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width, last = channels[0], channels[-1]
        skips = [width]
        for k, outputs in enumerate(channels):
            if k:
                self.down.append(resampler(width, "halve"))
                skips.append(width)
                if pyramid:
                    self.pyramid.append(Conv(pyramid, width))
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

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """`x` [batch, time] float32 at unit variance, any length; `c_noise` [batch] -> [batch, time] float32.

        With several `signals` x is [batch, signals, time].
        """
        samples = x.shape[-1]
        signals = x.reshape(len(x), -1, samples)
        spectrum = self.spectrogram.forward(F.pad(signals.flatten(0, 1), (0, -samples % self.granule)))
        spectrum = spectrum.unflatten(0, signals.shape[:2])
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

    def _enter(self, spectrum: Tensor) -> Tensor:
        """Complex [batch, signals, bins, frames] to folded channels in the compute type.

        They are [batch, 2 signals patch^2, bins / patch, frames / patch].
        """
        p = self.patch
        x = rearrange(torch.view_as_real(spectrum), "b s (f p) (t q) part -> b (s part p q) f t", p=p, q=p)
        return x.to(self.compute_dtype, memory_format=torch.channels_last)

    def _leave(self, h: Tensor) -> Tensor:
        """Inverse of `_enter` after the last layer; complex64."""
        h = h if self.output is None else self.output(h)
        h = h.float() if self.output_gain is None else h.float() * self.output_gain
        # In two steps, the first of which is a view: the derivative then stays channels_last.
        h = rearrange(h, "b c f t -> b f t c")
        h = rearrange(h, "b f t (part p q) -> b (f p) (t q) part", p=self.patch, q=self.patch)
        return torch.view_as_complex(h.contiguous())
