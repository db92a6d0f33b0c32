import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators.distortions import (
    DISTORTIONS,
    Distortion,
    amplified_clip,
    calibrate,
    carbon_mic,
    estimate_input_rms,
    hard_clip,
    input_sdr,
    parse_distortion,
    quantize,
    soft_clip,
)

names = pytest.mark.parametrize("name", sorted(DISTORTIONS))
calibrated = pytest.mark.parametrize("name", sorted(n for n, spec in DISTORTIONS.items() if spec.calibrated))


def laplace(seed: int, length: int = 4000, rms: float = 0.06) -> Tensor:
    """Noise with the heavy tails of audio."""
    u = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    x = -u.sign() * torch.log1p(-2 * u.abs())
    return rms * x / x.square().mean().sqrt()


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
    result = Distortion(*parse_distortion(text))(torch.tensor(x, dtype=torch.float64))
    torch.testing.assert_close(result, torch.tensor(y, dtype=torch.float64), rtol=0, atol=1e-12)


@names
def test_keeps_shape_and_type_and_is_finite_far_out(name: str) -> None:
    x = torch.tensor([[-1e6, -1.0, -0.0], [0.0, 1.0, 1e6]])
    y = Distortion(name)(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    assert torch.equal(Distortion(name)(x.T), y.T)


# the quantiser's backward pass is deliberately not its derivative; it has its own test below
@pytest.mark.parametrize("name", sorted(set(DISTORTIONS) - {"quantize"}))
def test_gradient_matches_finite_differences_off_the_corners(name: str) -> None:
    x = torch.tensor([-0.31, -0.17, -0.043, 0.021, 0.13, 0.29], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Distortion(name), (x,))


@given(gain_db=st.floats(0, 60), threshold=st.floats(0.01, 2), seed=st.integers(0, 10**6))
def test_amplified_clipper_is_the_louder_hard_clipper(gain_db: float, threshold: float, seed: int) -> None:
    x, gain = laplace(seed, length=100), math.exp(gain_db * math.log(10) / 20)
    expected = gain * hard_clip(x, -threshold / gain, threshold / gain)
    torch.testing.assert_close(amplified_clip(x, gain_db, threshold), expected, rtol=1e-12, atol=0)


@names
@given(mix=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_every_distortion_mixes_with_the_dry_signal(name: str, mix: float, seed: int) -> None:
    x = laplace(seed, length=100)
    expected = mix * Distortion(name)(x) + (1 - mix) * x
    torch.testing.assert_close(Distortion(name, {"mix": mix})(x), expected, rtol=1e-12, atol=1e-15)


def test_soft_clip_has_unit_slope_at_silence() -> None:
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for hardness in (0.0, 0.5, 1.0):
        (slope,) = torch.autograd.grad(soft_clip(x, 0.1, hardness).sum(), x)
        assert slope.item() == 1


@given(hardness=st.floats(0, 0.999), threshold=st.floats(0.01, 1), x=st.floats(-2, 2))
def test_soft_clip_lies_between_the_tanh_and_the_hard_clipper(hardness: float, threshold: float, x: float) -> None:
    sample = torch.tensor(abs(x), dtype=torch.float64)
    y = soft_clip(sample, threshold, hardness)
    assert threshold * torch.tanh(sample / threshold) <= y + 1e-12
    assert y <= hard_clip(sample, -threshold, threshold) + 1e-12


def test_quantiser_passes_the_gradient_straight_through() -> None:
    x = laplace(5).float().requires_grad_()
    y = quantize(x, 0.03)
    assert torch.equal(y.detach(), torch.round(x.detach() / 0.03) * 0.03)  # no rounding residue of the detour
    weights = laplace(6).float()
    y.backward(weights)
    assert x.grad is not None
    assert torch.equal(x.grad, weights)


@given(a=st.floats(0.01, 0.99), g=st.floats(0.1, 100))
def test_carbon_microphone_rises_to_its_limit_and_stays(a: float, g: float) -> None:
    pole = 1 / (a * g)
    x = pole * torch.tensor([-1.0, 0.5, 0.98, 0.99, 1.0, 1.01, 100.0], dtype=torch.float64)
    y = carbon_mic(x, a, g)
    assert (y[:4].diff() > 0).all()
    torch.testing.assert_close(y[3:], y[3].expand(4), rtol=1e-9, atol=0)
    assert y[3].item() == pytest.approx((1 - a) * 0.99 * pole / 0.01)


def test_input_sdr_by_hand() -> None:
    x = torch.tensor([3.0, 4.0])
    assert input_sdr(x, torch.tensor([3.0, 3.5])) == pytest.approx(20.0)  # 5 against 0.5
    assert input_sdr(x, x) == math.inf
    assert input_sdr(torch.zeros(2), x) == -math.inf


@calibrated
@settings(max_examples=25, deadline=None)
@given(sdr=st.floats(0.1, 40), seed=st.integers(0, 10**6), level=st.floats(-6, 2))
def test_calibration_hits_the_sdr(name: str, sdr: float, seed: int, level: float) -> None:
    x = laplace(seed, length=300, rms=10**level)
    distortion = calibrate(name, x, sdr)
    y = distortion(x)
    independent = 10 * math.log10(((x**2).sum() / ((x - y) ** 2).sum()).item())
    assert independent == pytest.approx(sdr, abs=1e-3)


@calibrated
@settings(max_examples=25, deadline=None)
@given(sdr=st.floats(0.1, 40), seed=st.integers(0, 10**6), mix=st.floats(0.01, 1))
def test_calibration_is_that_of_the_mixture(name: str, sdr: float, seed: int, mix: float) -> None:
    x = laplace(seed, length=300)
    target = sdr - 20 * math.log10(mix)  # the mixture is off by mix times the error of the distorted signal
    distortion = calibrate(name, x, target, mix=mix)
    assert distortion.params.get("mix", 1.0) == mix
    independent = 10 * math.log10(((x**2).sum() / ((x - distortion(x)) ** 2).sum()).item())
    assert independent == pytest.approx(target, abs=1e-3)


@pytest.mark.parametrize("sdr", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("name", ["hard_clip", "soft_clip"])
def test_calibration_holds_for_float32_audio(name: str, sdr: float) -> None:
    x = laplace(1).float().reshape(2, -1)
    assert input_sdr(x, calibrate(name, x, sdr)(x)) == pytest.approx(sdr, abs=1e-3)


def test_calibrated_threshold_by_hand() -> None:
    # two samples of size 1 clipped at c: error sqrt(2) (1 - c) against sqrt(2); 20 dB asks for c = 0.9
    x = torch.tensor([1.0, -1.0, 0.0, 0.0])
    assert calibrate("hard_clip", x, 20.0).params["threshold"] == pytest.approx(0.9, abs=1e-4)
    # half of it wet, the error is (1 - c) / 2: 20 dB asks for c = 0.8
    assert calibrate("hard_clip", x, 20.0, mix=0.5).params["threshold"] == pytest.approx(0.8, abs=1e-4)
    # the folded sample is 2 t - 1, the error 2 (1 - t): 20 dB asks for t = 0.95; 0 dB for t = 0.5
    assert calibrate("wavefold", x, 20.0).params["threshold"] == pytest.approx(0.95, abs=1e-4)
    assert calibrate("wavefold", x, 0.0).params["threshold"] == pytest.approx(0.5, abs=1e-4)


def test_calibration_keeps_the_other_parameters() -> None:
    distortion = calibrate("soft_clip_r", laplace(2), 5.0, hardness=0.9)
    assert distortion.params["hardness"] == 0.9


# a coarser quantiser can fit a signal better, so its SDR is not monotone
@pytest.mark.parametrize("name", ["hard_clip", "asymmetric_clip", "soft_clip", "soft_clip_r", "wavefold"])
def test_sdr_is_monotone_over_the_bracket(name: str) -> None:
    spec, x = DISTORTIONS[name], laplace(3)
    assert spec.calibrated is not None
    worst, best = spec.bracket(x.abs().max().item())
    steps = torch.linspace(math.log(worst), math.log(best), 200, dtype=torch.float64).exp()
    sdrs = torch.tensor([input_sdr(x, Distortion(name, {spec.calibrated: s.item()})(x)) for s in steps])
    assert sdrs[0] < 0.01
    assert sdrs[-1] > 100  # infinite where nothing is distorted
    finite = sdrs[sdrs.isfinite()]
    assert (finite.diff() > -1e-9).all()


@pytest.mark.parametrize(
    ("name", "x", "sdr", "params", "message"),
    [
        ("half_wave", laplace(0), 3.0, {}, "'half_wave' cannot be calibrated to an input SDR: hard_clip, "),
        ("hard_clip", laplace(0), -1.0, {}, "'hard_clip': an input SDR of -1 dB cannot be reached"),
        ("hard_clip", laplace(0), math.nan, {}, "sdr=nan is not a finite number"),
        # at half wet, even a clipper to silence leaves half of the signal: 6 dB
        ("hard_clip", laplace(0), 5.0, {"mix": 0.5}, "5 dB cannot be reached .* gives 6.02 to "),
        ("hard_clip", laplace(0), 5.0, {"mix": 0.0}, "5 dB cannot be reached"),
        ("amplified_clip", laplace(0), 3.0, {}, "'amplified_clip' cannot be calibrated"),
        ("hard_clip", torch.zeros(5), 3.0, {}, "silent"),
        ("hard_clip", torch.zeros(0), 3.0, {}, "silent"),
        ("hard_clip", torch.tensor([1.0, math.nan]), 3.0, {}, "not finite"),
        ("hard_clip", laplace(0), 3.0, {"threshold": 0.1}, "either sdr or threshold"),
        ("soft_clip_r", laplace(0), 3.0, {"hardness": 2.0}, "hardness=2 is out of range"),
        ("clip", laplace(0), 3.0, {}, "unknown distortion 'clip'"),
    ],
)
def test_calibration_errors(name: str, x: Tensor, sdr: float, params: dict[str, float], message: str) -> None:
    with pytest.raises(NldiffError, match=message) as error:
        calibrate(name, x, sdr, **params)
    assert "\n" not in str(error.value)


@names
@given(data=st.data())
def test_text_round_trip(name: str, data: st.DataObject) -> None:
    params = {
        key: data.draw(st.floats(parameter.low, parameter.high))
        for key, parameter in DISTORTIONS[name].parameters.items()
    }
    distortion = Distortion(name, params | {"mix": data.draw(st.floats(0, 1))})
    assert Distortion(*parse_distortion(str(distortion))) == distortion


def test_text_by_hand() -> None:
    assert str(Distortion("hard_clip", {"threshold": 0.25})) == "hard_clip:threshold=0.25"
    assert str(Distortion("carbon_mic")) == "carbon_mic:asymmetry=0.5,gain=2.0"
    assert str(Distortion("half_wave")) == "half_wave"
    assert str(Distortion("half_wave", {"mix": 0.5})) == "half_wave:mix=0.5"
    assert str(Distortion("hard_clip", {"mix": 0.5, "threshold": 0.25})) == "hard_clip:threshold=0.25,mix=0.5"
    assert str(Distortion("half_wave", {"mix": 1.0})) == "half_wave"  # all wet is the distortion itself
    assert Distortion("half_wave", {"mix": 1.0}) == Distortion("half_wave")
    assert parse_distortion(" soft_clip_r:sdr=3, hardness = 0.2") == (
        "soft_clip_r",
        {"sdr": 3.0, "hardness": 0.2},
    )
    assert parse_distortion("hard_clip:sdr=3,mix=0.7") == ("hard_clip", {"sdr": 3.0, "mix": 0.7})


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip", "unknown distortion 'clip': known are hard_clip, asymmetric_clip"),
        ("", "unknown distortion ''"),
        ("hard_clip:gain=1", "'hard_clip' has no parameter 'gain': known are threshold, mix$"),
        ("half_wave:gain=1", "'half_wave' has no parameter 'gain': known are mix$"),
        ("half_wave:mix=1.1", "'half_wave': mix=1.1 is out of range .0 to 1."),
        ("overdrive_static:colour=-1", "colour=-1 is out of range .0 to 100."),
        ("hard_clip:threshold=loud", "threshold=loud is not a number"),
        ("hard_clip:threshold=-1", "threshold=-1 is out of range"),
        ("hard_clip:threshold=nan", "threshold=nan is out of range"),
        ("soft_clip_r:hardness=1.5", "hardness=1.5 is out of range .0 to 1."),
        ("hard_clip:0.1", "'0.1' is not of the form parameter=value"),
        ("hard_clip:threshold=0.1,", "not of the form"),
        ("hard_clip:threshold=0.1,threshold=0.2", "'threshold' is given twice"),
        ("hard_clip:threshold=0.1,sdr=3", "either sdr or threshold"),
        ("half_wave:sdr=3", "'half_wave' cannot be calibrated"),
        ("hard_clip:sdr=inf", "sdr=inf is not a finite number"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(NldiffError, match=message) as error:
        parse_distortion(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sdr", [1.0, 3.0, 7.0, 15.0])
@pytest.mark.parametrize("name", ["hard_clip", "soft_clip", "wavefold"])
def test_input_level_is_recovered_from_a_laplacian_signal(name: str, sdr: float) -> None:
    x = laplace(4, length=100_000)
    distortion = calibrate(name, x, sdr)
    rms_y = distortion(x).square().mean().sqrt().item()
    estimate = estimate_input_rms(distortion, rms_y)
    if name == "wavefold":  # several levels may give this output; the smallest is asked for
        assert estimate <= 0.06 * 1.02
    else:
        assert estimate == pytest.approx(0.06, rel=0.02)


def test_input_level_by_hand() -> None:
    # half of a symmetric signal's power survives the half-wave rectifier, all of it the full-wave one
    assert estimate_input_rms(Distortion("half_wave"), 0.1) == pytest.approx(0.1 * math.sqrt(2), rel=1e-6)
    assert estimate_input_rms(Distortion("full_wave"), 0.1) == pytest.approx(0.1, rel=1e-6)
    # half wet, positive samples stay and negative ones halve: power (1 + 1 / 4) / 2
    assert estimate_input_rms(Distortion("half_wave", {"mix": 0.5}), 0.1) == pytest.approx(
        0.1 / math.sqrt(0.625), rel=1e-6
    )
    # Laplace of mean magnitude b, clipped at c: E y^2 = 2 b^2 (1 - e^(-c / b) (1 + c / b)); here c = b = 0.1
    rms_y = 0.1 * math.sqrt(2 - 4 / math.e)
    assert estimate_input_rms(Distortion("hard_clip", {"threshold": 0.1}), rms_y) == pytest.approx(
        0.1 * math.sqrt(2), rel=2e-3
    )


def test_input_level_falls_back_to_the_output_level() -> None:
    assert estimate_input_rms(Distortion("hard_clip", {"threshold": 0.1}), 0.2) == 0.2


@pytest.mark.parametrize("rms", [0.0, -1.0, math.nan, math.inf])
def test_input_level_rejects_silence(rms: float) -> None:
    with pytest.raises(NldiffError, match="must be positive and finite"):
        estimate_input_rms(Distortion("half_wave"), rms)
