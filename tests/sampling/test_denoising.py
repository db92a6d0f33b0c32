from typing import Any

import pytest
import torch
from exact_priors import Recorder, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nldiff.sampling.denoising import PartwiseDenoiser


def warped(x: Tensor, sigma: Tensor) -> Tensor:
    """Nonlinear, mixes neighbouring samples, but not items."""
    return torch.tanh(x + 0.3 * x.roll(1, 1)) / (1 + sigma[:, None])


@given(items=st.integers(1, 6), batch_size=st.integers(1, 8), seed=st.integers(0, 99))
def test_parts_give_the_estimate_and_the_gradient_of_the_whole(items: int, batch_size: int, seed: int) -> None:
    x, gradient = noise(items, 9, seed, torch.float64), noise(items, 9, seed + 100, torch.float64)
    denoiser = PartwiseDenoiser(warped, batch_size)
    estimate, pull_back = denoiser(x, 0.7, differentiable=True)
    leaf = x.clone().requires_grad_()
    expected = warped(leaf, torch.full((items,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(estimate, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        pull_back(gradient), torch.autograd.grad(expected, leaf, gradient)[0], rtol=0, atol=1e-12
    )
    assert denoiser.evaluations == 1
    assert not estimate.requires_grad and not x.requires_grad


def test_the_pull_back_is_the_transpose_of_the_jacobian() -> None:
    x = noise(1, 6, 1, torch.float64)
    _, pull_back = PartwiseDenoiser(warped, 1)(x, 0.5, differentiable=True)
    step = 1e-6
    columns = []
    for i in range(6):
        change = torch.zeros(1, 6, dtype=torch.float64)
        change[0, i] = step
        ahead, behind = (warped(x + s * change, torch.tensor([0.5], dtype=torch.float64)) for s in (1, -1))
        columns.append((ahead - behind)[0] / (2 * step))
    gradient = noise(1, 6, 2, torch.float64)
    torch.testing.assert_close(pull_back(gradient)[0], torch.stack(columns) @ gradient[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("batch_size", "forwards", "backwards"), [(5, [5], []), (9, [5], []), (2, [2, 2, 1], [2, 2, 1])]
)
def test_the_graph_of_a_single_part_is_kept_and_those_of_several_are_made_again(
    batch_size: int, forwards: list[int], backwards: list[int]
) -> None:
    network = Recorder(warped)
    _, pull_back = PartwiseDenoiser(network, batch_size)(noise(5, 9), 0.7, differentiable=True)
    assert network.sizes == forwards
    pull_back(noise(5, 9))
    assert network.sizes == forwards + backwards


@pytest.mark.parametrize(("batch_size", "differentiable", "graphs"), [(2, True, 1), (1, True, 0), (2, False, 0)])
def test_graphs_are_kept_only_where_they_are_used(batch_size: int, differentiable: bool, graphs: int) -> None:
    kept: list[bool] = []

    def spy(x: Tensor, sigma: Tensor) -> Tensor:
        estimate = warped(x, sigma)
        kept.append(estimate.requires_grad)
        return estimate

    PartwiseDenoiser(spy, batch_size)(noise(2, 9), 0.7, differentiable)
    assert sum(kept) == graphs


class Alive(torch.autograd.Function):
    """The identity that counts the graphs which hold its input."""

    count = 0
    most = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            Alive.count += 1
            Alive.most = max(Alive.most, Alive.count)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        Alive.count -= 1
        return gradients[0]


def test_one_graph_at_a_time_is_in_memory() -> None:
    Alive.count = Alive.most = 0
    _, pull_back = PartwiseDenoiser(lambda x, sigma: Alive.apply(x), 1)(noise(4, 9), 0.7, differentiable=True)
    assert torch.equal(pull_back(noise(4, 9, 1)), noise(4, 9, 1))
    assert (Alive.count, Alive.most) == (0, 1)
