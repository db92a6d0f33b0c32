"""Histogram matching: quantiles of a Laplace distribution, ties, and the inversion of increasing distortions."""

import numpy as np
import pytest
from scipy.stats import laplace

from nldiff.sound.histogram import histogram_match, laplace_quantile


def test_laplace_quantile_equals_scipy() -> None:
    p = np.linspace(0.001, 0.999, 301)
    assert laplace_quantile(p, 0.06) == pytest.approx(laplace.ppf(p, scale=0.06 / np.sqrt(2)), rel=1e-12, abs=1e-15)


def test_recovers_laplacian_samples_through_an_increasing_curve() -> None:
    x = np.random.default_rng(0).laplace(scale=0.06 / np.sqrt(2), size=200_000)
    y = np.tanh(20 * x) + 0.2
    estimate = histogram_match(y, 0.06)(y)
    # quantiles of 200 000 samples are known to a fraction of a percent except in the far tails
    assert np.sqrt(np.mean((estimate - x) ** 2)) < 0.02 * 0.06
    assert np.std(estimate) == pytest.approx(0.06, rel=0.02)


def test_samples_at_the_clipping_level_share_the_middle_of_their_quantiles() -> None:
    y = np.array([-1.0, -1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    p = np.array([1, 1, 2.5, 3.5, 6, 6, 6, 6]) / 8
    assert histogram_match(y, 0.1)(y) == pytest.approx(laplace_quantile(p, 0.1), rel=1e-6)


def test_is_increasing_and_constant_beyond_the_observed_range() -> None:
    y = np.random.default_rng(1).normal(size=50_000)
    mapped = histogram_match(y, 1.0)(np.linspace(-10, 10, 2001))
    assert np.all(np.diff(mapped) >= 0)
    assert mapped[0] == mapped[1]
    assert mapped.dtype == np.float32
