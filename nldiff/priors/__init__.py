"""Saved priors: one safetensors file holds weights, network configuration, sample rate, level and settings."""

import json
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nldiff.audio import atomic_path
from nldiff.diffusion import EDMDenoiser
from nldiff.errors import NldiffError
from nldiff.networks import make_network

SHIPPED = ("guitar", "speech")
_FORMAT = "nldiff-prior-1"


@dataclass(frozen=True)
class Prior:
    """A denoiser with what is needed to use it.

    Attributes:
        name: "guitar", "speech", or the stem of the file it came from.
        denoiser: preconditioned network, in inference mode.
        sample_rate: rate of the audio it was trained on, Hz.
        sigma_data: RMS level it was trained at.
        sigma_min: lowest noise level that it was trained on; below it the network's output means nothing.
        config: the whole metadata: network arguments, training summary, sampler defaults, version.
    """

    name: str
    denoiser: EDMDenoiser
    sample_rate: int
    sigma_data: float
    sigma_min: float
    config: dict[str, Any] = field(repr=False)

    @property
    def sampler(self) -> dict[str, Any]:
        """Sampler settings that suit this prior; they override the library's defaults."""
        return self.config.get("sampler", {})


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where convolutions are faster in it (GPU, CPU with AVX-512 BF16 or AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def save_prior(path: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write `network`'s weights as bfloat16 with `config` in the metadata; atomic.

    `config` holds at least `network` (name and arguments), `sample_rate`, `sigma_data` and `sigma_min`.
    """
    tensors = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, "config": json.dumps(config)})


def load_prior(name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Prior:
    """Load a shipped prior by name or any prior file by path; nothing is downloaded, nothing is unpickled.

    Args:
        name_or_path: "guitar", "speech", or a path to a `.safetensors` file written by the training.
        device: where the network runs.
        dtype: compute type of the network; by default `fast_dtype(device)`.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    if str(name_or_path) in SHIPPED:
        with as_file(files("nldiff.priors") / f"{name_or_path}.safetensors") as path:
            return _load(path, torch.device(device), dtype)
    path = Path(name_or_path)
    if not path.is_file():
        raise NldiffError(f"unknown prior '{name_or_path}': neither a file nor one of: {', '.join(SHIPPED)}")
    return _load(path, torch.device(device), dtype)


def read_config(path: Path) -> dict[str, Any]:
    """Metadata of a prior file.

    Raises:
        NldiffError: the file is not a prior of this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise NldiffError(f"prior {path} cannot be read: {str(error).splitlines()[0]}") from error
    if metadata.get("format") != _FORMAT:
        raise NldiffError(f"{path} is not an nldiff prior (format '{metadata.get('format')}')")
    try:
        config = json.loads(metadata.get("config", ""))
    except json.JSONDecodeError as error:
        raise NldiffError(f"prior {path} is damaged: its configuration is not JSON") from error
    missing = {"network", "sample_rate", "sigma_data", "sigma_min"}.difference(config)
    if missing:
        raise NldiffError(f"prior {path} is damaged: its configuration lacks {', '.join(sorted(missing))}")
    return config


def _load(path: Path, device: torch.device, dtype: torch.dtype | None) -> Prior:
    config = read_config(path)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 (not a dict)
        network = make_network(**config["network"])
        network.load_state_dict(weights)
    except (SafetensorError, OSError, RuntimeError, NldiffError) as error:
        raise NldiffError(f"prior {path} is damaged: {str(error).splitlines()[0]}") from error
    network.to(device).eval()
    network.freeze(dtype or fast_dtype(device))
    denoiser = EDMDenoiser(network, config["sigma_data"])
    return Prior(path.stem, denoiser, config["sample_rate"], config["sigma_data"], config["sigma_min"], config)
