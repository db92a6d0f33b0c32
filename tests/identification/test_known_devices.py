"""Devices that are known are found again, from their input and output alone."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from nldiff.errors import NldiffError
from nldiff.identification import Identification, identify
from nldiff.identification.alignment import delayed
from nldiff.identification.model import Excerpt, Model, exchanged, fit, search, stages_of
from nldiff.identification.stages import DelayStage, KnownStage, SplineStage
from nldiff.operators import Chain, Distortion, Rescaled

RATE = 16000


def music(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Coloured noise with an envelope, RMS 0.1."""
    random = np.random.default_rng(seed)
    noise = random.laplace(size=(channels, round(seconds * RATE)))
    x = lfilter([1], [1, -0.9], noise) * (1.2 + np.sin(2 * np.pi * 1.3 * np.arange(noise.shape[1]) / RATE))
    return 0.1 * x / np.std(x)


def peak(x: np.ndarray, hz: float, gain_db: float, q: float) -> np.ndarray:
    """Bell, from Bristow-Johnson's cookbook."""
    a, w = 10 ** (gain_db / 40), 2 * math.pi * hz / RATE
    alpha = math.sin(w) / (2 * q)
    b = [1 + alpha * a, -2 * math.cos(w), 1 - alpha * a]
    return lfilter(b, [1 + alpha / a, -2 * math.cos(w), 1 - alpha / a], x)


def lowpass(x: np.ndarray, hz: float) -> np.ndarray:
    """Butterworth's second-order low-pass by the bilinear transform."""
    k = math.tan(math.pi * hz / RATE)
    root = math.sqrt(2) * k
    return lfilter([k**2, 2 * k**2, k**2], [1 + root + k**2, 2 * k**2 - 2, 1 - root + k**2], x)


def params(found: Identification) -> dict[str, dict[str, float]]:
    operator = found.operator
    parts = operator.operators if isinstance(operator, Chain) else (operator,)
    return {part.name: dict(part.params) for part in parts if isinstance(part, Distortion)}


def test_a_clipper() -> None:
    x = music(1.0)
    found = identify(x, x.clip(-0.15, 0.15), RATE, "hard_clip")
    assert params(found)["hard_clip"]["threshold"] == pytest.approx(0.15, rel=1e-4)
    assert found.delay == pytest.approx(0, abs=1e-3)
    assert max(found.esr_db, found.held_out_esr_db) < -60


def test_a_filter_behind_a_clipper_of_two_channels_late_and_upside_down() -> None:
    x = music(1.5, channels=2)
    k = math.tan(math.pi * 80 / RATE)
    y = -lfilter([1, -1], [1 + k, k - 1], x.clip(-0.12, 0.12))
    late = np.concatenate([np.zeros((2, 37)), y], axis=1)
    found = identify(x, late, RATE, "hard_clip > highpass")
    assert isinstance(found.operator, Rescaled) and found.operator.output_level == -1
    chain = found.operator.operator
    assert isinstance(chain, Chain)
    clip, highpass = chain.operators
    assert isinstance(clip, Distortion) and isinstance(highpass, Distortion)
    assert clip.params["threshold"] == pytest.approx(0.12, rel=1e-3)
    assert highpass.params["hz"] == pytest.approx(80, rel=0.01)
    assert found.delay == pytest.approx(37, abs=0.01)
    assert found.held_out_esr_db < -40


def test_stretches_of_few_samples_have_some_that_count() -> None:
    x = music(0.04)  # more than half a second at 1 kHz
    found = identify(x, x.clip(-0.15, 0.15), 1000, "hard_clip")
    assert params(found)["hard_clip"]["threshold"] == pytest.approx(0.15, rel=1e-3)


