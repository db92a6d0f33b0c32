import numpy as np
import pytest
from scipy.signal import lfilter

from nldiff.restoration.prediction import Predictor, framewise

TAPS = np.array([1.6, -0.8])


def autoregressive(count: int = 8000) -> np.ndarray:
    noise = 0.1 * np.random.default_rng(0).standard_normal(count)
    return np.asarray(lfilter([1.0], [1.0, *-TAPS], noise))


def test_filters_and_variances_of_an_autoregressive_signal() -> None:
    found = framewise(autoregressive(), 4, 2000)
    inside = slice(1, -1)
    np.testing.assert_allclose(found.filters[inside].mean(0), [*TAPS, 0, 0], atol=0.05)
    assert found.variances[inside].mean() == pytest.approx(0.01, rel=0.1)


def test_outliers_hardly_disturb() -> None:
    x = autoregressive()
    x[::200] += 0.5  # least squares would be off by 0.1
    found = framewise(x, 2, 2000)
    np.testing.assert_allclose(found.filters[1:-1].mean(0), TAPS, atol=0.05)
    assert found.variances[1:-1].mean() == pytest.approx(0.01, rel=0.2)


def test_errors_are_what_is_not_predicted() -> None:
    x = autoregressive(500)
    predictor = framewise(x, 2, 200)
    taps = predictor.filters[predictor.frames]
    expected = x - np.array([sum(taps[n, k] * x[n - 1 - k] for k in range(min(2, n))) for n in range(len(x))])
    np.testing.assert_allclose(predictor.errors(x), expected, atol=1e-12)


def test_silence_is_predicted_by_nothing() -> None:
    found = framewise(np.zeros(1000), 4, 200)
    assert not found.filters.any()


def test_the_variance_of_an_attack_is_local() -> None:
    random, x = np.random.default_rng(0), np.zeros(2000)
    x[:] = 0.01 * random.standard_normal(2000)
    x[900:1100] = random.standard_normal(200)
    predictor = Predictor(np.zeros((1, 4)), np.array([1e-4]), np.zeros(2000, np.int64))
    assert (predictor.local_variances(None) == 1e-4).all()
    variances = predictor.local_variances(x)
    assert 0.5 < np.median(variances[940:1060]) < 2
    assert variances[:850].max() < 4e-4
    assert variances.min() == 1e-4
    x[500:520] = 1.0  # the errors that one wrong sample makes are not an attack
    assert predictor.local_variances(x)[510] < 1e-3
