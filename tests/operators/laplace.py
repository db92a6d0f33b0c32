"""A signal with the heavy tails of audio."""

import torch
from torch import Tensor


def laplace(seed: int, length: int = 4000, rms: float = 0.06) -> Tensor:
    """Noise with the heavy tails of audio."""
    u = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    x = -u.sign() * torch.log1p(-2 * u.abs())
    return rms * x / x.square().mean().sqrt()
