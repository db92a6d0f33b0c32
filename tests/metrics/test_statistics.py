"""Bootstrap intervals against scipy and theory, paired comparisons against tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nldiff.metrics.statistics import Statistic, bootstrap, compare

SCORES = [2.1, 3.4, -0.5, 7.2, 4.4, 4.1, 0.3, 5.9, 2.2, 3.3, 8.8, 1.0]


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_interval_is_that_of_scipy(statistic: Statistic) -> None:
    found = bootstrap(SCORES, statistic)
    expected = stats.bootstrap(
        (SCORES,), getattr(np, statistic), n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.estimate == pytest.approx(getattr(np, statistic)(SCORES), abs=1e-12)
    # two bootstraps of 10 000 resamples differ by their own randomness
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1)


def test_the_mean_of_two_values_has_four_equally_likely_resamples() -> None:
    # means 0, 1, 1, 2 with probability 1/4 each: 2.5 % and 97.5 % are the ends, the quartiles are inside
    assert bootstrap([0.0, 2.0], "mean") == bootstrap([2.0, 0.0], "mean").__class__(1.0, 0.0, 2.0)
    middle = bootstrap([0.0, 2.0], "mean", confidence=0.4)
    assert (middle.low, middle.high) == (1.0, 1.0)


def test_95_of_100_intervals_hold_the_mean_of_the_population() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        interval = bootstrap(random.normal(3.0, 2.0, 40), "mean")
        held += interval.low <= 3.0 <= interval.high
    assert 180 <= held <= 198  # 190 expected, standard deviation 3; a little fewer for 40 values


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.sampled_from(["mean", "median"]))
def test_intervals_lie_within_the_values_and_a_seed_repeats_them(values: list[float], statistic: Statistic) -> None:
    interval = bootstrap(values, statistic)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack
    assert interval == bootstrap(values, statistic)


def test_too_few_values_have_no_interval() -> None:
    assert bootstrap([4.0]).estimate == 4.0
    assert math.isnan(bootstrap([4.0]).low)
    assert math.isnan(bootstrap([]).estimate)


def test_pairs_are_compared_by_their_differences() -> None:
    # all of six differences positive: 2 of the 2^6 sign patterns are as extreme
    result = compare([11.0, 22.0, 33.0, 44.0, 55.0, 66.0], [10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    assert result.p_value == pytest.approx(2 / 64)
    assert result.difference.estimate == 3.5
    assert 1 <= result.difference.low < 3.5 < result.difference.high <= 6
    assert result.pairs == 6


def test_the_difference_is_the_median_of_the_pairs() -> None:
    # differences 1, 2, 3, 4 and 90: their mean is 20; the medians differ by 2
    result = compare([11.0, 36.0, 33.0, 44.0, 140.0], [10.0, 34.0, 30.0, 40.0, 50.0])
    assert result.difference.estimate == 3.0


def test_what_hides_in_unpaired_scores_shows_in_pairs() -> None:
    clips = np.linspace(0, 100, 12)
    gain = np.array([0.5, 0.6, 0.7, 0.8] * 3)
    result = compare(clips + gain, clips)
    assert result.p_value < 0.01
    assert 0.5 <= result.difference.low <= result.difference.high <= 0.8
    assert stats.mannwhitneyu(clips + gain, clips).pvalue > 0.5


def test_swapped_methods_give_the_opposite_difference() -> None:
    a, b = SCORES, SCORES[::-1]
    forth, back = compare(a, b), compare(b, a)
    assert forth.difference.estimate == -back.difference.estimate
    assert forth.p_value == pytest.approx(back.p_value)


def test_equal_scores_and_no_scores() -> None:
    assert compare(SCORES, SCORES).p_value == 1.0
    assert compare(SCORES, SCORES).difference.high == 0.0
    assert math.isnan(compare([], []).p_value)
    assert compare([], []).pairs == 0
