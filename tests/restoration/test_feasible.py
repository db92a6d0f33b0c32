import torch
from helpers import intervals
from hypothesis import given
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
