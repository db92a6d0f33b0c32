"""Curves applied to audio: aliasing, level, delay, pieces."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nldiff.curves import Curve
from nldiff.curves import antialiasing as module
from nldiff.curves.antialiasing import apply_curve
from nldiff.errors import NldiffError

RATE = 44100
CLIPPER = Curve.from_function(lambda x: np.clip(x, -0.25, 0.25), 1.0)


def tone(frequency: float, seconds: float = 2.0, rate: int = RATE, amplitude: float = 1.0) -> NDArray[np.float64]:
    t = np.arange(round(seconds * rate)) / rate
    return amplitude * np.sin(2 * np.pi * frequency * t)


def spectrum(y: NDArray[np.floating], rate: int = RATE) -> NDArray[np.float64]:
    """Power in bins of 1 Hz of the second in the middle."""
    middle = y[rate // 2 : rate // 2 + rate].astype(np.float64)
    return np.abs(np.fft.rfft(middle)) ** 2


def aliasing(y: NDArray[np.floating]) -> float:
    """Power of everything but the harmonics of 5 kHz, over that of the fundamental."""
    power = spectrum(y)
    harmonics = power[::5000].sum()
    return float((power.sum() - harmonics) / power[5000])


@pytest.mark.parametrize(("kind", "better_by_db"), [("oversampling", 40), ("adaa", 60)])
def test_a_clipped_tone_of_5_khz_has_far_less_aliasing_than_the_plain_lookup(kind: str, better_by_db: float) -> None:
    x = tone(5000)
    plain, clean = apply_curve(CLIPPER, x, "none"), apply_curve(CLIPPER, x, kind)  # type: ignore[arg-type]
    assert 10 * np.log10(aliasing(plain) / aliasing(clean)) > better_by_db


@pytest.mark.parametrize("kind", ["oversampling", "adaa", "none"])
def test_the_harmonics_are_those_of_the_curve(kind: str) -> None:
    x = tone(1000, amplitude=0.5)
    power = spectrum(apply_curve(CLIPPER, x, kind))  # type: ignore[arg-type]
    fine = np.clip(0.5 * np.sin(2 * np.pi * np.arange(1 << 16) / (1 << 16)), -0.25, 0.25)
    expected = np.abs(np.fft.rfft(fine))[1:12:2] / (1 << 15)
    found = np.sqrt(power[1000:12000:2000]) / (RATE / 2)
    assert found == pytest.approx(expected, rel=0.02, abs=2e-4)


@pytest.mark.parametrize("kind", ["oversampling", "adaa"])
def test_what_the_curve_leaves_alone_is_neither_delayed_nor_scaled(kind: str) -> None:
    identity = Curve([-1, 0, 1], [-1, 0, 1])
    x = np.sum([tone(f, 0.5, amplitude=0.1) for f in (100.0, 1234.5, 6000.0, 10000.0)], axis=0)
    y = apply_curve(identity, x, kind)  # type: ignore[arg-type]
    assert y.dtype == np.float32
    assert y.shape == x.shape
    inner = slice(1000, -1000)
    tolerance = {"oversampling": 1e-6, "adaa": 3e-3}[kind]
    assert np.max(np.abs(y[inner] - x[inner])) < tolerance


def test_high_up_antiderivatives_take_what_the_documentation_says() -> None:
    identity = Curve([-1, 0, 1], [-1, 0, 1])
    x = tone(19000, amplitude=0.5)
    # the mean of two means of neighbouring samples: cos(pi f / rate)^2 at 8 times the rate
    loss = 10 * np.log10(spectrum(apply_curve(identity, x, "adaa"))[19000] / spectrum(x)[19000])
    assert loss == pytest.approx(40 * np.log10(np.cos(np.pi * 19000 / (8 * RATE))), abs=0.02)


def test_a_constant_of_the_curve_holds_from_end_to_end() -> None:
    shifted = Curve([-1, 1], [-0.7, 1.3])
    y = apply_curve(shifted, np.zeros((2, 300)), "oversampling")
    np.testing.assert_allclose(y, 0.3, atol=1e-4)


@pytest.mark.parametrize("kind", ["oversampling", "adaa", "none"])
def test_pieces_do_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).laplace(scale=0.15, size=(2, 20000))
    whole = apply_curve(CLIPPER, x, kind)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_PIECE", 3000)
    pieces = apply_curve(CLIPPER, x, kind)  # type: ignore[arg-type]
    assert np.sqrt(np.mean((pieces - whole) ** 2)) < 1e-5


def test_plain_lookup_is_the_table_and_louder_audio_is_clipped_at_its_ends() -> None:
    curve = Curve.from_function(np.tanh, 0.5, 11)
    x = np.linspace(-1, 1, 101)
    np.testing.assert_allclose(apply_curve(curve, x, "none"), curve.look_up(x), atol=1e-7)
    assert apply_curve(curve, x, "none").max() == pytest.approx(np.tanh(0.5))


def test_nothing_comes_of_nothing_and_names_are_checked() -> None:
    assert apply_curve(CLIPPER, np.zeros((1, 0))).shape == (1, 0)
    with pytest.raises(NldiffError, match="antialiasing=x8"):
        apply_curve(CLIPPER, np.zeros(4), "x8")  # type: ignore[arg-type]


def test_jumps_of_a_table_have_a_mean_too() -> None:
    staircase = Curve([-1, 0, 0, 1], [-0.5, -0.5, 0.5, 0.5])
    y = apply_curve(staircase, tone(1000, 0.2), "adaa")
    assert np.isfinite(y).all()
    # a square wave without what is above half the rate: its overshoot is 9 % of the jump
    assert np.max(np.abs(y[2000:-2000])) == pytest.approx(0.59, abs=0.02)