def test_what_is_given_stays() -> None:
    x = music(1.0)
    found = identify(x, x.clip(-0.15, 0.15), RATE, "hard_clip:threshold=0.1")
    assert params(found)["hard_clip"]["threshold"] == 0.1
    # by hand, with the filter of the cross-correlation's fraction fitted
    error = 10 * math.log10(np.sum((x.clip(-0.15, 0.15) - x.clip(-0.1, 0.1)) ** 2) / np.sum(x.clip(-0.15, 0.15) ** 2))
    assert found.esr_db == pytest.approx(error, abs=1.5)


def test_overdrive_at_an_unknown_level() -> None:
    x = music(1.5)
    y = 0.4 * Distortion("overdrive", {"gain_db": 26.0, "colour": 35.0})(torch.from_numpy(x)).numpy()
    found = identify(x, y, RATE, "overdrive > gain")
    assert params(found)["overdrive"]["gain_db"] == pytest.approx(26, abs=0.1)
    assert params(found)["overdrive"]["colour"] == pytest.approx(35, abs=2)
    assert params(found)["gain"]["gain_db"] == pytest.approx(20 * math.log10(0.4), abs=0.05)
    assert found.held_out_esr_db < -50


def test_any_curve() -> None:
    x = music(2.0)
    y = np.where(x < 0, 0.5 * np.tanh(8 * x) / 4, x - 0.4 * x**2)
    found = identify(x, y, RATE, "curve")
    assert found.held_out_esr_db < -45
    samples = np.linspace(-0.2, 0.3, 11)
    expected = np.where(samples < 0, 0.5 * np.tanh(8 * samples) / 4, samples - 0.4 * samples**2)
    np.testing.assert_allclose(found.curve(samples), expected, atol=3e-3)


def test_filters_on_both_sides_of_a_curve_explain_unseen_audio() -> None:
    def device(x: np.ndarray) -> np.ndarray:
        return lowpass(np.tanh(8 * peak(x, 900.0, 8.0, 1.5)) / 8, 4000.0)

    x, unseen = music(3.0), music(2.0, seed=1)
    found = identify(x, device(x), RATE, "peak > curve > steep_lowpass")
    assert found.held_out_esr_db < -40
    estimate = found.operator(torch.from_numpy(unseen)).numpy()
    error = np.sum((device(unseen) - estimate) ** 2) / np.sum(device(unseen) ** 2)
    assert 10 * math.log10(error) < -30
    told = params(found)
    assert told["peak"]["hz"] == pytest.approx(900, rel=0.02)
    assert told["peak"]["gain_db"] == pytest.approx(8, abs=0.4)
    assert told["steep_lowpass"]["hz"] == pytest.approx(4000, rel=0.05)


def test_a_seed_decides() -> None:
    x = music(1.0)
    y = np.tanh(5 * x)
    runs = [identify(x, y, RATE, "peak > curve", seed=3).held_out_esr_db for _ in range(2)]
    assert runs[0] == runs[1]


def excerpt(x: np.ndarray, y: np.ndarray) -> Excerpt:
    return Excerpt(x, y, slice(0, None))


def test_derivatives_of_a_curve_are_its_basis_through_what_follows() -> None:
    x = music(0.2)
    spline = SplineStage.over(x, 8, 1.0)
    model = Model((spline, KnownStage.of("lowpass", {"hz": 2000.0}, RATE, 1.0, 0)))
    output, columns = model.derivatives(x, model.start(), np.arange(len(spline.knots)))
    k = math.tan(math.pi * 2000 / RATE)
    np.testing.assert_allclose(output, lfilter([k, k], [1 + k, k - 1], x), atol=1e-9)
    # cardinal splines add up to one, and weighted by the knots to the identity
    one = lfilter([k, k], [1 + k, k - 1], np.ones_like(x))
    np.testing.assert_allclose(columns.sum(0), one, atol=1e-6)
    np.testing.assert_allclose(np.tensordot(spline.knots, columns, 1), output, atol=1e-6)


