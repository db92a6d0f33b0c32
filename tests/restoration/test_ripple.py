"""Plateaus that are no longer flat."""

import numpy as np
import pytest
import torch

from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.ripple import plateau, rippled_curves


def laplacian(n: int = 20_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=n)


@pytest.mark.parametrize("threshold", [0.8, 1.5, 2.5])
@pytest.mark.parametrize("ripple", [0.01, 0.03, 0.05])
def test_the_plateau_and_its_ripple_are_found(threshold: float, ripple: float) -> None:
    clipped = np.minimum(laplacian(), threshold)
    moved = clipped + np.where(
        clipped == threshold, ripple * threshold * np.random.default_rng(1).normal(size=20_000), 0
    )
    found = plateau(moved)
    assert found is not None
    assert found[0] == pytest.approx(threshold, rel=0.02)
    assert found[1] == pytest.approx(ripple * threshold, rel=0.35)


@pytest.mark.parametrize("seed", range(5))
def test_clean_samples_have_no_plateau(seed: int) -> None:
    assert plateau(laplacian(seed=seed)) is None
    assert plateau(np.random.default_rng(seed).normal(size=20_000)) is None


def test_flat_plateaus_and_one_sign_are_left_to_plain_curves() -> None:
    assert plateau(np.minimum(laplacian(), 1.0)) is None
    assert plateau(-np.abs(laplacian())) is None
    assert rippled_curves(torch.from_numpy(np.clip(laplacian(), -1, 1)), CurveSettings()) == []


def test_samples_from_a_little_below_the_plateau_on_are_open_upwards() -> None:
    x = laplacian()
    y = np.minimum(x, 1.0) + 0.01 * np.random.default_rng(1).normal(size=len(x))
    observed = torch.from_numpy(y)[None]
    curves = rippled_curves(observed, CurveSettings())
    thresholds = [float(curve.table.outputs[-1]) for _, curve in curves]
    assert thresholds == sorted(thresholds, reverse=True)
    for operator, curve in curves:
        assert float(operator.outputs[-1]) == pytest.approx(1.0, abs=0.01)
        intervals = curve.feasible(observed)
        above = y > curve.table.outputs[-1].item()
        assert intervals.high.numpy()[0][above].min() == np.inf
        assert (intervals.low.numpy()[0][above] < 1.0).all()
        middle = np.abs(y) < 0.5  # below, only the tolerance is left open
        width = (intervals.high - intervals.low).numpy()[0][middle]
        assert width == pytest.approx(2 * curve.tolerance, rel=1e-3)
        # No plateau at the other end: whatever is there is as it was.
        assert np.isfinite(intervals.low.numpy()[0][y < -1.5]).all()
