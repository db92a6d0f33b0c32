import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, plucked
from numpy.typing import NDArray

import nldiff
from nldiff.errors import NldiffError
from nldiff.metrics.sdr import si_sdr
from nldiff.operators import Distortion, parse_operator
from nldiff.priors import Prior
from nldiff.restoration.plateaus import Candidate, PlateauSettings, _improved, find_filter, plateau_excess
from nldiff.restoration.settings import RestoreConfig

SETTINGS = PlateauSettings()


def distorted(text: str, seconds: float = 2.0) -> NDArray[np.float64]:
    """A plucked string, distorted and rounded to 16 bit, [time]."""
    clean = torch.from_numpy(plucked(seconds, TINY_RATE)).double()
    y = parse_operator(text).build(None, TINY_RATE)(clean).numpy() if text else clean.numpy()
    return np.asarray(np.round(0.5 * y * 32768) / 32768)


def test_excess_by_hand() -> None:
    # 100 samples spread evenly, one in every bin; 20 and 30 more at the ends of the range
    x = np.concatenate([np.arange(100.0), np.full(20, 0.0), np.full(30, 99.0)])
    # a pair of bins holds 22 or 32 of 150 at the ends, and pairs beside it none outside and 2 inside
    assert plateau_excess(x, 100) == pytest.approx((22 - 1 + 32 - 1) / 150)
    middle = np.concatenate([np.arange(100.0), np.full(50, 50.0)])
    assert plateau_excess(middle, 100) < 0.02
    assert plateau_excess(np.zeros(10), 100) == 0


@pytest.mark.parametrize(
    "text",
    [
        "highpass:hz=5",
        "highpass:hz=80",
        "low_shelf:hz=200,gain_db=6",
        "low_shelf:hz=200,gain_db=-6",
        "peak:hz=1000,gain_db=6,q=1",
        "high_shelf:hz=1500,gain_db=-8",
    ],
)
def test_finds_what_filtered_a_clipped_signal(text: str) -> None:
    expected = parse_operator(text).build(None, TINY_RATE)
    assert isinstance(expected, Distortion)
    # the beginning, and with it the state of the filter, is unknown
    found = find_filter(distorted(f"hard_clip:threshold=0.12 > {text}")[3000:], TINY_RATE, SETTINGS)
    assert found is not None
    assert found.name == expected.name
    for key, value in expected.params.items():
        assert found.params[key] == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    "text",
    ["", "hard_clip:threshold=0.12", "soft_clip", "half_wave", "wavefold", "carbon_mic", "quantize", "highpass:hz=50"],
)
def test_silent_where_nothing_was_filtered_after_clipping(text: str) -> None:
    assert find_filter(distorted(text), TINY_RATE, SETTINGS) is None


def test_silence_is_no_plateau() -> None:
    y = distorted("")
    y[6000:] = 0
    assert find_filter(y, TINY_RATE, SETTINGS) is None
    assert find_filter(np.zeros(4000), TINY_RATE, SETTINGS) is None
    assert find_filter(y[:100], TINY_RATE, SETTINGS) is None


def test_levels_do_not_matter() -> None:
    y = distorted("hard_clip:threshold=0.12 > highpass:hz=30")
    first, second = (find_filter(level * y, TINY_RATE, SETTINGS) for level in (1.0, 64.0))
    assert first == second is not None


def test_a_filtered_recording_is_restored_without_being_told(prior: Prior, fake: FakeSampler) -> None:
    x = np.stack([plucked(1.2, TINY_RATE, seed) for seed in (0, 1)])
    operator = parse_operator("hard_clip:threshold=0.15 > highpass:hz=40").build(None, TINY_RATE)
    y = operator(torch.from_numpy(x)).numpy()
    refinement = {"name": "auto", "iterations": 60, "windows": [512]}
    result = nldiff.restore(y, TINY_RATE, prior, config=RestoreConfig(refinement=refinement, evidence={"judge": True}))
    assert result.fit.sampling is not None
    verdict = result.fit.sampling.verdict
    assert verdict is not None
    assert verdict.hypothesis == "filtered"
    assert not verdict.unchanged
    assert fake.calls == []
    for clean, observed, restored in zip(x, y, result.audio, strict=True):
        assert si_sdr(clean, restored) > si_sdr(clean, observed) + 2
    assert result.explained_db > 25
    (level,) = result.curve(np.array([10.0]))
    assert level == pytest.approx(0.15, rel=0.1)
    # the chain is that of curve and filter
    chain = result.fit.operator
    assert [type(part).__name__ for part in chain.operators] == ["Rescaled", "Distortion"]  # type: ignore[union-attr]
    assert chain.operators[1].params["hz"] == pytest.approx(40, rel=0.01)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "value"), [("seconds", 0), ("fine_bins", 10), ("least", -1), ("evaluations", 0)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(NldiffError, match=f"plateaus.{name}"):
        PlateauSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "highest"), [(16000, 7200.0), (48000, 20000.0), (96000, 20000.0)])
def test_the_search_stays_where_filters_are(rate: int, highest: float) -> None:
    start = Candidate("high_shelf", {"hz": 5000.0, "gain_db": 6.0}, 0.0)
    found = _improved(start, lambda name, params, bins: params["hz"], 100, 1.0, rate, 60)
    assert found.params["hz"] == pytest.approx(highest)
    Distortion(found.name, {**found.params, "rate": rate})
