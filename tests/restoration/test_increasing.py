import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, clipped, load_tiny_prior, plucked
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import exp1
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.metrics.rr_mse import rr_mse
from nldiff.operators.distortions import DISTORTIONS, Distortion, calibrate, input_sdr
from nldiff.operators.waveshapers import CatmullRom
from nldiff.priors.saved import Prior
from nldiff.restoration.estimate import refitted, tightened
from nldiff.restoration.refine import (
    IncreasingCurve,
    increasing_curve,
    known_increasing_curve,
    matched_curve,
    plain_curves,
    polish,
    sparsest_consistent,
    spread,
)
from nldiff.restoration.restore import restore
from nldiff.restoration.settings import RestoreConfig, sampler_settings
from nldiff.restoration.task import Task, make_task
from nldiff.sampling.likelihood import CompressedSTFTCost
from nldiff.sampling.posterior import SamplerSettings, fit_operator, generators
from nldiff.sound.recording import Recording

INFINITE = math.inf
FALLING_SOMEWHERE = {"wavefold", "full_wave"}
INCREASING = sorted(set(DISTORTIONS) - FALLING_SOMEWHERE)


def table(points: list[tuple[float, float]], tolerance: float) -> IncreasingCurve:
    x, y = torch.tensor(points, dtype=torch.float64).T.contiguous()
    return IncreasingCurve(x, y, tolerance)


