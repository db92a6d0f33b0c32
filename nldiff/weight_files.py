"""Files of trained networks: one safetensors file with the weights and, as JSON in its metadata, the configuration.

The metadata also hold a checksum. Files may be damaged or come from anywhere: everything is validated before use.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.reading import regular_file
from nldiff.writing import atomic_path

Network = TypeVar("Network", bound=nn.Module)
# Sum of the sizes among the arguments of a network: above the first, its shapes are compared before memory is taken;
# above the second, it is none that anybody trained. Shipped networks have up to 1300.
_LARGE, _ABSURD = 4096, 20_000


@dataclass(frozen=True)
class Field:
    """What an entry of a configuration must be: in words, and as a test."""

    expected: str
    fits: Callable[[Any], bool]


def number_field(least: float, most: float, whole: bool = False) -> Field:
    """A number in a range."""
    types = (int,) if whole else (int, float)
    expected = f"a {'whole ' if whole else ''}number of {least:g} to {most:g}"
    return Field(expected, lambda value: type(value) in types and least <= value <= most)


@dataclass(frozen=True)
class FileKind(Generic[Network]):
    """A kind of trained networks: where its shipped files lie, and what a file holds.

    Attributes:
        noun: name of the kind in messages and in the format mark of the files.
        folder: folder of the shipped files below the package `nldiff`.
        shipped: names of the shipped files, without suffix.
        required: entries of the configuration that every file has, besides `network`.
        optional: entries that it may have.
        make_network: builds a network from the entry `network` of the configuration.
    """

    noun: str
    folder: str
    shipped: Sequence[str]
    required: Mapping[str, Field]
    optional: Mapping[str, Field]
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
        text = json.dumps(config)
        metadata = {"format": self.format, "config": text, "checksum": checksum(tensors, text)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

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
        if not path.exists():
            known = ", ".join(self.shipped)
            raise NldiffError(f"unknown {self.noun} '{name_or_path}': neither a file nor one of: {known}")
        return self._load(path)

    def read_config(self, path: Path) -> dict[str, Any]:
        """Read the configuration of a file.

        Raises:
            NldiffError: the file is not one of this kind.
        """
        return self._config(path, self._metadata(path))

    def _metadata(self, path: Path) -> dict[str, str]:
        regular_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise NldiffError(f"{self.noun} {path} cannot be read: {_first_line(error)}") from error
        if metadata.get("format") != self.format:
            raise NldiffError(f"{path} is not an nldiff {self.noun} (format '{metadata.get('format')}')")
        return metadata

    def _config(self, path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
        try:
            config = json.loads(metadata.get("config", ""))
        except (ValueError, RecursionError) as error:
            raise NldiffError(f"{self.noun} {path} is damaged: its configuration is not JSON") from error
        missing = self.required.keys() | {"network"}
        if not isinstance(config, dict) or (missing := missing - config.keys()):
            raise NldiffError(f"{self.noun} {path} is damaged: its configuration lacks {', '.join(sorted(missing))}")
        for name, entry in {**self.optional, **self.required}.items():
            if name in config and not entry.fits(config[name]):
                given = f"{name}={str(config[name])[:50]}"
                raise NldiffError(f"{self.noun} {path} is damaged: {given}: {entry.expected} expected")
        network = config["network"]
        sizes = list(_numbers(network)) if isinstance(network, dict) else [math.inf]
        if not all(map(math.isfinite, sizes)) or sum(map(abs, sizes)) > _ABSURD:
            raise NldiffError(f"{self.noun} {path} is damaged: network={str(network)[:50]}: a network expected")
        return config

    def _load(self, path: Path) -> tuple[str, Network, dict[str, Any]]:
        metadata = self._metadata(path)
        config = self._config(path, metadata)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if metadata.get("checksum", checksum(tensors, metadata["config"])) != checksum(tensors, metadata["config"]):
                raise NldiffError("its checksum is another one")
            for name, tensor in tensors.items():
                if not tensor.is_floating_point() or not tensor.float().isfinite().all():
                    raise NldiffError(f"weight {name} is not a finite number")
            network = self._network(config["network"], tensors)
        except (SafetensorError, OSError, ValueError, RuntimeError, NldiffError) as error:
            raise NldiffError(f"{self.noun} {path} is damaged: {_first_line(error)}") from error
        return path.stem, network, config

    def _network(self, arguments: dict[str, Any], tensors: Mapping[str, Tensor]) -> Network:
        """The network with these weights."""
        try:
            if sum(_numbers(arguments)) > _LARGE:
                with torch.device("meta"):
                    _check_shapes(self.make_network(**arguments), tensors)
            network = self.make_network(**arguments)
        except NldiffError:
            raise
        except Exception as error:  # arguments of other types and ranges can make constructors raise anything
            raise NldiffError(f"network={str(arguments)[:100]}: {_first_line(error)}") from error
        _check_shapes(network, tensors)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return network


def checksum(tensors: Mapping[str, Tensor], config: str) -> str:
    """SHA-256 of tensors by name, with types and shapes, and of the configuration's text."""
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_shapes(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys()):
        given = list(tensors[name].shape) if name in tensors else "missing"
        if given != expected.get(name):
            raise NldiffError(f"weight {name}: {given}, but the network has {expected.get(name, 'none of this name')}")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in nested lists and dictionaries."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
