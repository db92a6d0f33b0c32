import numpy as np
import pytest
import torch
from survey import EXCERPTS, GLOCKENSPIEL, LEVELS, SHORTEST, clipped_excerpt, published

from nldiff.errors import NldiffError
from nldiff.metrics.r_nonlin import CENTRES, band_correlation, ear_filter, ear_gain, r_nonlin
from nldiff.metrics.sdr import FloatArray

RATE = 16000


def noise(*shape: int, seed: int = 0) -> FloatArray:
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)


def tone(frequency: float, rate: int = RATE, seconds: float = 0.6) -> FloatArray:
    """Half a second with smooth ends, without which an onset would be heard in all bands."""
    t = np.arange(round(seconds * rate)) / rate
    return np.sin(np.pi * t / seconds) ** 2 * np.sin(2 * np.pi * frequency * t)


# ------------------------------------------------------------ parts


def test_centres() -> None:
    assert len(CENTRES) == 40
    assert (CENTRES[0], round(CENTRES[-1])) == (pytest.approx(50), 19739)
    steps = np.diff(21.4 * np.log10(1 + 0.00437 * CENTRES))
    np.testing.assert_allclose(steps, (42.55 - 1.84) / 40, rtol=1e-3)


def test_gain_of_the_ear() -> None:
    decibels = 20 * np.log10(ear_gain(np.array([5.0, 20.0, 100.0, 1000.0, 2500.0, 20000.0, 30000.0])))
    np.testing.assert_allclose(decibels, [-39.6, -39.6, -12.4, 0.0, 6.4, -47.5, -47.5], atol=1e-9)
    x = tone(2500)
    np.testing.assert_allclose(ear_filter(x, RATE), 10 ** (6.4 / 20) * x, atol=0.01)


@pytest.mark.parametrize("shift", [0, 3])
def test_correlation_by_definition(shift: int) -> None:
    x = noise(100)
    y = np.roll(x, shift) + 0.5 * noise(100, seed=1)
    values, energies = band_correlation(x, y, sample_rate=1000)
    assert values.shape == energies.shape == (3,)  # frames of 30 samples, the rest left out
    for frame, value, energy in zip(range(3), values, energies, strict=True):
        a, b = x[30 * frame :][:30], y[30 * frame :][:30]
        products = [sum(a[n] * b[n + lag] for n in range(30) if 0 <= n + lag < 30) for lag in range(-10, 11)]
        assert value == pytest.approx(max(products) / np.sqrt(sum(a**2) * sum(b**2)), abs=1e-11)
        assert energy == pytest.approx(sum(b**2))


def test_correlation_with_silence() -> None:
    x = noise(120)
    x[30:60] = 0
    y = noise(120, seed=1)
    y[30:90] = 0
    values, energies = band_correlation(x, y, sample_rate=1000)
    assert 0 < values[0] < 1
    assert values[1] == 1  # both are silent
    assert values[2] == 0
    assert energies[1] == energies[2] == 0


# ------------------------------------------------------------ the measure


def test_equal_signals_levels_and_delays() -> None:
    x = noise(2, 8000)
    np.testing.assert_array_equal(r_nonlin(x, x, RATE), [1.0, 1.0])
    y = np.clip(x, -0.1, 0.1)
    np.testing.assert_allclose(r_nonlin(x, 7 * y, RATE), r_nonlin(x, y, RATE), rtol=1e-9)
    np.testing.assert_allclose(r_nonlin(0.01 * x, y, RATE), r_nonlin(x, y, RATE), rtol=1e-9)
    assert r_nonlin(tone(500), np.roll(tone(500), RATE // 250), RATE) > 0.98  # two periods, 4 ms
    assert r_nonlin(tone(500), 0 * tone(500), RATE) == 0


def test_bands_count_down_to_60_db_below_the_strongest() -> None:
    x = tone(1000)
    # The ear passes 6 kHz 2.1 dB weaker than 1 kHz. All bands that hear the added tone best have nothing of x.
    loud, faint = (r_nonlin(x, x + level * tone(6000), RATE) for level in (10 ** (-30 / 20), 10 ** (-85 / 20)))
    assert loud < 0.9
    assert faint > 0.995
    assert r_nonlin(x + 10 ** (-30 / 20) * tone(6000), x, RATE) > 0.95  # levels are those of the estimate


def test_more_clipping_is_worse() -> None:
    x = tone(440) + 0.5 * tone(1330)
    values = [r_nonlin(x, np.clip(x, -limit, limit), RATE) for limit in (1.0, 0.7, 0.4, 0.2, 0.05)]
    assert values == sorted(values, reverse=True)
    assert values[0] < 1


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_sample_rates_agree(rate: int) -> None:
    def pair(rate: int) -> tuple[FloatArray, FloatArray]:
        x, disturbance = (np.sum([tone(f * k, rate) / k for k in range(1, 8)], axis=0) for f in (220.0, 310.0))
        return x, x + 0.1 * disturbance

    assert r_nonlin(*pair(rate), rate) == pytest.approx(r_nonlin(*pair(RATE), RATE), abs=0.02)


def test_batches_and_tensors() -> None:
    x, y = noise(2, 3, 2000), noise(2, 3, 2000, seed=1)
    values = r_nonlin(x, y, RATE)
    expected = [[r_nonlin(x[i, j], y[i, j], RATE) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    np.testing.assert_array_equal(r_nonlin(torch.tensor(x), torch.tensor(y), RATE), values)


def test_signals_that_cannot_be_compared() -> None:
    with pytest.raises(NldiffError, match="479 samples are shorter than one frame of R_nonlin"):
        r_nonlin(noise(479), noise(479), RATE)
    with pytest.raises(NldiffError, match=r"reference has shape \[500\] but estimate \[501\]"):
        r_nonlin(noise(500), noise(501), RATE)


# ------------------------------------------------------------ published values


def deviation(excerpt: int, level: int) -> float:
    return float(r_nonlin(*clipped_excerpt(excerpt, level)) - published("Rnonlin")[excerpt, level])


@pytest.mark.parametrize("level", [4, 6])
def test_published_values_of_the_shortest_excerpt(level: int) -> None:
    assert abs(deviation(SHORTEST, level)) < 0.003


@pytest.mark.slow
def test_all_published_values_but_those_of_the_glockenspiel() -> None:
    excerpts = [excerpt for excerpt in range(EXCERPTS) if excerpt != GLOCKENSPIEL]
    deviations = np.array([[deviation(excerpt, level) for level in range(LEVELS)] for excerpt in excerpts])
    assert np.sqrt(np.mean(deviations**2)) < 0.0065
    assert np.abs(deviations).max() < 0.016
