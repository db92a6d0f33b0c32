import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import intervals, laplace, tones
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import exp1
from torch import Tensor

from nldiff.operators import Distortion, calibrate, input_sdr
from nldiff.restoration.feasible import FeasibleSet, Intervals
from nldiff.restoration.increasing import CurveSettings, nearest_increasing
from nldiff.restoration.sparse import (
    RefinementSettings,
    _compiled,
    _mean_of_neighbours,
    _schedule,
    _sparsest,
    open_stretches,
    settled,
    sparsest_consistent,
    spread,
)
from nldiff.sampling import generators

FLOOR = 0.01


def sparsest(x: Tensor, feasible: FeasibleSet, windows: Sequence[int], iterations: int) -> Tensor:
    return sparsest_consistent(x, feasible, windows, iterations, RefinementSettings())


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
    x, open_intervals = intervals(seed, items, length)
    low = torch.nan_to_num(scale * open_intervals.low, -torch.inf)
    high = torch.nan_to_num(scale * open_intervals.high, torch.inf)
    result = sparsest(scale * x, Intervals(low, high), [window], iterations)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    assert bool(result.isfinite().all())
    assert bool(((low <= result) & (result <= high)).all())


def test_bounds_without_room_give_the_signal_exactly() -> None:
    x = laplace(3000).reshape(2, 1500)
    assert torch.equal(sparsest(torch.zeros_like(x), Intervals(x, x), [256, 64], 5), x)


def test_a_silent_item_stays_silent() -> None:
    x = torch.zeros(1, 1000)
    assert torch.equal(sparsest(x, Intervals(x - 0.1, x + 0.1), [256, 64], 5), x)


@pytest.mark.parametrize("window", [64, 1024])
def test_an_item_alone_equals_the_item_in_a_batch(window: int) -> None:
    x, feasible = intervals(0, 3, 2000)
    scale = torch.tensor([[1.0], [1e-3], [30.0]])  # thresholds follow the level of each item
    x, low, high = scale * x, scale * feasible.low, scale * feasible.high
    together = sparsest(x, Intervals(low, high), [window], 10)
    for i in range(3):
        alone = sparsest(x[i : i + 1], Intervals(low[i : i + 1], high[i : i + 1]), [window], 10)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4 * float(scale[i]))


def test_weak_noise_that_nothing_holds_is_shrunk_to_silence() -> None:
    # far below the last threshold, a ten-thousandth of the tone; what the end of the tone splashes is left out
    tone = 0.5 * torch.sin(2 * torch.pi * torch.arange(4000) / 16)
    x = torch.cat([tone, 1e-8 * torch.randn(4000, generator=torch.Generator().manual_seed(0))])[None]
    held = torch.arange(8000) < 4000
    low, high = torch.where(held, x, -torch.inf), torch.where(held, x, torch.inf)
    result = sparsest(x, Intervals(low, high), [256], 30)[0]
    assert torch.equal(result[:4000], tone)
    assert float(x[0, 6000:].abs().max()) > 1e-8
    assert float(result[6000:].abs().max()) < 1e-12


def declipped(x: Tensor, start: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """SDR of a signal after clipping to 3 dB and after its restoration from `start(clipped)`."""
    distortion = calibrate("hard_clip", x, 3.0)
    y = distortion(x)
    curve = nearest_increasing(distortion, x, y, CurveSettings())
    assert curve is not None
    return input_sdr(x, y), input_sdr(x, sparsest(start(y), curve.feasible(y), [1024], 300))


def test_several_windows_give_the_mean_of_what_each_gives() -> None:
    x, feasible = intervals(1, 2, 1500)
    together, short, long = (sparsest(x, feasible, windows, 5) for windows in ([64, 512], [64], [512]))
    torch.testing.assert_close(together, (short + long) / 2)
    assert float((short - long).abs().max()) > 0.01


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    items=st.integers(1, 2),
    length=st.integers(1, 900),
    window=st.sampled_from([4, 12, 64, 500]),
    iterations=st.integers(0, 6),
)
def test_the_compiled_loops_do_what_the_tensor_operations_do(
    seed: int, items: int, length: int, window: int, iterations: int
) -> None:
    x, feasible = intervals(seed, items, length)
    x = feasible.project(x)
    expected = _sparsest(x, feasible, window, iterations, RefinementSettings())
    found = _compiled(x, feasible, [window], iterations, RefinementSettings())[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def bursts(seed: int, length: int, starts: Sequence[int]) -> tuple[Tensor, Intervals]:
    """Noise that is known but for 20 samples from each of the starts on, which have a lower or an upper bound."""
    x = 0.1 * torch.randn(1, length, generator=torch.Generator().manual_seed(seed))
    low, high = x.clone(), x.clone()
    for start in starts:
        upwards = x[:, start : start + 20] > 0
        high[:, start : start + 20][upwards] = torch.inf
        low[:, start : start + 20][~upwards] = -torch.inf
    return x, Intervals(low, high)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    starts=st.lists(st.integers(0, 60_000), max_size=4),
    window=st.sampled_from([4, 64, 500, 2048]),
)
def test_stretches_that_are_left_out_change_nothing(seed: int, starts: list[int], window: int) -> None:
    x, feasible = bursts(seed, 60_000, starts)
    stretches = open_stretches(x[0], feasible.low[0], feasible.high[0], window)
    expected = _sparsest(x, feasible, window, 4, RefinementSettings())
    found = _compiled(x, feasible, [window], 4, RefinementSettings())[0]
    may_move = feasible.high > feasible.low
    torch.testing.assert_close(found[may_move], expected[may_move], rtol=1e-4, atol=1e-5)
    outside = torch.ones(60_000, dtype=torch.bool)
    for stretch in stretches:
        outside[stretch] = False
    assert torch.equal(found[0, outside], x[0, outside])
    assert not bool((outside & may_move[0]).any())


