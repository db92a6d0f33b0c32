"""Operators applied to audio: exact where nothing aliases, at any rate, whatever the pieces are."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from nldiff.curves import Curve, antialiasing
from nldiff.curves.antialiasing import apply_curve
from nldiff.curves.applied_operators import apply_operator
from nldiff.errors import NldiffError
from nldiff.operators import AtRate, Chain, Distortion, Operator, Rescaled, TabulatedCurve, parse_operator

RATE = 16000


def noise(frames: int, channels: int = 2) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((channels, frames))


def operator(text: str, rate: int | None = None) -> Operator:
    return parse_operator(text).build(None, rate)


def test_filters_equal_their_difference_equation() -> None:
    # first-order low-pass by the bilinear transform, by hand: k = tan(pi f / rate)
    k = np.tan(np.pi * 1000 / RATE)
    x = noise(3000)
    expected = lfilter([k, k], [1 + k, k - 1], x) * 2
    found = apply_operator(operator("lowpass:hz=1000 > gain:gain_db=6.020599913279624"), x, RATE)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found.dtype == np.float32 and found.shape == x.shape


def test_frequencies_hold_at_another_rate() -> None:
    told = operator("steep_lowpass:hz=1000,q=0.7", 48000)
    x = noise(2000)
    np.testing.assert_array_equal(
        apply_operator(told, x, RATE), apply_operator(operator("steep_lowpass:hz=1000,q=0.7"), x, RATE)
    )


def test_a_device_at_its_own_rate_stays_there() -> None:
    clipper = Distortion("hard_clip", {"threshold": 0.1})
    x = noise(4000)
    other = AtRate(clipper, 8000, 44100)
    expected = AtRate(clipper, 8000, RATE)(torch.from_numpy(x)).numpy()
    # white noise: what lies at the very edge of the band depends on the length
    assert np.std(apply_operator(other, x, RATE) - expected) < 0.02 * np.std(expected)


def test_a_table_is_applied_like_a_curve() -> None:
    curve = Curve([-1, -0.2, 0.2, 1], [-0.2, -0.2, 0.2, 0.2])
    x = noise(4000)
    for kind in ("oversampling", "adaa", "none"):
        table = Rescaled(curve.operator(), 0.5, 0.5)
        np.testing.assert_allclose(
            apply_operator(table, x, RATE, kind), apply_curve(curve.scaled(0.5), x, kind) * 0.5, atol=1e-6
        )


def test_aliasing_of_a_clipped_tone() -> None:
    # 3.1 kHz at 16 kHz: the harmonics at 9.3 and 15.5 kHz come back at 6.7 and 0.5 kHz
    t = np.arange(RATE) / RATE
    x = 0.5 * np.sin(2 * np.pi * 3100 * t)

    def alias(kind: str) -> float:
        y = apply_operator(operator("hard_clip:threshold=0.1"), x, RATE, kind)  # type: ignore[arg-type]
        spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
        return float(spectrum[[6700, 500]].max() / spectrum[3100])

    assert alias("none") > 0.05
    assert alias("oversampling") < 0.01 * alias("none") or alias("oversampling") < 2e-3


def test_the_dry_path_is_not_delayed() -> None:
    x = noise(3000)
    clip = operator("hard_clip:threshold=0.1")
    wet = apply_operator(clip, x, RATE)
    np.testing.assert_allclose(apply_operator(Chain([clip], 0.3), x, RATE), 0.3 * wet + 0.7 * x, atol=1e-6)


def test_pieces_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(30000, 1)
    device = Chain(
        [Distortion("highpass", {"hz": 40.0}), Distortion("soft_clip"), Distortion("overdrive", {"pole": 0.99})]
    )
    whole = apply_operator(device, x, RATE)
    monkeypatch.setattr(antialiasing, "_PIECE", 7001)
    np.testing.assert_allclose(apply_operator(device, x, RATE), whole, atol=2e-6)


def test_unknown_antialiasing() -> None:
    table = TabulatedCurve(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    with pytest.raises(NldiffError, match="antialiasing=best"):
        apply_operator(table, noise(10), RATE, "best")  # type: ignore[arg-type]


def test_filters_that_were_told_different_rates() -> None:
    device = Chain([Distortion("lowpass", {"rate": rate}) for rate in (8000, 44100)])
    with pytest.raises(NldiffError, match="what was told its rate is for 8000 and 44100 Hz: one rate expected"):
        apply_operator(device, noise(10), RATE)
