"""Weights and priors that are damaged or foreign: one line that names file and field, when they are loaded."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import damaged
from helpers import save_tiny_baseline, save_tiny_prior
from safetensors.torch import load_file, save_file

from nldiff.baselines.saved import load_baseline
from nldiff.errors import NldiffError
from nldiff.priors import load_prior
from nldiff.restoration.settings import RestoreConfig, resolve_settings
from nldiff.restoration.signal_methods import loaded
from nldiff.weight_files import checksum

LOADERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "prior": (save_tiny_prior, load_prior),
    "baseline": (save_tiny_baseline, load_baseline),
}


def metadata_of(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def rewrite(
    path: Path, config: Callable[[dict[str, Any]], Any], tensors: dict[str, torch.Tensor] | None = None
) -> None:
    """Change the configuration of a file, with the right checksum."""
    weights = load_file(path) if tensors is None else tensors
    text = json.dumps(config(json.loads(metadata_of(path)["config"])))
    mark = metadata_of(path)["format"]
    save_file(weights, path, metadata={"format": mark, "config": text, "checksum": checksum(weights, text)})


def refusal(load: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(NldiffError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("kind", LOADERS)
def test_damaged_files_are_refused_or_whole(kind: str, tmp_path: Path) -> None:
    save, load = LOADERS[kind]
    path = save(tmp_path / "a.safetensors")
    whole, weights = path.read_bytes(), load_file(path)
    for version in damaged(whole, 120):
        path.write_bytes(version)
        try:
            load(path)
        except NldiffError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            given = load_file(path)
            assert given.keys() == weights.keys()
            assert all(torch.equal(given[name], weights[name]) for name in weights)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_flipped_bit_of_a_weight_is_noticed(kind: str, tmp_path: Path) -> None:
    save, load = LOADERS[kind]
    path = save(tmp_path / "a.safetensors")
    whole = bytearray(path.read_bytes())
    for place in range(20):
        flipped = bytearray(whole)
        flipped[-1 - 7 * place] ^= 1
        path.write_bytes(flipped)
        assert "its checksum is another one" in refusal(load, path)


@pytest.mark.parametrize("kind", LOADERS)
def test_files_of_earlier_versions_have_no_checksum(kind: str, tmp_path: Path) -> None:
    save, load = LOADERS[kind]
    path = save(tmp_path / "a.safetensors")
    metadata = metadata_of(path)
    assert metadata.pop("checksum")
    save_file(load_file(path), path, metadata=metadata)
    load(path)


NONSENSE: list[Any] = [None, "x", [], {}, -1, 0, float("nan"), float("inf"), 1e300, True, [[[1]]], {"a": {"b": 1}}]
FIELDS = [("prior", field) for field in ("network", "sample_rate", "sigma_data", "sigma_min", "settings", "sampler")]
FIELDS += [("baseline", field) for field in ("network", "sample_rate", "level", "task", "input_level")]
# These are good values.
GOOD: dict[str, list[Any]] = {"settings": [{}], "sampler": [{}], "level": [0], "task": [[]], "input_level": [None]}


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_nonsense_is_named_with_its_field(kind: str, field: str, tmp_path: Path) -> None:
    save, load = LOADERS[kind]
    for index, value in enumerate(NONSENSE):
        if any(value is good or value == good for good in GOOD.get(field, [])) and value is not False:
            continue
        path = save(tmp_path / f"{index}.safetensors")
        rewrite(path, lambda config, value=value: config | {field: value})  # type: ignore[misc]
        if field in ("settings", "sampler") and value == {"a": {"b": 1}}:
            # groups and settings are known to the restoration alone
            with pytest.raises(NldiffError, match=r"prior .* is damaged: unknown (group 'a'|setting 'sampler\.a')"):
                resolve_settings(load(path), RestoreConfig())
        else:
            assert field in refusal(load, path)
            path.unlink()


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("field", ["sample_rate", "network"])
def test_a_missing_field_is_named(kind: str, field: str, tmp_path: Path) -> None:
    save, load = LOADERS[kind]
    path = save(tmp_path / "a.safetensors")
    rewrite(path, lambda config: {key: value for key, value in config.items() if key != field})
    assert f"lacks {field}" in refusal(load, path)


@pytest.mark.parametrize("content", [None, 3, [], "text"], ids=repr)
def test_a_configuration_that_is_none(content: Any, tmp_path: Path) -> None:
    path = save_tiny_prior(tmp_path / "a.safetensors")
    rewrite(path, lambda config: content)
    assert "its configuration" in refusal(load_prior, path)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": "x"}, {"channels": [4.5, 4]}, {"channels": [0, 0]}, {"channels": [-4, 4]}, {"channels": [4]},
        {"channels": [10**9, 4]}, {"channels": [3000, 3000]}, {"layers": [10**6, 1]}, {"layers": [1]}, {"layers": None},
        {"bins_per_octave": 0}, {"bins_per_octave": 10**6}, {"embedding": 0}, {"embedding": -8}, {"embedding": []},
        {"patch": [0, 1]}, {"patch": [2]}, {"window": 3}, {"layer": None}, {"name": 3}, {"name": ["x"]}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_network_that_cannot_be_built_or_is_another_one(change: dict[str, Any], tmp_path: Path) -> None:
    path = save_tiny_prior(tmp_path / "a.safetensors")
    rewrite(path, lambda config: config | {"network": config["network"] | change})
    assert "network" in refusal(load_prior, path) or "weight" in refusal(load_prior, path)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    path = save_tiny_prior(tmp_path / "a.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    changes: list[tuple[dict[str, torch.Tensor], str]] = [
        (weights | {name: torch.full_like(weights[name], torch.nan)}, f"weight {name} is not a finite number"),
        (weights | {name: torch.zeros(weights[name].shape, dtype=torch.int32)}, f"weight {name} is not a finite"),
        (weights | {name: torch.zeros(7, 7, 7)}, f"weight {name}: [7, 7, 7], but the network has"),
        (weights | {"more": torch.zeros(1)}, "weight more: [1], but the network has none of this name"),
        ({key: value for key, value in weights.items() if key != name}, f"weight {name}: missing, but the network"),
    ]
    for tensors, reason in changes:
        rewrite(path, dict, tensors)
        assert reason in refusal(load_prior, path)


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = save_tiny_baseline(tmp_path / "a.safetensors")
    cpu = torch.device("cpu")
    first = loaded(str(path), cpu)
    assert loaded(str(path), cpu) is first
    rewrite(path, lambda config: config | {"level": 0.5})
    assert loaded(str(path), cpu).config["level"] == 0.5


@pytest.mark.parametrize("kind", LOADERS)
def test_pipes_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "is a pipe" in refusal(LOADERS[kind][1], path)
    assert "is a folder" in refusal(LOADERS[kind][1], tmp_path)


def test_shipped_priors_hold_settings_that_are_known() -> None:
    for name in ("guitar", "speech"):
        resolve_settings(load_prior(name), RestoreConfig())
