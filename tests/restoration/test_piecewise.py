import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nldiff.errors import NldiffError
from nldiff.operators import Chain, Distortion, Operator, TabulatedCurve
from nldiff.restoration.piecewise import PiecewiseCurve, piecewise

FOLDERS: list[tuple[Operator, list[float]]] = [
    (Distortion("wavefold", {"threshold": 0.1}), [-0.1, 0.1]),
    (Distortion("full_wave"), [0.0]),
    (Distortion("triangle_fold", {"threshold": 0.15}), [-0.45, -0.15, 0.15, 0.45]),
    (Distortion("sine_fold", {"amplitude": 0.2}), [-0.1 * math.pi, 0.1 * math.pi]),
    (Distortion("wavefold", {"threshold": 0.1}).at_level(2.0), [-0.2, 0.2]),
    (Distortion("hard_clip", {"threshold": 0.1}), [-0.1, 0.1]),
    (Chain([Distortion("wavefold", {"threshold": 0.2}), Distortion("hard_clip")]), [-0.5, -0.3, -0.1, 0.1, 0.3, 0.5]),
    (Distortion("soft_clip", {"gain": 3.0}), []),
]


@pytest.mark.parametrize(("operator", "expected"), FOLDERS, ids=lambda value: str(value) if value is not list else "")
def test_turning_points_by_hand(operator: Operator, expected: list[float]) -> None:
    curve = piecewise(operator, 0.6)
    clips = "hard_clip" in str(operator)  # where a flat piece begins is known to a step of the search
    np.testing.assert_allclose(curve.turning_points, expected, rtol=0, atol=1e-4 if clips else 1e-7)
    assert curve.inputs[0, 0] == -0.6
    assert curve.inputs[-1, -1] == 0.6
    assert curve.increasing == (str(operator).split(":")[0] in ("hard_clip", "soft_clip"))


@pytest.mark.parametrize("operator", [operator for operator, _ in FOLDERS], ids=str)
def test_every_candidate_gives_what_was_observed_and_one_is_the_clean_sample(operator: Operator) -> None:
    x = np.random.default_rng(0).uniform(-0.6, 0.6, 2000)
    y = operator(torch.from_numpy(x)).numpy()
    found = piecewise(operator, 0.6).candidates(y)
    for values in (found.low, found.high, (found.low + found.high) / 2):
        again = operator(torch.from_numpy(values)).numpy()
        assert np.nanmax(np.abs(again - y[:, None])) < 2e-5
    distance = np.maximum(found.low - x[:, None], x[:, None] - found.high).clip(min=0)
    assert np.nanmin(distance, axis=1).max() < 1e-4 if "hard_clip" in str(operator) else 1e-6


def test_more_pieces_than_labels_are_refused() -> None:
    # turning points at odd multiples of the threshold
    assert len(piecewise(Distortion("triangle_fold", {"threshold": 0.01}), 1.26).inputs) == 127
    with pytest.raises(NldiffError, match=r"the curve turns 200 times .*, and 127 times at most .* units of the rec"):
        piecewise(Distortion("triangle_fold", {"threshold": 0.005}), 1.0)


def test_even_curves() -> None:
    table = TabulatedCurve(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), torch.tensor([0.2, 1.0, -0.3, 1.0, 0.2]))
    uneven = TabulatedCurve(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.9, 0.0, 1.0]))
    assert [piecewise(curve, 1.0).even for curve in (Distortion("full_wave"), table)] == [True, True]
    assert [piecewise(curve, 1.0).even for curve in (Distortion("wavefold"), uneven)] == [False, False]


def test_candidates_by_hand() -> None:
    found = piecewise(Distortion("wavefold", {"threshold": 0.1}), 0.5).candidates(np.array([0.05, -0.1, -0.3, 0.2]))
    # -0.3 is reached beyond 0.1 only, at 0.5; nothing gives 0.2 on the middle piece, -0.4 on the first
    expected = [[-0.25, 0.05, 0.15], [-0.1, -0.1, 0.3], [math.nan, math.nan, 0.5], [-0.4, math.nan, math.nan]]
    np.testing.assert_allclose(found.low, expected, atol=1e-12)
    np.testing.assert_array_equal(found.low, found.high)
    np.testing.assert_allclose(found.slope[np.isfinite(found.low)], 1, atol=1e-6)


def test_a_value_that_no_piece_reaches_belongs_to_the_nearest_end() -> None:
    curve = piecewise(Distortion("sine_fold", {"amplitude": 0.2}), 0.2)
    found = curve.candidates(np.array([0.25, -0.25]))
    np.testing.assert_allclose(found.low, [[0.2], [-0.2]], atol=1e-7)
    folder = piecewise(Distortion("full_wave"), 1.0).candidates(np.array([-0.01]))
    np.testing.assert_allclose(folder.low, [[0, 0]], atol=1e-12)


def test_tolerance_lets_values_belong_to_pieces_that_they_just_miss() -> None:
    curve = piecewise(Distortion("wavefold", {"threshold": 0.1}), 0.5)
    assert np.isnan(curve.candidates(np.array([-0.101])).low).tolist() == [[True, True, False]]
    np.testing.assert_allclose(curve.candidates(np.array([-0.101]), 0.002).low, [[-0.1, -0.1, 0.301]], atol=1e-12)


def test_flat_pieces_give_intervals() -> None:
    found = piecewise(Distortion("hard_clip", {"threshold": 0.1}), 0.5).candidates(np.array([0.1, 0.03]))
    assert np.isnan(found.low).tolist() == [[True, False, False], [True, False, True]]
    np.testing.assert_allclose([found.low[0, 2], found.high[0, 2]], [0.1, 0.5], atol=1e-4)
    assert found.slope[0, 2] == 0
    assert found.low[1, 1] == pytest.approx(0.03, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_pieces_of_any_table_cover_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    table = TabulatedCurve(torch.linspace(-1, 1, 9), torch.from_numpy(random.uniform(-1, 1, 9)))
    curve = piecewise(table, 1.0)
    assert np.all(curve.inputs[1:, 0] == curve.inputs[:-1, -1])
    samples = torch.from_numpy(random.uniform(-1, 1, 200))
    found = curve.candidates(table(samples).numpy())
    assert np.nanmin(np.abs(found.low - samples.numpy()[:, None]), axis=1).max() < 1e-4


def test_rows_that_rise_and_fall_are_refused() -> None:
    with pytest.raises(NldiffError, match="monotone rows"):
        PiecewiseCurve(np.arange(3.0)[None], np.array([[0.0, 1.0, 0.5]]))
