"""The curve as an object: calls, inversion, files, pictures."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldiff.curves import Curve
from nldiff.errors import NldiffError

GRID = np.linspace(-0.8, 0.8, 1001)


def clipper() -> Curve:
    return Curve.from_function(lambda x: np.clip(x, -0.25, 0.25), 0.8)


def test_a_call_evaluates_the_function_and_a_table_is_straight_between_its_points() -> None:
    exact = Curve.from_function(np.tanh, 2.0, 5)
    assert exact(0.3) == pytest.approx(np.tanh(0.3), rel=1e-12)
    assert exact.look_up(0.3) == pytest.approx(0.3 * np.tanh(1.0), rel=1e-12)
    assert exact.look_up([5.0, -5.0]) == pytest.approx([np.tanh(2.0), -np.tanh(2.0)])
    assert exact(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    assert exact([1, 2]).dtype == np.float64


@given(st.floats(-0.24, 0.24))
def test_the_inverse_undoes_what_was_not_clipped(x: float) -> None:
    assert clipper().inverse(clipper()(x)) == pytest.approx(x, abs=1e-9)


def test_of_a_flat_stretch_the_inverse_is_the_input_nearest_to_zero() -> None:
    assert clipper().inverse([-0.25, 0.25, -3.0, 3.0]) == pytest.approx([-0.25, 0.25, -0.25, 0.25], abs=2e-3)
    dead_zone = Curve([-2, -1, 1, 2], [-1, 0, 0, 1])
    assert dead_zone.inverse([0.0, 0.5, -0.5, 9.0]).tolist() == [0.0, 1.5, -1.5, 2.0]
    half_wave = Curve([-1, 0, 1], [0, 0, 1])
    assert half_wave.inverse([0.0, 0.5]).tolist() == [0.0, 0.5]


def test_a_falling_curve_has_an_inverse_and_a_folding_one_has_none() -> None:
    assert Curve([-1, 1], [3, -3]).inverse([1.5, -3.0]).tolist() == [-0.5, 1.0]
    with pytest.raises(NldiffError, match="rise and fall"):
        Curve([-1, 0, 1], [0, 1, 0]).inverse(0.5)
    # rounding is no fall
    noisy = clipper()
    Curve(noisy.inputs, noisy.outputs - 1e-8 * (np.arange(1001) % 2)).inverse(0.1)


def test_another_amplitude_of_the_clean_signal() -> None:
    band = Curve([-1, 0, 2], [-1, 0, 5], [-2, -1, 4], [0, 1, 6])
    for factor in (0.5, -2.0):
        scaled = band.scaled(factor)
        x = np.linspace(-1, 2, 31)
        assert scaled(factor * x) == pytest.approx(band(x))
        assert scaled.low is not None
        assert np.interp(factor * 2, scaled.inputs, scaled.low) == pytest.approx(4)
    exact = Curve.from_function(np.tanh, 1.0).scaled(-3.0)
    assert exact(-3.0 * 0.123) == pytest.approx(np.tanh(0.123), rel=1e-12)


def test_the_operator_is_the_table() -> None:
    import torch

    x = torch.linspace(-1, 1, 77, dtype=torch.float64)
    assert clipper().operator()(x).numpy() == pytest.approx(clipper().look_up(x.numpy()), abs=1e-12)


@pytest.mark.parametrize("band", [False, True])
def test_a_saved_curve_is_the_same(tmp_path: Path, band: bool) -> None:
    curve = clipper()
    if band:
        curve = Curve(curve.inputs, curve.outputs, curve.outputs - 0.1, curve.outputs + 0.1)
    path = tmp_path / "new folder" / "c.curve.csv"
    curve.save(path)
    assert path.read_text().splitlines()[0] == ("input,output,low,high" if band else "input,output")
    again = Curve.load(path)
    x = np.linspace(-1, 1, 4001)
    np.testing.assert_allclose(again(x), curve.look_up(x), atol=1e-6)
    if band:
        assert again.high is not None
        np.testing.assert_allclose(again.high, curve.outputs + 0.1, atol=1e-6)
    assert (again.low is None) == (not band)
    assert again.exact is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "columns input,output"),
        ("x,y\n1,2\n2,3\n", "columns input,output"),
        ("input,output\n1,2\n", "at least 2"),
        ("input,output\n", "is no curve"),
        ("input,output\n1,2\n0,3\n", "never fall"),
        ("input,output\n1,2\n1,3\n", "not all the same"),
        ("input,output\n1,2\n2,x\n", "is no curve"),
        ("input,output\n1,2\n2\n", "is no curve: point 2 has 1 values, point 1 2$"),
        ("input,output\n1,2\n2,nan\n", "NaN"),
        ("input,output\n1,-1e308\n2,1e308\n", "too far apart"),
        ("input,output,low,high\n1,2,1,3\n2,3,4,2\n", "lower end is above the upper"),
        ("input,output,low,high\n1,2\n2,3\n", None),
        ("\xef\xbb\xbfinput,output\r\n1,2\r\n\r\n2,3\r\n\r\n", None),
        ("\xff\xfe", "cannot be read|no curve"),
    ],
)
def test_a_file_that_is_no_curve(tmp_path: Path, content: str, reason: str | None) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content.encode("latin-1"))
    if reason is None:  # neither a band that was promised and is missing nor what spreadsheets add does harm
        curve = Curve.load(path)
        assert curve.low is None
        assert (curve.inputs.tolist(), curve.outputs.tolist()) == ([1, 2], [2, 3])
        return
    with pytest.raises(NldiffError, match=reason) as caught:
        Curve.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_values_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match=r"none\.csv does not exist"):
        Curve.load(tmp_path / "none.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(NldiffError, match=r"pipe\.csv is a pipe"):
        Curve.load(tmp_path / "pipe.csv")
    with pytest.raises(NldiffError, match="no numbers"):
        Curve(["a", "b"], [1, 2])
    with pytest.raises(NldiffError, match="lower and an upper"):
        Curve([0, 1], [0, 1], low=[0, 1])


@pytest.mark.parametrize("samples", [None, 0.2 * np.ones((2, 50))])
def test_the_picture_shows_table_and_band(samples: np.ndarray | None) -> None:
    curve = clipper()
    outputs = curve.outputs
    figure = Curve(curve.inputs, outputs, outputs - 0.1, outputs + 0.2).plot(samples)
    axes = figure.axes[0]
    drawn = np.asarray(next(line for line in axes.lines if line.get_label() == "estimate").get_xydata())
    np.testing.assert_array_equal(drawn[:, 1], outputs)
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((-0.35, 0.45))
