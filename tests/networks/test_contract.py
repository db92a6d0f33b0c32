"""What holds for every network, score networks and supervised ones: shapes, independence, gradients, shipped files."""

from importlib.resources import files

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_networks import SCORE, SUPERVISED, apply, build, noise
from torch import nn

from nldiff import networks
from nldiff.baselines import networks as supervised
from nldiff.baselines import saved as baselines
from nldiff.priors import saved as priors

every_network = pytest.mark.parametrize("tiny", [*SCORE, *SUPERVISED])
SHIPPED = [f"priors/weights/{name}" for name in priors.SHIPPED] + [
    f"baselines/weights/{name}" for name in baselines.SHIPPED
]


def test_every_network_is_tested() -> None:
    assert {arguments["name"] for arguments in SCORE.values()} == set(networks.NETWORKS)
    assert {arguments["name"] for arguments in SUPERVISED.values()} == set(supervised.NETWORKS)


@every_network
@settings(max_examples=8)
@example(samples=1)
@example(samples=4001)
@given(samples=st.integers(1, 500))
@torch.no_grad()
def test_any_length_in_is_the_length_out(tiny: str, samples: int) -> None:
    y = apply(build(tiny), noise(2, samples))
    assert y.shape == (2, samples)
    assert y.dtype == torch.float32
    assert bool(y.isfinite().all())
    assert bool(y.any())


@every_network
@torch.no_grad()
def test_items_are_independent(tiny: str) -> None:
    network, x = build(tiny), noise(3, 1500) * torch.tensor([[1.0], [0.1], [5.0]])
    together = apply(network, x)
    for i in range(3):
        torch.testing.assert_close(apply(network, x[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)
    x[0] = noise(1500, seed=9)
    changed = apply(network, x)
    torch.testing.assert_close(changed[1:], together[1:], rtol=1e-4, atol=1e-5)
    assert float((changed[0] - together[0]).abs().max()) > 1e-3


@every_network
@torch.no_grad()
def test_calls_leave_no_state(tiny: str) -> None:
    network, x = build(tiny), noise(1, 1500)
    first = apply(network, x)
    apply(network, noise(2, 2000, seed=1))
    assert torch.equal(apply(network, x), first)
    assert torch.equal(apply(build(tiny), x), first)


@every_network
def test_every_input_and_parameter_has_a_gradient(tiny: str) -> None:
    network, x = build(tiny), noise(2, 3000).requires_grad_()
    apply(network, x).square().sum().backward()
    assert x.grad is not None and int((x.grad == 0).sum()) == 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


@every_network
def test_gradient_is_that_of_the_output(tiny: str) -> None:
    network = build(tiny).double()
    x, direction, probe = (noise(1, 300, seed=seed).double() for seed in range(3))
    if tiny in SCORE:  # computes in float32: a step that balances rounding and curvature
        network, x, direction, probe, h = network.float(), x.float(), direction.float(), probe.float(), 3e-3
    else:
        h = 1e-6
    c_noise = [torch.tensor([-0.5])] if tiny in SCORE else []
    (gradient,) = torch.autograd.grad((network(x.requires_grad_(), *c_noise) * probe).sum(), x)
    with torch.no_grad():
        ends = [(network(x + step * direction, *c_noise) * probe).sum() for step in (h, -h)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-2)


@pytest.mark.parametrize("file", SHIPPED)
def test_parameters_are_named_as_in_the_shipped_files(file: str) -> None:
    path = files("nldiff") / f"{file}.safetensors"
    name = file.rpartition("/")[2]
    network: nn.Module
    if name in priors.SHIPPED:
        network = priors.load_prior(name, dtype=torch.float32).denoiser.network
    else:
        network = baselines.load_baseline(name).network
    state = network.state_dict()
    with safe_open(str(path), framework="pt") as stored:
        assert set(stored.keys()) == set(state)
        for key, tensor in state.items():
            assert torch.equal(stored.get_tensor(key).float(), tensor), key
    assert not any(parameter.requires_grad for parameter in network.parameters())
