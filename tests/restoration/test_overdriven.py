from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, plucked
from numpy.typing import NDArray

import nldiff
from nldiff.errors import NldiffError
from nldiff.metrics.sdr import si_sdr
from nldiff.operators import Distortion
from nldiff.priors import Prior
from nldiff.restoration.overdrive_search import Overdrive, OverdriveSettings, find_overdrive, first_state
from nldiff.restoration.settings import RestoreConfig

QUICK = OverdriveSettings(coarse_seconds=0.4, fine_seconds=0.8, started=1)
CUT = 3000


@pytest.fixture(scope="module")
def clean() -> NDArray[np.float64]:
    return 0.4 * plucked(1.6, TINY_RATE).astype(np.float64)


def overdriven(x: NDArray[np.float64], gain_db: float, colour: float, level: float) -> NDArray[np.float64]:
    """What an overdrive and a change of level make of `x`, 16 bit, without its beginning."""
    y = level * Distortion("overdrive", {"gain_db": gain_db, "colour": colour})(torch.from_numpy(x)).numpy()
    return np.asarray(np.round(y * 32768) / 32768)[CUT:]


def test_slope_is_that_of_a_sample_given_those_before() -> None:
    x, overdrive = np.linspace(-0.2, 0.2, 7), Overdrive(25.0, 0.5, 30.0)
    state, step = 0.3, 1e-6
    observed = np.linspace(-0.3, 0.4, 7)
    for value in observed:
        low, high = (overdrive.inversion(state)(np.array([[v]]))[0, 0] for v in (value - step, value + step))
        assert 2 * step / (high - low) == pytest.approx(overdrive.slope(np.array([low]))[0], rel=1e-3)
    assert overdrive.slope(x).shape == x.shape


def test_finds_parameters_and_level(clean: NDArray[np.float64]) -> None:
    found = find_overdrive(overdriven(clean, 35.0, 20.0, 0.4), TINY_RATE, QUICK)
    assert found is not None
    assert found.gain_db == pytest.approx(35, abs=0.5)
    assert found.level == pytest.approx(0.4, rel=0.01)
    assert found.colour == pytest.approx(20, abs=2)


def test_silent_where_nothing_was_overdriven(clean: NDArray[np.float64]) -> None:
    for y in (clean, clean.clip(-0.06, 0.06), np.tanh(20 * clean)):
        assert find_overdrive(y[CUT:], TINY_RATE, QUICK) is None


@pytest.mark.parametrize("samples", [800, 801, 1119])
def test_nothing_is_found_where_the_transient_leaves_less_than_a_frame(samples: int) -> None:
    noise = np.random.default_rng(0).normal(size=samples)
    with np.errstate(all="raise"):
        assert find_overdrive(noise, TINY_RATE, OverdriveSettings()) is None


def test_the_state_before_a_recording_that_was_cut(clean: NDArray[np.float64]) -> None:
    truth = Overdrive(35.0, 0.4, 20.0)
    y = overdriven(clean, 35.0, 20.0, 0.4)
    state = first_state(y[:1600], truth, TINY_RATE, QUICK)
    scores = [si_sdr(clean[CUT:], truth.inversion(start)(y[None])[0]) for start in (state, 0.0)]
    assert scores[0] > 45 > scores[1]


@pytest.mark.parametrize("silence", [200, 1200])
def test_the_state_before_a_recording_that_begins_in_silence(clean: NDArray[np.float64], silence: int) -> None:
    hiss = 1e-5 * np.random.default_rng(1).normal(size=silence)
    whole = np.concatenate([hiss, clean])
    y = 0.4 * Distortion("overdrive", {"gain_db": 35.0, "colour": 20.0})(torch.from_numpy(whole)).numpy()
    truth = Overdrive(35.0, 0.4, 20.0)
    state = first_state(y[:1600], truth, TINY_RATE, QUICK)
    assert abs(state) < 1e-2
    assert si_sdr(whole, truth.inversion(state)(y[None])[0]) > 45


def test_an_overdriven_recording_is_restored_without_being_told(
    clean: NDArray[np.float64], prior: Prior, fake: FakeSampler
) -> None:
    y = overdriven(clean, 35.0, 20.0, 0.4).astype(np.float32)
    quick = {"coarse_seconds": 0.4, "fine_seconds": 0.8, "started": 1}
    config = RestoreConfig(refinement={"name": "auto"}, evidence={"judge": True}, overdrive=quick)
    result = nldiff.restore(y, TINY_RATE, prior, config=config)
    assert result.fit.sampling is not None
    assert result.fit.sampling.verdict is not None
    assert result.fit.sampling.verdict.hypothesis == "overdriven"
    assert fake.calls == []
    assert si_sdr(clean[CUT:], y) < 8
    assert si_sdr(clean[CUT:], result.audio) > 35


@pytest.mark.parametrize(
    ("name", "value"), [("fine_seconds", 0), ("noise_db", (-40.0, 0.0)), ("started", 0), ("least_gain", -1)]
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(NldiffError, match=f"overdrive.{name}"):
        OverdriveSettings(**{name: value})
