import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import freqz, gammatone, lfilter

from nldiff.metrics.gammatone import erb, erb_frequency, erb_number, gammatone_bands, gammatone_response

RATE = 44100


def test_bandwidths_of_the_ear() -> None:
    # Glasberg and Moore's own rounding: 24.7 (4.37 f / 1000 + 1) and 21.4 log10(4.37 f / 1000 + 1).
    hertz = np.array([100.0, 1000.0, 10000.0])
    np.testing.assert_allclose(erb(hertz), [35.49, 132.64, 1104.1], rtol=1e-3)
    np.testing.assert_allclose(erb_number(hertz), [3.37, 15.62, 35.3], rtol=5e-3)


@given(number=st.floats(0.5, 42))
def test_the_scale_integrates_the_bandwidths(number: float) -> None:
    frequency = erb_frequency(number)
    assert erb_number(frequency) == pytest.approx(number)
    assert (erb_number(frequency + 0.01) - erb_number(frequency - 0.01)) / 0.02 == pytest.approx(
        1 / erb(frequency), rel=1e-4
    )


@pytest.mark.parametrize("centre", [236.3, 1000.0, 5000.0, 14481.0])
def test_gain_and_equivalent_rectangular_bandwidth(centre: float) -> None:
    hertz = np.linspace(0, RATE / 2, 400_001)
    power = np.abs(gammatone_response(centre, hertz, RATE)) ** 2
    peak = np.abs(gammatone_response(centre, np.array([centre]), RATE))[0]
    assert peak == pytest.approx(1, abs=2e-3)
    assert np.sum(power) * (hertz[1] - hertz[0]) / peak**2 == pytest.approx(24.7 + centre / 9.265, rel=5e-3)


@pytest.mark.parametrize("centre", [1000.0, 4000.0])
def test_against_the_filters_of_scipy(centre: float) -> None:
    hertz = centre + np.linspace(-2, 2, 41) * (24.7 + centre / 9.265)
    _, expected = freqz(*gammatone(centre, "iir", fs=RATE), worN=hertz, fs=RATE)
    np.testing.assert_allclose(np.abs(gammatone_response(centre, hertz, RATE)), np.abs(expected), rtol=0.03)


def test_bands_against_the_recursion() -> None:
    signal = np.random.default_rng(0).standard_normal((2, 3000))
    centres = np.array([50.0, 900.0, 15000.0])
    bands = list(gammatone_bands(signal, centres, RATE))
    for centre, band in zip(centres, bands, strict=True):
        radius = np.exp(-2 * np.pi * 1.019 * (24.7 + centre / 9.265) / RATE)
        expected = 2 * signal.astype(complex)
        for _ in range(4):
            expected = lfilter([1 - radius], [1, -radius * np.exp(2j * np.pi * centre / RATE)], expected)
        np.testing.assert_allclose(band, expected.real, atol=1e-8)
