"""Files of trained networks: one safetensors file with the weights and, as JSON in its metadata, the configuration."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nldiff.errors import NldiffError
from nldiff.writing import atomic_path

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class FileKind(Generic[Network]):
    """A kind of trained networks: where its shipped files lie, and what a file holds.

    Attributes:
        noun: name of the kind in messages and in the format mark of the files.
        folder: folder of the shipped files below the package `nldiff`.
        shipped: names of the shipped files, without suffix.
        required: keys of the configuration that every file has.
        make_network: builds a network from the entry `network` of the configuration.
    """

    noun: str
    folder: str
    shipped: Sequence[str]
    required: frozenset[str]
    make_network: Callable[..., Network]

    @property
    def format(self) -> str:
        """Format mark in the metadata of the files."""
        return f"nldiff-{self.noun}-1"

    def save(self, path: Path, network: nn.Module, config: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> None:
        """Write `network`'s weights, rounded to `dtype`, and `config` as metadata, completely or not at all.

        Raises:
            NldiffError: the file cannot be written.
        """
        tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"format": self.format, "config": json.dumps(config)})

    def load(self, name_or_path: str | Path) -> tuple[str, Network, dict[str, Any]]:
        """Load a shipped file by name or any file by path. Downloads and unpickles nothing.

        Returns:
            Name, network on the CPU, configuration.

        Raises:
            NldiffError: unknown name, missing, corrupted or foreign file.
        """
        if str(name_or_path) in self.shipped:
            with as_file(files("nldiff") / self.folder / f"{name_or_path}.safetensors") as path:
                return self._load(path)
        path = Path(name_or_path)
        if not path.is_file():
            known = ", ".join(self.shipped)
            raise NldiffError(f"unknown {self.noun} '{name_or_path}': neither a file nor one of: {known}")
        return self._load(path)

    def read_config(self, path: Path) -> dict[str, Any]:
        """Read the configuration of a file.

        Raises:
            NldiffError: the file is not one of this kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise NldiffError(f"{self.noun} {path} cannot be read: {str(error).splitlines()[0]}") from error
        if metadata.get("format") != self.format:
            raise NldiffError(f"{path} is not an nldiff {self.noun} (format '{metadata.get('format')}')")
        try:
            config = json.loads(metadata.get("config", ""))
        except json.JSONDecodeError as error:
            raise NldiffError(f"{self.noun} {path} is damaged: its configuration is not JSON") from error
        missing = self.required.difference(config)
        if missing:
            raise NldiffError(f"{self.noun} {path} is damaged: its configuration lacks {', '.join(sorted(missing))}")
        return config

    def _load(self, path: Path) -> tuple[str, Network, dict[str, Any]]:
        config = self.read_config(path)
        try:
            with safe_open(path, framework="pt") as file:
                weights = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 (not a dict)
            network = self.make_network(**config["network"])
            network.load_state_dict(weights)
        except (SafetensorError, OSError, RuntimeError, NldiffError) as error:
            raise NldiffError(f"{self.noun} {path} is damaged: {str(error).splitlines()[0]}") from error
        return path.stem, network, config
