import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.operators.waveshapers import MLP, WAVESHAPERS, CatmullRom, SumTanh, Waveshaper, make_waveshaper

names = pytest.mark.parametrize("name", sorted(WAVESHAPERS))


def sources(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(name: str, parameter_sets: int, dtype: torch.dtype, **options: Any) -> Waveshaper:
    """Construct in `dtype`: converting afterwards would keep a spline's grid rounded to float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make_waveshaper(name, parameter_sets, **options)
    finally:
        torch.set_default_dtype(before)


def perturbed(name: str, parameter_sets: int, dtype: torch.dtype = torch.float64, **options: Any) -> Waveshaper:
    """A waveshaper of the family whose parameter sets all differ and whose curves are no special case."""
    shaper = make(name, parameter_sets, dtype, **options)
    shaper.reset(torch.zeros(parameter_sets, 1, dtype=dtype), sources(*range(parameter_sets)))
    (source,) = sources(100)
    with torch.no_grad():
        for parameter in shaper.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return shaper


def audio(items: int, length: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor:
    """Noise that reaches beyond +-1, where the spline ends."""
    return torch.randn(items, length, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow_spline(values: list[float], grid: list[float], x: float) -> float:
    """Eq. 12 and 13 for one x in (-1, 1), written as a loop over the segments."""
    for i in range(len(grid) - 3):
        left, right = grid[i + 1], grid[i + 2]
        if left <= x < right:
            s = (x - left) / (right - left)
            b = [
                0.5 * (-s + 2 * s**2 - s**3),
                0.5 * (2 - 5 * s**2 + 3 * s**3),
                0.5 * (s + 4 * s**2 - 3 * s**3),
                0.5 * (-(s**2) + s**3),
            ]
            return sum(b[j] * values[i + j] for j in range(4))
    raise AssertionError(f"{x} is in no segment")


@names
def test_gradients_match_finite_differences(name: str) -> None:
    small: dict[str, Any] = {"hidden": (5, 4)} if name == "mlp" else {}
    shaper = perturbed(name, parameter_sets=2, **small)
    keys, values = zip(*shaper.named_parameters(), strict=True)
    x = audio(4, 7).requires_grad_()
    assert x.min() < -1 and x.max() > 1
    if isinstance(shaper, CatmullRom):  # the slope is not unique at the knots
        assert (x[..., None] - shaper.grid).abs().min() > 1e-5

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(shaper, dict(zip(keys, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *values), eps=1e-7, atol=1e-6)


@names
def test_item_alone_equals_item_in_batch(name: str) -> None:
    x = audio(3, 1000, torch.float32)
    together = make_waveshaper(name, 3)
    together.reset(x, sources(5, 6, 7))
    for i, seed in enumerate((5, 6, 7)):
        alone = make_waveshaper(name, 1)
        alone.reset(x[i : i + 1], sources(seed))
        for a, b in zip(alone.parameters(), together.parameters(), strict=True):
            assert torch.equal(a[0], b[i])
        torch.testing.assert_close(alone(x[i : i + 1])[0], together(x)[i], rtol=1e-6, atol=1e-6)


@names
def test_items_that_share_parameters_equal_one_long_item(name: str) -> None:
    shaper = perturbed(name, parameter_sets=2)
    x = audio(6, 50)
    long = shaper(x.reshape(2, 150))
    torch.testing.assert_close(shaper(x), long.reshape(6, 50), rtol=0, atol=1e-12)


@names
def test_parameter_sets_are_independent(name: str) -> None:
    shaper = perturbed(name, parameter_sets=2)
    shaper(audio(4, 50))[:2].sum().backward()
    for parameter in shaper.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].abs().sum() > 0
        assert parameter.grad[1].abs().sum() == 0


@names
def test_prepared_evaluation_equals_forward(name: str) -> None:
    shaper, x = perturbed(name, parameter_sets=2), audio(4, 200)
    evaluate = shaper.prepare(x)
    weights = audio(4, 200, seed=3)
    # That of the MLP is interpolated between 2048 points, and differs where the curve bends between two of them.
    near, alike = (1e-3, 0.03) if name == "mlp" else (0, 0)
    for step in range(2):
        with torch.no_grad():  # the prepared function must follow the parameters
            for parameter in shaper.parameters():
                parameter.add_(0.05 * step)
        expected = torch.autograd.grad((shaper(x) * weights).sum(), list(shaper.parameters()))
        torch.testing.assert_close(evaluate(), shaper(x), rtol=0, atol=near)
        gradients = torch.autograd.grad((evaluate() * weights).sum(), list(shaper.parameters()))
        difference, scale = (
            torch.linalg.vector_norm(torch.cat([g.flatten() for g in found]))
            for found in ([a - b for a, b in zip(gradients, expected, strict=True)], expected)
        )
        assert difference <= alike * scale


def test_the_prepared_mlp_is_exact_where_the_curve_is_straight_and_for_constant_input() -> None:
    shaper = perturbed("mlp", parameter_sets=1)
    assert isinstance(shaper, MLP)
    with torch.no_grad():
        for bias in shaper.biases:
            bias.zero_()  # then the only bend is at 0
    for x in (audio(1, 200).abs() + 0.1, torch.full((1, 5), 0.3, dtype=torch.float64)):
        torch.testing.assert_close(shaper.prepare(x)(), shaper(x), rtol=1e-10, atol=1e-12)


@names
def test_prepared_evaluation_sends_no_gradient_to_its_input(name: str) -> None:
    x = audio(2, 20).requires_grad_()
    perturbed(name, parameter_sets=2).prepare(x)().sum().backward()
    assert x.grad is None


@names
def test_portrait_samples_every_parameter_set(name: str) -> None:
    shaper, grid = perturbed(name, parameter_sets=3), torch.linspace(-1.2, 1.2, 31, dtype=torch.float64)
    curve = shaper.portrait(grid).curve
    assert not curve.requires_grad
    torch.testing.assert_close(curve, shaper(grid.repeat(3, 1)), rtol=0, atol=0)
    assert (curve[0] - curve[1]).abs().max() > 1e-3


@names
def test_state_round_trip_and_copy(name: str) -> None:
    shaper, x = perturbed(name, parameter_sets=2, dtype=torch.float32), audio(2, 50, torch.float32)
    other = make_waveshaper(name, 2)
    assert other(x).isnan().all()  # a forgotten initialisation shows
    other.load_state_dict(shaper.state_dict())
    assert torch.equal(other(x), shaper(x))
    duplicate = copy.deepcopy(shaper)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert torch.equal(other(x), shaper(x))


@names
@settings(max_examples=50, deadline=None)
@given(x=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_elementwise_and_finite_for_any_input(name: str, x: list[float]) -> None:
    shaper = perturbed(name, parameter_sets=1)
    samples = torch.tensor([x], dtype=torch.float64)
    y = shaper(samples)
    assert y.isfinite().all()
    torch.testing.assert_close(shaper(samples.flip(1)), y.flip(1), rtol=1e-12, atol=1e-12)


def hard_clip(x: Tensor) -> Tensor:
    return x.clamp(-0.05, 0.05)


def three_tanh(x: Tensor) -> Tensor:
    return torch.tanh(3 * x) / 2


@pytest.mark.parametrize(
    ("name", "target", "start_error", "error"),
    [
        ("ccr", hard_clip, 0.05, 1.5e-3),
        ("mlp", hard_clip, 0.05, 2e-3),
        ("sumtanh", three_tanh, 0.05, 2e-3),
    ],
)
def test_adam_fits_a_known_curve(
    name: str, target: Callable[[Tensor], Tensor], start_error: float, error: float
) -> None:
    x = torch.linspace(-0.25, 0.25, 501)[None]
    shaper = make_waveshaper(name, 1)
    shaper.reset(x, sources(0))

    def rms_error() -> Tensor:
        return (evaluate() - target(x)).square().mean().sqrt()

    evaluate = shaper.prepare(x)
    assert rms_error().item() > start_error
    optimiser = torch.optim.Adam(shaper.parameters(), lr=0.02, betas=(0.9, 0.99))
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        optimiser.zero_grad()
        rms_error().square().backward()
        optimiser.step()
    assert rms_error().item() < error


def test_sumtanh_by_hand() -> None:
    shaper = SumTanh(1, order=2, input_gain=4.0).double()
    with torch.no_grad():
        shaper.weights.copy_(torch.tensor([[0.5, -2.0]]))
    x = torch.tensor([[0.1]], dtype=torch.float64)
    assert shaper(x).item() == pytest.approx((0.5 * math.tanh(0.4) - 2 * math.tanh(0.8)) / 4, abs=1e-12)


@pytest.mark.parametrize("gain", [1.0, 10.0])
def test_sumtanh_starts_with_unit_slope(gain: float) -> None:
    shaper = make_waveshaper("sumtanh", 1, input_gain=gain)
    shaper.reset(torch.zeros(1, 1), sources(0))
    assert shaper(torch.tensor([[1e-3]])).item() == pytest.approx(1e-3, rel=1e-4)


def test_sumtanh_start_is_near_the_identity() -> None:
    shaper = make_waveshaper("sumtanh", 1)
    shaper.reset(torch.zeros(1, 1), sources(0))
    x = torch.linspace(-0.3, 0.3, 101)
    assert (shaper.portrait(x).curve[0] - x).abs().max() < 0.009


def test_mlp_equals_a_plain_network() -> None:
    shaper = make_waveshaper("mlp", 2)
    assert isinstance(shaper, MLP)
    shaper.reset(torch.zeros(2, 1), sources(0, 1))
    with torch.no_grad():
        for bias in shaper.biases:
            bias.normal_(std=0.1)
    layers = [nn.Linear(1, 20), nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 1)]
    for layer, weight, bias in zip(layers, shaper.weights, shaper.biases, strict=True):
        layer.weight.data, layer.bias.data = weight[1].data, bias[1, :, 0].data
    relu = nn.ReLU()
    network = nn.Sequential(layers[0], relu, layers[1], relu, layers[2], relu, layers[3])
    x = audio(2, 100, torch.float32)
    torch.testing.assert_close(shaper(x)[1], network(x[1, :, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_mlp_starts_kaiming_normal() -> None:
    shaper = make_waveshaper("mlp", 100)
    assert isinstance(shaper, MLP)
    shaper.reset(torch.zeros(100, 1), sources(*range(100)))
    assert [tuple(weight.shape[1:]) for weight in shaper.weights] == [(20, 1), (20, 20), (20, 20), (1, 20)]
    for weight, inputs in zip(shaper.weights, (1, 20, 20, 20), strict=True):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.05)
        assert abs(weight.mean().item()) < 0.1
    assert all((bias == 0).all() for bias in shaper.biases)


def test_spline_grid_by_hand() -> None:
    shaper = make("ccr", 1, torch.float64)
    assert isinstance(shaper, CatmullRom)
    grid = shaper.grid
    assert grid.shape == (43,)
    assert grid[0].item() == pytest.approx(-1 - 2 / 41, abs=1e-12)
    assert grid[1].item() == pytest.approx(-1, abs=1e-12)
    assert grid[21].item() == 0
    assert grid[22].item() == pytest.approx((21**0.05 - 1) / 20, abs=1e-12)  # p = 1/20, next to zero
    torch.testing.assert_close(grid, -grid.flip(0), rtol=0, atol=0)


def test_spline_starts_as_the_identity() -> None:
    shaper = CatmullRom(1)
    shaper.reset(torch.zeros(1, 1), sources(0))
    knots = shaper.grid[1:-1]
    torch.testing.assert_close(shaper.portrait(knots).curve[0], knots, rtol=0, atol=1e-6)
    # the basis ignores the spacing of the grid, so between the knots the curve is only near the identity
    x = torch.linspace(-1, 1, 2001)
    assert 1e-4 < (shaper.portrait(x).curve[0] - x).abs().max() < 0.01


def test_spline_passes_through_its_values() -> None:
    shaper = perturbed("ccr", parameter_sets=2)
    assert isinstance(shaper, CatmullRom)
    knots = shaper.grid[1:-1]
    torch.testing.assert_close(shaper.portrait(knots).curve, shaper.values.detach()[:, 1:-1], rtol=0, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(x=st.floats(-0.999999, 0.999999))
def test_spline_equals_the_loop_over_segments(x: float) -> None:
    shaper = perturbed("ccr", parameter_sets=1)
    assert isinstance(shaper, CatmullRom)
    expected = slow_spline(shaper.values[0].tolist(), shaper.grid.tolist(), x)
    assert shaper(torch.tensor([[x]], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_spline_continues_straight_beyond_its_ends(side: float) -> None:
    shaper = perturbed("ccr", parameter_sets=1)
    x = side * torch.tensor([[1.0, 1.5, 2.0, 1e6]], dtype=torch.float64)
    y = shaper(x)[0]
    step = 1e-6
    inside = shaper(side * torch.tensor([[1 - step, 1 - 2 * step]], dtype=torch.float64))[0]
    slope = ((inside[0] - inside[1]) / (side * step)).item()
    assert y[0].item() == pytest.approx(inside[0].item(), abs=1e-4)  # continuous
    assert ((y[1] - y[0]) / (side * 0.5)).item() == pytest.approx(slope, abs=1e-3)  # with the slope at the end
    assert ((y[2] - y[1]) / (side * 0.5)).item() == pytest.approx(slope, abs=1e-3)
    assert (y[3] / 1e6).item() == pytest.approx(side * slope, abs=1e-3)


def test_spline_parameter_gradients_stay_finite_far_outside() -> None:
    shaper = perturbed("ccr", parameter_sets=1, dtype=torch.float32)
    shaper(torch.tensor([[1e6, -1e6]])).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in shaper.parameters())


def test_spline_passes_nan_through() -> None:
    shaper = perturbed("ccr", parameter_sets=1)
    clean, broken = audio(1, 4), audio(1, 4)
    broken[0, 2] = math.nan
    y = shaper(broken)
    assert y[0, 2].isnan()
    assert torch.equal(y[0, [0, 1, 3]], shaper(clean)[0, [0, 1, 3]])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("spline", {}, "unknown waveshaper 'spline': known are ccr, mlp, sumtanh"),
        ("ccr", {"order": 3}, "waveshaper 'ccr' has no option 'order': known are points, mu"),
        ("ccr", {"points": 40}, "points=40"),
        ("ccr", {"mu": 0.0}, "mu=0"),
        ("ccr", {"mu": -1.0}, "mu=-1"),
        ("mlp", {"hidden": []}, "hidden="),
        ("sumtanh", {"order": 0}, "order=0"),
        ("sumtanh", {"input_gain": -1.0}, "input_gain=-1"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NldiffError, match=message):
        make_waveshaper(name, 1, **options)


@names
def test_wrong_shapes_are_named(name: str) -> None:
    with pytest.raises(NldiffError, match="parameter_sets=0"):
        make_waveshaper(name, 0)
    shaper = perturbed(name, parameter_sets=2)
    for wrong in (audio(3, 5), audio(2, 5)[0], audio(0, 5)):
        for call in (shaper, shaper.prepare):
            with pytest.raises(NldiffError, match="multiple of 2"):
                call(wrong)
    with pytest.raises(NldiffError, match="1 random generators for 2"):
        shaper.reset(audio(2, 5), sources(0))
