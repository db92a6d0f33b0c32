import math

import numpy as np
import pytest
import torch
from helpers import intervals
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nldiff.restoration.feasible import Intervals

SHAPE = array_shapes(min_dims=2, max_dims=2, max_side=20)


def test_projection_by_hand() -> None:
    inf = torch.inf
    low = torch.tensor([[-1.0, -inf, 0.5, 2.0, -inf]])
    high = torch.tensor([[1.0, 0.0, inf, 2.0, inf]])
    x = torch.tensor([[-3.0, -7.0, 0.0, 9.0, 5.0]])
    assert Intervals(low, high).project(x).tolist() == [[-1.0, -7.0, 0.5, 2.0, 5.0]]


@given(seed=st.integers(0, 10**6), items=st.integers(1, 3), length=st.integers(1, 50))
def test_the_projection_is_a_member_and_projected_again_the_same(seed: int, items: int, length: int) -> None:
    x, feasible = intervals(seed, items, length)
    found = feasible.project(x)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert bool(((feasible.low <= found) & (found <= feasible.high)).all())
    assert torch.equal(feasible.project(found), found)
    inside = (feasible.low <= x) & (x <= feasible.high)
    assert torch.equal(found[inside], x[inside])


@given(seed=st.integers(0, 10**6), shares=arrays(float, SHAPE, elements=st.floats(0, 1)))
def test_no_member_is_nearer_than_the_projection(seed: int, shares: object) -> None:
    share = torch.as_tensor(shares)
    x, feasible = intervals(seed, *share.shape)
    # Any member: on the way through the interval, of which an open end is taken to be far off.
    low, high = feasible.low.double().clamp(min=-99), feasible.high.double().clamp(max=99)
    member = low + share * (high - low)
    nearest = feasible.project(x.double())
    assert bool(((x - nearest).abs() <= (x - member).abs() + 1e-12).all())


@given(seed=st.integers(0, 10**6))
def test_projections_of_two_signals_are_no_further_apart_than_the_signals(seed: int) -> None:
    x, feasible = intervals(seed, 2, 40)
    other = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    apart = (feasible.project(x) - feasible.project(other)).abs()
    assert bool((apart <= (x - other).abs() + 1e-6).all())


def truncated_mean(x: float, deviation: float, low: float, high: float) -> float:
    """Mean of a Gaussian truncated to an interval, by adding up its density over the interval."""
    grid = np.linspace(max(low, x - 12 * deviation), min(high, x + 12 * deviation), 200_001)
    density = np.exp(-0.5 * ((grid - x) / deviation) ** 2)
    return float(np.sum(grid * density) / np.sum(density))


@given(
    x=st.floats(-3, 3),
    deviation=st.floats(0.05, 2),
    low=st.floats(-3, 3) | st.just(-math.inf),
    width=st.floats(0.1, 3) | st.just(math.inf),
)
def test_the_expectation_is_that_of_the_truncated_gaussian(
    x: float, deviation: float, low: float, width: float
) -> None:
    high = low + width if math.isfinite(low) else width
    # Nearer than 8 standard deviations, so that the sum has a density to add up.
    assume(max(low - x, x - high) < 8 * deviation)
    bounds = Intervals(torch.tensor([[low]]).double(), torch.tensor([[high]]).double())
    found = float(bounds.expectation(torch.tensor([[x]]).double(), deviation))
    assert found == pytest.approx(truncated_mean(x, deviation, low, high), abs=2e-4 * deviation)


def test_expectations_by_hand() -> None:
    inf, half = torch.inf, math.sqrt(2 / math.pi)
    low = torch.tensor([[0.0, -inf, -inf, 2.0, 0.0, -1e-4, 0.0]])
    high = torch.tensor([[inf, 0.0, inf, 2.0, 1e-4, 1e-4, inf]])
    x = torch.tensor([[0.0, 0.0, 5.0, 9.0, 7.0, 7.0, -50.0]])
    # A half Gaussian of either side; no bounds; an exact sample; narrow intervals; a tail 50 deviations away, whose
    # mean is 1 / 50 - 2 / 50^3 and so on above its beginning.
    expected = [[half, -half, 5.0, 2.0, 0.5e-4, 0.0, 0.019984]]
    torch.testing.assert_close(Intervals(low, high).expectation(x, 1.0), torch.tensor(expected), rtol=1e-5, atol=8e-6)


@given(seed=st.integers(0, 10**6), items=st.integers(1, 3), length=st.integers(1, 50), deviation=st.floats(1e-6, 1e3))
def test_the_expectation_is_a_member(seed: int, items: int, length: int, deviation: float) -> None:
    x, feasible = intervals(seed, items, length)
    found = feasible.expectation(x, deviation)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert bool(((feasible.low <= found) & (found <= feasible.high)).all())
