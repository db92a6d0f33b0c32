import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Function, laplace, rms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from torch import Tensor

from nldiff.operators import DISTORTIONS, Chain, Distortion, TabulatedCurve
from nldiff.restoration.increasing import (
    CurveSettings,
    IncreasingCurve,
    known_increasing,
    matched_curve,
    nearest_increasing,
    plain_curves,
)

INFINITE = math.inf
SETTINGS = CurveSettings()
FALLING_SOMEWHERE = {"wavefold", "full_wave", "triangle_fold", "sine_fold"}
CURVES = sorted(name for name in DISTORTIONS if not Distortion(name).context)
INCREASING = sorted(set(CURVES) - FALLING_SOMEWHERE)


def table(points: list[tuple[float, float]], tolerance: float) -> IncreasingCurve:
    inputs, outputs = torch.tensor(points, dtype=torch.float64).T.contiguous()
    return IncreasingCurve(TabulatedCurve(inputs, outputs), tolerance)


def bounds(curve: IncreasingCurve, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest clean value of every sample [time] that was observed."""
    feasible = curve.feasible(observed[None])
    return feasible.low[0], feasible.high[0]


def assert_bounds(curve: IncreasingCurve, expected: dict[float, tuple[float, float]]) -> None:
    """Bounds of the keys, observed together; the values are (low, high)."""
    low, high = bounds(curve, torch.tensor(list(expected), dtype=torch.float64))
    pairs = np.array(list(expected.values()))
    np.testing.assert_allclose(low.numpy(), pairs[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(high.numpy(), pairs[:, 1], rtol=0, atol=1e-12)


# ------------------------------------------------------------ bounds of curves that can be inverted by hand


def test_a_straight_line_leaves_its_tolerance_divided_by_its_slope() -> None:
    line = table([(-1, -2), (1, 2)], tolerance=0.1)
    assert_bounds(line, {0.3: (0.1, 0.2), 0.5: (0.2, 0.3), 0.4: (0.15, 0.25), -0.6: (-0.35, -0.25)} | dense(-0.7, 0.6))


def dense(low: float, high: float) -> dict[float, tuple[float, float]]:
    """Values 0.1 apart and their bounds on a line of slope 2: half a gap is less than a tolerance of 0.1."""
    values = np.round(np.arange(low, high, 0.1), 1)
    return {float(v): (v / 2 - 0.05, v / 2 + 0.05) for v in values}


def test_a_hard_clipper_is_exact_below_its_limit_and_open_above() -> None:
    clipper = table([(-3, -1), (-1, -1), (1, 1), (3, 1)], tolerance=0.25)
    inside = {v: (v - 0.25, v + 0.25) for v in (-0.5, -0.25, 0.0, 0.25, 0.5)}
    limits = {-1.0: (-INFINITE, -0.75), 1.0: (0.75, INFINITE)}
    assert_bounds(clipper, inside | limits)
    # a value may come from the limit if that is no further than the tolerance
    assert_bounds(clipper, {0.7: (0.45, 0.95), 0.76: (0.51, INFINITE)})


def test_where_the_curve_is_steep_it_is_exact_if_asked_for() -> None:
    # Slope 2 to 0.2, then 0.4, then the limit 0.6 from x = 0.7 on.
    curve = replace(table([(-1, -2), (0.2, 0.4), (0.7, 0.6), (3, 0.6)], tolerance=0.04), exact_where_steep=True)
    steep = {0.01 * v: (0.005 * v, 0.005 * v) for v in range(-20, 36)}
    flat = {0.45: (0.225, 0.425), 0.5: (0.35, 0.55), 0.55: (0.475, 0.675), 0.6: (0.6, INFINITE)}
    low, high = bounds(curve, torch.tensor([*steep, *flat], dtype=torch.float64))
    expected = np.array([*steep.values(), *flat.values()])
    # Half the distance to the next value remains, which is 0.01 but for the last of them.
    np.testing.assert_allclose(low[:55], expected[:55, 0] - 0.0025, rtol=0, atol=1e-12)
    np.testing.assert_allclose(high[:55], expected[:55, 1] + 0.0025, rtol=0, atol=1e-12)
    np.testing.assert_allclose(low[-3:], expected[-3:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(high[-3:], expected[-3:, 1], rtol=0, atol=1e-12)


def test_a_half_wave_rectifier_bounds_silence_from_above_only() -> None:
    rectifier = table([(-1, 0), (0, 0), (1, 1)], tolerance=0.1)
    values = {v / 10: (v / 10 - 0.1, v / 10 + 0.1) for v in range(2, 9)}
    assert_bounds(rectifier, values | {0.0: (-INFINITE, 0.1), 0.05: (-INFINITE, 0.15)})


def test_levels_of_a_staircase_reach_half_way_to_the_levels_observed_next_to_them() -> None:
    # steps at +-0.5 and +-1.5, each 0.002 wide: half way up is at its middle
    steps = [(e, v) for s in (-1.5, -0.5, 0.5, 1.5) for e, v in ((s - 0.001, s - 0.5), (s + 0.001, s + 0.5))]
    staircase = table([(-2, -2), *steps, (2, 2)], tolerance=0.01)
    all_levels = {-2.0: (-INFINITE, -1.5), -1.0: (-1.5, -0.5), 0.0: (-0.5, 0.5), 1.0: (0.5, 1.5)}
    assert_bounds(staircase, all_levels | {2.0: (1.5, INFINITE)})


@pytest.mark.parametrize("levels", [(-0.5, 0.0, 0.5), (-0.5, -0.25, 0.0, 0.25)])
def test_the_outermost_levels_are_as_wide_as_the_next_ones_where_the_curve_goes_on(levels: tuple[float, ...]) -> None:
    # a smooth curve that follows a staircase on average; the observation is too quiet to reach its ends
    half = (levels[1] - levels[0]) / 2
    assert_bounds(table([(-1, -1), (1, 1)], tolerance=0.01), {v: (v - half, v + half) for v in levels})


def test_unequal_gaps_count_on_their_own_side() -> None:
    line = table([(-10, -10), (10, 10)], tolerance=0.1)
    assert_bounds(line, {0.0: (-0.5, 0.5), 1.0: (0.5, 2.5), 4.0: (2.5, 4.05 + 0.05), 4.1: (4.0, 4.2)})


def test_values_beyond_the_table_are_open_to_their_side() -> None:
    curve = table([(-1, -0.5), (1, 0.5)], tolerance=0.05)
    # up to the tolerance: -0.45 and 0.45 are reached at -0.9 and 0.9
    assert_bounds(curve, {-2.0: (-INFINITE, -0.9)})
    assert_bounds(curve, {2.0: (0.9, INFINITE)})
    assert_bounds(curve, {0.48: (0.86, INFINITE)})
    assert_bounds(curve, {-0.48: (-INFINITE, -0.86)})


def test_repeated_values_and_order_do_not_matter_and_the_type_is_kept() -> None:
    curve = table([(-1, -0.5), (0.2, 0.1), (1, 0.5)], tolerance=0.01)
    observed = laplace(500).clamp(-0.3, 0.3)
    low, high = bounds(curve, observed[0])
    assert (low.shape, low.dtype, high.shape, high.dtype) == (observed[0].shape, torch.float32) * 2
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    shuffled = bounds(curve, torch.cat([observed[0, order], observed[0]]))
    assert torch.equal(shuffled[0], torch.cat([low[order], low]))
    assert torch.equal(shuffled[1], torch.cat([high[order], high]))


@settings(max_examples=150)
@given(
    name=st.sampled_from(INCREASING),
    mix=st.sampled_from([1.0, 1.0, 0.6]),
    seed=st.integers(0, 10**6),
    count=st.integers(2, 3000),
    scale=st.floats(0.003, 1),
    kind=st.sampled_from(["laplace", "uniform", "tone", "positive"]),
)
def test_bounds_contain_the_clean_sample(name: str, mix: float, seed: int, count: int, scale: float, kind: str) -> None:
    random = np.random.default_rng(seed)
    drawn = {
        "laplace": random.laplace(size=count),
        "uniform": random.uniform(-1, 1, count),
        "tone": np.sin(2 * np.pi * random.random() * np.arange(count) + random.random()),
        "positive": random.exponential(size=count),
    }
    x = torch.from_numpy((scale * drawn[kind]).astype(np.float32))[None]
    distortion = Distortion(name, {"mix": mix})
    y = distortion(x)
    curve = nearest_increasing(distortion, x, y, SETTINGS)
    assert curve is not None
    low, high = bounds(curve, y[0])
    # The table joins its points by straight lines: a jump may be anywhere between two of them.
    slack = float(curve.table.inputs[1] - curve.table.inputs[0]) + 1e-5 * float(x.abs().max())
    assert bool((low <= high).all())
    assert bool((low <= x[0] + slack).all())
    assert bool((high >= x[0] - slack).all())


# ------------------------------------------------------------ which curves are increasing


@pytest.mark.parametrize("name", CURVES)
def test_only_curves_that_fall_are_left_alone(name: str) -> None:
    x = laplace(5000)
    distortion = Distortion(name)
    assert (nearest_increasing(distortion, x, distortion(x), SETTINGS) is None) == (name in FALLING_SOMEWHERE)


@pytest.mark.parametrize("name", INCREASING)
def test_slight_wiggles_are_smoothed_away(name: str) -> None:
    x = laplace(5000)
    y = Distortion(name)(x)
    size = 0.01 * float(y.square().mean().sqrt())
    wiggly = Function(lambda v: Distortion(name)(v) + size * torch.sin(300 * v))
    curve = nearest_increasing(wiggly, x, y, SETTINGS)
    assert curve is not None
    assert float(curve.table.outputs.diff().min()) >= 0
    found = curve.table(x)[0].numpy()
    # what the wiggle adds, and one point of the table for the edges of a staircase
    assert np.median(np.abs(found - y[0].numpy())) <= size + 1e-6


@pytest.mark.parametrize(("size", "found"), [(0.005, True), (0.05, False)])
def test_a_curve_that_explains_everything_may_wiggle_within_the_tolerance(size: float, found: bool) -> None:
    wiggly = Function(lambda v: v + size * torch.sin(300 * v))
    x = laplace(5000)  # the tolerance is 0.0057 = 0.1 sqrt(2) / 25
    assert (nearest_increasing(wiggly, x, wiggly(x), SETTINGS) is not None) == found


def test_the_sign_of_the_curve_counts() -> None:
    x = laplace(5000)
    assert nearest_increasing(Function(torch.neg), x, -x, SETTINGS) is None


def test_the_table_is_the_curve_limited_to_what_was_observed() -> None:
    x = laplace(20000)
    y = (2 * x).clamp(-0.1, 0.1)
    curve = nearest_increasing(Function(lambda v: 2 * v), x, y, SETTINGS)
    assert curve is not None
    np.testing.assert_allclose(
        curve.table.inputs[[0, -1]].numpy(), np.quantile(x[0].double().numpy(), [1e-4, 1 - 1e-4])
    )
    np.testing.assert_allclose(
        curve.table.outputs.numpy(), np.clip(2 * curve.table.inputs.numpy(), -0.1, 0.1), atol=1e-7
    )
    assert curve.tolerance == pytest.approx(float(y.double().square().mean().sqrt()) / 25)


@pytest.mark.parametrize(("share", "found"), [(1.05, True), (0.95, False)])
def test_a_curve_counts_as_increasing_if_that_less_than_doubles_its_error(share: float, found: bool) -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.sort(laplace(20000))[0]
    wiggly = Function(lambda v: v + 0.05 * torch.sin(100 * v))
    # Independent of the table: the increasing function nearest to the curve at the samples themselves.
    clean = wiggly(x)[0].double().numpy()
    forcing = float(np.mean((isotonic_regression(clean).x - clean) ** 2))
    noise = torch.randn(x.shape, generator=source)
    # Of independent noise the power adds: the error grows from `share` to `share + 1` times what forcing costs.
    y = wiggly(x) + noise * (share * forcing / noise.square().mean()) ** 0.5
    strict = replace(SETTINGS, tolerance=1e-6)
    assert (nearest_increasing(wiggly, x, y, strict) is not None) == found


@pytest.mark.parametrize(("share", "found"), [(0.28, True), (0.32, False)])
def test_a_curve_with_a_large_error_says_nothing_of_the_samples(share: float, found: bool) -> None:
    x = laplace(20000)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    y = x + noise * float(share / (1 - share)) ** 0.5 * x.square().mean().sqrt()
    assert (nearest_increasing(Function(torch.clone), x, y, SETTINGS) is not None) == found


@pytest.mark.parametrize(
    "operator", [Distortion("overdrive"), Chain([Distortion("hard_clip"), Distortion("overdrive")])]
)
def test_an_operator_with_memory_is_no_curve(operator: Distortion | Chain) -> None:
    x = laplace(5000)
    assert nearest_increasing(operator, x, operator(x), SETTINGS) is None
    assert known_increasing(operator, 2.0, operator(x), SETTINGS) is None


def test_intervals_of_an_item_do_not_depend_on_the_others() -> None:
    curve = table([(-1, -0.5), (0.2, 0.1), (1, 0.5)], tolerance=0.001)
    observed = torch.cat([0.2 * torch.sign(laplace(300)), laplace(300, 1).clamp(-0.3, 0.3)])
    together = curve.feasible(observed)
    for i, item in enumerate(observed):
        low, high = bounds(curve, item)
        assert torch.equal(together.low[i], low)
        assert torch.equal(together.high[i], high)


def test_a_matched_curve_keeps_its_knees_where_the_estimate_is_off() -> None:
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_normal((3, 50000)))
    y = x.clamp(-0.5, 1)
    # Pairs say little: what is left is the distribution. Errors keep it, as where energy is moved in time.
    estimate = x[:, random.permutation(50000)]
    curve = matched_curve(estimate, y, SETTINGS)
    at = torch.tensor([-3.0, -0.6, -0.4, 0.0, 0.9, 1.1, 3.0])
    torch.testing.assert_close(curve.table(at), at.clamp(-0.5, 1), atol=0.01, rtol=0)
    assert (float(curve.table.outputs[0]), float(curve.table.outputs[-1])) == (-0.5, 1)
    assert curve.tolerance == pytest.approx(rms(y) / 25)


def test_plain_curves_are_straight_between_the_extremes_and_flat_beyond() -> None:
    y = torch.linspace(-0.2, 0.4, 20001)
    line, knee = plain_curves(y, SETTINGS)
    at = torch.tensor([-1.0, -0.3, -0.1, 0.0, 0.3, 0.5, 2.0])
    torch.testing.assert_close(line.table(at), at.clamp(-0.2, 0.4), atol=1e-3, rtol=0)
    ends = 1.02 * torch.tensor([0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4])
    torch.testing.assert_close(knee.table(at), at / (1 + (at / ends).abs() ** 3) ** (1 / 3), atol=1e-3, rtol=0)
    assert line.tolerance == knee.tolerance == pytest.approx(rms(y) / 25)
    for curve in plain_curves(y.clamp(min=0), SETTINGS):
        assert curve.table(torch.tensor([-1.0, -0.1])).tolist() == [0, 0]
        assert float(curve.table(torch.tensor([0.05]))) == pytest.approx(0.05, rel=0.01)


def test_a_known_curve_is_taken_over_its_whole_range_unless_it_falls() -> None:
    y = 0.01 * torch.ones(1, 9)
    curve = known_increasing(Function(lambda x: x.clamp(-0.3, 0.2)), 2.0, y, SETTINGS)
    assert curve is not None
    assert curve.table.inputs[[0, -1]].tolist() == [-2, 2]
    assert curve.tolerance == pytest.approx(0.01 / 25)
    low, high = bounds(curve, torch.linspace(-0.3, 0.2, 1001))
    assert low[[-1, 800, 0]].tolist() == pytest.approx([0.2, 0.1, -math.inf], abs=0.002)
    assert high[[-1, 800, 0]].tolist() == pytest.approx([math.inf, 0.1, -0.3], abs=0.002)
    assert known_increasing(Function(torch.sin), 1.5, y, SETTINGS) is not None
    assert known_increasing(Function(torch.sin), 1.8, y, SETTINGS) is None  # sin(1.8) is below sin(pi / 2) by 0.026
