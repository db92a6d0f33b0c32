"""From the method's level to that of the recording."""

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, plucked, rms
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nldiff.operators import Distortion, Identity
from nldiff.restoration.fit import Fit
from nldiff.restoration.levels import Settled, settle, straight_slope
from nldiff.restoration.parts import Part
from nldiff.sound.recording import Recording

X = plucked(1.0, TINY_RATE)[None]


def settled(y: NDArray[np.float32], raw: NDArray[np.float32], fit: Fit, level: str, offset: float = 0.0) -> Settled:
    recording = Recording.from_array(y, TINY_RATE)
    part = Part(tuple(range(len(y))), offset)
    return settle([(part, fit)], recording, [lambda start, frames: raw[:, start : start + frames]], level)[0]


def clipper(threshold: float, gain: float = 1.0) -> Fit:
    return Fit(Distortion("hard_clip", {"threshold": threshold}), gain, 0.0, TINY_RATE / 2)


def test_levels_by_hand() -> None:
    y = X.clip(-0.1, 0.1)
    # The method's level is five times the clean signal's, and three times the recording's.
    fit, raw = clipper(0.3, 3.0), 5 * X
    assert settled(y, raw, fit, "method").gain == pytest.approx(1 / 3)
    assert settled(y, raw, fit, "rms").gain == pytest.approx(y.std() / raw.std(), rel=1e-5)
    assert settled(y, raw, fit, "unity").gain == pytest.approx(1 / 5, rel=1e-3)
    peak = settled(y, raw, fit, "peak")
    assert np.abs(peak.place(raw) - peak.place(raw).mean()).max() == pytest.approx(0.1, rel=0.05)
    at = np.linspace(-0.2, 0.2, 9)
    assert peak.curve(at) == pytest.approx(np.clip((at - peak.shift) / peak.gain, -0.3, 0.3) / 3, abs=1e-7)
    error = y - np.clip(raw, -0.3, 0.3) / 3
    assert peak.explained_db == pytest.approx(20 * np.log10(rms(y) / rms(error)), abs=1e-3)


def test_unity_is_lowered_below_full_scale_by_auto_only() -> None:
    x = 4 * X  # peaks at 2
    y = x.clip(-0.5, 0.5)
    unity, auto = (settled(y, x, clipper(0.5), level) for level in ("unity", "auto"))
    assert np.abs(unity.place(x)).max() == pytest.approx(2.0, rel=1e-3)
    assert unity.level_db == pytest.approx(0, abs=0.01)
    assert np.abs(auto.place(x)).max() == pytest.approx(0.999, rel=1e-6)
    assert auto.level_db == pytest.approx(20 * np.log10(0.999 / 2), abs=0.01)
    quarter = settled(y, x / np.float32(4), clipper(0.5), "auto")
    assert quarter.level_db == pytest.approx(auto.level_db, abs=0.01)


def test_filters_forget_one_file_before_the_next() -> None:
    highpass = Distortion("highpass", {"hz": 40.0, "rate": float(TINY_RATE)})
    raws = [X, 1 + X]  # a filter that remembered the first would see a step
    whole = Recording.of_several([Recording.from_array(filtered(highpass, x), TINY_RATE) for x in raws])
    raw = np.concatenate(raws, axis=1).astype(np.float32)
    fit = Fit(highpass, 1.0, 0.0, TINY_RATE / 2)
    (part,) = settle([(Part((0,), 0.0), fit)], whole, [lambda start, frames: raw[:, start : start + frames]], "method")
    assert part.explained_db > 80


def filtered(operator: Distortion, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return operator(torch.from_numpy(np.asarray(x, np.float32))).numpy()


def test_what_is_upside_down_is_turned() -> None:
    assert settled(X, -2 * X, clipper(9.0), "auto").gain == pytest.approx(-0.5, rel=1e-3)


def test_an_offset_belongs_to_the_curve() -> None:
    y = X.clip(-0.1, 0.1) + np.float32(0.3)
    result = settled(y, X + np.float32(0.05), clipper(0.1), "unity", offset=0.3)
    assert float(result.place(X + np.float32(0.05)).mean()) == pytest.approx(0, abs=1e-6)
    assert result.curve(np.array(5.0)) == pytest.approx(0.4)


def test_what_did_not_change_is_the_recording_with_its_offset_and_peaks() -> None:
    y = 3 * X + np.float32(0.3)
    raw = (y - np.float32(0.3)) * np.float32(0.7)
    result = settled(y, raw, Fit(Identity(), 0.7, 0.0, TINY_RATE / 2), "auto", offset=0.3)
    np.testing.assert_allclose(result.place(raw), y, rtol=0, atol=1e-6)


def test_parts_are_lowered_alike() -> None:
    y = np.concatenate([4 * X, X]).clip(-0.5, 0.5)
    raws = [4 * X, X]
    fits = [(Part((i,)), clipper(0.5)) for i in range(2)]
    readers = [lambda start, frames, raw=raw: raw[:, start : start + frames] for raw in raws]
    loud, quiet = settle(fits, Recording.from_array(y, TINY_RATE), readers, "auto")
    assert loud.gain == pytest.approx(0.999 / 2, rel=1e-3)
    assert quiet.gain == pytest.approx(loud.gain, rel=1e-3)


@given(slope=st.floats(1e-3, 1e3), share=st.floats(0.2, 0.8))
def test_the_slope_is_that_of_the_straight_part(slope: float, share: float) -> None:
    x = X[0].astype(np.float64)
    y = slope * x.clip(*np.quantile(x, [share / 2, 1 - share / 2]))
    assert straight_slope(x, y) == pytest.approx(slope, rel=0.01)
    assert straight_slope(x, np.maximum(y, 0)) == pytest.approx(slope, rel=0.01)


def test_smooth_curves_are_straight_where_most_samples_are() -> None:
    x = X[0].astype(np.float64)
    assert straight_slope(x, np.tanh(x / 0.2) * 0.2) == pytest.approx(1, rel=0.06)
    assert straight_slope(x, np.zeros_like(x)) == 0
