"""Bent curves, found by what makes audio predictable."""

import numpy as np
import pytest
import torch
from helpers import plucked
from signals import voice

from nldiff.errors import NldiffError
from nldiff.metrics import si_sdr
from nldiff.operators import Distortion
from nldiff.restoration.bent import BentSettings, bent_curve
from nldiff.restoration.increasing import CurveSettings

RATE = 16000
CURVE = CurveSettings()
BENT = [
    Distortion("carbon_mic", {"asymmetry": 0.5, "gain": 2.0}),
    Distortion("soft_clip", {"gain": 2.0}),
]


def inverted(y: np.ndarray) -> np.ndarray:
    curve = bent_curve(torch.from_numpy(y[None]), RATE, BentSettings(), CURVE)
    assert curve is not None
    table = curve.table
    return np.interp(y, table.outputs.numpy(), table.inputs.numpy())


def signal(seed: int) -> np.ndarray:
    """Voice or strings over a noise floor of -60 dB, as recordings have it."""
    x = voice(2.0) if seed else np.asarray(plucked(2.0, RATE), dtype=np.float64)
    x = 0.06 * x / x.std()
    return x + 6e-5 * np.random.default_rng(seed).standard_normal(len(x))


@pytest.mark.parametrize("true", BENT, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_bent_curve_is_undone(true: Distortion, seed: int) -> None:
    x = signal(seed)
    y = true(torch.from_numpy(x[None])).numpy()[0]
    before, after = (float(si_sdr(x - x.mean(), z - z.mean())) for z in (y, inverted(y)))
    assert after > before + 12
    assert after > 40


def test_straight_stays_straight_whatever_the_level_and_polarity() -> None:
    x = signal(0)
    reference = inverted(x)
    assert float(si_sdr(x - x.mean(), reference - reference.mean())) > 50
    for gain in (1e-3, -20.0):
        np.testing.assert_allclose(inverted(gain * x), gain * reference, atol=1e-2 * abs(gain) * x.std())


def test_the_result_does_not_depend_on_the_curve_but_for_its_resolution() -> None:
    # The full form of J is that of the clean signal: any two observations of it lead to the same inverse.
    x = signal(1)
    results = [inverted(true(torch.from_numpy(x[None])).numpy()[0]) for true in BENT]
    assert float(si_sdr(results[0], results[1])) > 40


def test_the_table_is_increasing_and_has_the_level_of_the_observation() -> None:
    y = BENT[0](torch.from_numpy(signal(0)[None]))
    curve = bent_curve(y, RATE, BentSettings(), CURVE)
    assert curve is not None
    assert bool((curve.table.inputs.diff() > 0).all())
    assert bool((curve.table.outputs.diff() > 0).all())
    x = np.interp(y.numpy()[0], curve.table.outputs.numpy(), curve.table.inputs.numpy())
    assert x.std() == pytest.approx(float(y.square().mean().sqrt()), rel=1e-3)
    assert x.mean() == pytest.approx(0, abs=1e-3 * x.std())


def test_half_a_second_does_not_say_what_is_bent() -> None:
    assert bent_curve(torch.from_numpy(signal(1)[None, : RATE // 2]), RATE, BentSettings(), CURVE) is None


@pytest.mark.parametrize(("name", "value"), [("knots", 0), ("noise_db", 1.0), ("smoothness", -1.0)])
def test_settings_are_validated(name: str, value: float) -> None:
    with pytest.raises(NldiffError, match=f"bent.{name}={value:g}"):
        BentSettings(**{name: value})  # type: ignore[arg-type]
