"""CQT U-Net: the score network for music, working on constant-Q coefficients (Svento et al. 2025, sec. 3.1.2)."""

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from nldiff.networks.layers import (
    Conv,
    DilatedLayer,
    MagnitudePreservingLayer,
    NoiseEmbedding,
    ScoreNetwork,
    channels_last,
    downsample_time,
    per_channel,
    upsample_time,
)
from nldiff.transforms import ConstantQ


class CQTUNet(ScoreNetwork):
    """U-Net over octaves: every level halves the time rate and appends the next lower octave to the frequency axis.

    Level k works on octaves 0 (highest) to k at the frame rate of octave k. The linear group below the lowest octave
    joins at the deepest level. The input channels are the real and imaginary parts of `patch[0]` neighbouring bins in
    `patch[1]` neighbouring frames.

    Args:
        channels: channels per level, one entry per octave.
        layers: residual layers per level, in the encoder and again in the decoder.
        bottleneck: residual layers between encoder and decoder.
        layer: "dilated" (the paper's; dilation 2^i along frequency) or "magnitude_preserving".
        patch: bins and frames folded into channels; (1, 1) for the paper.
        bins_per_octave: bands per octave, a multiple of `patch[0]`.
        window: window of the transform, see `ConstantQ`.
        position_embedding: add a learned offset per channel and frequency, so that layers know the pitch.
        embedding: width of the noise-level embedding.
        gradient_checkpointing: recompute residual layers in the backward pass; slower, but needs less memory.

    Raises:
        ValueError: arguments that do not fit together.
    """

    def __init__(
        self,
        channels: list[int],
        layers: list[int],
        bottleneck: int = 0,
        layer: str = "dilated",
        patch: tuple[int, int] = (1, 1),
        bins_per_octave: int = 32,
        window: str = "kaiser",
        position_embedding: bool = False,
        embedding: int = 256,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != len(layers):
            raise ValueError(f"{len(channels)} channels and {len(layers)} layers: one of each per octave expected")
        if len(channels) < 2:
            raise ValueError(f"{len(channels)} octave(s): at least 2 expected")
        if bins_per_octave % patch[0]:
            raise ValueError(f"{bins_per_octave} bins per octave are no multiple of patch {patch[0]}")
        if layer not in ("dilated", "magnitude_preserving"):
            raise ValueError(f"layer '{layer}': dilated or magnitude_preserving expected")
        if layer == "dilated" and any(c % DilatedLayer.groups for c in channels):
            raise ValueError(f"channels {list(channels)}: multiples of {DilatedLayer.groups} expected")
        self.patch, self.gradient_checkpointing = tuple(patch), gradient_checkpointing
        octaves = len(channels)
        self.transform = ConstantQ(octaves, bins_per_octave, window)
        normalise = layer == "magnitude_preserving"
        self.noise_embedding = NoiseEmbedding(embedding, normalise=normalise)
        # The deepest level has one frame per granule of the transform; patches of frames must be whole there too.
        self.granule = self.transform.granule * patch[1]
        folded, self.rows = 2 * patch[0] * patch[1], bins_per_octave // patch[0]

        def stack(width: int, count: int) -> nn.ModuleList:
            if normalise:
                return nn.ModuleList(MagnitudePreservingLayer(width, embedding) for _ in range(count))
            return nn.ModuleList(DilatedLayer(width, embedding, 2**i) for i in range(count))

        groups = [*channels, channels[-1]]
        self.inputs = nn.ModuleList(Conv(folded, c, normalise=normalise) for c in groups)
        self.outputs = nn.ModuleList(Conv(c, folded, normalise=normalise) for c in groups)
        # The output starts near zero, so that an untrained denoiser returns c_skip * x.
        self.output_gain = nn.Parameter(torch.full((octaves + 1,), 1e-3))
        self.position = (
            nn.ParameterList(torch.zeros(1, c, self.rows, 1) for c in groups) if position_embedding else None
        )
        self.down = nn.ModuleList(Conv(a, b, normalise=normalise) for a, b in pairwise(channels))
        self.up = nn.ModuleList(Conv(b, a, normalise=normalise) for a, b in pairwise(channels))
        self.encoder = nn.ModuleList(stack(c, n) for c, n in zip(channels, layers, strict=True))
        self.bottleneck = stack(channels[-1], bottleneck)
        self.decoder = nn.ModuleList(stack(c, n) for c, n in zip(channels, layers, strict=True))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """`x` [batch, time] float32 at unit variance, any length; `c_noise` [batch] -> [batch, time] float32."""
        samples = x.shape[-1]
        padded = -(-samples // self.granule) * self.granule
        groups = self.transform.forward(nn.functional.pad(x, (0, padded - samples)))
        embedding = self.noise_embedding(c_noise)

        skips = []
        h = None
        for k, stack in enumerate(self.encoder):
            low = self._enter(k, groups[k])
            if h is None:
                h = low
            else:
                parts = [low, self.down[k - 1](downsample_time(h))]
                if k == len(self.encoder) - 1:
                    parts.insert(0, self._enter(k + 1, groups[k + 1]))
                h = channels_last(torch.cat(parts, dim=2))
            h = self._run_stack(stack, h, embedding)
            skips.append(h)
        assert h is not None
        h = self._run_stack(self.bottleneck, h, embedding)

        outputs: list[Tensor] = [torch.empty(0)] * len(groups)
        for k in reversed(range(len(self.decoder))):
            h = self._run_stack(self.decoder[k], torch.add(h, skips[k]) * 0.5**0.5, embedding)
            # The derivative of `split` is channels_last, that of slicing is not.
            own, *rest = h.split(self.rows, dim=2)
            if k == len(self.decoder) - 1:
                outputs[k + 1] = self._leave(k + 1, own)
                own, *rest = rest
            outputs[k] = self._leave(k, own)
            if k:
                h = upsample_time(self.up[k - 1](channels_last(torch.cat(rest, dim=2))))
        return self.transform.inverse(outputs, padded)[:, :samples]

    def _run_stack(self, stack: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        assert isinstance(stack, nn.ModuleList)
        for layer in stack:
            h = self._run(layer, h, embedding)
        return h

    def _enter(self, k: int, coefficients: Tensor) -> Tensor:
        """Complex [batch, bins, frames] -> features [batch, channels, bins / p, frames / q]."""
        p, q = self.patch
        x = rearrange(torch.view_as_real(coefficients), "b (f p) (t q) part -> b (p q part) f t", p=p, q=q)
        h = self.inputs[k](x.to(self.compute_dtype, memory_format=torch.channels_last))
        if self.position is not None:
            h = h + per_channel(self.position[k], h)
        return h

    def _leave(self, k: int, h: Tensor) -> Tensor:
        """Inverse of `_enter`: features -> complex64 coefficients."""
        p, q = self.patch
        x = self.outputs[k](channels_last(h)).float() * self.output_gain[k]
        x = rearrange(x, "b (p q part) f t -> b (f p) (t q) part", p=p, q=q)
        return torch.view_as_complex(x.contiguous())
