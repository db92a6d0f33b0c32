"""Distorted clips: the operator of a case, with memory and in chains."""

import numpy as np
import pytest
import torch
from experiments import RATE
from helpers import plucked

from nldiff.evaluation.clips import make_case
from nldiff.operators import Chain, Distortion, input_sdr, parse_operator
from nldiff.operators.distortions import overdrive_static, sox_overdrive


def test_overdrive_is_that_of_sox_and_mixes() -> None:
    clean = plucked(0.3, RATE)
    wet = sox_overdrive(torch.from_numpy(clean), 30.0, 10.0, 0.995).numpy()
    case = make_case(clean, RATE, parse_operator("overdrive:gain_db=30,colour=10"))
    assert np.array_equal(case.observed, wet)
    assert case.truth == Distortion("overdrive", {"gain_db": 30.0, "colour": 10.0})
    grid = torch.linspace(-0.2, 0.2, 101)
    assert torch.equal(case.truth.static(grid), overdrive_static(grid, 30.0, 10.0))
    half = make_case(clean, RATE, parse_operator("overdrive:gain_db=30,colour=10,mix=0.25"))
    assert half.observed == pytest.approx(0.25 * wet + 0.75 * clean, abs=1e-6)


def test_a_chain_is_calibrated_to_the_clip_and_mixes_round_all_of_it() -> None:
    clean = plucked(0.3, RATE)
    case = make_case(clean, RATE, parse_operator("hard_clip:sdr=3 > overdrive:gain_db=20; mix=0.5"))
    assert isinstance(case.truth, Chain)
    assert case.truth.context > 0
    clipped = case.truth.operators[0](torch.from_numpy(clean))
    assert input_sdr(torch.from_numpy(clean), clipped) == pytest.approx(3, abs=2e-3)
    wet = sox_overdrive(clipped, 20.0, 20.0, 0.995).numpy()
    assert case.observed == pytest.approx(0.5 * wet + 0.5 * clean, abs=1e-6)


def test_sigma_is_the_level_of_the_clean_signal() -> None:
    case = make_case(np.array([0.3, -0.3, 0.3, -0.3], np.float32), RATE, parse_operator("half_wave"))
    assert case.sigma == pytest.approx(0.3)
    assert case.observed.tolist() == pytest.approx([0.3, 0, 0.3, 0])