def test_distant_stretches_are_apart_and_near_ones_are_one() -> None:
    x, feasible = bursts(0, 60_000, [20_010, 45_000])
    first, second = open_stretches(x[0], feasible.low[0], feasible.high[0], 64)
    # Frames of 64 samples centred on 19 984 = 1249 * 16 to 1253 * 16 hold some of 20 010 to 20 029; three hops beside.
    assert (first, second.start) == (slice(1246 * 16, 1256 * 16), 2808 * 16)
    x, feasible = bursts(0, 60_000, [20_010, 25_000])
    (both,) = open_stretches(x[0], feasible.low[0], feasible.high[0], 64)
    assert both == slice(1246 * 16, 1568 * 16)
    assert open_stretches(x[0], x[0], x[0], 64) == []


def test_other_sets_and_types_are_refined_alike() -> None:
    class Plain(FeasibleSet):
        def expectation(self, x: Tensor, deviation: Tensor | float) -> Tensor:
            return self.project(x)

        def project(self, x: Tensor) -> Tensor:
            return feasible.project(x)

    x, feasible = intervals(5, 2, 700)
    usual = sparsest(x, feasible, [64, 128], 8)
    torch.testing.assert_close(sparsest(x, Plain(), [64, 128], 8), usual, rtol=1e-4, atol=1e-5)
    double = Intervals(feasible.low.double(), feasible.high.double())
    torch.testing.assert_close(sparsest(x.double(), double, [64, 128], 8).float(), usual, rtol=1e-4, atol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    x, feasible = intervals(6, 2, 3000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sparsest(x, feasible, [64, 256, 1024], 8))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


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
    curve = nearest_increasing(distortion, x, y, CurveSettings())
    assert curve is not None
    restored = sparsest(y, curve.feasible(y), [1024], 300)
    assert input_sdr(x, restored) > input_sdr(x, y) + 13  # 15 to 26 dB


def test_spread_is_less_for_sparser_signals_whatever_their_level() -> None:
    sine = torch.sin(0.1 * torch.arange(20000))[None]
    noise = torch.randn(1, 20000, generator=generators([0])[0])
    values = [spread(x, [256, 512], FLOOR) for x in (sine, sine + 0.1 * noise, sine + noise, noise)]
    assert values == sorted(values)
    assert math.log(0.01) < values[0] < -4
    # energies of noise have an exponential distribution: E log(e + 0.01) = exp(0.01) E_1(0.01) + log 0.01
    assert values[-1] == pytest.approx(math.exp(0.01) * exp1(0.01) + math.log(0.01), abs=0.05)
    assert spread(1e-3 * noise, [256], FLOOR) == pytest.approx(spread(noise, [256], FLOOR), abs=1e-4)


def test_a_mean_of_neighbours_is_over_two_at_the_ends_and_three_between() -> None:
    energy = torch.tensor([3.0, 6.0, 12.0, 24.0, 48.0])[None, :, None] * torch.tensor([1.0, 10.0])
    expected = torch.tensor([4.5, 7.0, 14.0, 28.0, 36.0])[None, :, None] * torch.tensor([1.0, 10.0])
    torch.testing.assert_close(_mean_of_neighbours(energy), expected)
    torch.testing.assert_close(_mean_of_neighbours(energy[:, :2]), torch.full((1, 2, 1), 4.5) * torch.tensor([1.0, 10]))
    torch.testing.assert_close(_mean_of_neighbours(energy[:, :1]), energy[:, :1])


def test_time_may_run_backwards() -> None:
    x, feasible = intervals(3, 2, 16 * 40 + 1)  # frames are centred on multiples of a quarter of the window
    forwards = sparsest(x, feasible, [64], 8)
    mirrored = Intervals(feasible.low.flip(1), feasible.high.flip(1))
    torch.testing.assert_close(sparsest(x.flip(1), mirrored, [64], 8).flip(1), forwards, rtol=1e-4, atol=1e-5)


def test_thresholds_and_momentum_are_those_of_the_settings() -> None:
    x, feasible = intervals(4, 1, 800)
    usual = sparsest_consistent(x, feasible, [64], 5, RefinementSettings())
    for changed in (
        RefinementSettings(first_threshold=0.5),
        RefinementSettings(last_threshold=0.05),
        RefinementSettings(momentum=0.0),
    ):
        other = sparsest_consistent(x, feasible, [64], 5, changed)
        assert float((other - usual).abs().max()) > 1e-3


def test_settling_takes_off_what_a_correction_left_beside_the_tones() -> None:
    x = tones(0)
    level = 0.08  # about 3 dB
    low = torch.where(x < -level, -torch.inf, x.clamp(max=level))
    high = torch.where(x > level, torch.inf, x.clamp(min=-level))
    feasible = Intervals(low, high)
    noise = 2e-3 * torch.randn(x.shape, generator=generators([0])[0])
    before = feasible.project(x + noise)
    after = settled(before, feasible, [512, 1024], RefinementSettings(settling=60))
    assert torch.equal(after, feasible.project(after))
    assert input_sdr(x, after) > input_sdr(x, before) + 6
    assert settled(before, feasible, [512, 1024], RefinementSettings()) is before


def test_settling_starts_at_its_own_threshold() -> None:
    x, feasible = intervals(4, 1, 800)
    wanted = RefinementSettings(first_threshold=0.3, last_threshold=0.01)
    given = RefinementSettings(last_threshold=0.01, settling=5, settling_threshold=0.3)
    expected = sparsest_consistent(x, feasible, [32, 64], 5, wanted)
    torch.testing.assert_close(settled(x, feasible, [64], given), expected)


def test_without_momentum_an_iteration_shrinks_by_the_wiener_gain() -> None:
    x = tones(0)
    free = Intervals(torch.full_like(x, -torch.inf), torch.full_like(x, torch.inf))
    settings = RefinementSettings(first_threshold=0.2, last_threshold=0.2, momentum=0.0)
    window = torch.hann_window(256)
    spectrum = torch.stft(x, 256, 64, window=window, pad_mode="constant", return_complex=True)
    energy = spectrum.abs().square().double()
    padded = torch.nn.functional.pad(energy, (1, 1))
    count = torch.tensor([2.0, *[3.0] * (energy.shape[2] - 2), 2.0])
    mean = (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / count
    gain = (1 - (0.2 * spectrum.abs().max()) ** 2 / mean).clamp(min=0)
    expected = torch.istft(spectrum * gain.float(), 256, 64, window=window, length=x.shape[1])
    torch.testing.assert_close(sparsest_consistent(x, free, [256], 1, settings), expected, rtol=1e-4, atol=1e-6)


def test_thresholds_fall_from_the_first_to_the_last_and_the_momentum_grows() -> None:
    settings = RefinementSettings(first_threshold=0.1, last_threshold=1e-3, momentum=0.3)
    assert np.allclose(_schedule(3, settings), [(0.1, 0.0), (0.01, 0.25), (1e-3, 0.3)])
    assert _schedule(1, settings) == [(0.1, 0.0)]


def test_settling_adds_half_of_the_shortest_window() -> None:
    x, feasible = intervals(5, 1, 3000)
    wanted = RefinementSettings(settling=3)
    low = replace(wanted, first_threshold=wanted.settling_threshold)
    expected = sparsest_consistent(x, feasible, [256, 512, 1024], 3, low)
    assert torch.equal(settled(x, feasible, [512, 1024], wanted), expected)


def test_spread_is_that_of_spectra_a_quarter_of_a_window_apart() -> None:
    x = laplace(3000)
    powers = torch.stft(
        x, 256, 64, window=torch.hann_window(256, dtype=x.dtype), pad_mode="constant", return_complex=True
    )
    power = powers.abs().square()
    assert spread(x, [256], 0.02) == pytest.approx(float((power / power.mean() + 0.02).log().mean()), abs=1e-5)
