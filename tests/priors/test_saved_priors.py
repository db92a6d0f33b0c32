import json
import pickle
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.networks.layers import ScoreNetwork
from nldiff.priors.edm import denoising_loss
from nldiff.priors.old_settings import translate_settings
from nldiff.priors.saved import SHIPPED, load_prior, read_config, save_prior
from nldiff.sound import resample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny_network: dict[str, Any]) -> dict[str, Any]:
    return {
        "network": tiny_network,
        "sample_rate": 8000,
        "sigma_data": 0.05,
        "sigma_min": 2e-4,
        "settings": {"sampler": {"steps": 12}, "refinement": {"name": "none"}},
        "training": {"description": "plucked strings"},
    }


@pytest.fixture
def network(tiny_network: dict[str, Any]) -> ScoreNetwork:
    torch.manual_seed(0)
    return make_network(**tiny_network)


@pytest.fixture
def prior_file(tmp_path: Path, network: ScoreNetwork, config: dict[str, Any]) -> Path:
    path = tmp_path / "strings.safetensors"
    save_prior(path, network, config)
    return path


def test_round_trip(prior_file: Path, network: ScoreNetwork, config: dict[str, Any]) -> None:
    prior = load_prior(prior_file, dtype=torch.float32)
    assert (prior.name, prior.sample_rate, prior.sigma_data, prior.sigma_min) == ("strings", 8000, 0.05, 2e-4)
    assert prior.config == config
    assert prior.settings == {"sampler": {"steps": 12}, "refinement": {"name": "none"}}
    saved, loaded = network.state_dict(), prior.denoiser.network.state_dict()
    assert saved.keys() == loaded.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.bfloat16().float()), name

    network.load_state_dict(loaded)
    generator = torch.Generator().manual_seed(0)
    x, sigma = torch.randn(2, 333, generator=generator), torch.tensor([0.01, 0.5])
    total = (sigma**2 + 0.05**2)[:, None]
    with torch.no_grad():
        f = network(x / total.sqrt(), sigma.log() / 4)
        expected = 0.05**2 / total * x + sigma[:, None] * 0.05 / total.sqrt() * f
        torch.testing.assert_close(prior.denoiser(x, sigma), expected)


def test_loaded_prior_is_for_inference(prior_file: Path) -> None:
    prior = load_prior(str(prior_file))
    assert not prior.denoiser.network.training
    assert not any(p.requires_grad for p in prior.denoiser.parameters())
    x = torch.randn(1, 100, requires_grad=True)
    prior.denoiser(x, torch.tensor([0.1])).square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compute_type(prior_file: Path, dtype: torch.dtype) -> None:
    assert load_prior(prior_file, dtype=dtype).denoiser.network.compute_dtype == dtype


def test_weights_take_two_bytes_each(prior_file: Path, network: ScoreNetwork) -> None:
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(prior_file).values())
    count = sum(tensor.numel() for tensor in network.state_dict().values())
    assert 2 * count < prior_file.stat().st_size < 2 * count + 20_000


def test_config_is_readable_without_weights(prior_file: Path, config: dict[str, Any]) -> None:
    assert read_config(prior_file) == config


def test_prior_without_settings(tmp_path: Path, network: ScoreNetwork, config: dict[str, Any]) -> None:
    del config["settings"]
    save_prior(tmp_path / "p.safetensors", network, config)
    assert load_prior(tmp_path / "p.safetensors").settings == {}


def test_prior_with_settings_of_an_old_file(tmp_path: Path, network: ScoreNetwork, config: dict[str, Any]) -> None:
    del config["settings"]
    save_prior(tmp_path / "p.safetensors", network, config | {"sampler": {"steps": 12, "cost_hop": 64}})
    expected = {"sampler": {"steps": 12}, "cost": {"hop": 64}, "refinement": {"name": "none"}}
    assert load_prior(tmp_path / "p.safetensors").settings == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "guitar",
            {
                "sampler": {"steps": 40, "sigma_max": 0.5, "sigma_min": 1e-3, "churn": 0.0, "zeta": 0.6},
                "operator_fit": {"warmup": 100, "segments": 6},
                "refinement": {"name": "auto", "iterations": 600, "settling": 60, "windows": [4096, 8192, 16384]},
                "curve": {"iterations_divisor": 8},
            },
        ),
        (
            "speech",
            {
                "sampler": {"steps": 40, "sigma_max": 0.5, "sigma_min": 1e-3, "churn": 0.0, "zeta": 0.6},
                "cost": {"n_fft": 512, "hop": 128},
                "operator_fit": {"warmup": 100, "segments": 6},
                "refinement": {"name": "auto", "iterations": 300, "windows": [512, 1024, 2048]},
                "polish": {"sigma": 0.015},
            },
        ),
    ],
)
def test_settings_of_the_shipped_priors(name: str, expected: dict[str, Any]) -> None:
    assert load_prior(name).settings == expected


OLD_SETTINGS = {
    "steps": 50, "sigma_max": 1.0, "sigma_min": 1e-5, "rho": 7.0, "churn": 20.0, "noise_scale": 1.0, "heun": True,
    "zeta": 0.3, "cost_n_fft": 1024, "cost_hop": 256, "through_denoiser": True, "operator_iterations": 20,
    "operator_learning_rate": 0.02, "operator_betas": (0.9, 0.99), "operator_warmup": 1, "operator_segments": 2,
    "operator_segment_length": 16384, "refine_iterations": 3, "refine_windows": (4096,), "polish_sigma": 0.1,
    "polish_steps": 6,
}  # fmt: skip


