"""EDM diffusion: preconditioning, noise schedules, noise-level distributions and the training loss.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", with sigma(t) = t.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class Denoiser(Protocol):
    """`D(x, sigma)`: noisy audio [batch, time] at noise levels [batch] -> the expected clean audio [batch, time]."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise `x`."""
        ...


class EDMDenoiser(nn.Module):
    """Preconditioned network: D(x, s) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, table 1).

    Args:
        network: F, maps ([batch, time] at unit variance, [batch]) to [batch, time].
        sigma_data: RMS level of the clean data.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise `x` [batch, time] at noise levels `sigma` [batch] > 0; float32 in and out."""
        s = sigma[:, None]
        total = s.square() + self.sigma_data**2
        c_skip, c_out, c_in = self.sigma_data**2 / total, s * self.sigma_data / total.sqrt(), total.rsqrt()
        return c_skip * x + c_out * self.network(c_in * x, sigma.log() / 4)


def karras_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels [steps + 1] from `sigma_max` down to `sigma_min`, then 0 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (root_max + ramp * (root_min - root_max)) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def karras_levels(u: Tensor, sigma_min: float = 1e-5, sigma_max: float = 10.0, rho: float = 10.0) -> Tensor:
    """Training noise levels of the 2025 paper: `u` uniform in [0, 1], any shape -> sigma of the same shape."""
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (root_max + u * (root_min - root_max)) ** rho


def lognormal_levels(
    u: Tensor, median: float = 0.04, spread: float = 1.5, sigma_min: float = 2e-4, sigma_max: float = 3.0
) -> Tensor:
    """Log-normal training noise levels cut off at both ends (Karras et al. 2022, sec. 5, with a lower bound).

    `u` uniform in [0, 1]; `spread` is the standard deviation of ln(sigma). Levels are drawn from the truncated
    distribution, so none piles up at the bounds.
    """
    normal = torch.distributions.Normal(0.0, 1.0)
    bounds = torch.tensor([math.log(sigma_min / median) / spread, math.log(sigma_max / median) / spread])
    low, high = normal.cdf(bounds)
    z = normal.icdf((low + u * (high - low)).clamp(1e-6, 1 - 1e-6))
    return median * torch.exp(spread * z)


NOISE_LEVELS: dict[str, Callable[..., Tensor]] = {"karras": karras_levels, "lognormal": lognormal_levels}


def denoising_loss(denoiser: EDMDenoiser, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Weighted denoising error per item, [batch] (eq. 5 of the 2025 paper, weight of Karras et al. 2022, eq. 144).

    1 means "no better than scaling the noisy input". `x0` and unit-variance `noise` are [batch, time].
    """
    weight = (sigma.square() + denoiser.sigma_data**2) / (sigma * denoiser.sigma_data).square()
    error = denoiser(x0 + sigma[:, None] * noise, sigma) - x0
    return weight * error.square().mean(-1)
