"""Saved priors: one safetensors file with weights, network configuration, sample rate, level and settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nldiff.devices import fast_dtype
from nldiff.networks import make_network
from nldiff.priors.edm import EDMDenoiser
from nldiff.priors.old_settings import translate_settings
from nldiff.weight_files import Field, FileKind, number_field

SHIPPED = ("guitar", "speech")


def _is_group(value: Any) -> bool:
    return isinstance(value, dict)


_FILES = FileKind(
    "prior",
    "priors/weights",
    SHIPPED,
    {
        "sample_rate": number_field(1000, 1_000_000, whole=True),
        "sigma_data": number_field(1e-6, 1e6),
        "sigma_min": number_field(1e-9, 1e6),
    },
    {
        "settings": Field("groups of settings", lambda value: _is_group(value) and all(map(_is_group, value.values()))),
        "sampler": Field("settings", _is_group),
    },
    make_network,
)


@dataclass(frozen=True)
class Prior:
    """A denoiser and what is needed to use it.

    Attributes:
        name: "guitar", "speech", or the stem of the file it came from.
        denoiser: preconditioned network, in inference mode.
        sample_rate: rate of the training audio, Hz: the prior's rate.
        sigma_data: RMS of the training audio: the prior's level.
        sigma_min: lowest noise level of the training, at the prior's level; the network's output means nothing below.
        config: the whole metadata: network arguments, training summary, recommended settings, version.
    """

    name: str
    denoiser: EDMDenoiser
    sample_rate: int
    sigma_data: float
    sigma_min: float
    config: dict[str, Any] = field(repr=False)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings recommended for this prior, by group; they override the library's defaults.

        Groups are "sampler", "cost", "operator_fit", "refinement" and "polish", each of them optional. Files of version
        0.1 hold one flat group, which is translated.
        """
        if "sampler" not in self.config:
            return self.config.get("settings", {})
        # Version 0.1 refined only where the prior asked for it.
        return translate_settings({"refine_iterations": 0} | self.config["sampler"])


def save_prior(path: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write a prior file, completely or not at all; the weights are rounded to bfloat16.

    Args:
        path: file to write.
        network: score network.
        config: metadata: at least `network` (name and arguments), `sample_rate`, `sigma_data` and `sigma_min`;
            recommended settings, by group, under `settings`.

    Raises:
        NldiffError: the file cannot be written.
    """
    _FILES.save(path, network, config)


def load_prior(name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Prior:
    """Load a shipped prior by name or any prior file by path. Downloads and unpickles nothing.

    Args:
        name_or_path: "guitar", "speech", or the path of a `.safetensors` file written by the training.
        device: where the network runs.
        dtype: compute type of the network; by default `fast_dtype(device)`.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    name, network, config = _FILES.load(name_or_path)
    device = torch.device(device)
    network.to(device).eval()
    network.freeze(dtype or fast_dtype(device))
    denoiser = EDMDenoiser(network, config["sigma_data"])
    return Prior(name, denoiser, config["sample_rate"], config["sigma_data"], config["sigma_min"], config)


def read_config(path: Path) -> dict[str, Any]:
    """Read the metadata of a prior file.

    Raises:
        NldiffError: the file is not a prior of this library.
    """
    return _FILES.read_config(path)
