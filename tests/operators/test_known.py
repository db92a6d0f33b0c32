import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laplace import laplace

from nldiff.operators import DISTORTIONS, Distortion, parse_operator
from nldiff.operators.filters import FILTERS

names = pytest.mark.parametrize("name", sorted(DISTORTIONS))


@pytest.mark.parametrize(
    ("text", "x", "y"),
    [
        ("hard_clip:threshold=0.1", [-0.3, -0.05, 0.0, 0.1, 0.4], [-0.1, -0.05, 0.0, 0.1, 0.1]),
        ("asymmetric_clip:threshold=0.2,ratio=0.5", [-0.3, -0.05, 0.15, 0.4], [-0.1, -0.05, 0.15, 0.2]),
        ("amplified_clip:gain_db=20", [-0.3, -0.05, 0.0, 0.1, 0.4], [-1, -0.5, 0.0, 1, 1]),
        ("amplified_clip:gain_db=40,threshold=0.3", [-0.3, 0.002], [-0.3, 0.2]),
        ("soft_clip:gain=5", [-0.2, 0.1], [-math.tanh(1) / 5, math.tanh(0.5) / 5]),
        # knee at 0.05, the remaining 0.05 saturate: 0.05 + 0.05 tanh(0.1 / 0.05)
        ("soft_clip_r:threshold=0.1,hardness=0.5", [0.04, -0.15], [0.04, -0.05 - 0.05 * math.tanh(2)]),
        ("soft_clip_r:threshold=0.1,hardness=0", [0.0, 0.2], [0.0, 0.1 * math.tanh(2)]),
        ("soft_clip_r:threshold=0.1,hardness=1", [-0.05, 0.1, 0.2], [-0.05, 0.1, 0.1]),
        ("wavefold:threshold=0.1", [-0.05, 0.15, -0.15, 0.2, 0.3], [-0.05, 0.05, -0.05, 0.0, -0.1]),
        # turns at 0.1, -0.1 (x = 0.3), and again
        ("triangle_fold:threshold=0.1", [0.05, 0.15, -0.15, 0.3, 0.45, -0.52], [0.05, 0.05, -0.05, -0.1, 0.05, -0.08]),
        ("sine_fold:amplitude=0.2", [0.0, math.pi / 10, -math.pi / 5, 0.3 * math.pi], [0.0, 0.2, 0.0, -0.2]),
        ("quantize:step=0.125", [0.05, 0.0625, 0.07, -0.07, 0.2, -0.3], [0, 0, 0.125, -0.125, 0.25, -0.25]),
        ("half_wave", [-0.5, 0.0, 0.25], [0.0, 0.0, 0.25]),
        ("full_wave", [-0.5, 0.0, 0.25], [0.5, 0.0, 0.25]),
        # (1 - a) x / (1 - a g x) with a = 0.5, g = 2 is 0.5 x / (1 - x)
        ("carbon_mic", [-1.0, 0.0, 0.2, 0.5], [-0.25, 0.0, 0.125, 0.5]),
        # w(10 x) = 10 x - (10 x)^3 / 3: w(0.5) = 0.5 - 0.125 / 3, so 0.025 + 0.75 * 11 / 24
        ("overdrive_static:gain_db=20,colour=0", [-0.05, 0.0, 0.05, 0.4], [-0.36875, 0.0, 0.36875, 0.7]),
        # c = 0.1, w(c) = 0.299 / 3; 0.04 is moved to 0.5: 0.02 + 0.75 (11 / 24 - 0.299 / 3) = 0.289
        ("overdrive_static", [-1.0, -0.5, 0.0, 0.04, 0.5], [-1.0, -0.25 - 0.57475, 0.0, 0.289, 0.25 + 0.42525]),
        # 0.25 * 0.1 + 0.75 * 0.5
        ("hard_clip:threshold=0.1,mix=0.25", [-0.5, 0.04, 0.5], [-0.4, 0.04, 0.4]),
        ("half_wave:mix=0.5", [-0.5, 0.25], [-0.25, 0.25]),
        ("full_wave:mix=0", [-0.5, 0.25], [-0.5, 0.25]),
        # 0.5 * 1 + 0.5 * 0.4: the dry signal is not amplified
        ("amplified_clip:gain_db=20,mix=0.5", [0.02, 0.4], [0.11, 0.7]),
    ],
)
def test_values_by_hand(text: str, x: list[float], y: list[float]) -> None:
    result = parse_operator(text).build(None)(torch.tensor(x, dtype=torch.float64))
    torch.testing.assert_close(result, torch.tensor(y, dtype=torch.float64), rtol=0, atol=1e-12)


@names
def test_keeps_shape_and_type_and_is_finite_far_out(name: str) -> None:
    x = torch.tensor([[-1e6, -1.0, -0.0], [0.0, 1.0, 1e6]])
    y = Distortion(name)(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    if Distortion(name).context == 0:
        assert torch.equal(Distortion(name)(x.T), y.T)
    assert torch.equal(Distortion(name)(x[0]), y[0])  # time alone


@names
@given(mix=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_every_distortion_mixes_with_the_dry_signal(name: str, mix: float, seed: int) -> None:
    x = laplace(seed, length=100)
    expected = mix * Distortion(name)(x) + (1 - mix) * x
    torch.testing.assert_close(Distortion(name, {"mix": mix})(x), expected, rtol=1e-12, atol=1e-15)


@names
def test_defaults_are_filled_in_and_comparison_works(name: str) -> None:
    defaults = {key: parameter.default for key, parameter in DISTORTIONS[name].parameters.items()}
    distortion = Distortion(name)
    assert distortion.params == defaults
    assert distortion == Distortion(name, defaults)
    assert hash(distortion) == hash(Distortion(name, defaults))
    assert pickle.loads(pickle.dumps(distortion)) == distortion
    for key, parameter in DISTORTIONS[name].parameters.items():
        assert distortion != Distortion(name, {key: (parameter.default + parameter.low) / 2})


def test_which_distortions_amplify_and_which_have_memory() -> None:
    amplify = {"amplified_clip", "overdrive", "overdrive_static", "gain", "fir", *FILTERS}
    assert {name for name in DISTORTIONS if not Distortion(name).keeps_level} == amplify
    assert {name for name in DISTORTIONS if Distortion(name).context} == {"overdrive", *FILTERS}
    restored = pickle.loads(pickle.dumps(Distortion("overdrive")))
    assert (restored.context, restored.keeps_level) == (1379, False)