def test_the_error_never_rises_and_bounds_hold() -> None:
    x = music(0.5)
    pair = excerpt(x, x.clip(-0.1, 0.1))
    model = Model((KnownStage.of("hard_clip", {}, RATE, float(np.abs(x).max()), 0),))
    low, high = model.bounds
    costs, at = [], model.start()
    for _ in range(6):
        costs.append(model.cost(pair, at))
        at = fit(model, pair, at, 1)
        assert (low <= at).all() and (at <= high).all()
    assert all(after <= before for before, after in pairwise(costs))


def test_the_grid_ignores_the_level() -> None:
    x = music(0.5)
    model = Model((KnownStage.of("hard_clip", {}, RATE, float(np.abs(x).max()), 0),))
    found = [search(model, excerpt(x, scale * x.clip(-0.1, 0.1)), model.start(), 40)[0] for scale in (1.0, 5.0)]
    assert found[0] == found[1]
    assert math.exp(found[0]) == pytest.approx(0.1, rel=0.15)


def test_filters_on_the_wrong_side_change_places() -> None:
    x = music(0.8)
    y = np.tanh(15 * peak(x, 700.0, 10.0, 1.0)) / 15
    model = Model(tuple(stages_of("peak:q=1 > soft_clip:gain=15 > peak:q=1", RATE, x, y)))
    wrong = np.array([math.log(2500.0), 0.0, math.log(700.0), 10.0])
    at = exchanged(model, excerpt(x, y), wrong, 10)
    assert math.exp(at[0]) == pytest.approx(700, rel=0.05)
    assert at[1] == pytest.approx(10, abs=0.5)


def test_delay_stage_delays() -> None:
    x = music(0.2)
    np.testing.assert_array_equal(DelayStage(0.0).apply(x, np.array([2.5])), delayed(x, 2.5))


@pytest.mark.parametrize(
    ("clean", "observed", "text", "message"),
    [
        (music(1.0), music(1.0, channels=2), "curve", "1 channels of the clean and 2"),
        (music(1.0), 0 * music(1.0), "curve", "observed recording is silent"),
        (music(1.0), 0 * music(1.0) + 0.3, "curve", "observed recording is silent"),
        (music(1.0), music(1.0) * (np.arange(RATE) < 0.75 * RATE), "curve", "observed recording: sound in the first"),
        (music(1.0) * (np.arange(RATE) > 0.9 * RATE), music(1.0), "curve", "clean recording: sound in the first"),
        (music(1.0) * np.nan, music(1.0), "curve", "clean recording: finite samples"),
        (np.zeros(0), music(1.0), "curve", "clean recording: finite samples"),
        (music(1.0), np.zeros((2, 0)), "curve", "observed recording: finite samples"),
        (np.array(["a"]), music(1.0), "curve", "clean recording: finite samples"),
        (music(0.3), music(0.3), "curve", "0.3 s are left, 0.5 s needed"),
        (music(1.0), music(1.0), "fuzz", "unknown distortion 'fuzz'"),
        (music(1.0), music(1.0), "hard_clip:sdr=3", "neither an sdr nor a dry path"),
        (music(1.0), music(1.0), "curve; mix=0.5", "unknown distortion 'curve'"),
        (0 * music(1.0) + 0.3, music(1.0), "curve", "clean recording is silent"),
        (music(1.0), music(1.0), "lowpass:hz=19000", "hz=19000 is not below half the rate"),
        (music(1.0), music(1.0), "highpass:rate=4000", "rate=4000: the recordings have"),
    ],
)
def test_what_cannot_be_used(clean: np.ndarray, observed: np.ndarray, text: str, message: str) -> None:
    with pytest.raises(NldiffError, match=message):
        identify(clean, observed, RATE, text)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"seed": -1}, "seed=-1: a whole number of at least 0"),
        ({"sample_rate": 0}, "sample_rate=0: a whole number of at least 1"),
        ({"sample_rate": 44100.5}, "sample_rate=44100.5: a whole"),
        ({"sample_rate": np.nan}, "sample_rate=nan: a whole"),
    ],
)
def test_numbers_that_cannot_be_used(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(NldiffError, match=message):
        identify(music(1.0), music(1.0), **({"sample_rate": RATE} | numbers))
