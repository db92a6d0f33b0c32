"""Delays: what the cross-correlation finds, and what a delay does."""

import numpy as np
import pytest

from nldiff.identification.alignment import aligned, delayed, find_delay


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, frames))


@pytest.mark.parametrize("lag", [-700, -1, 0, 1, 12, 1500])
@pytest.mark.parametrize("polarity", [1, -1])
def test_whole_samples_and_polarity(lag: int, polarity: int) -> None:
    signal = noise(8000)
    observed = polarity * 0.3 * signal[:, 2000 - lag : 6000 - lag]
    delay, sign = find_delay(signal[:, 2000:6000], observed)
    assert delay == pytest.approx(lag, abs=0.02)
    assert sign == polarity
    x, y = aligned(signal[:, 2000:6000], observed, lag)
    assert x.shape == y.shape == (2, 4000 - abs(lag))
    np.testing.assert_allclose(y, polarity * 0.3 * x)


def test_constants_do_not_count() -> None:
    signal = noise(4000)
    assert find_delay(signal[:, 50:] + 3, signal[:, :-50] + 2)[0] == pytest.approx(50, abs=0.05)


def test_recordings_of_different_length() -> None:
    signal = noise(5000)
    late = np.concatenate([noise(300, 1), signal, noise(1200, 2)], axis=1)
    assert find_delay(signal, late)[0] == pytest.approx(300, abs=0.05)
    x, y = aligned(signal, late, 300)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("delay", [0.0, 0.25, -3.7, 40.5])
def test_a_delayed_tone_is_a_tone_with_another_phase(delay: float) -> None:
    time = np.arange(4000)
    window = np.exp(-(((time - 2000) / 300) ** 2))
    late = np.exp(-(((time - delay - 2000) / 300) ** 2)) * np.sin(0.3 * (time - delay))
    np.testing.assert_allclose(delayed(window * np.sin(0.3 * time), delay), late, atol=1e-9)


def test_nothing_comes_round_the_end() -> None:
    signal = np.zeros(1000)
    signal[-1] = 1
    late = delayed(signal, 40.0)
    np.testing.assert_allclose(late, 0, atol=1e-9)
