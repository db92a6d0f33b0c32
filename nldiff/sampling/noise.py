"""Random numbers of sampling: one generator per item, so that its noise depends on neither neighbours nor device."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Karras et al. 2022, Alg. 2: churn raises the noise level by this share at most.
_LARGEST_CHURN = 2**0.5 - 1


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Make one CPU generator per item from its seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_noise(like: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """Draw unit-variance noise with the shape [batch, time], type and device of `like`, item i from `sources[i]`."""
    # float32 whatever the audio's type: a seed means the same noise in every precision
    draws = [torch.randn(like.shape[1], generator=source, dtype=torch.float32) for source in sources]
    return torch.stack(draws).to(like)


def add_churn(
    x: Tensor, sigma: float, share: float, noise_scale: float, sources: Sequence[torch.Generator]
) -> tuple[Tensor, float]:
    """Raise the noise level before a step (Karras et al. 2022, Alg. 2).

    Args:
        x: noisy audio [batch, time].
        sigma: its noise level, greater than 0.
        share: S_churn / steps, by which the noise level rises relative to `sigma`, at most by sqrt(2) - 1; 0 changes
            nothing and draws nothing.
        noise_scale: S_noise, scale of the added noise.
        sources: one CPU generator per item.

    Returns:
        The noisier audio and its noise level.
    """
    share = min(share, _LARGEST_CHURN)
    raised = sigma * (1 + share)
    if share:
        x = x + noise_scale * (raised**2 - sigma**2) ** 0.5 * draw_noise(x, sources)
    return x, raised