def laplace(count: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    """Samples distributed about as those of music, [1, count]."""
    return torch.from_numpy(np.random.default_rng(seed).laplace(scale=scale, size=(1, count)).astype(np.float32))


def tones(seed: int, rate: int = 8000) -> Tensor:
    """One second of four sinusoids, RMS 0.06, [1, rate]."""
    random = np.random.default_rng(seed)
    frequency, phase, amplitude = random.uniform(100, 1000, 4), random.uniform(0, 6.28, 4), random.uniform(0.3, 1, 4)
    time = np.arange(rate)[:, None] / rate
    x = (amplitude * np.sin(2 * np.pi * frequency * time + phase)).sum(1)
    return torch.from_numpy((0.06 * x / np.sqrt(np.mean(x**2))).astype(np.float32))[None]


def test_the_table_is_applied_by_interpolation_and_flat_outside() -> None:
    curve = table([(-1, -0.5), (0, 0), (2, 1)], tolerance=0.1)
    x = torch.tensor([[-3.0, -0.5], [1.0, 5.0]])
    torch.testing.assert_close(curve(x), torch.tensor([[-0.5, -0.25], [0.5, 1.0]]))


def assert_bounds(curve: IncreasingCurve, expected: dict[float, tuple[float, float]]) -> None:
    """Bounds of the keys, observed together; the values are (low, high)."""
    low, high = curve.bounds(torch.tensor(list(expected), dtype=torch.float64))
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
    low, high = curve.bounds(torch.tensor([*steep, *flat], dtype=torch.float64))
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
    low, high = curve.bounds(observed)
    assert (low.shape, low.dtype, high.shape, high.dtype) == (observed.shape, torch.float32) * 2
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    shuffled = curve.bounds(torch.cat([observed[0, order], observed[0]]))
    assert torch.equal(shuffled[0], torch.cat([low[0, order], low[0]]))
    assert torch.equal(shuffled[1], torch.cat([high[0, order], high[0]]))


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
    curve = increasing_curve(distortion, x, y)
    assert curve is not None
    low, high = curve.bounds(y[0])
    # The table joins its points by straight lines: a jump may be anywhere between two of them.
    slack = float(curve.x[1] - curve.x[0]) + 1e-5 * float(x.abs().max())
    assert bool((low <= high).all())
    assert bool((low <= x[0] + slack).all())
    assert bool((high >= x[0] - slack).all())


# ------------------------------------------------------------ which curves are increasing


@pytest.mark.parametrize("name", sorted(DISTORTIONS))
def test_only_curves_that_fall_are_left_alone(name: str) -> None:
    x = laplace(5000)
    distortion = Distortion(name)
    assert (increasing_curve(distortion, x, distortion(x)) is None) == (name in FALLING_SOMEWHERE)


@pytest.mark.parametrize("name", INCREASING)
def test_slight_wiggles_are_smoothed_away(name: str) -> None:
    x = laplace(5000)
    y = Distortion(name)(x)
    size = 0.01 * float(y.square().mean().sqrt())
    curve = increasing_curve(lambda v: Distortion(name)(v) + size * torch.sin(300 * v), x, y)
    assert curve is not None
    assert float(curve.y.diff().min()) >= 0
    found = np.interp(x[0].numpy(), curve.x.numpy(), curve.y.numpy())
    # what the wiggle adds, and one point of the table for the edges of a staircase
    assert np.median(np.abs(found - y[0].numpy())) <= size + 1e-6


@pytest.mark.parametrize(("size", "found"), [(0.005, True), (0.05, False)])
def test_a_curve_that_explains_everything_may_wiggle_within_the_tolerance(size: float, found: bool) -> None:
    def wiggly(v: Tensor) -> Tensor:
        return v + size * torch.sin(300 * v)

    x = laplace(5000)  # the tolerance is 0.0057 = 0.1 sqrt(2) / 25
    assert (increasing_curve(wiggly, x, wiggly(x)) is not None) == found


def test_the_sign_of_the_curve_counts() -> None:
    x = laplace(5000)
    assert increasing_curve(torch.neg, x, -x) is None


def test_the_table_is_the_curve_limited_to_what_was_observed() -> None:
    x = laplace(20000)
    y = (2 * x).clamp(-0.1, 0.1)
    curve = increasing_curve(lambda v: 2 * v, x, y)
    assert curve is not None
    np.testing.assert_allclose(curve.x[[0, -1]].numpy(), np.quantile(x[0].double().numpy(), [1e-4, 1 - 1e-4]))
    np.testing.assert_allclose(curve.y.numpy(), np.clip(2 * curve.x.numpy(), -0.1, 0.1), atol=1e-7)
    assert curve.tolerance == pytest.approx(float(y.double().square().mean().sqrt()) / 25)


# ------------------------------------------------------------ the sparsest signal


def intervals(seed: int, items: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """A signal and bounds of which a tenth is infinite on a side and a tenth a point; not all contain the signal."""
    source = torch.Generator().manual_seed(seed)
    x, low = (torch.randn(items, length, generator=source) for _ in range(2))
    high = low + torch.rand(items, length, generator=source)
    kind = torch.randint(10, (items, length), generator=source)
    low = torch.where(kind == 0, -torch.inf, low)
    high = torch.where(kind == 1, torch.inf, torch.where(kind == 2, low, high))
    return x, low, high


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    items=st.integers(1, 3),
    length=st.integers(1, 700),
    window=st.sampled_from([4, 8, 64, 512]),
    iterations=st.integers(0, 4),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
)
def test_the_result_is_between_the_bounds(
    seed: int, items: int, length: int, window: int, iterations: int, scale: float
) -> None:
    x, low, high = intervals(seed, items, length)
    low, high = torch.nan_to_num(scale * low, -torch.inf), torch.nan_to_num(scale * high, torch.inf)
    result = sparsest_consistent(scale * x, low, high, [window], iterations)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    assert bool(result.isfinite().all())
    assert bool(((low <= result) & (result <= high)).all())


def test_bounds_without_room_give_the_signal_exactly() -> None:
    x = laplace(3000).reshape(2, 1500)
    assert torch.equal(sparsest_consistent(torch.zeros_like(x), x, x, [256, 64], 5), x)


def test_a_silent_item_stays_silent() -> None:
    x = torch.zeros(1, 1000)
    assert torch.equal(sparsest_consistent(x, x - 0.1, x + 0.1, [256, 64], 5), x)


@pytest.mark.parametrize("window", [64, 1024])
def test_an_item_alone_equals_the_item_in_a_batch(window: int) -> None:
    x, low, high = intervals(0, 3, 2000)
    scale = torch.tensor([[1.0], [1e-3], [30.0]])  # thresholds follow the level of each item
    x, low, high = scale * x, scale * low, scale * high
    together = sparsest_consistent(x, low, high, [window], 10)
    for i in range(3):
        alone = sparsest_consistent(x[i : i + 1], low[i : i + 1], high[i : i + 1], [window], 10)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4 * float(scale[i]))


