"""Evidence: predictability, spread, binding, what is explained, plateaus, and the judgement of all."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import OnAccelerator, plucked
from scipy.signal import lfilter
from signals import voice
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import Distortion
from nldiff.restoration.evidence import Judgement, binding, judge, log_odds, unexplained
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.increasing import CurveSettings, plain_curves
from nldiff.restoration.measures import EvidenceSettings, frame_spread, loudest, plateau_share, predictability

RATE = 16000
SETTINGS = EvidenceSettings()
CALM = EvidenceSettings(noise_db=-90)


def tensor(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_2d(samples).astype(np.float64))


def noise(seconds: float = 1.0, seed: int = 0) -> Tensor:
    return tensor(np.random.default_rng(seed).standard_normal(round(RATE * seconds)))


def autoregressive(pole: float, seconds: float = 8.0) -> Tensor:
    """Innovations of variance 1; the power is 1 / (1 - pole^2)."""
    return tensor(lfilter([1.0], [1.0, -pole], noise(seconds).numpy()[0]))


def strings(seconds: float = 1.0, seed: int = 0) -> Tensor:
    return tensor(plucked(seconds, RATE, seed))


def spoken(seconds: float = 1.0) -> Tensor:
    """A voice with a little breath."""
    return tensor(voice(seconds)) + 1e-3 * noise(seconds)


class TestPredictability:
    @pytest.mark.parametrize("pole", [0.0, 0.5, -0.8, 0.95])
    def test_is_the_share_of_the_innovations_in_the_power(self, pole: float) -> None:
        settings = EvidenceSettings(order=2, frame_seconds=0.5, noise_db=-90)
        found = predictability(autoregressive(pole), RATE, settings=settings)
        assert found == pytest.approx(math.log(1 - pole**2), abs=0.05)

    def test_higher_orders_predict_what_lower_ones_cannot(self) -> None:
        echo = tensor(lfilter([1.0], [1.0] + 9 * [0.0] + [-0.9], noise(8.0).numpy()[0]))
        low, high = (
            predictability(echo, RATE, settings=EvidenceSettings(order=n, frame_seconds=0.5, noise_db=-90))
            for n in (9, 10)
        )
        assert low == pytest.approx(0, abs=0.1)
        assert high == pytest.approx(math.log(1 - 0.81), abs=0.1)

    def test_noise_bounds_it_from_below(self) -> None:
        tone = tensor(np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE))
        for noise_db in (-30, -50):
            found = predictability(tone, RATE, settings=EvidenceSettings(noise_db=noise_db))
            assert noise_db / 10 * math.log(10) < found < noise_db / 10 * math.log(10) + 3

    def test_what_is_unexplained_counts_like_noise(self) -> None:
        x = autoregressive(0.99)
        mixed = x + x.std() * 0.1 * noise(8.0, seed=1)
        charged = predictability(x, RATE, noise=0.01)
        assert charged == pytest.approx(predictability(mixed, RATE), abs=0.1)
        assert charged > predictability(x, RATE) + 0.3

    @pytest.mark.parametrize("exponent", [0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.4])
    @pytest.mark.parametrize("make", [spoken, strings])
    def test_no_compressor_or_expander_is_better_than_the_signal(
        self, make: Callable[[], Tensor], exponent: float
    ) -> None:
        x = make()
        bent = x.sign() * x.abs() ** exponent
        assert predictability(bent, RATE, x) > predictability(x, RATE) + 0.02
        assert judge(x, bent, lambda s: s.sign() * s.abs() ** (1 / exponent), RATE).log_odds < -1

    def test_clipping_is_worse_the_harder_it_is(self) -> None:
        x = spoken()
        found = [predictability(x.clamp(-c, c), RATE, x) for c in (1.0, 0.2, 0.1, 0.05)]
        assert found == sorted(found) and found[-1] > found[0] + 1

    def test_frames_are_weighted_by_the_observation(self) -> None:
        x = torch.cat([strings(), noise()], 1)
        first, second = x.clone(), x.clone()
        first[:, RATE:] *= 1e-3
        second[:, :RATE] *= 1e-3
        assert predictability(x, RATE, first) < predictability(x, RATE, second) - 1

    def test_full_form_does_not_depend_on_how_level_is_shared(self) -> None:
        x, gain = spoken(), 3.0
        slope = 1 / (1 + x.abs())
        one = predictability(x, RATE, slope=slope)
        assert predictability(gain * x, RATE, x, slope=slope / gain) == pytest.approx(one, abs=1e-9)

    def test_full_form_is_least_at_the_true_curve(self) -> None:
        x = spoken()
        y = torch.tanh(8 * x) / 8

        def full(gain: float) -> float:
            inverse = torch.atanh((gain * y).clamp(-0.999, 0.999)) / gain
            return predictability(inverse, RATE, y, slope=1 - torch.tanh(gain * inverse) ** 2, settings=CALM)

        found = {gain: full(gain) for gain in (0.1, 4.0, 7.0, 8.0, 8.3)}
        assert min(found, key=lambda gain: found[gain]) == 8.0


class TestFrameSpread:
    def test_is_known_for_one_bin_and_for_none(self) -> None:
        impulses = torch.zeros(1, 32 * 640, dtype=torch.float64)
        impulses[:, 160::320] = 1.0
        assert frame_spread(noise(), RATE) > frame_spread(strings(), RATE) + 1
        assert frame_spread(strings(), RATE) > math.log(0.01)
        assert frame_spread(noise(), RATE) < math.log(1.01)

    def test_levels_of_frames_do_not_matter(self) -> None:
        x, y = strings(), noise()
        louder = x * torch.linspace(1, 1.001, x.shape[1]).double()
        assert frame_spread(louder, RATE, x) == pytest.approx(frame_spread(x, RATE), abs=1e-3)
        assert frame_spread(torch.cat([x, 0.01 * y], 1), RATE, torch.cat([x, y], 1)) > frame_spread(x, RATE) + 0.5

    def test_what_is_unexplained_makes_it_more_even(self) -> None:
        assert frame_spread(strings(), RATE, noise=0.1) > frame_spread(strings(), RATE) + 0.1


@pytest.mark.parametrize("measure", [predictability, frame_spread])
class TestBoth:
    def test_level_offset_polarity_and_type_do_not_matter(self, measure: Callable[..., float]) -> None:
        x = spoken()
        expected = measure(x, RATE)
        for other in (1e-4 * x, 100 * x, -x, x + 0.5):
            assert measure(other, RATE) == pytest.approx(expected, abs=1e-6)
        assert measure(x.float(), RATE) == pytest.approx(expected, abs=1e-4)

    def test_is_the_same_every_time(self, measure: Callable[..., float]) -> None:
        assert measure(spoken(), RATE) == measure(spoken(), RATE)

    @pytest.mark.parametrize("samples", [1, 2, 99, 640, 641])
    def test_short_signals_have_a_value(self, measure: Callable[..., float], samples: int) -> None:
        assert math.isfinite(measure(noise()[:, :samples], RATE))

    @pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
    def test_half_a_second_has_a_value_at_every_rate(self, measure: Callable[..., float], rate: int) -> None:
        x = tensor(plucked(0.5, rate))
        assert measure(x, rate) < measure(x.clamp(-0.1, 0.1), rate, x)

    def test_silence_and_constants_are_nothing(self, measure: Callable[..., float]) -> None:
        silence = torch.zeros(1, RATE)
        assert measure(silence, RATE) == measure(silence + 0.3, RATE) == 0
        assert math.isfinite(measure(noise(), RATE, silence))

    def test_silent_items_do_not_count(self, measure: Callable[..., float]) -> None:
        x = autoregressive(0.9, 1.0)
        both = measure(torch.cat([x, torch.zeros_like(x)]), RATE)
        assert math.isfinite(both)

    def test_needs_no_gradient(self, measure: Callable[..., float]) -> None:
        x = spoken().requires_grad_()
        assert isinstance(measure(x, RATE), float) and x.grad is None


class TestBinding:
    def test_shares_and_middles_by_hand(self) -> None:
        x = torch.tensor([[1.0, -1.0, 1.0, -1.0, 0.0, 3.0]], dtype=torch.float64)
        low = torch.tensor([[0.95, -1.02, 0.0, -math.inf, -math.inf, 4.0]], dtype=torch.float64)
        high = torch.tensor([[0.97, -1.0, 2.0, 0.0, math.inf, 5.0]], dtype=torch.float64)
        bound = binding(x, Intervals(low, high))
        torch.testing.assert_close(bound.signal, torch.tensor([[0.96, -1.01, 1.0, -1.0, 0.0, 4.0]]).double())
        assert (bound.exact, bound.interval, bound.unknown) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
        # 4/12 and 1/12 of the wide ones, 1 of the half open one, 0 of the open one; the variance is 13/6 - 1/4
        assert bound.guessed == pytest.approx((4 / 12 + 1 / 12 + 1) / 6 / (13 / 6 - 1 / 4))

    def test_width_counts_relative_to_the_signal(self) -> None:
        x = noise()
        for gain in (1e-3, 1.0, 1e3):
            assert binding(gain * x, Intervals(gain * (x - 0.04), gain * (x + 0.04))).exact == 1
            assert binding(gain * x, Intervals(gain * (x - 0.06), gain * (x + 0.06))).interval == 1

    def test_without_intervals_all_is_exact(self) -> None:
        x = noise()
        bound = binding(x)
        assert (bound.exact, bound.interval, bound.unknown) == (1, 0, 0)
        torch.testing.assert_close(bound.signal, x)

    def test_clipped_samples_are_unknown(self) -> None:
        y = strings().clamp(-0.1, 0.1)
        curve = replace(plain_curves(y, CurveSettings())[0], exact_where_steep=True)
        bound = binding(y, curve.feasible(y))
        assert bound.unknown == pytest.approx(float((y.abs() == 0.1).double().mean()), abs=0.02)
        assert bound.exact == pytest.approx(1 - bound.unknown, abs=0.02)

    def test_accelerators_without_float64(self) -> None:
        x = noise().float()
        intervals = Intervals(x - 0.1, torch.where(x > 1, torch.inf, x))
        found, expected = (binding(each, intervals) for each in (x.as_subclass(OnAccelerator), x))
        assert torch.equal(found.signal, expected.signal)
        assert (found.exact, found.unknown, found.guessed) == (expected.exact, expected.unknown, expected.guessed)


class TestUnexplained:
    def test_by_hand(self) -> None:
        y = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
        # half the distance to the nearer neighbour does not count: 0.5, 0.5, 0.5, 1
        found = unexplained(y, torch.tensor([[0.4, 1.5, 2.75, 1.0]]))
        torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, -0.25, 2.0]]).double())

    def test_what_lies_between_the_levels_of_a_quantiser_is_explained(self) -> None:
        x = strings()
        y = Distortion("quantize", {"step": 0.1})(x)
        assert not unexplained(y, x).any()
        assert unexplained(x, y).square().mean() > 1e-4

    def test_one_value_must_be_met(self) -> None:
        assert unexplained(torch.zeros(1, 9), torch.full((1, 9), 0.5)).tolist() == [9 * [-0.5]]


class TestPlateau:
    def test_by_hand(self) -> None:
        # the range is 0 to 100, its edges are 5 wide
        y = torch.tensor([[0.0, 1.0, 4.0, 6.0, 30.0, 91.0, 92.0, 93.0, 97.0, 100.0]])
        assert plateau_share(y) == pytest.approx((3 - 1) / 10)
        assert plateau_share(-7 * y + 3) == pytest.approx((3 - 1) / 10)

    def test_counts_clipped_samples(self) -> None:
        x = noise(4.0)
        for limit in (0.7, 1.0):
            share = float((x.abs() >= limit).double().mean())
            assert plateau_share(x.clamp(-limit, limit)) == pytest.approx(share, rel=0.1)
            assert plateau_share(x.clamp(max=limit)) == pytest.approx(share / 2, rel=0.15)

    def test_noise_does_not_hide_them(self) -> None:
        x = noise(4.0).clamp(-1, 1)
        assert plateau_share(x + 0.01 * noise(4.0, seed=1)) == pytest.approx(plateau_share(x), rel=0.1)

    def test_counts_the_half_of_a_rectifier(self) -> None:
        assert plateau_share(noise(4.0).clamp(min=0)) == pytest.approx(0.5, abs=0.05)

    @pytest.mark.parametrize("signal", [strings(), spoken(), noise(), strings(0.5, seed=1)])
    def test_clean_signals_have_none(self, signal: Tensor) -> None:
        assert plateau_share(signal) < SETTINGS.largest_clean_plateau

    @pytest.mark.parametrize("samples", [1, 100])
    def test_constants_have_none(self, samples: int) -> None:
        assert plateau_share(torch.full((1, samples), 0.3)) == 0


def identity(x: Tensor) -> Tensor:
    return x


class TestJudge:
    def test_the_recording_itself_has_the_bias(self) -> None:
        y = strings()
        found = judge(y, 2.0 * y, lambda x: x / 2, RATE)
        assert found.log_odds == pytest.approx(SETTINGS.bias, abs=1e-6)
        assert (found.predictability_gain, found.spread_gain) == pytest.approx((0, 0), abs=1e-6)
        assert found.explained_db == math.inf and found.exact == 1

    def test_log_odds_by_hand(self) -> None:
        settings = EvidenceSettings(
            bias=-1, predictability_weight=2, spread_weight=3, predictability_scale=0.1, spread_scale=0.2
        )
        assert log_odds(0.1 * math.sinh(0.5), 0.2 * math.sinh(-0.25), settings) == pytest.approx(-1 + 1 - 0.75)

    @pytest.mark.parametrize("make", [spoken, strings])
    @pytest.mark.parametrize("clipping", [0.3, 0.15, 0.05])
    def test_the_clean_signal_of_a_clipped_one_is_believed(self, make: Callable[[], Tensor], clipping: float) -> None:
        x = make()
        limit = clipping * float(x.abs().max())
        found = judge(x.clamp(-limit, limit), x, lambda s: s.clamp(-limit, limit), RATE)
        assert found.log_odds > 2 and found.confidence > 0.88
        assert found.plateau > 0

    @pytest.mark.parametrize("gain", [2.0, 5.0])
    def test_the_clean_signal_of_a_bent_one_is_believed_and_the_other_way_round_is_not(self, gain: float) -> None:
        x = spoken()
        bent = torch.tanh(gain * x / x.abs().max()) / gain
        straighten = torch.atanh
        assert judge(bent, straighten(gain * bent) / gain, lambda s: torch.tanh(gain * s) / gain, RATE).log_odds > 2
        assert judge(x, bent, lambda s: straighten((gain * s).clamp(-1, 1)) * x.abs().max() / gain, RATE).log_odds < -2

    @pytest.mark.parametrize("make", [spoken, strings])
    def test_an_invented_curve_for_a_clean_signal_is_not_believed(self, make: Callable[[], Tensor]) -> None:
        y = make()
        peak = 1.05 * y.abs().max()
        restored = torch.atanh(y / peak)
        found = judge(y, restored, lambda s: torch.tanh(s) * peak, RATE)
        assert found.log_odds < SETTINGS.bias and found.confidence < 0.05
        assert found.explained_db > 60

    def test_a_smoother_signal_that_explains_roughly_is_not_believed(self) -> None:
        x = autoregressive(0.95, 1.0)
        smooth = tensor(lfilter([0.25, 0.5, 0.25], [1.0], x.numpy()[0]))[:, 1:]
        y = x[:, :-1]
        assert predictability(smooth, RATE, y) < predictability(y, RATE)
        found = judge(y, smooth, identity, RATE)
        assert found.log_odds < SETTINGS.bias
        assert 5 < found.explained_db < 25

    def test_narrow_intervals_do_not_let_noise_be_chosen_away(self) -> None:
        x = strings()
        y = x + 2e-3 * noise()
        margin = 0.04 * float(y.std())
        intervals = Intervals(y - margin, y + margin)
        found = judge(y, intervals.project(x), identity, RATE, intervals)
        assert found.log_odds == pytest.approx(SETTINGS.bias, abs=1e-3) and found.exact == 1

    def test_levels_do_not_matter(self) -> None:
        x = spoken()
        y = x.clamp(-0.05, 0.05)
        one = judge(y, x, lambda s: s.clamp(-0.05, 0.05), RATE)
        other = judge(1e-3 * y, 7 * x, lambda s: 1e-3 * (s / 7).clamp(-0.05, 0.05), RATE)
        assert other.log_odds == pytest.approx(one.log_odds, abs=1e-3)

    @pytest.mark.parametrize("rate", [8000, 44100, 48000])
    def test_half_a_second_at_other_rates(self, rate: int) -> None:
        x = tensor(plucked(0.5, rate))
        limit = 0.1
        assert judge(x.clamp(-limit, limit), x, lambda s: s.clamp(-limit, limit), rate).log_odds > 2
        assert judge(x, torch.atanh(1.9 * x), lambda s: torch.tanh(s) / 1.9, rate).log_odds < 0

    @pytest.mark.parametrize("level", [0.0, 0.3])
    def test_of_silence_nothing_is_believed(self, level: float) -> None:
        y = torch.full((1, RATE), level)
        found = judge(y, y, identity, RATE)
        assert found.log_odds == SETTINGS.bias

    def test_one_sample(self) -> None:
        assert math.isfinite(judge(torch.ones(1, 1), torch.ones(1, 1), identity, RATE).log_odds)

    def test_is_the_same_every_time_and_has_no_gradient(self) -> None:
        x = spoken().requires_grad_()
        found = [judge(x.clamp(-0.1, 0.1), x, lambda s: s.clamp(-0.1, 0.1), RATE) for _ in range(2)]
        assert found[0] == found[1]
        assert x.grad is None

    def test_confidence_never_claims_more_than_was_tried(self) -> None:
        for odds, expected in ((0.0, 0.5), (1.0, 1 / (1 + math.exp(-1))), (1e4, 0.99), (-1e4, 0.01)):
            judgement = Judgement(odds, 0, 0, 0, 1, 0, 0, 0, 0, math.inf)
            assert judgement.confidence == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 0}, "evidence.order=0: a number of at least 1 expected"),
        ({"frame_seconds": 0.0}, "evidence.frame_seconds=0.0: a number above 0 expected"),
        ({"noise_db": 3.0}, "evidence.noise_db=3.0: a number below 0 expected"),
        ({"bias": math.nan}, "evidence.bias=nan: a number  expected"),
        ({"plateau_edge": 0.3}, "evidence.plateau_edge=0.3: a number above 0 and below 0.25 expected"),
    ],
)
def test_settings_are_validated(changes: dict[str, float], message: str) -> None:
    with pytest.raises(NldiffError) as error:
        EvidenceSettings(**changes)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_the_loudest_stretch_by_hand() -> None:
    samples = np.zeros((2, 24), np.float32)
    samples[0, 7], samples[1, 17] = 2, -3  # stretches of 8 begin at multiples of 2; the first that holds the -3 at 10
    np.testing.assert_array_equal(loudest(samples, 8), samples[:, 10:18])
    np.testing.assert_array_equal(loudest(samples[0], 8), samples[0, :8])
    np.testing.assert_array_equal(loudest(samples, 30), samples)
