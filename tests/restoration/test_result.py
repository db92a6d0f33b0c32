"""From the method's level to that of the input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, clipped, plucked, rms

import nldiff
from nldiff.operators import Distortion
from nldiff.priors.saved import Prior
from nldiff.restoration.pipeline import restore
from nldiff.restoration.result import Fit, settle, user_curve, versions
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

CLIPPER = Distortion("hard_clip", {"threshold": 0.1})


def test_a_result_at_its_own_level_is_brought_to_the_recordings() -> None:
    x = plucked(1.0, TINY_RATE)[None]
    y = x.clip(-0.1, 0.1)
    recording = Recording.from_array(y, TINY_RATE)
    # The method's level is five times the clean signal's, and three times the recording's.
    fit = Fit(Distortion("hard_clip", {"threshold": 0.3}), 3.0, 0.0, TINY_RATE / 2)
    raw = 5 * x
    gain, curve, explained_db = settle(fit, recording, lambda start, frames: raw[:, start : start + frames])
    assert gain == pytest.approx(rms(y) / rms(raw), rel=1e-6)
    at = np.linspace(-0.2, 0.2, 9)
    assert curve(at) == pytest.approx(np.clip(at / gain, -0.3, 0.3) / 3, abs=1e-7)
    error = y - np.clip(raw, -0.3, 0.3) / 3
    assert explained_db == pytest.approx(20 * np.log10(rms(y) / rms(error)), abs=1e-3)
    # Told the gain, it is taken.
    told, told_curve, told_db = settle(fit, recording, lambda start, frames: raw[:, start : start + frames], -2.0)
    assert told == -2
    assert told_db == pytest.approx(explained_db, abs=1e-3)
    assert told_curve(at) == pytest.approx(np.clip(at / -2, -0.3, 0.3) / 3, abs=1e-7)


def test_curves_take_numbers_lists_and_any_shape() -> None:
    curve = user_curve(Fit(CLIPPER, 1.0, 0.0, 4000.0), 1.0)
    assert float(curve(np.array(0.5))) == pytest.approx(0.1)
    assert curve(np.zeros((2, 3, 4))).shape == (2, 3, 4)


def test_another_amplitude_is_the_same_restoration(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(0.3, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior)
    scaled = result.scaled(0.25)
    np.testing.assert_allclose(scaled.audio, 0.25 * result.audio, rtol=1e-6)
    np.testing.assert_allclose(scaled.curve(scaled.audio), result.curve(result.audio), atol=1e-6)
    assert scaled.gain == pytest.approx(0.25 * result.gain)
    assert result.evolution is not None
    assert scaled.evolution is not None
    np.testing.assert_allclose(scaled.evolution[0], 0.25 * result.evolution[0])
    np.testing.assert_allclose(scaled.evolution[1], result.evolution[1])
    assert replace(scaled, audio=result.audio, gain=result.gain, curve=result.curve) == result


def test_methods_without_sampling_have_no_evolution() -> None:
    assert restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, method="observed").evolution is None


def test_the_evolution_of_a_known_operator_has_no_rows(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(0.3, TINY_RATE)[0]
    for name in ("none", "auto"):
        config = RestoreConfig(refinement={"name": name, "iterations": 2, "windows": [64]})
        result = restore(y, TINY_RATE, prior, known=CLIPPER, config=config)
        assert result.evolution is not None
        inputs, curves = result.evolution
        assert curves.shape == (0, len(inputs))


def test_versions_are_those_that_ran() -> None:
    assert versions()["nldiff"] == nldiff.__version__
    assert versions()["torch"] == torch.__version__
