import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nldiff.baselines.demucs import Demucs, double_rate, halve_rate
from nldiff.baselines.networks import NETWORKS, make_network
from nldiff.baselines.wave_unet import WaveUNet, interpolate
from nldiff.errors import NldiffError

# One entry or more for every name in the table; `test_every_network_is_tested` keeps it complete.
TINY: dict[str, dict[str, Any]] = {
    "demucs": {"name": "demucs", "hidden": 6, "depth": 3, "max_hidden": 16, "resample": 1},
    "demucs-causal": {"name": "demucs", "hidden": 4, "depth": 3, "causal": True, "resample": 2, "residual": True},
    "demucs-resampled": {"name": "demucs", "hidden": 4, "depth": 3, "kernel": 9, "resample": 4},
    "wave-unet": {"name": "wave-unet", "levels": 5, "channels": 4},
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(tiny: str) -> nn.Module:
    """The same weights every time."""
    torch.manual_seed(0)
    return make_network(**TINY[tiny])


def parameter_count(name: str, **arguments: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make_network(name, **arguments).parameters())


def sine(frequency: float, times: Tensor) -> Tensor:
    """Of a frequency in cycles per sample, at times in samples; [1, time]."""
    return torch.sin(2 * math.pi * frequency * times.double() + 0.3).float()[None]


def test_every_network_is_tested() -> None:
    assert {arguments["name"] for arguments in TINY.values()} == set(NETWORKS)


@pytest.mark.parametrize("samples", [1, 100, 4001, 16000])
@pytest.mark.parametrize("tiny", TINY)
@torch.no_grad()
def test_any_length_in_is_the_length_out(tiny: str, samples: int) -> None:
    y = build(tiny)(noise(2, samples))
    assert y.shape == (2, samples)
    assert y.dtype == torch.float32
    assert bool(y.isfinite().all())
    assert float(y.std()) > 1e-6


@pytest.mark.parametrize("tiny", TINY)
@torch.no_grad()
def test_items_are_independent(tiny: str) -> None:
    network, y = build(tiny), noise(3, 3000)
    together = network(y)
    for i in range(3):
        torch.testing.assert_close(network(y[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)
    y[0] = noise(3000, seed=9)
    torch.testing.assert_close(network(y)[1:], together[1:], rtol=1e-4, atol=1e-5)
    assert float((network(y)[0] - together[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("tiny", TINY)
@torch.no_grad()
def test_calls_leave_no_state(tiny: str) -> None:
    network, y = build(tiny), noise(1, 3000)
    first = network(y)
    network(noise(2, 4000, seed=1))
    assert torch.equal(network(y), first)


@pytest.mark.parametrize("tiny", TINY)
def test_every_input_and_parameter_has_a_gradient(tiny: str) -> None:
    network, y = build(tiny), noise(2, 3000).requires_grad_()
    network(y).square().sum().backward()
    assert y.grad is not None and int((y.grad == 0).sum()) == 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize(
    ("name", "arguments", "expected", "tolerance"),
    [
        # Facts about the published speech denoiser.
        ("demucs", {"causal": True}, 18.87e6, 0.005),
        ("demucs", {}, 34.22e6, 0.005),
        # "approximately 1M" of the 2022 paper, and what fits into 5 MB in bfloat16.
        ("demucs", {"hidden": 32, "depth": 3}, 0.94e6, 0.01),
        ("demucs", {"hidden": 32, "depth": 4, "max_hidden": 192}, 2.35e6, 0.01),
        ("wave-unet", {}, 0.98e6, 0.01),
    ],
)
def test_parameter_counts(name: str, arguments: dict[str, Any], expected: float, tolerance: float) -> None:
    assert parameter_count(name, **arguments) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "unet"}, r"unknown network 'unet' \(known: demucs, wave-unet"),
        ({"name": "demucs", "resample": 3}, "resample 3: 1, 2 or 4"),
        ({"name": "demucs", "stride": 9}, "stride 9: at least 1 each, stride at most kernel"),
        ({"name": "demucs", "width": 9}, "unexpected keyword argument 'width'"),
        ({"name": "wave-unet", "levels": 0}, "0 levels of 13 channels"),
        ({"name": "wave-unet", "up_kernel": 4}, "kernels 15 and 4: odd numbers"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as caught:
        make_network(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resample", [1, 2, 4])
@torch.no_grad()
def test_causal_demucs_knows_no_more_than_its_lookahead(resample: int) -> None:
    torch.manual_seed(0)
    network = Demucs(4, 3, causal=True, resample=resample)
    # 3 blocks of kernel 8 and stride 4: a latent frame is 8 + 4 * 7 + 16 * 7 = 148 samples at the inner rate.
    assert network.lookahead == {1: 148, 2: 74 + 112, 4: 37 + 112 + 56}[resample]
    x = noise(1, 2000)
    change = x.clone()
    change[:, 1200:] = noise(1, 800, seed=1)
    difference = (network(change) - network(x)).abs()[0]
    assert not difference[: 1200 - network.lookahead].any()
    # It does use the latent frame: but for the tails of the filters and one step of 64 samples of the deepest block.
    assert difference[: 1200 - (148 - 64) // resample].any()


@torch.no_grad()
def test_demucs_in_both_directions_knows_the_future() -> None:
    torch.manual_seed(0)
    network = Demucs(4, 3, causal=False, resample=1)
    x = noise(1, 2000)
    change = x.clone()
    change[:, 1200:] = noise(1, 800, seed=1)
    assert (network(change) - network(x))[0, :1000].any()


@torch.no_grad()
def test_residual_demucs_adds_the_input() -> None:
    networks = []
    for residual in (False, True):
        torch.manual_seed(0)
        networks.append(Demucs(4, 2, residual=residual))
    y = noise(2, 500)
    torch.testing.assert_close(networks[1](y) - networks[0](y), y)


@torch.no_grad()
def test_demucs_by_hand() -> None:
    torch.manual_seed(0)
    network = Demucs(2, 2, kernel=3, stride=2, lstm_layers=1, causal=True, resample=1)
    y = noise(1, 10)
    # 10 samples: 5 frames of 3 samples in steps of 2 cover 11, and 2 frames of 3 cover these 5.
    weights = dict(network.named_parameters())

    def gated(x: Tensor, name: str) -> Tensor:
        a, b = (weights[f"{name}.weight"][:, :, 0] @ x + weights[f"{name}.bias"][:, None]).chunk(2)
        return a * torch.sigmoid(b)

    def encode(x: Tensor, k: int) -> Tensor:
        frames = x.unfold(1, 3, 2)  # channels, frames, 3
        z = torch.einsum("cfk,ock->of", frames, weights[f"encoder.{k}.0.weight"])
        return gated((z + weights[f"encoder.{k}.0.bias"][:, None]).clamp(min=0), f"encoder.{k}.2")

    def decode(x: Tensor, k: int) -> Tensor:
        x, kernel = gated(x, f"decoder.{k}.0"), weights[f"decoder.{k}.2.weight"]
        z = weights[f"decoder.{k}.2.bias"][:, None].repeat(1, 2 * x.shape[1] + 1)
        for frame in range(x.shape[1]):
            z[:, 2 * frame : 2 * frame + 3] += torch.einsum("c,cok->ok", x[:, frame], kernel)
        return z

    first = encode(F.pad(y, (0, 1)), 0)
    second = encode(first, 1)
    assert (first.shape, second.shape) == ((2, 5), (4, 2))
    latent = network.lstm(second.T)[0].T
    expected = decode(decode(latent + second, 0).clamp(min=0) + first, 1)
    torch.testing.assert_close(network(y)[0], expected[0, :10])


def test_demucs_rescales_the_initial_weights() -> None:
    torch.manual_seed(0)
    weight = Demucs(16, 2).get_parameter("encoder.1.0.weight").detach()
    # PyTorch starts uniformly within 1 / sqrt(16 channels * 8 samples), of deviation 0.0510; half-way to 0.1.
    assert float(weight.std()) == pytest.approx(math.sqrt(0.1 / math.sqrt(3 * 16 * 8)), rel=0.03)


@pytest.mark.parametrize("frequency", [0.01, 0.12, 0.37, 0.47])
def test_resampling_of_a_sinusoid(frequency: float) -> None:
    doubled = double_rate(sine(frequency, torch.arange(600)))
    expected = sine(frequency, torch.arange(1200) / 2)
    middle = slice(240, 960)  # where the filter does not reach beyond the ends
    torch.testing.assert_close(doubled[:, middle], expected[:, middle], rtol=0, atol=2e-3)
    halved = halve_rate(expected)
    torch.testing.assert_close(halved[:, 120:480], sine(frequency, torch.arange(600))[:, 120:480], rtol=0, atol=2e-3)


@pytest.mark.parametrize("frequency", [0.27, 0.35, 0.46])
def test_halving_the_rate_removes_the_upper_half_of_the_band(frequency: float) -> None:
    assert float(halve_rate(sine(frequency, torch.arange(1200)))[:, 120:480].abs().max()) < 2e-3


def test_wave_unet_interpolates_between_neighbours() -> None:
    x = torch.tensor([[[1.0, 3.0, -2.0]]])
    assert interpolate(x).tolist() == [[[1.0, 2.0, 3.0, 0.5, -2.0, -2.0]]]


@torch.no_grad()
def test_wave_unet_by_hand() -> None:
    torch.manual_seed(0)
    network = WaveUNet(1, 2, down_kernel=3, up_kernel=3)
    weights = dict(network.named_parameters())

    def convolve(x: Tensor, name: str) -> Tensor:
        z = torch.einsum("cfk,ock->of", F.pad(x, (1, 1)).unfold(1, 3, 1), weights[f"{name}.weight"])
        z += weights[f"{name}.bias"][:, None]
        return torch.where(z > 0, z, 0.2 * z)

    y = noise(1, 7)
    padded = F.pad(y, (0, 1))
    skip = convolve(padded, "encoder.0")
    up = np.zeros((4, 8), dtype=np.float32)
    up[:, ::2] = convolve(skip[:, ::2], "encoder.1")
    up[:, 1::2] = (up[:, ::2] + np.append(up[:, 2::2], up[:, -2:-1], axis=1)) / 2
    x = torch.cat([padded, convolve(torch.cat([skip, torch.from_numpy(up)]), "decoder.0")])
    expected = weights["output.weight"][:, :, 0] @ x + weights["output.bias"]
    torch.testing.assert_close(network(y), expected[:, :7])
