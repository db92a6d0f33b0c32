"""Trained supervised networks and their files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nldiff.baselines.networks import make_network
from nldiff.weight_files import Field, FileKind, number_field

SHIPPED: tuple[str, ...] = (
    "demucs-hardclip",
    "demucs-softclip",
    "demucs-overdrive",
    "demucs-hardclip-16k",
    "umx-hardclip-16k",
    "umx-overdrive",
    "crafx-overdrive",
    "crafx-hardclip-16k",
    "wave-unet-hardclip-16k",
    "wave-unet-overdrive",
)
_LEVEL = number_field(1e-9, 1e6)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_FILES = FileKind(
    "baseline",
    "baselines/weights",
    SHIPPED,
    {
        "sample_rate": number_field(1000, 1_000_000, whole=True),
        "level": number_field(0, 1e6),
        "task": Field("names of distortions", lambda names: isinstance(names, list) and all(map(_is_text, names))),
    },
    {"input_level": Field("a positive number or null", lambda level: level is None or _LEVEL.fits(level))},
    make_network,
)


@dataclass(frozen=True)
class Baseline:
    """A trained network and what is needed to use it.

    Attributes:
        name: one of `SHIPPED`, or the stem of the file it came from.
        network: network in inference mode, for audio that `apply_network` scales.
        sample_rate: rate of the training audio, Hz.
        config: the whole metadata: network arguments, RMS of the clean training audio (`level`), names of the
            distortions in training (`task`), `input_level` of `apply_network` (absent: None), training summary,
            versions.
    """

    name: str
    network: nn.Module
    sample_rate: int
    config: dict[str, Any] = field(repr=False)

    @torch.no_grad()
    def __call__(self, y: Tensor) -> Tensor:
        """Estimate the clean audio: `y` [batch, time] -> [batch, time] float32, both on the network's device."""
        return apply_network(self.network, y.float(), self.config.get("input_level"))


def apply_network(network: nn.Module, y: Tensor, input_level: float | None = None) -> Tensor:
    """Apply a network to audio divided by a level, and multiply the result by that level.

    Args:
        network: [batch, time] -> [batch, time].
        y: observed audio, [batch, time]; a silent item comes back as zeros.
        input_level: the level, for all items. None: the RMS of every item, so that the network sees unit RMS, and the
            gain of a recording changes only the gain of the result. A fixed level lets the network see the absolute
            scale, which some distortions leave in the signal (the amplitude at which overdrive saturates).

    Returns:
        [batch, time].
    """
    rms = y.square().mean(dim=-1, keepdim=True).sqrt()
    level = rms if input_level is None else (rms > 0) * input_level
    return level * network(y / torch.where(rms > 0, level, 1.0))


def save_baseline(path: Path, network: nn.Module, config: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a baseline file, completely or not at all.

    Args:
        path: file to write.
        network: trained network.
        config: metadata: at least `network` (name and arguments), `sample_rate`, `level` and `task` (names of the
            distortions in training).
        dtype: type to which the weights are rounded.

    Raises:
        NldiffError: the file cannot be written.
    """
    _FILES.save(path, network, config, dtype)


def load_baseline(name_or_path: str | Path, device: str | torch.device = "cpu") -> Baseline:
    """Load a shipped network by name or any baseline file by path. Downloads and unpickles nothing.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    name, network, config = _FILES.load(name_or_path)
    return Baseline(name, network.to(device).eval().requires_grad_(False), config["sample_rate"], config)
