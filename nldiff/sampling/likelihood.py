"""The likelihood: how well a distorted estimate explains the observation, and the weight of the gradient of that.

Equations refer to Švento et al., "Estimation and Restoration of Unknown Nonlinear Distortion using Diffusion"
(2025).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nldiff.errors import NldiffError
from nldiff.operators import Operator
from nldiff.sampling.settings import CostSettings, SamplerSettings
from nldiff.transforms.stft import overlap_add, stft

# Added to |STFT|^2 before the power, against the infinite slope at zero. It matters for bins around 1e-5 and below,
# 128 dB under that of a sinusoid of amplitude 0.1 in a Hann window of 1024.
_EPSILON = 1e-10


class Cost(ABC):
    """A distance `C(y, y_hat)` of audio [batch, time], one value per item [batch], differentiable by `y_hat`."""

    @abstractmethod
    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Do the work on the observation `y` [batch, time] once; returns the function `y_hat -> C(y, y_hat)`."""

    def __call__(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Compute the distance [batch] of `y_hat` from `y`, both [batch, time]."""
        return self.prepare(y)(y_hat)


@dataclass(frozen=True)
class CompressedSTFTCost(Cost):
    """Squared distance of magnitude-compressed spectra, eq. 8: mean over frames of the sum over bins.

    Attributes:
        settings: window, step and exponent.
    """

    settings: CostSettings = field(default_factory=CostSettings)

    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Compute the spectrum of the observation `y` [batch, time] once.

        Raises:
            NldiffError: the returned function, for an estimate of another shape.
        """
        target = compressed_stft(y.detach(), self.settings)

        def cost(y_hat: Tensor) -> Tensor:
            if y_hat.shape != y.shape:
                raise NldiffError(f"cost: estimate {tuple(y_hat.shape)} and observation {tuple(y.shape)} differ")
            distance: Tensor = _CompressedDistance.apply(y_hat, target, self.settings)
            return distance

        return cost


def compressed_stft(y: Tensor, settings: CostSettings) -> Tensor:
    """Short-time spectrum with compressed magnitudes, S_comp of eq. 8: `|S|^exponent e^{j angle(S)}`.

    Args:
        y: audio [batch, time], at least one sample; frames are centred on multiples of the hop, with zeros beyond both
            ends.
        settings: window, step and exponent.

    Returns:
        Complex [batch, frames, bins], 1 + floor(time / hop) frames of n_fft / 2 + 1 bins.
    """
    spectrum = stft(y, settings.n_fft, settings.hop)
    return spectrum * _compression(spectrum, settings.exponent)[1]


def guidance_scale(grad: Tensor, sigma: Tensor | float, zeta: float) -> Tensor:
    """Weight of the gradient, eq. 9: `sqrt(L) zeta / (sigma |grad|_2)` for L samples.

    Args:
        grad: gradient of the cost by the noisy audio [batch, time].
        sigma: noise level, [batch] or one number, greater than 0.
        zeta: strength of the guidance.

    Returns:
        Factor per item [batch]; 0 where the whole gradient is 0.
    """
    # Double precision: the squares of a small gradient underflow in float32. The CPU: not every accelerator has it.
    norm = torch.linalg.vector_norm(grad.cpu(), dim=1, dtype=torch.float64)
    scale = torch.where(norm > 0, math.sqrt(grad.shape[1]) * zeta / norm, 0.0)
    return (scale / (sigma.cpu() if isinstance(sigma, Tensor) else sigma)).to(grad)


@dataclass(frozen=True)
class Likelihood:
    """What pulls the samples towards an observation.

    Attributes:
        operator: f, known or fitted on the way.
        cost: distance of a distorted estimate [batch, time] from the observation, [batch]; eq. 8.
        fit: fits the operator to an estimate of the clean signal [batch, time]; nothing if it is known.
        guidance: (gradient of the cost [batch, time], sigma, zeta) -> weights of that gradient [batch]; eq. 9.
        settings: `zeta` and `through_denoiser`.
    """

    operator: Operator
    cost: Callable[[Tensor], Tensor]
    fit: Callable[[Tensor], None]
    guidance: Callable[[Tensor, float, float], Tensor]
    settings: SamplerSettings

    def gradient(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the cost C(y, f(x0)) [batch] and its gradient [batch, time] by the estimate `x0` [batch, time]."""
        leaf = x0.clone().requires_grad_(True)
        cost = self.cost(self.operator(leaf))
        return cost.detach(), torch.autograd.grad(cost.sum(), leaf)[0]


class _CompressedDistance(torch.autograd.Function):
    """Eq. 8 as one operation: its own backward takes half the time of the chain of elementary ones."""

    @staticmethod
    def forward(ctx: Any, y_hat: Tensor, target: Tensor, settings: CostSettings) -> Tensor:
        s = stft(y_hat, settings.n_fft, settings.hop)
        q, m = _compression(s, settings.exponent)
        d = s * m - target
        ctx.save_for_backward(s, q, m, d)
        ctx.settings, ctx.length = settings, y_hat.shape[1]
        return _power(d).sum((1, 2)) / s.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # with m = q^((exponent - 1) / 2), the gradient of |s m - target|^2 = |d|^2 by s is
        # 2 m (d + s (exponent - 1) Re(s* d) / q)
        s, q, m, d = ctx.saved_tensors
        radial = (ctx.settings.exponent - 1) * (s.conj() * d).real / q
        grad_s = (s * radial).add_(d).mul_(m * (2 * grad[:, None, None] / s.shape[1]))
        return _stft_adjoint(grad_s, ctx.settings.n_fft, ctx.settings.hop, ctx.length), None, None


def _compression(s: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """`q = |s|^2 + 1e-10` and the factor `m = q^((exponent - 1) / 2)` that compresses the magnitudes of `s`.

    The gradient of `s m` is finite everywhere.
    """
    q = _power(s) + _EPSILON
    return q, q.pow((exponent - 1) / 2)


def _power(s: Tensor) -> Tensor:
    """`|s|^2`; the complex product is by far the fastest way to it."""
    return (s * s.conj()).real


def _stft_adjoint(grad: Tensor, n_fft: int, hop: int, length: int) -> Tensor:
    """Transpose of `stft`: from the gradient by the bins [batch, frames, bins] to that by the samples [batch, length].

    Works in place on `grad`; `hop` must divide `n_fft`.
    """
    # the inverse transform counts every bin but the first and the last twice, for their mirror images
    grad[..., 1:-1] /= 2
    frames = torch.fft.irfft(grad, n=n_fft, norm="forward")
    frames *= torch.hann_window(n_fft, dtype=frames.dtype, device=frames.device)
    return overlap_add(frames, hop)[:, n_fft // 2 : n_fft // 2 + length]
