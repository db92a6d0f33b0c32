"""How well a distorted estimate explains the observation, and how strongly to follow the gradient of that.

Equations refer to Švento et al., "Estimation and Restoration of Unknown Nonlinear Distortion using Diffusion"
(2025).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nldiff.errors import NldiffError
from nldiff.transforms.stft import overlap_add, stft

# Added to |STFT|^2 before the power, against the infinite slope at zero. It matters for bins around 1e-5 and
# below, 128 dB under that of a sinusoid of amplitude 0.1 in a Hann window of 1024.
_EPSILON = 1e-10


class Cost(ABC):
    """A distance `C(y, y_hat)` of audio `[B, T]`, one value per item `[B]`, differentiable by `y_hat`."""

    @abstractmethod
    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Do the work on the observation `y` `[B, T]` once; returns the function `y_hat -> C(y, y_hat)`."""

    def __call__(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Distance of `y_hat` from `y`, both `[B, T]`; returns `[B]`."""
        return self.prepare(y)(y_hat)


@dataclass(frozen=True)
class CompressedSTFTCost(Cost):
    """Squared distance of magnitude-compressed spectra, eq. 8: mean over frames of the sum over bins.

    Args:
        n_fft: length of the Hann window and the transform, samples, even.
        hop: step between frames, samples; a proper divisor of `n_fft`.
        exponent: power of the magnitudes, in (0, 1].

    Raises:
        NldiffError: if an option is out of its range.
    """

    n_fft: int = 1024
    hop: int = 256
    exponent: float = 2 / 3

    def __post_init__(self) -> None:
        """Check the options."""
        if self.n_fft < 2 or self.n_fft % 2:
            raise NldiffError(f"cost option n_fft={self.n_fft}: must be even and at least 2")
        if not 0 < self.hop < self.n_fft or self.n_fft % self.hop:
            raise NldiffError(f"cost option hop={self.hop}: must divide n_fft={self.n_fft} and be smaller")
        if not 0 < self.exponent <= 1:
            raise NldiffError(f"cost option exponent={self.exponent}: must be in (0, 1]")

    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Compute the spectrum of the observation once."""
        target = compressed_stft(y.detach(), self.n_fft, self.hop, self.exponent)

        def cost(y_hat: Tensor) -> Tensor:
            if y_hat.shape != y.shape:
                raise NldiffError(f"cost: estimate {tuple(y_hat.shape)} and observation {tuple(y.shape)} differ")
            distance: Tensor = _CompressedDistance.apply(y_hat, target, self)
            return distance

        return cost


class WaveformCost(Cost):
    """Mean square error of the samples."""

    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Nothing to compute beforehand."""
        return lambda y_hat: (y_hat - y.detach()).square().mean(-1)


def compressed_stft(y: Tensor, n_fft: int, hop: int, exponent: float = 2 / 3) -> Tensor:
    """Short-time spectrum with compressed magnitudes: `|S|^exponent e^{j angle(S)}`.

    Computed as `S (|S|^2 + 1e-10)^((exponent - 1) / 2)`, whose gradient is finite everywhere.

    Args:
        y: audio `[B, T]`, T >= 1; frames are centred on multiples of `hop`, with zeros beyond both ends.
        n_fft: length of the Hann window and the transform, samples, even.
        hop: step between frames, samples.
        exponent: power of the magnitudes, in (0, 1].

    Returns:
        Complex `[B, F, M]` with F = n_fft / 2 + 1 bins and M = 1 + floor(T / hop) frames.
    """
    spectrum = stft(y, n_fft, hop)
    return (spectrum * (_power(spectrum) + _EPSILON).pow((exponent - 1) / 2)).transpose(1, 2)


def guidance_scale(grad: Tensor, sigma: Tensor | float, zeta: float) -> Tensor:
    """Step size of eq. 9, `sqrt(L) zeta / (sigma |grad|_2)`.

    Args:
        grad: gradient of the cost by the noisy audio `[B, T]`.
        sigma: noise level, `[B]` or one number, greater than 0.
        zeta: strength of the guidance.

    Returns:
        Factor per item `[B]`; 0 where the whole gradient is 0.
    """
    # double precision: the squares of a small gradient underflow in float32
    norm = torch.linalg.vector_norm(grad, dim=1, dtype=torch.float64)
    scale = torch.where(norm > 0, math.sqrt(grad.shape[1]) * zeta / norm, 0.0)
    return (scale / sigma).to(grad.dtype)


class _CompressedDistance(torch.autograd.Function):
    """Eq. 8 as one operation: its own backward takes half the time of the chain of elementary ones."""

    @staticmethod
    def forward(ctx: Any, y_hat: Tensor, target: Tensor, options: CompressedSTFTCost) -> Tensor:
        s = stft(y_hat, options.n_fft, options.hop)
        q = _power(s) + _EPSILON
        m = q.pow((options.exponent - 1) / 2)
        d = s * m - target.transpose(1, 2)
        ctx.save_for_backward(s, q, m, d)
        ctx.options, ctx.length = options, y_hat.shape[1]
        return _power(d).sum((1, 2)) / s.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # with m = q^((exponent - 1) / 2), the gradient of |s m - target|^2 = |d|^2 by s is
        # 2 m (d + s (exponent - 1) Re(s* d) / q)
        s, q, m, d = ctx.saved_tensors
        radial = (ctx.options.exponent - 1) * (s.conj() * d).real / q
        grad_s = (s * radial).add_(d).mul_(m * (2 * grad[:, None, None] / s.shape[1]))
        return _stft_adjoint(grad_s, ctx.options.n_fft, ctx.options.hop, ctx.length), None, None


def _power(s: Tensor) -> Tensor:
    """`|s|^2`; the complex product is by far the fastest way to it."""
    return (s * s.conj()).real


def _stft_adjoint(grad: Tensor, n_fft: int, hop: int, length: int) -> Tensor:
    """Transpose of `stft`: from the gradient by the bins `[B, M, F]` to that by the samples `[B, length]`.

    Works in place on `grad`; `hop` must divide `n_fft`.
    """
    # the inverse transform counts every bin but the first and the last twice, for their mirror images
    grad[..., 1:-1] /= 2
    frames = torch.fft.irfft(grad, n=n_fft, norm="forward")
    frames *= torch.hann_window(n_fft, dtype=frames.dtype, device=frames.device)
    return overlap_add(frames, hop)[:, n_fft // 2 : n_fft // 2 + length]
