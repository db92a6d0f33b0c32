import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laplace import laplace
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import TabulatedCurve


def table(inputs: list[float], outputs: list[float]) -> TabulatedCurve:
    return TabulatedCurve(torch.tensor(inputs, dtype=torch.float64), torch.tensor(outputs, dtype=torch.float64))


# flat, a slope of 2, flat, a jump at 3
STAIRS = table([-1, 0, 1, 3, 3, 4], [0, 0, 2, 2, 5, 6])


def test_values_by_hand() -> None:
    x = torch.tensor([[-9.0, -0.5, 0.25], [1.0, 2.0, 3.5]])
    y = STAIRS(x)
    assert torch.equal(y, torch.tensor([[0.0, 0.0, 0.5], [2.0, 2.0, 5.5]]))
    assert y.dtype == x.dtype
    assert STAIRS(torch.tensor(9.0)).item() == 6  # no axis at all


def test_slopes_by_hand() -> None:
    x = torch.tensor([-9.0, -0.5, 0.25, 2.0, 3.5, 9.0], requires_grad=True)
    y = STAIRS(x)
    assert torch.equal(y.detach(), STAIRS(x.detach()))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.tolist() == [0, 0, 2, 0, 1, 0]


def test_any_table_of_a_function_is_near_it() -> None:
    grid = torch.linspace(-0.5, 0.5, 4001, dtype=torch.float64)
    curve = TabulatedCurve(grid, torch.sin(9 * grid))  # rises and falls
    x = laplace(0).clamp(-0.5, 0.5)[None]
    torch.testing.assert_close(curve(x), torch.sin(9 * x), rtol=0, atol=1e-6)


def test_inverse_by_hand() -> None:
    y = torch.tensor([-1.0, 0.0, 1.0, 2.0, 4.0, 5.5, 6.0, 7.0], dtype=torch.float64)
    assert STAIRS.inverse(y, right=False).tolist() == [-math.inf, -math.inf, 0.5, 1, 3, 3.5, 4, math.inf]
    assert STAIRS.inverse(y, right=True).tolist() == [-math.inf, 0, 0.5, 3, 3, 3.5, math.inf, math.inf]


@given(seed=st.integers(0, 10**6))
def test_what_was_inverted_gives_the_output(seed: int) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = (torch.from_numpy(np.cumsum(random.uniform(0.1, 1, 9))) for _ in range(2))
    curve = TabulatedCurve(inputs, outputs)
    y = torch.from_numpy(random.uniform(float(outputs[0]) + 1e-6, float(outputs[-1]) - 1e-6, 20))
    for right in (False, True):
        torch.testing.assert_close(curve(curve.inverse(y, right)), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (torch.zeros(1), torch.zeros(1), r"shapes \[1\] and \[1\]"),
        (torch.zeros(3), torch.zeros(4), r"shapes \[3\] and \[4\]"),
        (torch.zeros(2, 2), torch.zeros(2, 2), "at least 2"),
        (torch.tensor([0.0, 2.0, 1.0]), torch.zeros(3), "inputs that never fall"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), "inputs that are NaN"),
        (torch.zeros(2), torch.zeros(2), "not all the same"),
    ],
)
def test_wrong_tables_are_named(inputs: Tensor, outputs: Tensor, message: str) -> None:
    with pytest.raises(NldiffError, match=message):
        TabulatedCurve(inputs, outputs)
