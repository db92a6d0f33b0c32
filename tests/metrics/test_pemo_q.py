import math

import numpy as np
import pytest
import torch
from survey import EXCERPTS, LEVELS, SHORTEST, clipped_excerpt, published

from nldiff.errors import NldiffError
from nldiff.metrics.pemo_q import (
    CENTRES,
    FRAME,
    LOOP_RATE,
    MODULATION_CENTRES,
    RATE,
    PemoQ,
    adaptation,
    assimilate,
    difference_grade,
    hair_cells,
    internal_representation,
    modulation_bands,
    pemo_q,
    pemo_q_odg,
    similarity,
    similarity_quantile,
)
from nldiff.metrics.sdr import FloatArray


def noise(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape)


def sound(seconds: float = 0.4, rate: int = RATE) -> FloatArray:
    """Ten partials up to 3.3 kHz that swell and fade, the same at every rate."""
    t = np.arange(round(seconds * rate)) / rate
    return 0.1 * np.sin(np.pi * t / seconds) * sum(np.sin(2 * np.pi * 330 * k * t + k * k) / k for k in range(1, 11))


# ------------------------------------------------------------ the ear


def test_centres() -> None:
    assert len(CENTRES) == 33
    assert np.isclose(CENTRES, 1000).sum() == 1
    steps = np.diff(9.265 * np.log(1 + CENTRES / (24.7 * 9.265)))
    np.testing.assert_allclose(steps, 1)
    # One more on either side would lie outside of 235 Hz to 14.5 kHz.
    assert 235 < CENTRES[0] < 235 + 46 and 14500 - 1560 < CENTRES[-1] < 14500


