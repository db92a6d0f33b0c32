import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import save_tiny_prior
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nldiff.baselines.networks import make_network
from nldiff.baselines.saved import SHIPPED, apply_network, load_baseline, save_baseline
from nldiff.errors import NldiffError
from nldiff.priors.saved import load_prior

CONFIG: dict[str, Any] = {
    "network": {"name": "demucs", "hidden": 4, "depth": 2, "lstm_layers": 1, "resample": 1},
    "sample_rate": 8000,
    "level": 0.06,
    "task": ["hard_clip"],
    "training": {"description": "plucked strings"},
}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return make_network(**CONFIG["network"])


@pytest.fixture
def path(tmp_path: Path, network: nn.Module) -> Path:
    save_baseline(tmp_path / "strings.safetensors", network, CONFIG)
    return tmp_path / "strings.safetensors"


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_round_trip(path: Path, network: nn.Module) -> None:
    baseline = load_baseline(path)
    assert (baseline.name, baseline.sample_rate, baseline.config) == ("strings", 8000, CONFIG)
    saved, loaded = network.state_dict(), baseline.network.state_dict()
    assert saved.keys() == loaded.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.bfloat16().float()), name

    network.load_state_dict(loaded)
    y = noise(2, 333)
    rms = y.square().mean(dim=1, keepdim=True).sqrt()
    with torch.no_grad():
        torch.testing.assert_close(baseline(y.double()), rms * network(y / rms))


def test_loaded_network_is_for_inference(path: Path) -> None:
    baseline = load_baseline(str(path), "cpu")
    assert not baseline.network.training
    assert not any(p.requires_grad for p in baseline.network.parameters())
    assert not baseline(noise(1, 100).requires_grad_()).requires_grad


def test_weights_take_two_bytes_each(path: Path, network: nn.Module) -> None:
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(path).values())
    count = sum(tensor.numel() for tensor in network.state_dict().values())
    assert 2 * count < path.stat().st_size < 2 * count + 10_000


def test_weights_of_four_bytes_are_exact(path: Path, network: nn.Module) -> None:
    save_baseline(path, network, CONFIG, torch.float32)
    loaded = load_baseline(path).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


class Square(nn.Module):
    """Not linear, so a level that is wrong shows."""

    def forward(self, y: Tensor) -> Tensor:
        return y.square()


def test_the_network_sees_unit_rms() -> None:
    # [3, 4] has the RMS sqrt(12.5); the square at unit RMS, [9, 16] / 12.5, times it.
    result = apply_network(Square(), torch.tensor([[3.0, -4.0], [0.0, 0.0], [0.02, 0.02]]))
    torch.testing.assert_close(result, torch.tensor([[9.0 / 12.5**0.5, 16 / 12.5**0.5], [0.0, 0.0], [0.02, 0.02]]))


def test_a_fixed_level_shows_the_absolute_scale() -> None:
    # 0.5 (y / 0.5)^2
    result = apply_network(Square(), torch.tensor([[3.0, -4.0], [0.0, 0.0], [0.02, 0.02]]), 0.5)
    torch.testing.assert_close(result, torch.tensor([[18.0, 32.0], [0.0, 0.0], [0.0008, 0.0008]]))


def test_the_file_tells_the_level(path: Path, network: nn.Module) -> None:
    save_baseline(path, network, CONFIG | {"input_level": 0.25}, torch.float32)
    y = noise(2, 333)
    with torch.no_grad():
        torch.testing.assert_close(load_baseline(path)(y), network(4 * y) / 4)


@pytest.mark.parametrize("gain", [1e-6, 0.5, 1e4])
def test_gain_of_the_recording_is_kept(path: Path, gain: float) -> None:
    baseline, y = load_baseline(path), noise(2, 400)
    torch.testing.assert_close(baseline(gain * y) / gain, baseline(y), rtol=1e-4, atol=1e-5)


def test_items_are_processed_alone(path: Path) -> None:
    baseline = load_baseline(path)
    y = noise(3, 400) * torch.tensor([[1.0], [0.0], [100.0]])
    together = baseline(y)
    assert not together[1].any()
    for n in range(3):
        torch.testing.assert_close(together[n], baseline(y[n : n + 1])[0], rtol=1e-4, atol=1e-5)


def change(path: Path, config: str | None = None, **tensors: Tensor) -> None:
    """Rewrite a file with another configuration text or other weights."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata.pop("checksum", None)  # as files of version 0.1 have none
    save_file({**load_file(path), **tensors}, path, metadata=metadata | ({"config": config} if config else {}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "^baseline {} cannot be read"),
        (lambda path: path.write_bytes(b""), "^baseline {} cannot be read"),
        (lambda path: torch.save({"weight": torch.ones(3)}, path), "^baseline {} cannot be read"),
        (lambda path: save_file({"weight": torch.ones(3)}, path), r"^{} is not an nldiff baseline \(format 'None'\)$"),
        (save_tiny_prior, r"^{} is not an nldiff baseline \(format 'nldiff-prior-1'\)$"),
        (lambda path: change(path, "{no json"), "^baseline {} is damaged: its configuration is not JSON$"),
        (
            lambda path: change(path, '{"sample_rate": 8000}'),
            "^baseline {} is damaged: its configuration lacks level, network, task$",
        ),
        (
            lambda path: change(path, json.dumps(CONFIG | {"network": {"name": "cqtunet"}})),
            "^baseline {} is damaged: unknown network 'cqtunet'",
        ),
        (
            lambda path: change(path, json.dumps(CONFIG | {"network": {"name": "demucs", "hidden": 3}})),
            "^baseline {} is damaged: weight ",
        ),
        (lambda path: change(path, surplus=torch.ones(1)), "^baseline {} is damaged: weight "),
    ],
    ids=[
        "truncated",
        "empty",
        "pickle",
        "foreign",
        "prior",
        "configuration no JSON",
        "configuration incomplete",
        "unknown network",
        "wrong shapes",
        "surplus weight",
    ],
)
def test_bad_files(path: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(path)
    with pytest.raises(NldiffError, match=reason.format(path)) as caught:
        load_baseline(path)
    assert "\n" not in str(caught.value)


def test_a_baseline_is_no_prior(path: Path) -> None:
    with pytest.raises(NldiffError, match=rf"^{path} is not an nldiff prior \(format 'nldiff-baseline-1'\)$"):
        load_prior(path)


@pytest.mark.parametrize("name", ["banjo", "nowhere/demucs-hardclip.safetensors"])
def test_unknown_names(name: str) -> None:
    known = ", ".join(SHIPPED)
    with pytest.raises(NldiffError, match=rf"^unknown baseline '{name}': neither a file nor one of: {known}$"):
        load_baseline(name)


def test_the_shipped_networks_are_those_in_the_folder() -> None:
    folder = files("nldiff") / "baselines" / "weights"
    found = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    assert sorted(found) == sorted([f"{n}.safetensors" for n in SHIPPED] + [f"{n}.md" for n in SHIPPED])
