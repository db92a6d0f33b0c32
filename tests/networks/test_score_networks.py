"""What holds for every score network besides the contract of all networks."""

import pytest
import torch
from tiny_networks import SCORE, build_score, noise

from nldiff.networks import make_network

pytestmark = pytest.mark.parametrize("tiny", SCORE)


def test_padding_is_silence(tiny: str) -> None:
    network, c_noise = build_score(tiny), torch.tensor([-0.3])
    x = noise(1, 150)
    longer = torch.nn.functional.pad(x, (0, 40))  # both end in the same multiple of the granules, 192
    torch.testing.assert_close(network(x, c_noise), network(longer, c_noise)[:, :150])


def test_noise_level_matters(tiny: str) -> None:
    network, x = build_score(tiny), noise(1, 200)
    low, high = network(x, torch.tensor([-2.0])), network(x, torch.tensor([0.5]))
    assert torch.linalg.vector_norm(low - high) > 0.001 * torch.linalg.vector_norm(low)


def test_frozen_network_is_the_same(tiny: str) -> None:
    network, x, c_noise = build_score(tiny), noise(2, 300), torch.tensor([-1.0, 0.3])
    expected = network(x, c_noise)
    network.gradient_checkpointing = True
    network.freeze(torch.float32)
    assert not network.gradient_checkpointing  # it needs no memory that would be worth the time
    assert torch.equal(network(x, c_noise), expected)
    assert torch.equal(network(x, c_noise), expected)  # from the kernels that the first call prepared
    assert not any(p.requires_grad for p in network.parameters())
    x.requires_grad_()
    network(x, c_noise).sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_bfloat16_is_close(tiny: str) -> None:
    network, x, c_noise = build_score(tiny), noise(2, 300), torch.tensor([-1.0, 0.3])
    exact = network(x, c_noise).detach()
    network.compute_dtype = torch.bfloat16
    rounded = network(x, c_noise).detach()
    assert rounded.dtype == torch.float32
    # bfloat16 has 8 bits: 0.2 to 0.4 % a rounding, a handful of roundings in a row.
    error = torch.linalg.vector_norm(rounded - exact) / torch.linalg.vector_norm(exact)
    assert 1e-4 < float(error) < 0.03


def test_gradient_checkpointing_changes_nothing(tiny: str) -> None:
    gradients = []
    for switch in (False, True):
        network = build_score(tiny, gradient_checkpointing=switch)
        network(noise(2, 200), torch.tensor([-1.0, 0.3])).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_untrained_network_is_nearly_zero(tiny: str) -> None:
    y = make_network(**SCORE[tiny])(noise(2, 1000), torch.tensor([-1.0, 0.3])).detach()
    assert 0 < float(y.square().mean().sqrt()) < 0.01
