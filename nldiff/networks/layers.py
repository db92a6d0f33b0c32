"""Building blocks of the score networks: convolutions, resampling along time, noise-level embedding, residual layers.

Activations are `[batch, channels, frequency, time]` in channels_last memory order and in the compute type of the
network (bfloat16 where the machine is fast in it). Statistics and weight normalisation are float32. One operand in
another memory order silently turns a whole chain into the slow path, hence the explicit formats below. In the patterns
of einops, b, c, f and t are these four axes.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


class Conv(nn.Module):
    """2-D convolution along (frequency, time), "same" zero padding, no bias.

    Args:
        inputs, outputs: numbers of channels.
        kernel: size along frequency and time, odd.
        dilation: along frequency.
        normalise: keep every filter at unit gain for uncorrelated unit-variance inputs, as in the
            magnitude-preserving layers of Karras et al. 2024, eq. 47.
        gain: scale of the initial weights; without effect where filters are normalised.
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
        """Weights as they are applied: normalised, in `dtype`, channels_last."""
        w = self.weight
        if self.normalise:
            fan_in = w[0].numel()
            w = w / (torch.linalg.vector_norm(w, dim=(1, 2, 3), keepdim=True) + 1e-4 * math.sqrt(fan_in))
        return w.to(dtype, memory_format=torch.channels_last)

    def freeze(self) -> None:
        """Prepare the kernel only once per compute type from now on; the weights must not change afterwards."""
        self._kernels = {}

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, inputs, frequency, time] -> [batch, outputs, frequency, time], same type."""
        if self._kernels is None:
            return F.conv2d(x, self.kernel(x.dtype), padding=self.padding, dilation=(self.dilation, 1))
        if x.dtype not in self._kernels:
            self._kernels[x.dtype] = self.kernel(x.dtype)
        return _FrozenConvolution.apply(x, self._kernels[x.dtype], self.padding, (self.dilation, 1))


class _FrozenConvolution(torch.autograd.Function):
    """`F.conv2d` with weights that need no gradient. Unlike `F.conv2d`, it does not keep the input for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(w)
        ctx.shape, ctx.padding, ctx.dilation = x.shape, padding, dilation
        return F.conv2d(x, w, padding=padding, dilation=dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (w,), g = ctx.saved_tensors, channels_last(grad_outputs[0])
        # The gradient needs only the input's shape and memory order, not its values.
        x = torch.empty(ctx.shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        by_x, _, _ = torch.ops.aten.convolution_backward(
            g, x, w, None, (1, 1), ctx.padding, ctx.dilation, False, (0, 0), 1, (True, False, False)
        )
        return by_x, None, None, None


# Name -> (function, its backward pass: (gradient, argument) -> gradient).
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "none": (lambda z: z, lambda g, z: g),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "silu": (F.silu, torch.ops.aten.silu_backward),
}


def normalised_activation(
    x: Tensor, gain: Tensor, offset: Tensor | None, groups: int, eps: float, activation: str
) -> Tensor:
    """Normalise `x` per group of channels, scale and shift it, and apply the activation.

    Args:
        x: [batch, channels, frequency, time], channels_last.
        gain: factor of the normalised signal, [batch or 1, channels, 1, 1] float32.
        offset: added after the gain, same shape. None: the mean stays in, and the mean square takes the place of the
            variance.
        groups: number of groups, a divisor of the channels.
        eps: added to the variance.
        activation: "none", "gelu" or "silu".

    Returns:
        Shape, type and memory order of `x`.
    """
    return _NormalisedActivation.apply(x, gain, offset, groups, eps, activation)


class _NormalisedActivation(torch.autograd.Function):
    """Compute f(a x + b), with a and b per channel from gain, offset and the statistics of x.

    The backward pass needs only x, which the layer before holds anyway, and goes over the signal few times. Plain
    autograd would keep three more signals and convert most of them to float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, offset: Tensor | None, groups: int, eps: float, activation: str
    ) -> Tensor:
        gain = gain.to(_statistics_dtype(x))
        square = _group_mean(_channel_sums(x.square()), x, groups)
        if offset is None:
            mean, rate = None, (square + eps).rsqrt()
            a, b = rate * gain, None
        else:
            mean = _group_mean(_channel_sums(x), x, groups)
            rate = ((square - mean.square()).clamp(min=0) + eps).rsqrt()
            a = rate * gain
            b = offset - mean * a
        ctx.save_for_backward(x, gain, mean, rate, a, b)
        ctx.groups, ctx.activation = groups, activation
        return _ACTIVATIONS[activation][0](_affine(x, a, b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, rate, a, b = ctx.saved_tensors
        g = channels_last(grad_outputs[0])
        g = _ACTIVATIONS[ctx.activation][1](g, _affine(x, a, b))
        # Derivatives with respect to gain and offset, per item and channel.
        by_gain = _channel_sums(g * x)
        by_offset = None
        if mean is not None:
            by_offset = _channel_sums(g)
            by_gain = by_gain - mean * by_offset
        by_gain = by_gain * rate
        # The statistics depend on x too: the derivative of the variance is proportional to x, of the mean constant.
        c = -rate.square() * _group_mean(gain * by_gain, x, ctx.groups)
        d = None
        if mean is not None:
            d = -rate * _group_mean(gain * by_offset, x, ctx.groups) - mean * c
        by_x = _affine(x, c, d).addcmul_(g, per_channel(a, x))
        by_gain = by_gain.sum_to_size(gain.shape)
        return by_x, by_gain, None if by_offset is None else by_offset.sum_to_size(gain.shape), None, None, None


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _channel_sums(x: Tensor) -> Tensor:
    """Sums over frequency and time, [batch, channels, 1, 1], at least float32."""
    # The sum over time stays in the type of x, because PyTorch would first convert all of x. Channels stay innermost.
    sums = rearrange(x, "b c f t -> b f t c").sum(2).sum(1, dtype=_statistics_dtype(x))
    return sums[:, :, None, None]


def _group_mean(sums: Tensor, x: Tensor, groups: int) -> Tensor:
    """Mean over the group of every channel of `x`, from `_channel_sums`: [batch, channels, 1, 1]."""
    width = x.shape[1] // groups
    mean = reduce(sums, "b (g w) 1 1 -> b g 1 1", "sum", w=width) / (width * x.shape[2] * x.shape[3])
    return repeat(mean, "b g 1 1 -> b (g w) 1 1", w=width)


def _affine(x: Tensor, a: Tensor, b: Tensor | None) -> Tensor:
    return x * per_channel(a, x) if b is None else torch.addcmul(per_channel(b, x), x, per_channel(a, x))


def downsample_time(x: Tensor) -> Tensor:
    """Halve the time axis (even length) after the anti-aliasing filter [1, 3, 3, 1] / 8, channel by channel."""
    return _DownsampleTime.apply(x)


def upsample_time(x: Tensor) -> Tensor:
    """Double the time axis by linear interpolation, channel by channel: the adjoint filter [1, 3, 3, 1] / 4."""
    return _UpsampleTime.apply(x)


class _DownsampleTime(torch.autograd.Function):
    """Downsampling whose derivative, half of `_UpsampleTime`, stays channels_last; that of autograd does not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        y = torch.add(even, odd) * 0.375
        y[..., 1:].add_(odd[..., :-1], alpha=0.125)
        y[..., :-1].add_(even[..., 1:], alpha=0.125)
        return channels_last(y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _UpsampleTime.apply(grad_outputs[0]) * 0.5


class _UpsampleTime(torch.autograd.Function):
    """Upsampling whose derivative, twice `_DownsampleTime`, stays channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        near = x * 0.75
        left, right = near.clone(), near
        left[..., 1:].add_(x[..., :-1], alpha=0.25)
        right[..., :-1].add_(x[..., 1:], alpha=0.25)
        # Interleaving along time is a free reshape when channels are innermost in memory.
        return channels_last(rearrange(torch.stack([left, right], dim=-1), "b c f t side -> b c f (t side)"))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _DownsampleTime.apply(grad_outputs[0]) * 2


def channels_last(x: Tensor) -> Tensor:
    """Bring the channels of `x` [batch, channels, frequency, time] innermost in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Bring `values` [batch, channels, 1 or frequency, 1] to the type and memory order of `like`."""
    return values.to(like.dtype, memory_format=torch.channels_last)


class ScoreNetwork(nn.Module):
    """Base of the score networks: F(x, c_noise), [batch, time] at unit variance and [batch] -> [batch, time].

    Attributes:
        compute_dtype: type of the convolutions; inputs, outputs and parameters are float32.
        gradient_checkpointing: compute layers again in the backward pass instead of keeping their activations.
    """

    compute_dtype: torch.dtype = torch.float32
    gradient_checkpointing: bool = False

    def freeze(self, dtype: torch.dtype) -> None:
        """Make ready for inference: compute in `dtype`, prepare every kernel once, need no gradients of weights.

        Checkpointing ends: without gradients of weights the backward pass needs little memory.
        """
        self.compute_dtype, self.gradient_checkpointing = dtype, False
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Conv):
                module.freeze()

    def _run(self, layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        """Apply a layer to features `h` and the embedding of the noise level, with checkpointing where it is on."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, h, embedding, use_reentrant=False)
        return layer(h, embedding)


class NoiseEmbedding(nn.Module):
    """Embedding of the noise level: random Fourier features and a small MLP, float32."""

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


class DilatedLayer(nn.Module):
    """Residual layer of the paper's CQT U-Net: group norm with scale only, GELU, dilated 5 x 3 convolution, gate.

    The noise level sets the scale of the normalised input and the gate of the output. The sum with the input is
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
        y = normalised_activation(x, self.norm_scale * (1 + scale), None, self.groups, 1e-7, "gelu")
        y = self.conv(y) * per_channel((1 + gate) * 0.5**0.5, x)
        return torch.add(y, x, alpha=0.5**0.5)


class MagnitudePreservingLayer(nn.Module):
    """Residual layer without normalisation of activations: two unit-gain 3 x 3 convolutions (Karras et al. 2024).

    SiLU is divided by 0.596, its gain for unit-variance inputs. The residual sum is weighted 0.7 : 0.3 and divided by
    its norm. The noise level scales the hidden channels.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels, (3, 3), normalise=True)
        self.second = Conv(channels, channels, (3, 3), normalise=True)
        self.modulation = Conv(embedding, channels, normalise=True)
        self.modulation_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` [batch, channels, frequency, time], `embedding` [batch, embedding, 1, 1] -> shape and type of `x`."""
        # Multiplications that are needed anyway take the constants 1/0.596 and 0.3/0.7616 along.
        scale = 1 + self.modulation_gain * self.modulation(embedding)
        y = self.first(F.silu(x)) * per_channel(scale / 0.596, x)
        y = self.second(F.silu(y))
        return torch.add(x * (0.7 / 0.7616), y, alpha=0.3 / 0.7616 / 0.596)
