"""Every network of both tables, small enough for tests, and the shipped files."""

from typing import Any

import torch
from torch import Tensor, nn

from nldiff import networks
from nldiff.baselines import networks as supervised
from nldiff.networks.layers import ScoreNetwork

# One entry or more for every name in the tables; tests/networks/test_contract.py keeps them complete.
SCORE: dict[str, dict[str, Any]] = {
    "cqtunet-dilated": {
        "name": "cqtunet", "channels": [8, 8, 16], "layers": [1, 2, 1], "bottleneck": 1, "bins_per_octave": 8,
        "embedding": 16,
    },
    "cqtunet-magnitude": {
        "name": "cqtunet", "channels": [8, 8, 12], "layers": [1, 1, 1], "bottleneck": 1, "bins_per_octave": 8,
        "layer": "magnitude_preserving", "patch": [4, 2], "window": "hann", "position_embedding": True, "embedding": 16,
    },
    "ncsnpp-biggan": {"name": "ncsnpp", "channels": [8, 16, 16], "n_fft": 62, "hop": 16, "embedding": 16},
    "ncsnpp-magnitude": {
        "name": "ncsnpp", "channels": [8, 12], "blocks": 2, "layer": "magnitude_preserving", "n_fft": 62, "hop": 16,
        "patch": 2, "progressive": False, "attention": False, "position_embedding": True, "embedding": 16,
    },
}  # fmt: skip
SUPERVISED: dict[str, dict[str, Any]] = {
    "demucs": {"name": "demucs", "hidden": 6, "depth": 3, "max_hidden": 16, "resample": 1},
    "demucs-causal": {"name": "demucs", "hidden": 4, "depth": 3, "causal": True, "resample": 2, "residual": True},
    "demucs-resampled": {"name": "demucs", "hidden": 4, "depth": 3, "kernel": 9, "resample": 4},
    "wave-unet": {"name": "wave-unet", "levels": 5, "channels": 4},
    "umx": {"name": "umx", "hidden": 16, "layers": 2, "n_fft": 64, "hop": 16},
    "crafx": {"name": "crafx", "filters": 4, "frame": 256, "context": 1},
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build_score(tiny: str, **changes: Any) -> ScoreNetwork:
    """The same weights every time, moved away from their special initial values (zeros and near-zero gains)."""
    torch.manual_seed(0)
    network = networks.make_network(**{**SCORE[tiny], **changes})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            if name == "output_gain":
                parameter.fill_(1.0)
    return network


def build(tiny: str) -> nn.Module:
    """A network of either table; the same weights every time."""
    if tiny in SCORE:
        return build_score(tiny)
    torch.manual_seed(0)
    return supervised.make_network(**SUPERVISED[tiny])


def apply(network: nn.Module, x: Tensor) -> Tensor:
    """Audio [batch, time] -> audio; score networks get another noise level for every item."""
    if isinstance(network, ScoreNetwork):
        return network(x, x.detach().abs().mean(dim=1).log() / 4)
    return network(x)
