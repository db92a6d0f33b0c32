"""From the method's level to that of the input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, clipped

import nldiff
from nldiff.operators import Distortion
from nldiff.priors.saved import Prior
from nldiff.restoration.pipeline import restore
from nldiff.restoration.result import versions
from nldiff.restoration.settings import RestoreConfig

CLIPPER = Distortion("hard_clip", {"threshold": 0.1})


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
    assert replace(scaled, audio=result.audio, gain=result.gain, curve=result.curve, parts=result.parts) == result


def test_the_report_of_another_amplitude_is_that_of_its_audio(prior: Prior, fake: FakeSampler, tmp_path: Path) -> None:
    result = restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, prior)
    result.save(tmp_path, "a")
    result.scaled(-0.25).save(tmp_path, "b")
    before, after = (json.loads((tmp_path / f"{stem}.json").read_text()) for stem in "ab")
    assert after["gain"] == pytest.approx(-0.25 * before["gain"])
    for values, others in ((after, before), (after["parts"][0], before["parts"][0])):
        assert values["level_db"] == pytest.approx(others["level_db"] - 12.041, abs=1e-3)
        assert values["explained_db"] == others["explained_db"]
    (part,), (other,) = result.scaled(-0.25).parts, result.parts
    np.testing.assert_allclose(part.curve(np.array([-0.01, 0.02])), other.curve(np.array([0.04, -0.08])), rtol=1e-5)


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
