"""The refinement network at work: its files, the shipped ones, and when one is for a recording."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nldiff.devices import fast_dtype
from nldiff.networks.refinement import RefinementNetwork, make_refinement_network
from nldiff.weight_files import FileKind

SHIPPED: tuple[str, ...] = ()
_FILES = FileKind(
    "refinement network",
    "restoration/weights",
    SHIPPED,
    frozenset({"network", "sample_rate", "windows"}),
    make_refinement_network,
)


@dataclass(frozen=True)
class Refiner:
    """A refinement network and the signals that it is for.

    Attributes:
        network: in inference mode.
        sample_rate: of its signals, Hz.
        windows: of the shrinkage before it, samples.
    """

    network: RefinementNetwork
    sample_rate: int
    windows: tuple[int, ...]


def save_refiner(path: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write a file, completely or not at all; the weights are rounded to bfloat16.

    Args:
        path: file to write.
        network: refinement network.
        config: metadata: at least `network` (arguments), `sample_rate` and `windows`.

    Raises:
        NldiffError: the file cannot be written.
    """
    _FILES.save(path, network, config)


def load_refiner(name_or_path: str | Path, device: torch.device) -> Refiner:
    """Load a shipped network by name or any by path; it computes in `fast_dtype(device)`.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    _, network, config = _FILES.load(name_or_path)
    network.to(device).eval()
    network.freeze(fast_dtype(device))
    return Refiner(network, config["sample_rate"], tuple(config["windows"]))
