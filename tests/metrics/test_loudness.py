"""Loudness: the standard's own test signal, the signals of EBU Tech 3341, and the algorithm written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from signals import FloatArray, noise

from nldiff.errors import NldiffError
from nldiff.metrics import loudness, normalise_loudness
from nldiff.metrics.loudness import k_weighting

SHELF = [1.53512485958697, -2.69169618940638, 1.19839281085285], [1.0, -1.69065929318241, 0.73248077421585]
HIGH_PASS = [1.0, -2.0, 1.0], [1.0, -1.99004745483398, 0.99007225036621]


def sine(decibels: float, seconds: float, rate: int, frequency: float = 1000.0) -> FloatArray:
    return 10 ** (decibels / 20) * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
def test_full_scale_sine(rate: int) -> None:
    """The test signal of BS.1770-4: -3.01 LKFS in one channel, 3.01 more in two; the rate must not matter."""
    x = sine(0, 5, rate, 997)
    assert loudness(x, rate) == pytest.approx(-3.0103, abs=1e-3)
    assert loudness(torch.tensor(np.stack([x, x])), rate) == pytest.approx(0.0, abs=1e-3)
    for index, expected in [(0, -3.0103), (2, -3.0103), (4, -3.0103 + 10 * math.log10(1.41))]:
        surround = np.zeros((5, len(x)))
        surround[index] = x
        assert loudness(surround, rate) == pytest.approx(expected, abs=1e-3)


# Levels in dB of full scale and seconds of stereo sines of 1 kHz; all are to read -23.0 LUFS.
EBU_3341: dict[str, list[tuple[float, float]]] = {
    "1": [(-23, 20)],
    "3": [(-36, 10), (-23, 60), (-36, 10)],
    "4": [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
    "5": [(-26, 20), (-20, 20.1), (-26, 20)],
}


@pytest.mark.parametrize("case", EBU_3341)
def test_ebu_signals(case: str) -> None:
    rate = 8000
    x = np.concatenate([sine(level, seconds, rate) for level, seconds in EBU_3341[case]])
    assert loudness(np.stack([x, x]), rate) == pytest.approx(-23.0, abs=0.03)  # the EBU allows 0.1


def test_ebu_surround_signal() -> None:
    x = np.stack([sine(level, 20, 8000) for level in (-28, -28, -24, -30, -30)])
    assert loudness(x, 8000) == pytest.approx(-23.0, abs=0.02)


def written_out(x: FloatArray) -> float:
    """BS.1770-4 for [channels, time] at 48 kHz, sample by sample and block by block."""
    for numerator, denominator in (SHELF, HIGH_PASS):
        x = lfilter(numerator, denominator, x, axis=1)
    blocks = []
    start = 0
    while start + 19200 <= x.shape[1]:
        blocks.append(sum(float(np.mean(channel[start : start + 19200] ** 2)) for channel in x))
        start += 4800
    loud = [block for block in blocks if -0.691 + 10 * math.log10(block) > -70]
    gate = -0.691 + 10 * math.log10(sum(loud) / len(loud)) - 10
    loud = [block for block in loud if -0.691 + 10 * math.log10(block) > gate]
    return -0.691 + 10 * math.log10(sum(loud) / len(loud))


@pytest.mark.parametrize("samples", [19200, 19200 + 4799, 100_000, 143_999])
def test_against_the_algorithm_written_out(samples: int) -> None:
    x = noise(2, samples) * np.linspace(1e-5, 1, samples) ** 2
    assert loudness(x, 48000) == pytest.approx(written_out(x), abs=1e-6)
    if samples > 100_000:  # both gates shut out something
        everything = -0.691 + 10 * math.log10(np.sum(np.mean(k_weighting(x, 48000) ** 2, axis=1)))
        assert loudness(x, 48000) > everything + 0.1


def test_silence_and_what_is_too_short_or_of_too_many_channels() -> None:
    assert loudness(np.zeros(48000), 48000) == -math.inf
    assert loudness(sine(-71, 1, 48000), 48000) == -math.inf
    assert loudness(sine(0, 0.4, 22055), 22055) == pytest.approx(-3.0, abs=0.05)
    with pytest.raises(NldiffError, match=r"19199 samples at 48000 Hz are too short for a loudness: 0.4 s needed"):
        loudness(np.zeros(19199), 48000)
    with pytest.raises(NldiffError, match=r"signal of shape \[6, 48000\]: .* 1 to 5 channels expected"):
        loudness(np.zeros((6, 48000)), 48000)
    with pytest.raises(NldiffError, match="signal contains NaN"):
        loudness(np.full(48000, np.nan), 48000)


@settings(max_examples=10, deadline=None)
@given(lufs=st.floats(-60, -25), gain=st.floats(-30, 0))
def test_normalised_loudness(lufs: float, gain: float) -> None:
    x = 10 ** (gain / 20) * noise(2, 16000)
    assert loudness(normalise_loudness(x, 16000, lufs), 16000) == pytest.approx(lufs, abs=1e-6)


def test_normalising_stops_at_full_scale() -> None:
    x = noise(2, 16000)
    x[1, 5000] = -0.8
    louder = normalise_loudness(x, 16000, -10)
    assert np.max(np.abs(louder)) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(louder, x / 0.8, rtol=1e-12)
    assert loudness(louder, 16000) < -10.5
    np.testing.assert_array_equal(normalise_loudness(np.zeros(16000), 16000, -23), np.zeros(16000))
