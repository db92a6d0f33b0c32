import numpy as np
import pytest
from helpers import plucked
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter
from signals import voice

from nldiff.restoration.prediction import Predictor, framewise
from nldiff.restoration.signs import _expected_signs, asymmetries, change_costs, sign_like, upright

RATE = 16000


def notes(seed: int = 0, count: int = 8) -> np.ndarray:
    """Decaying notes of one asymmetric source, with silence but for faint noise between them."""
    random = np.random.default_rng(seed)
    t, found = np.arange(round(0.2 * RATE)) / RATE, []
    for pitch in random.choice([110.0, 146.8, 196.0, 246.9], count):
        tone = sum(np.cos(2 * np.pi * k * pitch * t) / k for k in range(1, 6))
        found.append(np.exp(-30 * t) * np.minimum(t / 0.003, 1) * tone)
    return np.concatenate(found) + 1e-4 * random.standard_normal(count * len(t))


def test_the_cost_of_a_change_by_hand() -> None:
    x = np.array([1.0, 2.0, 1.0, -1.0])
    predictor = Predictor(np.array([[0.5, 0.25]]), np.array([2.0]), np.zeros(4, np.int64))
    # Turned from sample 2 on, -1 is predicted as 1.25 and 1 as 0: errors of 2.25 and 1 where they were 0.25 and 2.
    sure = predictor.local_variances(x)
    errors = predictor.errors(x)
    turned = np.array([1.0, 2.0, -1.0, 1.0])
    expected = np.sum((predictor.errors(turned) ** 2 - errors**2) / (2 * sure))
    assert predictor.errors(turned)[2:].tolist() == [-2.25, 1.0]
    assert change_costs(x, predictor)[2] == pytest.approx(expected)
    assert change_costs(x, predictor)[0] == np.inf


@given(st.integers(0, 10**6), st.integers(1, 199))
def test_costs_are_differences_of_squared_errors(seed: int, change: int) -> None:
    x = np.random.default_rng(seed).standard_normal(200)
    predictor = framewise(x, 4, 100)
    turned = x * np.where(np.arange(200) < change, 1, -1)
    difference = predictor.errors(turned) ** 2 - predictor.errors(x) ** 2
    expected = np.sum(difference / (2 * predictor.local_variances(x)))
    assert change_costs(x, predictor)[change] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_notes_come_back_the_right_way_up() -> None:
    x = notes()
    flipped = x * np.repeat([1, -1, 1, 1, -1, -1, -1, 1], len(x) // 8)
    found = upright(flipped, 12, 512, RATE)
    wrong = min(np.sum(x[found.signs * flipped * x * sign < 0] ** 2) for sign in (1, -1))
    assert wrong < 1e-3 * np.sum(x**2)
    assert found.doubt < 1e-2


def test_bursts_without_asymmetry_are_in_doubt() -> None:
    random = np.random.default_rng(0)
    bursts = lfilter([0.1], [1, -1.8, 0.9], random.standard_normal(RATE))
    x = bursts * (np.arange(RATE) % 2000 > 600)
    assert upright(x + 1e-3 * random.standard_normal(RATE), 12, 512, RATE).doubt > 0.1


def test_asymmetries_change_their_sign_with_the_signal() -> None:
    for x in (voice(0.5), plucked(0.5, RATE).astype(float)):
        np.testing.assert_allclose(asymmetries(-x, RATE), -asymmetries(x, RATE), atol=1e-12)
    impulses = np.zeros(RATE)
    impulses[::100] = 1
    assert asymmetries(impulses, RATE)[0] == pytest.approx(1)
    assert asymmetries(impulses, RATE)[6] == pytest.approx(1)
    assert asymmetries(np.zeros(10), RATE).tolist() == [0] * 8


def test_expected_signs_are_those_of_all_sequences() -> None:
    fields, costs = np.array([0.3, -0.2, 0.8, -1.0]), np.array([0.5, 1.5, -0.7])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    weights = np.exp(fields @ signs - costs @ (signs[1:] != signs[:-1]))
    np.testing.assert_allclose(_expected_signs(fields, costs), signs @ weights / weights.sum(), atol=1e-12)


def test_a_signal_goes_on_as_the_one_before() -> None:
    x = notes()
    before, after = x[:20000], x[16000:]
    assert sign_like(after, before, 4000, RATE) == 1
    assert sign_like(-after, before, 4000, RATE) == -1
    before = np.concatenate([x[:12000], np.zeros(4000)])  # nothing is shared but silence
    after = np.concatenate([np.zeros(4000), x[16000:]])
    assert sign_like(-after, before, 4000, RATE) == -1
