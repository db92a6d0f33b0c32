import numpy as np
import pytest
import torch
from helpers import plucked
from signals import voice

from nldiff.operators import Distortion, Operator, TabulatedCurve
from nldiff.restoration.branches import BranchSettings
from nldiff.restoration.fold_search import density_drop, find_folds, find_rectifier

RATE = 44100


def strings(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    return plucked(seconds, RATE, seed, peak=0.25).astype(np.float64)


def found(y: np.ndarray, rate: int = RATE) -> list[Operator]:
    return list(find_folds(np.atleast_2d(y), rate, BranchSettings()))


def distorted(operator: Operator, x: np.ndarray) -> np.ndarray:
    return operator(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("wavefold", "threshold", 0.1), ("triangle_fold", "threshold", 0.06), ("sine_fold", "amplitude", 0.08)],
)
def test_family_and_parameter_are_found(name: str, key: str, value: float) -> None:
    (operator,) = found(distorted(Distortion(name, {key: value}), strings()))
    assert isinstance(operator, Distortion)
    # without samples beyond three thresholds, folding once and folding on are the same
    assert operator.name == name
    assert operator.params[key] == pytest.approx(value, rel=2e-4)


def test_an_asymmetric_fold_is_found() -> None:
    x = strings(1)
    y = np.where(x > 0.1, 0.2 - x, np.where(x < -0.06, -0.12 - x, x))
    (operator,) = found(y)
    grid = torch.linspace(-0.2, 0.2, 101, dtype=torch.float64)
    expected = torch.where(grid > 0.1, 0.2 - grid, torch.where(grid < -0.06, -0.12 - grid, grid))
    torch.testing.assert_close(operator(grid), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_rectifier_is_found(sign: int) -> None:
    operator = find_rectifier(sign * np.abs(strings(2))[None], RATE, BranchSettings())
    assert operator is not None
    inputs = torch.tensor([-0.3, 0.0, 0.2], dtype=torch.float64)
    torch.testing.assert_close(operator(inputs), sign * inputs.abs())
    for other in (sign * strings(2).clip(min=0), sign * strings(2)):  # half of it is lost; nothing happened
        assert find_rectifier(other[None], RATE, BranchSettings()) is None


@pytest.mark.parametrize(
    "operator",
    [
        Distortion("hard_clip", {"threshold": 0.05}),
        Distortion("hard_clip", {"threshold": 0.15}),
        Distortion("soft_clip", {"gain": 10.0}),
        Distortion("quantize", {"step": 0.05}),
        Distortion("half_wave"),
        Distortion("carbon_mic"),
        TabulatedCurve(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0])),
    ],
    ids=str,
)
@pytest.mark.parametrize("spoken", [False, True])
def test_nothing_is_found_where_nothing_was_folded(operator: Operator, spoken: bool) -> None:
    x = voice(1.0) if spoken else strings(3)
    assert not found(distorted(operator, x), 16000 if spoken else RATE)


def test_silence_shows_no_fold() -> None:
    assert not found(np.zeros(1000))
    assert find_rectifier(np.zeros((1, 1000)), RATE, BranchSettings()) is None


def test_drops_of_the_density_by_hand() -> None:
    uniform = np.linspace(-1, 1, 20001)
    drop = density_drop(uniform, 0.58)
    assert drop is not None
    assert drop.value == pytest.approx(1, abs=0.01)
    assert drop.deviations == pytest.approx(np.sqrt(0.04 * 0.58 * 1e4), rel=0.05)
    assert density_drop(uniform.clip(-0.8, 0.8), 0.5) is None  # a plateau
    assert density_drop(np.random.default_rng(0).laplace(size=20000), 1.4) is None
