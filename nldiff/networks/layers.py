"""Building blocks of the score networks: convolutions, resampling along time, noise-level embedding, residual layers.

Activations are `[batch, channels, frequency, time]` in channels_last memory order and the compute type of the network
(bfloat16 where the machine is fast in it); statistics and weight normalisation are float32. One operand in another
memory order silently turns a whole chain into the slow path, hence the explicit formats below.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """2-D convolution along (frequency, time), "same" zero padding, no bias.

    With `normalise=True` every filter is kept at unit gain for uncorrelated unit-variance inputs (the
    magnitude-preserving layers of Karras et al. 2024, eq. 47), otherwise it is a plain convolution with `gain`
    scaling its initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        dilation: int = 1,
        normalise: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.normalise, self.dilation = normalise, dilation
        scale = 1.0 if normalise else gain / math.sqrt(inputs * kernel[0] * kernel[1])
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel) * scale)
        self.padding = (dilation * (kernel[0] // 2), kernel[1] // 2)
        self._kernels: dict[torch.dtype, Tensor] | None = None

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """The weights as they are applied: normalised, in `dtype`, channels_last."""
        w = self.weight
        if self.normalise:
            fan_in = w[0].numel()
            w = w / (torch.linalg.vector_norm(w, dim=(1, 2, 3), keepdim=True) + 1e-4 * math.sqrt(fan_in))
        return w.to(dtype, memory_format=torch.channels_last)

    def freeze(self) -> None:
        """Prepare the kernel once per compute type from now on; the weights must not change any more."""
        self._kernels = {}

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, inputs, frequency, time] -> [batch, outputs, frequency, time], same type."""
        if self._kernels is None:
            w = self.kernel(x.dtype)
        else:
            if x.dtype not in self._kernels:
                self._kernels[x.dtype] = self.kernel(x.dtype)
            w = self._kernels[x.dtype]
        return F.conv2d(x, w, padding=self.padding, dilation=(self.dilation, 1))


def downsample_time(x: Tensor) -> Tensor:
    """Halve the time axis (even length) after the anti-aliasing filter [1, 3, 3, 1] / 8, channel by channel."""
    even, odd = x[..., 0::2], x[..., 1::2]
    y = torch.add(even, odd) * 0.375
    y[..., 1:].add_(odd[..., :-1], alpha=0.125)
    y[..., :-1].add_(even[..., 1:], alpha=0.125)
    return y.contiguous(memory_format=torch.channels_last)


def upsample_time(x: Tensor) -> Tensor:
    """Double the time axis by linear interpolation, channel by channel: the adjoint filter [1, 3, 3, 1] / 4."""
    near = x * 0.75
    left, right = near.clone(), near
    left[..., 1:].add_(x[..., :-1], alpha=0.25)
    right[..., :-1].add_(x[..., 1:], alpha=0.25)
    # Interleaving along time is a free reshape when channels are innermost in memory.
    y = torch.stack([left, right], dim=-1).flatten(-2)
    return y.contiguous(memory_format=torch.channels_last)


class ScoreNetwork(nn.Module):
    """Base of the score networks: F(x, c_noise), [batch, time] at unit variance and [batch] -> [batch, time].

    `compute_dtype` is the type of the convolutions; inputs, outputs and parameters are float32.
    """

    compute_dtype: torch.dtype = torch.float32

    def freeze(self, dtype: torch.dtype) -> None:
        """Make ready for inference: compute in `dtype`, prepare every kernel once, no gradients for weights."""
        self.compute_dtype = dtype
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Conv):
                module.freeze()


class NoiseEmbedding(nn.Module):
    """`c_noise` [batch] -> features [batch, width, 1, 1]: random Fourier features and a small MLP, float32."""

    frequencies: Tensor

    def __init__(self, width: int = 256, features: int = 32, normalise: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", torch.randn(features // 2, generator=generator) * 4.0)
        sizes = [features, 128, width, width]
        self.mlp = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            self.mlp.extend([Conv(inputs, outputs, normalise=normalise), nn.SiLU()])

    def forward(self, c_noise: Tensor) -> Tensor:
        """`c_noise` [batch] float32 -> [batch, width, 1, 1] float32."""
        phase = 2 * math.pi * c_noise[:, None] * self.frequencies
        fourier = torch.cat([phase.cos(), phase.sin()], dim=-1) * 2**0.5
        return self.mlp(fourier[:, :, None, None])


def _match(scale: Tensor, like: Tensor) -> Tensor:
    """`[batch, channels, 1, 1]` in the type and memory order of `like`."""
    return scale.to(like.dtype, memory_format=torch.channels_last)


class DilatedLayer(nn.Module):
    """Residual layer of the paper's CQT U-Net: scale-only group norm, GELU, dilated 5 x 3 convolution, gate.

    The noise level sets the scale of the normalised input and the gate of the output; the sum with the input is
    divided by sqrt(2).
    """

    groups = 8

    def __init__(self, channels: int, embedding: int, dilation: int) -> None:
        super().__init__()
        self.norm_scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.modulation = Conv(embedding, 2 * channels, gain=0.1)
        self.conv = Conv(channels, channels, (5, 3), dilation=dilation, gain=1.4)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, channels, frequency, time], `embedding` [batch, embedding, 1, 1] -> shape and type of `x`."""
        scale, gate = self.modulation(embedding).chunk(2, dim=1)
        # The statistics are reduced per channel first, so that norm and modulation are a single multiplication.
        # Squares in the type of x: a float32 copy would double the memory that the backward pass needs.
        energy = x.square().sum(dim=(2, 3), keepdim=True, dtype=torch.float32)
        mean_square = energy.unflatten(1, (self.groups, -1)).mean(2, keepdim=True) / (x.shape[2] * x.shape[3])
        norm = (mean_square + 1e-7).rsqrt().expand(-1, -1, x.shape[1] // self.groups, -1, -1).flatten(1, 2)
        y = F.gelu(x * _match(norm * self.norm_scale * (1 + scale), x))
        y = self.conv(y) * _match((1 + gate) * 0.5**0.5, x)
        return torch.add(y, x, alpha=0.5**0.5)


class MagnitudePreservingLayer(nn.Module):
    """Residual layer without normalisation of activations: two unit-gain 3 x 3 convolutions (Karras et al. 2024).

    SiLU is divided by 0.596, its gain for unit-variance inputs, and the residual sum is weighted 0.7 : 0.3 and
    divided by its norm; the noise level scales the hidden channels.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels, (3, 3), normalise=True)
        self.second = Conv(channels, channels, (3, 3), normalise=True)
        self.modulation = Conv(embedding, channels, normalise=True)
        self.modulation_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, channels, frequency, time], `embedding` [batch, embedding, 1, 1] -> shape and type of `x`."""
        # The constants 1/0.596 and 0.3/0.7616 are folded into the multiplications that are needed anyway.
        scale = 1 + self.modulation_gain * self.modulation(embedding)
        y = self.first(F.silu(x)) * _match(scale / 0.596, x)
        y = self.second(F.silu(y))
        return torch.add(x * (0.7 / 0.7616), y, alpha=0.3 / 0.7616 / 0.596)
