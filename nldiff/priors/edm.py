"""Diffusion by the EDM formulation: preconditioning, noise schedule, distributions of noise levels, training loss.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", with sigma(t) = t. The 2025
paper is Švento et al., "Estimation and Restoration of Unknown Nonlinear Distortion using Diffusion". Noise levels are
standard deviations of the noise, at the prior's level.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class Denoiser(Protocol):
    """D(x, sigma): what samplers need of a prior."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimate the clean audio [batch, time] from noisy audio `x` [batch, time] of noise levels `sigma` [batch]."""
        ...


class EDMDenoiser(nn.Module):
    """Preconditioned network: D(x, s) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, table 1).

    Args:
        network: F, maps audio [batch, time] of unit variance and c_noise [batch] to [batch, time].
        sigma_data: RMS of clean audio, linear: the prior's level.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise `x` [batch, time] of noise levels `sigma` [batch], each above 0; returns [batch, time], float32."""
        s = sigma[:, None]
        total = s.square() + self.sigma_data**2
        c_skip, c_out, c_in = self.sigma_data**2 / total, s * self.sigma_data / total.sqrt(), total.rsqrt()
        return c_skip * x + c_out * self.network(c_in * x, sigma.log() / 4)


def karras_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Compute the noise levels of a sampler (Karras et al. 2022, eq. 5).

    Args:
        steps: number of levels above 0, at least 1.
        sigma_min: last level above 0.
        sigma_max: first level.
        rho: curvature, above 0; the larger, the more levels lie near `sigma_min`.

    Returns:
        Levels [steps + 1] from `sigma_max` down to `sigma_min`, then 0; float32.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (root_max + ramp * (root_min - root_max)) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def karras_levels(u: Tensor, sigma_min: float = 1e-5, sigma_max: float = 10.0, rho: float = 10.0) -> Tensor:
    """Turn numbers `u` uniform in [0, 1], any shape, into training noise levels as the 2025 paper does, same shape."""
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (root_max + u * (root_min - root_max)) ** rho


def lognormal_levels(
    u: Tensor, median: float = 0.04, spread: float = 1.5, sigma_min: float = 2e-4, sigma_max: float = 3.0
) -> Tensor:
    """Turn uniform numbers into log-normal training noise levels (Karras et al. 2022, sec. 5), cut off at both ends.

    The distribution is truncated, so that no levels pile up at the bounds.

    Args:
        u: uniform in [0, 1], any shape.
        median: median of the levels without the bounds, above 0.
        spread: standard deviation of their natural logarithm, above 0.
        sigma_min: smallest level, above 0.
        sigma_max: largest level.

    Returns:
        Noise levels, shape of `u`.
    """
    normal = torch.distributions.Normal(0.0, 1.0)
    bounds = torch.tensor([math.log(sigma_min / median) / spread, math.log(sigma_max / median) / spread])
    low, high = normal.cdf(bounds)
    z = normal.icdf((low + u * (high - low)).clamp(1e-6, 1 - 1e-6))
    return median * torch.exp(spread * z)


NOISE_LEVELS: dict[str, Callable[..., Tensor]] = {"karras": karras_levels, "lognormal": lognormal_levels}
"""The distributions of training noise levels by name: functions of uniform numbers and options."""


def denoising_loss(denoiser: EDMDenoiser, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Compute the weighted denoising error (eq. 5 of the 2025 paper, weight of Karras et al. 2022, eq. 144).

    Args:
        denoiser: D(x, sigma).
        x0: clean audio [batch, time] at the prior's level.
        sigma: noise levels [batch].
        noise: of unit variance, [batch, time].

    Returns:
        Loss per item [batch]; 1 means "no better than scaling the noisy input".
    """
    weight = (sigma.square() + denoiser.sigma_data**2) / (sigma * denoiser.sigma_data).square()
    error = denoiser(x0 + sigma[:, None] * noise, sigma) - x0
    return weight * error.square().mean(-1)
