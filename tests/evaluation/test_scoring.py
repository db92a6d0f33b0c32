"""Scores of a cell, by hand: curves at the level of the clip, improvements."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from experiments import RATE
from helpers import plucked
from numpy.typing import NDArray

from nldiff.curves import Curve
from nldiff.errors import NldiffError
from nldiff.evaluation.clips import make_case
from nldiff.evaluation.scoring import check_metrics, make_embeddings, score
from nldiff.metrics import lsd, rr_mse
from nldiff.operators import parse_operator
from nldiff.restoration.fit import Fit
from nldiff.restoration.result import Restoration


def restoration(audio: NDArray[np.float32], curve: Callable[[Any], Any]) -> Restoration:
    function = Curve.from_function(curve, 1.0)
    return Restoration(audio, RATE, function, math.nan, "by hand", 1.0, Fit(None, 1.0, 0.0, RATE / 2), {})


def test_curves_are_scored_at_the_level_of_the_clean_signal() -> None:
    case = make_case(plucked(0.5, RATE), RATE, parse_operator("half_wave"))
    scaled = restoration(case.clean, lambda x: 0.9 * np.maximum(x, 0))
    values, problems = score(["rr_mse", "rr_mse_unfitted", "redistorted_lsd"], case, scaled)
    assert problems == {}
    # eq. 16 by hand: (0.1 r)^2 on half of the ramp, whose mean square is 3 sigma^2
    assert values["rr_mse_unfitted"] == pytest.approx(10 * np.log10(0.01 * 1.5 * case.sigma**2), abs=0.02)
    assert values["rr_mse"] < -100
    assert values["redistorted_lsd"] == pytest.approx(lsd(case.observed, 0.9 * case.observed), rel=1e-4)
    # the other sign of signal and curve is as good
    flipped = restoration(-case.clean, lambda x: 0.9 * np.maximum(-x, 0))
    assert score(["rr_mse_unfitted", "redistorted_lsd"], case, flipped)[0] == pytest.approx(
        {name: values[name] for name in ("rr_mse_unfitted", "redistorted_lsd")}, rel=1e-6
    )
    assert values["rr_mse_unfitted"] == pytest.approx(
        rr_mse(case.truth, lambda r: 0.9 * torch.relu(r), case.sigma), rel=1e-6
    )


def test_a_curve_is_compared_with_the_static_curve_of_an_effect() -> None:
    case = make_case(plucked(0.5, RATE), RATE, parse_operator("overdrive:gain_db=20"))
    static = parse_operator("overdrive_static:gain_db=20").build(None)
    found = restoration(case.clean, lambda x: static.static(torch.as_tensor(x)).numpy())
    assert score(["rr_mse_unfitted"], case, found)[0]["rr_mse_unfitted"] < -140


def test_improvements_are_against_the_observation() -> None:
    case = make_case(plucked(0.5, RATE), RATE, parse_operator("hard_clip:sdr=5"))
    halved = restoration(case.clean + 0.5 * (case.observed - case.clean), np.asarray)
    values, _ = score(["sdr", "delta_sdr", "delta_sdr_clipped"], case, halved)
    # half of the error is 6.02 dB less of it, all of it in clipped samples
    assert values == pytest.approx(
        {"sdr": 5 + 20 * np.log10(2), "delta_sdr": 20 * np.log10(2), "delta_sdr_clipped": 20 * np.log10(2)}, abs=1e-2
    )


def test_what_cannot_be_computed_is_told_and_the_rest_is_there() -> None:
    case = make_case(plucked(0.2, RATE), RATE, parse_operator("half_wave"))
    values, problems = score(["estoi", "si_sdr"], case, restoration(case.observed, np.asarray))
    assert list(values) == ["si_sdr"]
    assert "too short" in problems["estoi"]


def test_metrics_of_one_signal_are_none_of_a_cell() -> None:
    check_metrics(["si_sdr", "rr_mse"], ["log_mel"])
    with pytest.raises(NldiffError, match="unknown metric 'loudness'"):
        check_metrics(["loudness"], [])


def test_embeddings_without_weights_are_told() -> None:
    made, problems = make_embeddings({"log_mel": None, "vggish": None})
    assert list(made) == ["log_mel"]
    assert problems == ["vggish: no weights given (embeddings.vggish=PATH)"]