def test_weak_noise_that_nothing_holds_is_shrunk_to_silence() -> None:
    # far below the last threshold, a ten-thousandth of the tone; what the end of the tone splashes is left out
    tone = 0.5 * torch.sin(2 * torch.pi * torch.arange(4000) / 16)
    x = torch.cat([tone, 1e-8 * torch.randn(4000, generator=torch.Generator().manual_seed(0))])[None]
    held = torch.arange(8000) < 4000
    low, high = torch.where(held, x, -torch.inf), torch.where(held, x, torch.inf)
    result = sparsest_consistent(x, low, high, [256], 30)[0]
    assert torch.equal(result[:4000], tone)
    assert float(x[0, 6000:].abs().max()) > 1e-8
    assert float(result[6000:].abs().max()) < 1e-12


def declipped(x: Tensor, start: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """SDR of a signal after clipping to 3 dB and after its restoration from `start(clipped)`."""
    distortion = calibrate("hard_clip", x, 3.0)
    y = distortion(x)
    curve = increasing_curve(distortion, x, y)
    assert curve is not None
    return input_sdr(x, y), input_sdr(x, sparsest_consistent(start(y), *curve.bounds(y), [1024], 300))


def test_several_windows_give_the_mean_of_what_each_gives() -> None:
    x, low, high = intervals(1, 2, 1500)
    together, short, long = (sparsest_consistent(x, low, high, windows, 5) for windows in ([64, 512], [64], [512]))
    torch.testing.assert_close(together, (short + long) / 2)
    assert float((short - long).abs().max()) > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_sparse_signals_are_declipped(seed: int) -> None:
    before, after = declipped(tones(seed), torch.clone)
    assert before == pytest.approx(3, abs=0.01)
    assert after > 20  # 23 to 26 dB


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.3, 2.0])
def test_it_does_not_matter_how_loud_the_estimate_is(scale: float) -> None:
    _, after = declipped(tones(0), lambda y: scale * y)
    assert after > 20  # 23 dB


@pytest.mark.parametrize("name", ["asymmetric_clip", "half_wave", "quantize", "carbon_mic"])
def test_other_distortions_of_sparse_signals_are_undone(name: str) -> None:
    x = tones(0)
    params = {"step": 0.06} if name == "quantize" else {"threshold": 0.03} if name == "asymmetric_clip" else {}
    distortion = Distortion(name, params)
    y = distortion(x)
    curve = increasing_curve(distortion, x, y)
    assert curve is not None
    restored = sparsest_consistent(y, *curve.bounds(y), [1024], 300)
    assert input_sdr(x, restored) > input_sdr(x, y) + 13  # 15 to 26 dB


# ------------------------------------------------------------ the prior's last word

POLISH = SamplerSettings(sigma_min=0.01, polish_sigma=0.04, polish_steps=3)  # noise levels 0.04, 0.02 and 0.01
EVERYWHERE = torch.tensor(torch.inf)


def half(x: Tensor, sigma: Tensor) -> Tensor:
    return x / 2


