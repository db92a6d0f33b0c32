from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tones
from hypothesis import given
from hypothesis import strategies as st

from nldiff.operators import Distortion, TabulatedCurve
from nldiff.training.curves import CurveErrors, noisy_and_known, random_monotone

EXACT = CurveErrors(perturbed_share=0, loose_share=0)
CLIP = Distortion("hard_clip", {"threshold": 0.06})


@given(seed=st.integers(0, 10**6), rms=st.floats(1e-3, 10))
def test_random_curves_never_fall_and_rise_through_zero(seed: int, rms: float) -> None:
    curve = random_monotone(np.random.default_rng(seed), rms)
    grid = torch.linspace(-5 * rms, 5 * rms, 5001).double()
    values = curve(grid)
    assert bool((values.diff() >= -1e-12 * rms).all())
    assert float(curve(torch.zeros(1).double())) == pytest.approx(0, abs=1e-9 * rms)
    near = curve(torch.tensor([-0.2 * rms, 0.2 * rms]).double())
    assert float(near.diff()) > 0


def test_some_random_curves_have_flat_parts_and_all_differ() -> None:
    curves = [random_monotone(np.random.default_rng(seed), 1.0).outputs for seed in range(40)]
    flat = [float((curve.diff() == 0).double().mean()) for curve in curves]
    assert 0.3 < np.mean([share > 0.05 for share in flat]) < 1
    assert len({tuple(curve.tolist()) for curve in curves}) == 40


def test_an_exact_curve_bounds_the_clean_samples() -> None:
    x = tones(0)
    y, curve = noisy_and_known(CLIP, CLIP(x), 0.06, EXACT, np.random.default_rng(0))
    assert curve is not None
    assert torch.equal(y, CLIP(x))
    bounds = curve.feasible(y)
    clipped = x.abs() > 0.0601
    assert bool((bounds.low <= x + 1e-6).all()) and bool((x - 1e-6 <= bounds.high).all())
    assert bool(torch.isinf(bounds.high - bounds.low)[clipped].all())
    assert float((bounds.high - bounds.low)[x.abs() < 0.059].max()) < 0.01 * 0.06


def test_noise_stays_within_the_tolerance_and_loosens_the_bounds() -> None:
    x = tones(1)
    sizes = set()
    for seed in range(20):
        y, curve = noisy_and_known(CLIP, CLIP(x), 0.06, replace(EXACT, loose_share=1.0), np.random.default_rng(seed))
        assert curve is not None
        noise = float((y - CLIP(x)).std())
        assert noise == pytest.approx(curve.tolerance / 3, rel=0.05)
        sizes.add(round(curve.tolerance, 9))
    # As often as a restoration halves it, but the last time.
    assert len(sizes) == 5
    assert max(sizes) / min(sizes) == pytest.approx(16, rel=0.01)


def test_perturbed_curves_are_off_by_their_size() -> None:
    x, line = tones(2), TabulatedCurve(torch.tensor([-9.0, 9.0]), torch.tensor([-9.0, 9.0]))
    errors = replace(EXACT, perturbed_share=1.0)
    ratios = []
    for seed in range(60):
        _, curve = noisy_and_known(line, x, 0.06, errors, np.random.default_rng(seed))
        assert curve is not None
        assert bool((curve.table.inputs.diff() >= 0).all())
        at = curve.table.inverse(torch.tensor([0.12]).double(), right=False)
        ratios.append(float(at) / 0.12 - 1)
    assert np.std(ratios) == pytest.approx(0.03, rel=0.3)


def test_curves_that_fall_are_refused() -> None:
    x, fold = tones(3), Distortion("wavefold", {"threshold": 0.06})
    assert noisy_and_known(fold, fold(x), 0.06, EXACT, np.random.default_rng(0))[1] is None
