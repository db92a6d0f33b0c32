"""The curve that is fitted between a restoration and the recording."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, clipped, plucked
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.operators import Distortion
from nldiff.restoration.explain import fitted_curve, least_squares_spline
from nldiff.restoration.fit import Fit
from nldiff.restoration.levels import settle
from nldiff.restoration.parts import Part
from nldiff.sound.recording import Recording

Audio = NDArray[np.float32]


def explained(observed: Audio, made: Audio) -> tuple[float, Callable[[Any], Any], float]:
    """Gain, curve and SDR that `settle` makes of a result."""
    source = Recording.from_array(observed, TINY_RATE, "take.wav")

    def read(start: int, frames: int) -> Audio:
        return made[:, start : start + frames]

    part = Part(tuple(range(len(observed))))
    fit = Fit(fitted_curve(source, read), 1.0, 0.0, TINY_RATE / 2)
    (settled,) = settle([(part, fit)], source, [read], "rms")
    return settled.gain, settled.curve, settled.explained_db


@pytest.mark.parametrize(
    ("name", "least_db"),
    [("hard_clip:threshold=0.1", 35), ("half_wave", 40), ("soft_clip:gain=5", 50), ("wavefold:threshold=0.2", 35)],
)
@pytest.mark.parametrize("gain", [1.0, -0.01, 100.0])
def test_the_curve_of_a_perfect_restoration_is_that_of_the_distortion(name: str, least_db: float, gain: float) -> None:
    family, _, rest = name.partition(":")
    distortion = Distortion(family, {key: float(value) for key, value in [rest.split("=")]} if rest else {})
    x = np.stack([plucked(3.0, TINY_RATE, n) for n in range(2)])
    y = distortion(torch.from_numpy(x)).numpy()
    factor, curve, db = explained(y, (gain * x).astype(np.float32))
    assert db > least_db
    # RMS of the recording, without its mean; its polarity
    rms = float(np.std(y.astype(np.float64)) / np.std(x.astype(np.float64)))
    peak_limited = min(rms, 0.999 / 0.5)
    assert factor * gain == pytest.approx(peak_limited, rel=1e-4)
    points = np.linspace(-0.3, 0.3, 7)
    expected = distortion(torch.from_numpy(points)).numpy()
    assert curve(points * peak_limited) == pytest.approx(expected, abs=0.01)


def test_the_spline_minimises_the_squared_error() -> None:
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(-0.2, 0.2, 400))
    y = np.clip(x, -0.1, 0.1) + 0.01 * random.standard_normal(400)
    weights = random.uniform(0.5, 1.5, 400)
    weights /= weights.sum()
    spline = least_squares_spline(x, y, weights)

    def error(values: torch.Tensor) -> float:
        changed = least_squares_spline(x, y, weights).requires_grad_(False)
        changed.values.copy_(values)
        found = changed.double().portrait(torch.from_numpy(x)).curve[0].numpy()
        return float(np.sum(weights * (found - y) ** 2))

    best = error(spline.values)
    assert best < 1.1e-4
    for point in range(43):
        for step in (-0.003, 0.003):
            values = spline.values.clone()
            values[0, point] += step
            assert error(values) > best - 1e-9


def test_where_there_are_no_samples_the_curve_goes_straight_on() -> None:
    x = np.linspace(-0.1, 0.1, 200)
    spline = least_squares_spline(x, 0.5 * x, np.full(200, 1 / 200))
    grid = torch.linspace(-1, 1, 41)
    # not exactly: the control points of a straight line are not on it, see `CatmullRom`
    assert spline.portrait(grid).curve[0].numpy() == pytest.approx(0.5 * grid.numpy(), rel=0.1, abs=1e-3)


def test_a_silent_result_is_refused() -> None:
    y = clipped(0.5, TINY_RATE)
    with pytest.raises(NldiffError, match=r"the result for take\.wav is silent"):
        explained(y, 0 * y)


def test_the_curve_does_not_depend_on_how_the_recording_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    x = plucked(1.0, TINY_RATE)[None]
    y = x.clip(-0.1, 0.1)
    whole = explained(y, x)
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 777)
    pieces = explained(y, x)
    grid = np.linspace(-0.5, 0.5, 101)
    assert pieces[1](grid) == pytest.approx(whole[1](grid), abs=1e-6)
    assert (pieces[0], pieces[2]) == pytest.approx((whole[0], whole[2]), rel=1e-6)