def test_polishing_adds_noise_of_each_level_and_denoises() -> None:
    x = torch.ones(2, 50)
    result = polish(half, x, -EVERYWHERE, EVERYWHERE, POLISH, generators([3, 4]))
    for i, seed in enumerate((3, 4)):
        first, second, third = (torch.randn(50, generator=source) for source in generators([seed]) for _ in range(3))
        torch.testing.assert_close(result[i], (((1 + 0.04 * first) / 2 + 0.02 * second) / 2 + 0.01 * third) / 2)


def test_polishing_adds_what_the_prior_changes_at_its_own_rate() -> None:
    x = torch.tensor([[3.0, -1.0] * 20])
    settings = replace(POLISH, polish_steps=1)
    # The prior sees the means of pairs, which are 1, and nothing of what is above its band.
    result = polish(
        half, x, -EVERYWHERE, EVERYWHERE, settings, generators([3]),
        lambda x: x.unflatten(1, (-1, 2)).mean(-1), lambda x: x.repeat_interleave(2, 1),
    )  # fmt: skip
    noise = torch.randn(20, generator=generators([3])[0]).repeat_interleave(2)
    torch.testing.assert_close(result[0], x[0] + (0.04 * noise - 1) / 2)


def test_polishing_stays_between_the_bounds() -> None:
    x, low, high = intervals(2, 3, 400)
    x = x.clamp(low, high)
    result = polish(half, x, low, high, POLISH, generators([0, 1, 2]))
    assert bool(((low <= result) & (result <= high)).all())
    assert not torch.equal(result, x)
    assert torch.equal(polish(half, x, x, x, POLISH, generators([0, 1, 2])), x)


# ------------------------------------------------------------ fitting the curve to known signals

FITTING = SamplerSettings(
    operator_warmup=200, operator_iterations=20, operator_segments=2, operator_segment_length=2048
)


def fitted(options: SamplerSettings, seeds: tuple[int, int] = (1, 2)) -> tuple[CatmullRom, Tensor, Tensor]:
    x = torch.cat([tones(0), tones(1)])
    y = Distortion("soft_clip", {"gain": 20.0})(x)
    waveshaper = CatmullRom(1)
    waveshaper.reset(y, generators([0]))
    fit_operator(waveshaper, x, y, options, generators(seeds))
    return waveshaper, x, y


def test_the_curve_is_fitted_to_known_signals() -> None:
    waveshaper, x, y = fitted(FITTING)
    compare = CompressedSTFTCost().prepare(y)
    before, after = compare(x).sum().item(), compare(waveshaper(x)).sum().item()
    assert after < 0.05 * before  # 0.011
    v = torch.linspace(-0.12, 0.12, 101)
    expected = torch.tanh(20 * v) / 20
    assert float((expected - v).abs().max()) > 0.07
    assert float((waveshaper.curve(v)[0] - expected).abs().max()) < 0.005  # 0.0011


def test_no_iterations_leave_the_curve_alone() -> None:
    waveshaper, _, _ = fitted(replace(FITTING, operator_iterations=0))
    assert torch.equal(waveshaper.values[0], waveshaper.grid)


