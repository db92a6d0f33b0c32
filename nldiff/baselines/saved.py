"""Trained comparison networks and their files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nldiff.baselines.networks import make_network
from nldiff.weight_files import FileKind

SHIPPED: tuple[str, ...] = ()
_FILES = FileKind(
    "baseline",
    "baselines/weights",
    SHIPPED,
    frozenset({"network", "sample_rate", "level", "task"}),
    make_network,
)


@dataclass(frozen=True)
class Baseline:
    """A trained network with what is needed to use it.

    Attributes:
        name: one of `SHIPPED`, or the stem of the file it came from.
        network: in inference mode; it expects audio at unit RMS.
        sample_rate: rate of the audio it was trained on, Hz.
        config: the whole metadata: network arguments, RMS of the clean audio in training (`level`), names of the
            distortions it was trained for (`task`), training summary, versions.
    """

    name: str
    network: nn.Module
    sample_rate: int
    config: dict[str, Any] = field(repr=False)

    @torch.no_grad()
    def __call__(self, y: Tensor) -> Tensor:
        """Estimate the clean audio; `y` [batch, time] -> [batch, time] float32, on the network's device."""
        return apply_network(self.network, y.float())


def apply_network(network: nn.Module, y: Tensor) -> Tensor:
    """Apply a network to `y` [batch, time] at unit RMS, and give the result the level of `y` back.

    The gain of a recording then changes nothing but the gain of the result. Every item is scaled on its own;
    silent ones come back as zeros.
    """
    rms = y.square().mean(dim=-1, keepdim=True).sqrt()
    return rms * network(y / torch.where(rms > 0, rms, 1.0))


def save_baseline(path: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write `network`'s weights as bfloat16 with `config` in the metadata; atomic.

    `config` holds at least `network` (name and arguments), `sample_rate`, `level` and `task`.
    """
    _FILES.save(path, network, config)


def load_baseline(name_or_path: str | Path, device: str | torch.device = "cpu") -> Baseline:
    """Load a shipped network by name or any baseline file by path; nothing is downloaded, nothing is unpickled.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    name, network, config = _FILES.load(name_or_path)
    return Baseline(name, network.to(device).eval().requires_grad_(False), config["sample_rate"], config)
