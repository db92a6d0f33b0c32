from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import plucked

from nldiff.errors import NldiffError
from nldiff.operators import Distortion, Operator, TabulatedCurve
from nldiff.restoration import branches, viterbi
from nldiff.restoration.branches import Branches, BranchSettings, invert, select_branches
from nldiff.restoration.piecewise import Candidates, piecewise

RATE = 16000


def strings(seed: int, seconds: float = 0.3, rate: int = RATE) -> np.ndarray:
    return plucked(seconds, rate, seed, peak=0.25).astype(np.float64)


def si_sdr(x: np.ndarray, found: np.ndarray) -> float:
    target = x * np.dot(x, found) / np.dot(x, x)
    return float(10 * np.log10(np.sum(target**2) / np.sum((found - target) ** 2)))


def inverted(operator: Operator, x: np.ndarray, noise: float = 0.0, rate: int = RATE) -> np.ndarray:
    y = operator(torch.from_numpy(x)).numpy() + noise * np.random.default_rng(0).standard_normal(len(x))
    return invert(piecewise(operator, 0.6), y, rate, BranchSettings()).x


@pytest.mark.parametrize(
    "operator",
    [
        Distortion("wavefold", {"threshold": 0.1}),
        Distortion("triangle_fold", {"threshold": 0.08}),
        Distortion("sine_fold", {"amplitude": 0.08}),
    ],
    ids=str,
)
def test_folded_strings_come_back(operator: Operator) -> None:
    x = strings(0, rate=44100)
    assert si_sdr(x, operator(torch.from_numpy(x)).numpy()) < 11
    # At the very beginning there is nothing to predict from.
    assert si_sdr(x[64:], inverted(operator, x, rate=44100)[64:]) > 50


def test_the_result_explains_what_was_observed() -> None:
    operator, x = Distortion("wavefold", {"threshold": 0.1}), strings(1)
    np.testing.assert_allclose(
        operator(torch.from_numpy(inverted(operator, x))).numpy(),
        operator(torch.from_numpy(x)).numpy(),
        rtol=0,
        atol=1e-6,
    )


def test_a_rectified_signal_comes_back_but_for_its_sign() -> None:
    x = strings(2)
    assert si_sdr(x, inverted(Distortion("full_wave"), x)) > 20  # whatever the sign


def test_noise_is_neither_amplified_nor_taken_for_folds() -> None:
    operator, x = Distortion("wavefold", {"threshold": 0.1}), strings(3)
    noise = float(np.sqrt(np.mean(x**2)) * 10 ** (-50 / 20))
    assert si_sdr(x[64:], inverted(operator, x, noise)[64:]) > 40


def test_a_smooth_curve_with_two_turning_points() -> None:
    inputs = torch.linspace(-0.6, 0.6, 2001, dtype=torch.float64)
    curve = TabulatedCurve(inputs, 0.1 * torch.sin(inputs / 0.1 + 0.3) * (1 + inputs) + 0.02 * inputs)
    x = 0.8 * strings(4)  # within the pieces next to the turning points
    assert si_sdr(x, inverted(curve, x)) > 40


def test_the_same_result_every_time() -> None:
    operator, x = Distortion("triangle_fold", {"threshold": 0.08}), strings(5, 0.3)
    np.testing.assert_array_equal(inverted(operator, x), inverted(operator, x))


def test_silence_stays_silent() -> None:
    assert not invert(piecewise(Distortion("full_wave"), 1.0), np.zeros(100), RATE, BranchSettings()).x.any()


def test_the_cheapest_of_all_sequences_is_found() -> None:
    # a sinusoid with a constant: the one sequence of branches without a jump, among 2^40
    t = np.arange(400) / RATE
    x = 0.1 * np.sin(2 * np.pi * 440 * t)
    other = np.random.default_rng(0).uniform(0.05, 0.1, len(x)) * np.where(np.arange(len(x)) % 2, 1, -1)
    swapped = np.random.default_rng(1).random(len(x)) < 0.5
    values = np.where(swapped[:, None], np.stack([x + other, x], 1), np.stack([x, x + other], 1))
    found = select_branches(x, Candidates(values, values, np.ones_like(values)), 0.0, RATE, BranchSettings())
    np.testing.assert_array_equal(found.labels, swapped.astype(int))
    np.testing.assert_array_equal(found.x, x)
    assert found.doubt == 0  # both directions find the same


def test_intervals_are_filled_with_what_is_predicted() -> None:
    t = np.arange(4000) / RATE
    x = 0.1 * np.sin(2 * np.pi * 440 * t)
    low, high = np.where(x >= 0.09, 0.09, x)[:, None], np.where(x >= 0.09, 0.5, x)[:, None]
    slope = (x < 0.09).astype(float)[:, None]
    found = select_branches(x.clip(max=0.09), Candidates(low, high, slope), 0.0, RATE, BranchSettings())
    assert si_sdr(x, found.x) > si_sdr(x, x.clip(max=0.09)) + 10


def test_settings_are_validated() -> None:
    with pytest.raises(NldiffError, match=r"branches\.order=30: a multiple of 4 expected"):
        BranchSettings(order=30)
    with pytest.raises(NldiffError, match=r"branches\.beam=0"):
        BranchSettings(beam=0)
    with pytest.raises(NldiffError, match=r"branches\.survivors=32768: a number of at least 1 and below 32768"):
        BranchSettings(survivors=32768)


def test_the_memory_of_the_search_stays_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = piecewise(Distortion("triangle_fold", {"threshold": 0.01}), 1.0)
    states: list[int] = []
    search = viterbi.search

    def spied(low: np.ndarray, *others: Any) -> np.ndarray:
        states.append(low.shape[1] ** others[5])
        return search(low, *others)

    spied.signatures = search.signatures  # type: ignore[attr-defined]
    monkeypatch.setattr(viterbi, "search", spied)
    x = 0.03 * np.sin(np.arange(400) / 40)
    folder = Distortion("triangle_fold", {"threshold": 0.01})
    observed = folder(torch.from_numpy(x)).numpy()
    found = invert(curve, observed, 8000, BranchSettings(memory=6)).x
    assert curve.inputs.shape[0] > 90
    assert max(states) <= 1 << 20
    assert folder(torch.from_numpy(found)).numpy() == pytest.approx(observed, abs=1e-6)


@pytest.mark.parametrize("costly", [False, True])
def test_the_more_predictable_of_both_searches_is_taken(monkeypatch: pytest.MonkeyPatch, costly: bool) -> None:
    # Loud samples are costly in one of them; which one is right differs.
    curve = piecewise(Distortion("wavefold", {"threshold": 0.1}), 1.0)
    x = strings(0)
    y = np.where(np.abs(x) > 0.1, np.sign(x) * 0.2 - x, x)
    right = select_branches(y, curve.candidates(y), 0.0, RATE, BranchSettings())
    noise = replace(right, x=np.random.default_rng(0).normal(scale=0.1, size=len(x)))

    def found(*arguments: Any) -> Branches:
        return right if (arguments[4] != BranchSettings()) == costly else noise

    monkeypatch.setattr(branches, "select_branches", found)
    assert np.array_equal(invert(curve, y, RATE, BranchSettings()).x, right.x)