def test_segments_come_from_the_generators() -> None:
    first, again, other = (
        fitted(replace(FITTING, operator_warmup=20), seeds)[0].values for seeds in ((1, 2), (1, 2), (3, 4))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ------------------------------------------------------------ as the last step of a restoration

REFINED: dict[str, Any] = {
    "refine_iterations": 10,
    "refine_windows": [512],
    "operator_warmup": 20,
    "operator_learning_rate": 0.002,
}
SPLIT: dict[str, Any] = {"chunk_seconds": 0.5, "overlap_seconds": 0.1, "joint_items": 2}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_tiny_prior(tmp_path_factory.mktemp("prior"))


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.asarray(x, dtype=np.float64) ** 2)))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("refine_windows", [512, 1022], "positive multiples of 4 expected"),
        ("refine_windows", [0], "positive multiples of 4 expected"),
        ("refine_windows", [-8], "positive multiples of 4 expected"),
        ("refine_windows", [], "positive multiples of 4 expected"),
        ("refine_iterations", -1, "a number of at least 0 expected"),
        ("polish_sigma", -0.5, "a number of at least 0 expected"),
        ("polish_sigma", 1e-9, "0 or at least 0.001 expected"),
        ("polish_steps", 0, "a number of at least 1 expected"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(prior: Prior, key: str, value: Any, reason: str) -> None:
    with pytest.raises(NldiffError) as caught:
        sampler_settings(prior, RestoreConfig(sampler={key: value}))
    assert str(caught.value) == f"{key}={value}: {reason}"


def test_refinement_does_not_depend_on_the_batch_size_and_repeats(prior: Prior) -> None:
    y = clipped(1.6, TINY_RATE)[0]
    one, again, two = (
        restore(y, TINY_RATE, prior, config=RestoreConfig(batch_size=size, sampler=REFINED, **SPLIT))
        for size in (1, 1, 2)
    )
    plain = restore(y, TINY_RATE, prior, config=RestoreConfig(sampler={"operator_warmup": 4}, **SPLIT))
    np.testing.assert_array_equal(one.audio, again.audio)
    np.testing.assert_array_equal(one.curve(y), again.curve(y))
    assert rms(two.audio - one.audio) < 1e-3 * rms(one.audio)
    np.testing.assert_allclose(two.curve(y), one.curve(y), atol=1e-4)
    assert rms(plain.audio - one.audio) > 0.01 * rms(one.audio)


# The first guess is far off for the sine. Resampled, what was clipped would overshoot the level.
@pytest.mark.parametrize("rate", [TINY_RATE, 5513, 22050])
@pytest.mark.parametrize("kind", ["plucked", "sine"])
def test_a_known_increasing_curve_is_refined_without_sampling_and_explains_the_observation_to_the_tolerance(
    prior: Prior, monkeypatch: pytest.MonkeyPatch, kind: str, rate: int
) -> None:
    sampler = FakeSampler(lambda y: y)
    monkeypatch.setattr("nldiff.restoration.task.sample", sampler)
    sine = 0.16 * np.sin(np.arange(int(1.6 * rate)) * 0.3).astype(np.float32).clip(-0.15, 0.15)
    y = clipped(1.6, rate, 2) if kind == "plucked" else np.stack([sine, -sine])
    known = Distortion("hard_clip", {"threshold": 0.15})
    steps: list[tuple[int, int]] = []
    config = RestoreConfig(sampler=REFINED, **SPLIT)
    result = restore(y, rate, prior, known=known, config=config, on_step=lambda *step: steps.append(step))
    assert (sampler.calls, result.cost, result.evaluations) == ([], (), 0)
    assert result.restored_band_hz == rate / 2
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert result.explained_db > 20 * math.log10(25)


@pytest.mark.parametrize("known", [True, False])
def test_samples_that_were_not_clipped_are_kept(prior: Prior, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(lambda y: y))
    level = 0.1
    clipper = Distortion("hard_clip", {"threshold": level})
    y = clipper(tones(0, TINY_RATE))[0].numpy()
    config = RestoreConfig(sampler=REFINED | {"refine_iterations": 400, "refine_windows": [1024]})
    result = restore(y, TINY_RATE, prior, known=clipper if known else None, config=config)
    kept = np.abs(y) < 0.9 * level
    explained = result.audio[kept] / result.scale if known else result.curve(result.audio)[kept]
    # The tolerance is several times as large; half the distance to the next value, where there is none near, is not.
    np.testing.assert_allclose(explained, y[kept], rtol=0, atol=0.005 * level)


def test_a_blind_curve_is_that_of_the_recording_at_its_own_rate(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(lambda y: y))
    y = clipped(1.0, 22050)[0]
    result = restore(y, 22050, prior, config=RestoreConfig(sampler=REFINED))
    # As long as nothing is resampled, the largest observed sample bounds the curve.
    assert np.abs(result.curve(np.linspace(-1, 1, 1001))).max() <= np.abs(y).max() * (1 + 1e-6)
    assert result.explained_db > 20


@pytest.mark.parametrize(("rate", "windows"), [(TINY_RATE, [512]), (22050, [1440]), (6000, [384]), (5513, [352])])
def test_windows_last_as_long_at_every_rate(
    prior: Prior, monkeypatch: pytest.MonkeyPatch, rate: int, windows: list[int]
) -> None:
    used: list[list[int]] = []

    def refine(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, windows: list[int], iterations: int) -> Any:
        used.append(windows)
        return x.clamp(low, high)

    monkeypatch.setattr("nldiff.restoration.task.sparsest_consistent", refine)
    known = Distortion("hard_clip", {"threshold": 0.15})
    restore(clipped(0.5, rate)[0], rate, prior, known=known, config=RestoreConfig(sampler=REFINED))
    assert used
    assert all(found == windows for found in used)


def test_signals_under_a_curve_that_falls_are_left_as_sampled(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Distortion("wavefold", {"threshold": 0.15})
    x = torch.from_numpy(plucked(0.4, TINY_RATE))[None]
    y = known(x)
    monkeypatch.setattr(
        "nldiff.restoration.task.sample", FakeSampler(lambda observed: x * (observed.norm() / y.norm()))
    )
    refined, plain = (
        restore(y.numpy(), TINY_RATE, prior, known=known, config=RestoreConfig(sampler=sampler)).audio
        for sampler in (REFINED, {})
    )
    np.testing.assert_array_equal(refined, plain)


def test_the_curve_is_estimated_on_the_loudest_stretch_and_every_chunk_refined(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = FakeSampler(lambda y: y)
    monkeypatch.setattr("nldiff.restoration.task.sample", sampler)
    y = 0.1 * clipped(1.0, TINY_RATE)[0]
    loud = slice(3 * TINY_RATE // 5, 7 * TINY_RATE // 10)  # on the grid of quarters
    y[loud] *= 5
    steps: list[tuple[int, int]] = []
    config = RestoreConfig(excerpt_seconds=0.1, sampler={**REFINED, "polish_sigma": 0.02, "polish_steps": 2})
    restore(y, TINY_RATE, prior, config=config, on_step=lambda *step: steps.append(step))
    (call,) = sampler.calls
    assert call["y"].shape == (1, TINY_RATE // 10)
    assert np.corrcoef(call["y"][0], y[loud])[0, 1] > 0.99
    assert steps[-1][0] == steps[-1][1]


def test_an_excerpt_under_a_curve_that_falls_is_not_the_result(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = FakeSampler(lambda y: y)
    monkeypatch.setattr("nldiff.restoration.task.sample", sampler)
    y = clipped(1.0, TINY_RATE)[0]
    known = Distortion("wavefold", {"threshold": 0.01})
    config = RestoreConfig(excerpt_seconds=0.2, sampler=REFINED)
    result = restore(y, TINY_RATE, prior, known=known, config=config)
    assert [call["y"].shape for call in sampler.calls] == [(1, TINY_RATE // 5), (1, TINY_RATE)]
    assert result.audio.shape == y.shape


def test_progress_ends_at_the_end_where_sampling_was_all(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(lambda y: y))
    steps: list[tuple[int, int]] = []
    known = Distortion("wavefold", {"threshold": 0.01})
    config = RestoreConfig(sampler=REFINED | {"steps": 3})
    restore(
        clipped(1.0, TINY_RATE)[0], TINY_RATE, prior, known=known, config=config, on_step=lambda *s: steps.append(s)
    )
    assert steps[-1] == (3, 3)


def test_the_curve_goes_on_sensibly_beyond_the_samples_that_it_was_estimated_on(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(lambda y: y))
    y = clipped(1.0, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior, config=RestoreConfig(sampler=REFINED))
    values = result.curve(np.linspace(-100, 100, 1001) * rms(y))
    assert bool((np.diff(values) >= 0).all())
    assert np.abs(values).max() <= np.abs(y).max() * (1 + 1e-6)


def test_a_matched_curve_keeps_its_knees_where_the_estimate_is_off() -> None:
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_normal((3, 50000)))
    y = x.clamp(-0.5, 1)
    # Pairs say little: what is left is the distribution. Errors keep it, as where energy is moved in time.
    estimate = x[:, random.permutation(50000)]
    curve = matched_curve(estimate, y)
    at = torch.tensor([-3.0, -0.6, -0.4, 0.0, 0.9, 1.1, 3.0])
    torch.testing.assert_close(curve(at), at.clamp(-0.5, 1), atol=0.01, rtol=0)
    assert (float(curve.y[0]), float(curve.y[-1])) == (-0.5, 1)
    assert curve.tolerance == pytest.approx(rms(y) / 25)


def test_plain_curves_are_straight_between_the_extremes_and_flat_beyond() -> None:
    y = torch.linspace(-0.2, 0.4, 20001)
    line, knee = plain_curves(y)
    at = torch.tensor([-1.0, -0.3, -0.1, 0.0, 0.3, 0.5, 2.0])
    torch.testing.assert_close(line(at), at.clamp(-0.2, 0.4), atol=1e-3, rtol=0)
    ends = 1.02 * torch.tensor([0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4])
    torch.testing.assert_close(knee(at), at / (1 + (at / ends).abs() ** 3) ** (1 / 3), atol=1e-3, rtol=0)
    assert line.tolerance == knee.tolerance == pytest.approx(rms(y) / 25)
    for curve in plain_curves(y.clamp(min=0)):
        assert curve(torch.tensor([-1.0, -0.1])).tolist() == [0, 0]
        assert float(curve(torch.tensor([0.05]))) == pytest.approx(0.05, rel=0.01)


def test_spread_is_less_for_sparser_signals_whatever_their_level() -> None:
    sine = torch.sin(0.1 * torch.arange(20000))[None]
    noise = torch.randn(1, 20000, generator=generators([0])[0])
    values = [spread(x, [256, 512]) for x in (sine, sine + 0.1 * noise, sine + noise, noise)]
    assert values == sorted(values)
    assert math.log(0.01) < values[0] < -4
    # energies of noise have an exponential distribution: E log(e + 0.01) = exp(0.01) E_1(0.01) + log 0.01
    assert values[-1] == pytest.approx(math.exp(0.01) * exp1(0.01) + math.log(0.01), abs=0.05)
    assert spread(1e-3 * noise, [256]) == pytest.approx(spread(noise, [256]), abs=1e-4)


@pytest.mark.parametrize("true", [Distortion("hard_clip", {"threshold": 0.1}), Distortion("quantize", {"step": 0.08})])
def test_a_plain_curve_wins_over_a_wrong_one(prior: Prior, true: Distortion) -> None:
    y = true(tones(0, TINY_RATE))
    config = RestoreConfig(sampler=REFINED | {"refine_iterations": 400, "refine_windows": [1024]})
    task = make_task(Recording.from_array(y.numpy(), TINY_RATE), prior, config, None)
    observed = task.gain * y
    # What was sampled and its curve agree, and are wrong. The same from this start only: -43 and -31 dB.
    sampled = observed + 300 * observed**3
    x, curve = refitted(task, matched_curve(sampled, observed), sampled, observed)
    error = rr_mse(true, lambda ramp: curve(ramp) / task.gain, 0.06, fit_scale=True)
    assert error < -70
    assert rms(x) == pytest.approx(prior.sigma_data)


def test_a_rough_curve_becomes_the_true_one(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tones(1, TINY_RATE)
    true = calibrate("soft_clip", x, sdr=8)
    y = true(x)[0].numpy()
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(lambda y: y))  # and the curve is the identity
    sampler = REFINED | {"refine_iterations": 400, "refine_windows": [1024]}
    result = restore(y, TINY_RATE, prior, config=RestoreConfig(sampler=sampler))
    error = rr_mse(true, lambda ramp: torch.from_numpy(result.curve(ramp.numpy())), 0.06, fit_scale=True)
    assert error < -70  # -82 dB; the fit of the waveshaper to the same signal: -52 dB


def test_a_known_curve_is_taken_over_its_whole_range_unless_it_falls() -> None:
    y = 0.01 * torch.ones(1, 9)
    table = known_increasing_curve(lambda x: x.clamp(-0.3, 0.2), 2.0, y)
    assert table is not None
    assert (float(table.x[0]), float(table.x[-1])) == (-2, 2)
    assert table.tolerance == pytest.approx(0.01 / 25)
    low, high = table.bounds(torch.linspace(-0.3, 0.2, 1001))
    assert low[[-1, 800, 0]].tolist() == pytest.approx([0.2, 0.1, -math.inf], abs=0.002)
    assert high[[-1, 800, 0]].tolist() == pytest.approx([math.inf, 0.1, -0.3], abs=0.002)
    assert known_increasing_curve(lambda x: x.sin(), 1.5, y) is not None
    assert known_increasing_curve(lambda x: x.sin(), 1.8, y) is None  # sin(1.8) is below sin(pi / 2) by 0.026


@pytest.mark.parametrize(("noise", "halvings"), [(0.0, 5), (0.02, 0)])
def test_the_tolerance_is_halved_unless_noise_would_be_amplified(prior: Prior, noise: float, halvings: int) -> None:
    clipper = Distortion("hard_clip", {"threshold": 0.1})
    y = clipper(tones(0, TINY_RATE))
    y = y + noise * y.square().mean().sqrt() * torch.randn(y.shape, generator=generators([0])[0])
    task, observed = tones_task(prior, y)
    curve = known_increasing_curve(lambda v: task.gain * clipper(v / task.gain), 2.0, observed)
    assert curve is not None
    refined = task.refined(observed, curve, observed, 100)
    tight = tightened(task, curve, refined, observed, refit=False)
    assert tight.tolerance == curve.tolerance / 2**halvings
    assert tight.exact_where_steep == (halvings > 0)
    torch.testing.assert_close((tight.x, tight.y), (curve.x, curve.y))


def test_a_curve_that_is_a_little_off_is_corrected_while_the_tolerance_is_halved(prior: Prior) -> None:
    x = tones(0, TINY_RATE)
    clipper = Distortion("soft_clip", {"gain": 10.0})
    y = clipper(x)
    task, observed = tones_task(prior, y)
    # The signal is brought to the prior's level, so that is where a curve can be right.
    gain = task.prior.sigma_data / float(x.square().mean().sqrt())

    def error(curve: IncreasingCurve) -> float:
        return float((curve(gain * x) - observed).square().mean().sqrt())

    true = known_increasing_curve(lambda v: task.gain * clipper(v / gain), 2.0, observed)
    assert true is not None
    # Too high at the peaks by 2 %.
    wrong = replace(true, y=true.y * (1 + 0.02 * (true.y / true.y[-1]).square()))
    refined = task.refined(observed, wrong, observed, 100)
    left, corrected = (tightened(task, wrong, refined, observed, refit) for refit in (False, True))
    assert error(left) == pytest.approx(error(wrong))
    assert error(corrected) < error(left) / 5


def tones_task(prior: Prior, y: Tensor) -> tuple[Task, Tensor]:
    """A task to refine the recording `y` [1, time], and `y` at the prior's level."""
    config = RestoreConfig(sampler=REFINED | {"refine_iterations": 400, "refine_windows": [1024]})
    task = make_task(Recording.from_array(y.numpy(), TINY_RATE), prior, config, None)
    return task, task.gain * y
