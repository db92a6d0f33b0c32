import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laplace import laplace
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, Chain, Distortion, calibrate, estimate_input_rms, input_sdr

calibrated = pytest.mark.parametrize("name", sorted(n for n, spec in DISTORTIONS.items() if spec.calibrated))


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


def test_input_level_of_a_chain_is_that_of_both_curves() -> None:
    # the full-wave rectifier leaves nothing to do for the others
    chain = Chain([Distortion("full_wave"), Distortion("half_wave"), Distortion("hard_clip", {"threshold": 100.0})])
    assert estimate_input_rms(chain, 0.1) == pytest.approx(0.1, rel=1e-6)
    assert estimate_input_rms(Distortion("half_wave").at_level(7.0), 0.1) == pytest.approx(0.1 * math.sqrt(2), rel=1e-6)
