import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_refinement import TINY_REFINEMENT
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.networks.refinement import RefinementNetwork, inexact, make_refinement_network

TIME = 300


def network(gain: float = 0.3) -> RefinementNetwork:
    torch.manual_seed(0)
    made = make_refinement_network(**TINY_REFINEMENT)
    torch.nn.init.constant_(made.network.output_gain, gain)  # type: ignore[arg-type]
    return made


def found_and_bounds(seed: int, items: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Three signals near each other, and bounds of which a third is exact and a tenth each is open on one side."""
    source = torch.Generator().manual_seed(seed)
    clean = torch.randn(items, TIME, generator=source)
    kind = torch.rand(items, TIME, generator=source)
    low, high = clean - torch.rand(items, TIME, generator=source), clean + torch.rand(items, TIME, generator=source)
    low = torch.where(kind < 1 / 3, clean, torch.where(kind > 0.9, -torch.inf, low))
    high = torch.where(kind < 1 / 3, clean, torch.where(kind < 0.4, torch.inf, high))
    return clean[:, None] + 0.3 * torch.randn(items, 3, TIME, generator=source), low, high


def test_an_untrained_network_returns_the_mean_inside_the_bounds() -> None:
    found, low, high = found_and_bounds(0)
    made = make_refinement_network(**TINY_REFINEMENT)
    assert torch.equal(made(found, low, high), torch.clamp(found.mean(1), low, high))


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), level=st.sampled_from([1e-3, 1.0, 1e3]))
def test_results_lie_in_the_bounds_and_scale_with_the_level(seed: int, level: float) -> None:
    found, low, high = found_and_bounds(seed)
    made = network()
    result = made(found, low, high)
    assert bool((result >= low - 1e-5).all()) and bool((result <= high + 1e-5).all())
    assert not torch.allclose(result, torch.clamp(found.mean(1), low, high))
    torch.testing.assert_close(made(level * found, level * low, level * high) / level, result, rtol=1e-3, atol=1e-4)


def test_items_do_not_depend_on_each_other() -> None:
    found, low, high = found_and_bounds(1)
    made = network()
    alone = torch.cat([made(found[i : i + 1], low[i : i + 1], high[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(made(found, low, high), alone)


def test_silence_stays_silent() -> None:
    nothing = torch.zeros(1, TIME)
    assert torch.equal(network()(nothing[:, None].expand(1, 3, TIME), nothing, nothing), nothing)


def test_the_derivative_does_not_end_at_the_bounds() -> None:
    found, low, _ = found_and_bounds(2)
    # All results are pressed against an upper bound far below what was found.
    high = torch.clamp(found.mean(1), max=-5.0)
    made = network()
    made(found, torch.full_like(low, -torch.inf), high).sum().backward()
    assert float(made.network.output_gain.grad.abs()) > 1e-3  # type: ignore[union-attr, operator]


def test_what_counts_as_exact() -> None:
    low, rms = torch.zeros(1, 3), torch.tensor([[2.0]])
    assert inexact(low, torch.tensor([[0.0, 0.015, math.inf]]), rms).tolist() == [[False, False, True]]
    assert inexact(low, torch.tensor([[0.0, 0.025, math.inf]]), rms).tolist() == [[False, True, True]]


@pytest.mark.parametrize("change", [{"channels": [4]}, {"layer": "biggan"}, {"depth": 3}])
def test_arguments_that_the_network_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(NldiffError, match="refinement network: "):
        make_refinement_network(**TINY_REFINEMENT | change)