def test_hair_cells_pass_on_half_waves() -> None:
    t = np.arange(RATE // 2) / RATE
    envelopes = hair_cells(0.3 * np.sin(2 * np.pi * 1000 * t))
    assert envelopes.shape == (33, math.ceil(len(t) / 4))
    means = envelopes[:, LOOP_RATE // 10 : -LOOP_RATE // 10].mean(axis=-1)
    # The mean of a half-wave rectified sine is 1 / pi of its amplitude; the low-pass filter keeps means.
    assert means.argmax() == np.isclose(CENTRES, 1000).argmax()
    assert means.max() == pytest.approx(0.3 / np.pi, rel=0.003)
    # The filter below, at 874.4 Hz, is of order 4: (1 + offset^2 / b^2)^-2 of the amplitude, b = 1.019 ERB.
    below = means[means.argmax() - 1]
    offset = (1000 - 874.4) / (1.019 * (24.7 + 874.4 / 9.265))
    assert below / means.max() == pytest.approx((1 + offset**2) ** -2, rel=0.02)


@pytest.mark.parametrize(
    ("amplitude", "units"),
    # 100 (u^(1/32) - r) / (1 - r) for r = 10^(-5/32) = 0.697831; 0.01^(1/32) = 0.865964.
    [(0.0, 0.0), (1e-5, 0.0), (0.01, 55.642), (1.0, 100.0)],
)
def test_steady_state_of_the_loops(amplitude: float, units: float) -> None:
    adapted = adaptation(np.full((2, 6000), amplitude), 1000)
    np.testing.assert_allclose(adapted[:, -1], units, atol=0.01)


def test_loops_against_one_sample_at_a_time() -> None:
    """The overshoot limit as Münkner's logistic function, values of the loops one after the other."""
    envelopes = np.abs(noise(3, 400)) * 10 ** np.repeat(np.array([-6, -1, -3, 0.5]), 100)
    expected = np.empty_like(envelopes)
    for row, out in zip(envelopes, expected, strict=True):
        divisors = [10 ** (-5 / 2**k) for k in range(1, 6)]
        lowest = divisors.copy()
        for n, v in enumerate(row):
            v = max(v, 1e-5)
            for k, tau in enumerate([0.005, 0.05, 0.129, 0.253, 0.5]):
                v /= divisors[k]
                if v > 1:
                    largest = (1 - lowest[k] ** 2) * 10 - 1
                    v = 2 * largest / (1 + math.exp(-2 / largest * (v - 1))) - (largest - 1)
                decay = math.exp(-1 / (tau * 1000))
                divisors[k] = max(decay * divisors[k] + (1 - decay) * v, lowest[k])
            out[n] = 100 * (v - lowest[4]) / (1 - lowest[4])
    np.testing.assert_allclose(adaptation(envelopes, 1000), expected, rtol=1e-9, atol=1e-9)
    assert expected.max() > 200  # the input does overshoot


def test_modulation_filters() -> None:
    np.testing.assert_allclose(MODULATION_CENTRES, [0, 5, 10, 16.7, 27.8, 46.3, 77.2, 128.6], rtol=2e-3)
    constant = modulation_bands(np.full((1, 4000), 3.0))
    assert constant.shape == (8, 1, 4000)
    assert constant[0, 0, -1] == pytest.approx(3)
    # Gain at 0 of the resonance at 10 Hz: real part of (1 - g) / (1 - g e^(iw)), w = 2 pi 10 / 800, g = 0.98055.
    assert constant[2, 0, -1] / 3 == pytest.approx(0.01945 * 0.02247 / (0.02247**2 + 0.07693**2), rel=1e-3)
    # At 16.7 Hz, far below the sample rate: magnitude of b / (b + i f) for the half bandwidth b = f / 4.
    assert constant[3, 0, -1] / 3 == pytest.approx(1 / math.sqrt(17), rel=0.01)
    t = np.arange(4000) / 800
    wave = modulation_bands(np.sin(2 * np.pi * MODULATION_CENTRES[:, None] * t))
    for k in range(3, 8):  # half of a sine is at the positive frequency; the other half makes a ripple
        assert wave[k, k, 2000:].mean() == pytest.approx(0.5, rel=0.03)
    for k in (1, 2):
        assert wave[k, k, 2000:].max() == pytest.approx(0.5, rel=0.15)


def test_internal_representation_of_silence() -> None:
    assert internal_representation(np.zeros((2, 4410))).shape == (2, 8, 33, 81)
    np.testing.assert_allclose(internal_representation(np.zeros(4410)), 0, atol=1e-9)


# ------------------------------------------------------------ comparison


def test_assimilation() -> None:
    x, y = np.array([2.0, 2.0, -2.0, 1.0]), np.array([1.0, 3.0, 1.0, -1.0])
    np.testing.assert_allclose(assimilate(x, y), [1.15, 3.0, 0.55, -1.0])


def test_similarity_is_a_weighted_correlation() -> None:
    x, y = noise(2, 1, 50), noise(2, 1, 50, seed=1) + 0.7 * noise(2, 1, 50)
    y[1] *= 3
    weights = [np.sum(y[0] ** 2), np.sum(y[1] ** 2)]
    expected = np.average([np.corrcoef(x[m, 0], y[m, 0])[0, 1] for m in range(2)], weights=weights)
    assert similarity(x, y) == pytest.approx([expected])
    silent = np.zeros((2, 1, 50))
    assert similarity(silent, silent) == [1]
    assert similarity(x, silent) == [0]


@pytest.mark.parametrize(("bad_frames", "expected"), [(2, 1.0), (10, -1.0)])
def test_quantile_over_time(bad_frames: int, expected: float) -> None:
    x = 20 + noise(8, 33, 100 * FRAME)
    y = x.copy()
    bad = slice(40 * FRAME, (40 + bad_frames) * FRAME)
    y[..., bad] = 40 - x[..., bad]
    assert similarity_quantile(x, y) == pytest.approx(expected, abs=1e-6)
    y[..., bad] -= 20  # bad frames without activity have little weight; activity is smoothed over 20 frames
    assert similarity_quantile(x, y) == pytest.approx(1.0 if bad_frames == 2 else expected, abs=0.05)


@pytest.mark.parametrize(
    ("psm_t", "odg"),
    [(1.0, 0.0), (0.95, -0.82), (0.864, -2.2304), (0.86, -2.29667), (0.5, -3.67167), (0.0, -3.90551), (-1.0, -4.0)],
)
def test_grade(psm_t: float, odg: float) -> None:
    assert difference_grade(psm_t) == pytest.approx(odg, abs=1e-5)


# ------------------------------------------------------------ the measure


def test_equal_signals_and_levels() -> None:
    x = sound()
    assert pemo_q(x, x, RATE) == PemoQ(1.0, 1.0, 0.0)
    y = np.clip(x, -0.05, 0.05)
    quality = pemo_q(x, y, RATE)
    assert quality.odg < -1 and 0 < quality.psm_t < quality.psm < 1
    assert pemo_q(x, 0.2 * y, RATE).odg == pytest.approx(quality.odg, abs=1e-6)
    # Below the threshold of hearing nothing differs.
    assert pemo_q(1e-5 * x, 1e-5 * y, RATE) == PemoQ(1.0, 1.0, 0.0)


def test_more_distortion_is_worse() -> None:
    x = sound()
    clipped = [pemo_q(x, np.clip(x, -limit, limit), RATE).psm for limit in (0.18, 0.15, 0.1, 0.02)]
    assert clipped == sorted(clipped, reverse=True)
    assert 0 < clipped[-1] < clipped[0] < 1
    squared = [float(pemo_q_odg(x, x + share * x**2, RATE)) for share in (0.1, 0.5, 2)]
    assert squared == sorted(squared, reverse=True)
    assert -4 < squared[-1] < -0.5 and -0.05 < squared[0] < 0


@pytest.mark.parametrize("rate", [16000, 48000])
def test_sample_rates_agree(rate: int) -> None:
    def grade(rate: int) -> float:
        x = sound(rate=rate)
        return float(pemo_q_odg(x, x + 0.3 * x**2 / np.abs(x).max(), rate))

    assert grade(rate) == pytest.approx(grade(RATE), abs=0.05)
    assert grade(RATE) < -0.2


def test_batches_and_tensors() -> None:
    x = 0.1 * noise(2, 1, 2205)
    y = np.clip(x, -0.1, 0.1)
    grades = pemo_q_odg(x, y, RATE)
    assert grades.shape == (2, 1)
    assert grades[1, 0] == pemo_q(x[1, 0], y[1, 0], RATE).odg
    np.testing.assert_array_equal(pemo_q_odg(torch.tensor(x), torch.tensor(y), RATE), grades)


def test_signals_that_cannot_be_compared() -> None:
    with pytest.raises(NldiffError, match="440 samples are shorter than one frame of PEMO-Q"):
        pemo_q(noise(440), noise(440), RATE)
    with pytest.raises(NldiffError, match=r"signals of shape \[2, 500\]"):
        pemo_q(noise(2, 500), noise(2, 500), RATE)
    with pytest.raises(NldiffError, match="reference is silent"):
        pemo_q_odg(np.zeros(500), noise(500), RATE)
    with pytest.raises(NldiffError, match="estimate is silent"):
        pemo_q_odg(noise(500), np.zeros(500), RATE)


# ------------------------------------------------------------ published grades


def deviation(excerpt: int, level: int) -> float:
    return float(pemo_q_odg(*clipped_excerpt(excerpt, level)) - published("PEMO-Q")[excerpt, level])


@pytest.mark.parametrize("level", [0, 6])
def test_published_grades_of_the_shortest_excerpt(level: int) -> None:
    assert abs(deviation(SHORTEST, level)) < 0.05


@pytest.mark.slow
def test_all_published_grades() -> None:
    deviations = np.array([[deviation(excerpt, level) for level in range(LEVELS)] for excerpt in range(EXCERPTS)])
    assert np.sqrt(np.mean(deviations**2)) < 0.095
    assert np.abs(deviations).max() < 0.35