def test_every_old_setting_is_translated() -> None:
    assert translate_settings(OLD_SETTINGS) == {
        "sampler": {
            "steps": 50, "sigma_max": 1.0, "sigma_min": 1e-5, "rho": 7.0, "churn": 20.0, "noise_scale": 1.0,
            "name": "heun", "zeta": 0.3, "through_denoiser": True,
        },
        "cost": {"n_fft": 1024, "hop": 256},
        "operator_fit": {
            "iterations": 20, "learning_rate": 0.02, "betas": (0.9, 0.99), "warmup": 1, "segments": 2,
            "segment_length": 16384,
        },
        "refinement": {"name": "auto", "iterations": 3, "windows": (4096,)},
        "polish": {"sigma": 0.1, "steps": 6},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({"heun": False}, {"sampler": {"name": "euler"}}),
        ({"refine_iterations": 0}, {"refinement": {"name": "none"}}),
        ({"refine_windows": [4]}, {"refinement": {"windows": [4]}}),
        # Left for the caller, who knows the names of the sampler's settings.
        ({"stpes": 3}, {"sampler": {"stpes": 3}}),
    ],
    ids=str,
)
def test_translated_settings(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert translate_settings(old) == new


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def overwrite_start(path: Path) -> None:
    path.write_bytes(b"\xff" * 64 + path.read_bytes()[64:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path, metadata={"format": "pt"})


def without_metadata(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path)


def change(path: Path, config: str | None = None, **tensors: torch.Tensor) -> None:
    """Rewrite a prior file with another configuration text or other weights."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata.pop("checksum", None)  # as files of version 0.1 have none
    if config is not None:
        metadata["config"] = config
    save_file({**load_file(path), **tensors}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "cannot be read"),
        (cut_header, "cannot be read"),
        (overwrite_start, "cannot be read"),
        (empty, "cannot be read"),
        (foreign, "is not an nldiff prior"),
        (without_metadata, "is not an nldiff prior"),
        (lambda path: change(path, "{not json"), "is damaged: its configuration is not JSON"),
        (lambda path: change(path, "[1, 2]"), "is damaged: its configuration lacks"),
        (
            lambda path: change(path, '{"sample_rate": 8000}'),
            "is damaged: its configuration lacks network, sigma_data, sigma_min",
        ),
        (
            lambda path: change(path, json.dumps(read_config(path) | {"network": {"name": "wavenet"}})),
            "is damaged: unknown network 'wavenet'",
        ),
        (
            lambda path: change(path, json.dumps(read_config(path) | {"network": {"channels": [8, 8]}})),
            "is damaged: unknown network ''",
        ),
        (lambda path: change(path, output_gain=torch.ones(9)), "is damaged: weight output_gain: "),
        (lambda path: change(path, surplus=torch.ones(1)), "is damaged: weight surplus: "),
    ],
    ids=[
        "truncated",
        "cut header",
        "overwritten start",
        "empty",
        "foreign",
        "no metadata",
        "configuration no JSON",
        "configuration a list",
        "configuration incomplete",
        "unknown network",
        "network without name",
        "wrong shape",
        "surplus weight",
    ],
)
def test_bad_files(prior_file: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(prior_file)
    with pytest.raises(NldiffError, match=rf"{prior_file} {reason}") as caught:
        load_prior(prior_file)
    assert "\n" not in str(caught.value)


class Intruder:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_pickles_are_refused_unopened(tmp_path: Path, write: Callable[[object], bytes] | None) -> None:
    path, trace = tmp_path / "evil.safetensors", tmp_path / "trace"
    if write is None:
        torch.save({"x": Intruder(trace)}, path)
    else:
        path.write_bytes(write(Intruder(trace)))
    with pytest.raises(NldiffError, match=r"evil\.safetensors cannot be read") as caught:
        load_prior(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["banjo", "nowhere/guitar.safetensors"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(NldiffError, match=rf"^unknown prior '{name}': neither a file nor one of: guitar, speech$"):
        load_prior(name)


def test_every_shipped_prior_is_tested() -> None:
    assert set(SHIPPED) == {"guitar", "speech"}


@pytest.mark.parametrize(("name", "sample_rate", "bound"), [("guitar", 44100, 0.7), ("speech", 16000, 0.9)])
def test_shipped_prior(name: str, sample_rate: int, bound: float) -> None:
    file = files("nldiff") / "priors" / "weights" / f"{name}.safetensors"
    assert file.is_file()
    assert len(file.read_bytes()) <= 20e6
    prior = load_prior(name)
    assert prior.name == name
    assert prior.sample_rate == sample_rate
    # The trivial denoiser, which scales its input, has the loss 1 at every noise level. The example is a guitar.
    samples, rate = soundfile.read(ROOT / "examples" / "guit_em9.flac", frames=69120, dtype="float32")
    samples = resample(samples[None], rate, sample_rate)[0]
    x0 = torch.from_numpy(samples * (prior.sigma_data / samples.std()))[None]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for sigma in (0.01, 0.1, 0.5):
            assert float(denoising_loss(prior.denoiser, x0, torch.tensor([sigma]), noise)) < bound
