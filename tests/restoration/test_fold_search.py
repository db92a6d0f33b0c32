from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import plucked
from signals import voice

from nldiff import sound
from nldiff.metrics import si_sdr
from nldiff.operators import Distortion, Operator, TabulatedCurve
from nldiff.restoration.bent import BentSettings
from nldiff.restoration.branches import BranchSettings, invert
from nldiff.restoration.fold_search import density_drop, find_folds, find_rectifier, turning_value
from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.piecewise import piecewise
from nldiff.restoration.soft_folds import soft_fold

RATE = 44100
EXAMPLE = Path(__file__).parents[2] / "examples" / "guit_em9.flac"


def strings(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    return plucked(seconds, RATE, seed, peak=0.25).astype(np.float64)


def found(y: np.ndarray, rate: int = RATE) -> list[Operator]:
    return list(find_folds(np.atleast_2d(y), rate, BranchSettings(), BentSettings(), CurveSettings()))


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


def smooth_fold(x: np.ndarray) -> np.ndarray:
    """Turns at 0.1 and -0.08, roundly; steeper on one side than on the other."""
    grid = np.linspace(-1, 1, 200001)
    slope = np.tanh((0.1 - grid) / 0.05) * np.tanh((grid + 0.08) / 0.05) * (1 + 0.2 * np.tanh(grid / 0.1))
    table = np.cumsum(slope) * (grid[1] - grid[0])
    return np.interp(x, grid, table - np.interp(0, grid, table))


def test_a_smooth_fold_of_unknown_shape_is_found() -> None:
    audio, rate = sound.read(EXAMPLE)
    x = audio[0, : round(1.2 * rate)].astype(np.float64)
    x *= 0.06 / x.std()
    y = smooth_fold(x)
    assert si_sdr(x, y) < 6
    (operator,) = found(y, rate)
    assert si_sdr(x, invert(piecewise(operator, 0.9), y, rate, BranchSettings()).x) > 30


def test_where_dense_samples_end_by_hand() -> None:
    # The density grows without bound up to 1, and is a tenth of the uniform one beyond.
    below, beyond = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 20001)), np.linspace(1, 2, 301)
    samples = np.concatenate([below, beyond])
    drop = density_drop(samples, 0.7)
    assert drop is not None
    assert turning_value(samples, drop, 0.7) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("upper", "lower"), [(1.0, 1.0), (0.5, 1.5)])
def test_a_soft_fold_has_its_turning_values_and_slopes(upper: float, lower: float) -> None:
    curve = soft_fold(0.3, 0.2, 2.0, 0.2, upper, lower)
    pieces = piecewise(curve, 1.0)
    inside = pieces.turning_points
    assert curve(torch.from_numpy(inside)).numpy() == pytest.approx([-0.2, 0.3], abs=1e-6)
    assert float(curve(torch.zeros(1, dtype=torch.float64))) == pytest.approx(0, abs=1e-9)
    far = curve(torch.tensor([-0.95, -0.9, 0.9, 0.95], dtype=torch.float64)).numpy()
    middle = curve(torch.tensor([-0.01, 0.01], dtype=torch.float64)).numpy()
    slope = (middle[1] - middle[0]) / 0.02
    assert (far[0] - far[1]) / 0.05 == pytest.approx(lower * slope, rel=0.05)
    assert (far[2] - far[3]) / 0.05 == pytest.approx(upper * slope, rel=0.05)
