import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laplace import laplace
from scipy import signal
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, Chain, Distortion, parse_operator
from nldiff.operators.filters import FILTERS, apply_filter, frequency_response, memory_of

RATE = 16000
names = pytest.mark.parametrize("name", sorted(FILTERS))


def response(name: str, at: list[float], **params: float) -> np.ndarray:
    """Magnitudes at 16 kHz, dB."""
    found = Distortion(name, {**params, "rate": RATE}).frequency_response(torch.tensor(at))
    assert found is not None
    return 20 * np.log10(found.abs().clamp(min=1e-15).numpy())


def test_responses_by_hand() -> None:
    half = 10 * math.log10(0.5)
    np.testing.assert_allclose(response("highpass", [500, 8000], hz=500), [half, 0], atol=1e-9)
    np.testing.assert_allclose(response("lowpass", [0, 500], hz=500), [0, half], atol=1e-9)
    assert response("highpass", [0], hz=500)[0] == response("lowpass", [8000], hz=500)[0] == -300
    np.testing.assert_allclose(response("steep_highpass", [500, 8000], hz=500), [half, 0], atol=1e-9)
    np.testing.assert_allclose(response("steep_lowpass", [0, 500], hz=500, q=2), [0, 20 * math.log10(2)], atol=1e-9)
    np.testing.assert_allclose(response("peak", [0, 1000, 8000], hz=1000, gain_db=7, q=2), [0, 7, 0], atol=1e-9)
    np.testing.assert_allclose(response("low_shelf", [0, 300, 8000], hz=300, gain_db=-6), [-6, -3, 0], atol=1e-9)
    np.testing.assert_allclose(response("high_shelf", [0, 300, 8000], hz=300, gain_db=9), [0, 4.5, 9], atol=1e-9)
    # 1 + 0.5 z^-1 at 0 Hz and at half the rate
    np.testing.assert_allclose(response_of("fir:b1=0.5", [0, 22050]), [1.5, 0.5], atol=1e-12)


def response_of(text: str, at: list[float]) -> np.ndarray:
    operator = parse_operator(text).build(None)
    assert isinstance(operator, Distortion)
    found = operator.frequency_response(torch.tensor(at))
    assert found is not None
    return found.abs().numpy()


def test_butterworths_filters_are_those_of_scipy() -> None:
    for name, kind, order in [
        ("highpass", "high", 1), ("lowpass", "low", 1), ("steep_highpass", "high", 2), ("steep_lowpass", "low", 2),
    ]:  # fmt: skip
        b, a = FILTERS[name](RATE, 300, **({"q": math.sqrt(0.5)} if order == 2 else {}))
        expected = signal.butter(order, 300, kind, fs=RATE)
        np.testing.assert_allclose(b, expected[0], atol=1e-12)
        np.testing.assert_allclose(a, expected[1], atol=1e-12)


@names
def test_the_audio_is_filtered_as_the_response_says(name: str) -> None:
    distortion = Distortion(name, {"hz": 700, "rate": RATE})
    time = torch.arange(8000, dtype=torch.float64) / RATE
    tone = torch.cos(2 * math.pi * 500 * time)
    h = distortion.frequency_response(torch.tensor([500.0]))
    assert h is not None
    expected = h.abs() * torch.cos(2 * math.pi * 500 * time + h.angle())
    torch.testing.assert_close(distortion(tone)[4000:], expected[4000:], rtol=0, atol=1e-9)


@names
@given(hz=st.floats(0.2, 7900), gain_db=st.floats(-40, 40), q=st.floats(0.1, 30))
def test_poles_are_inside_the_unit_circle(name: str, hz: float, gain_db: float, q: float) -> None:
    given_ = {"hz": hz, "gain_db": gain_db, "q": q}
    _, a = FILTERS[name](RATE, **{key: given_[key] for key in DISTORTIONS[name].parameters})
    assert np.abs(np.roots(a.numpy())).max() < 1


@names
def test_gradients_with_respect_to_audio_and_parameters_match_finite_differences(name: str) -> None:
    keys = list(DISTORTIONS[name].parameters)
    start = {"hz": 900.0, "gain_db": 4.0, "q": 0.8}
    values = tuple(torch.tensor(start[key], dtype=torch.float64, requires_grad=True) for key in keys)
    x = laplace(1, length=12).reshape(2, 6).requires_grad_()

    def filtered(x: Tensor, *values: Tensor) -> Tensor:
        return apply_filter(x, *FILTERS[name](RATE, **dict(zip(keys, values, strict=True))))

    assert torch.autograd.gradcheck(filtered, (x, *values))
    assert torch.autograd.gradgradcheck(lambda x, *v: filtered(x, *v).square(), (x, *values), atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "highpass:hz=20", "low_shelf:hz=200,gain_db=-6", "high_shelf:hz=3000,gain_db=9", "peak:hz=1000,gain_db=12,q=3",
        "gain:gain_db=-7", "fir:b0=0.5,b1=0.2,b2=-0.1", "highpass:hz=80 > peak:hz=500 > gain:gain_db=3",
    ],
)  # fmt: skip
def test_the_inverse_gives_back_what_was_filtered_in_blocks_too(text: str) -> None:
    operator = parse_operator(text).build(None, RATE)
    x = laplace(2, length=3000).reshape(2, 1500)
    inversion = operator.inversion()
    assert inversion is not None
    assert inversion.exact
    y = operator(x).numpy()
    np.testing.assert_allclose(inversion(y), x.numpy(), atol=1e-9)
    first, states = inversion.step(y[:, :400], np.tile(inversion.start, (2, 1)))
    second, _ = inversion.step(y[:, 400:], states)
    np.testing.assert_allclose(np.concatenate([first, second], 1), x.numpy(), atol=1e-9)


def test_an_unknown_start_of_a_highpass_leaves_a_constant() -> None:
    x = laplace(3, length=2000)[None]
    y = Distortion("highpass", {"hz": 30, "rate": RATE})(x)[:, 500:]
    inversion = Distortion("highpass", {"hz": 30, "rate": RATE}).inversion()
    assert inversion is not None
    difference = inversion(y.numpy()) - x.numpy()[:, 500:]
    assert np.ptp(difference) < 1e-9


@pytest.mark.parametrize("text", ["lowpass:hz=3000", "steep_lowpass:hz=4000"])
def test_what_a_filter_removes_altogether_comes_back_regularised(text: str) -> None:
    operator = parse_operator(text).build(None, RATE)
    inversion = operator.inversion()
    assert inversion is not None
    assert not inversion.exact
    time = torch.arange(4000, dtype=torch.float64) / RATE
    low = torch.sin(2 * math.pi * 700 * time)[None]
    difference = inversion(operator(low).numpy()) - low.numpy()
    assert np.sqrt(np.mean(difference**2)) < 3e-3
    noise = inversion(np.random.default_rng(0).standard_normal((1, 200_000)))
    assert noise[:, 100_000:].std() == pytest.approx(noise[:, 50_000:100_000].std(), rel=0.2)


def test_what_cannot_be_inverted_says_so() -> None:
    assert Distortion("fir", {"b0": 0.5, "b1": 1.0}).inversion() is None  # its zero is at -2
    assert Distortion("fir", {"b0": 0.0}).inversion() is None
    assert Distortion("highpass", {"mix": 0.5}).inversion() is None
    assert Distortion("hard_clip").inversion() is None
    assert Chain([Distortion("hard_clip"), Distortion("highpass")]).inversion() is None
    assert Chain([Distortion("gain"), Distortion("highpass")], 0.5).inversion() is None
    assert Distortion("hard_clip").frequency_response(torch.tensor([1.0])) is None


@pytest.mark.parametrize(("name", "context"), [("fir", 3), ("gain", 0)])
def test_context_of_taps(name: str, context: int) -> None:
    params: dict[str, float] = {"b3": 0.5} if name == "fir" else {}
    assert Distortion(name, params).context == context


def test_memory_lasts_until_60_db_are_forgotten() -> None:
    b, a = torch.tensor([1.0, -1.0]).double(), torch.tensor([1.0, -0.5]).double()
    # 1, then -0.5 * 0.5^(n - 1): beyond n the rest adds up to 0.5^n of 2 in all
    assert memory_of(b, a) == 9


def test_the_rate_is_the_recordings_unless_it_was_given() -> None:
    unknown = parse_operator("hard_clip > highpass:hz=50; mix=0.5").build(None)
    told = unknown.for_rate(8000)
    assert str(told) == "hard_clip:threshold=0.1 > highpass:hz=50.0,rate=8000.0; mix=0.5"
    assert str(told.for_rate(16000)) == str(told)
    assert str(parse_operator("highpass:hz=50").build(None, 8000)) == "highpass:hz=50.0,rate=8000.0"
    assert str(unknown.at_level(2.0).for_rate(8000).operator) == str(told)  # type: ignore[attr-defined]
    with pytest.raises(NldiffError, match="hz=1000 is not below half the rate, 750"):
        Distortion("lowpass", {"rate": 1500})
    with pytest.raises(NldiffError, match="hz=5000 is not below half the rate, 4000"):
        Distortion("lowpass", {"hz": 5000}).for_rate(8000)


@names
def test_the_same_filter_at_another_rate_has_the_same_response(name: str) -> None:
    own = Distortion(name, {"hz": 300, "rate": 48000})
    other = own.at_rate(48000, 96000)
    assert isinstance(other, Distortion)
    assert other.params["rate"] == 96000
    hz = torch.tensor([50.0, 300.0, 1000.0])
    first, second = own.frequency_response(hz), other.frequency_response(hz)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first.abs(), second.abs(), rtol=0.01, atol=0)
    assert own.at_rate(16000, 100).params["hz"] == pytest.approx(0.49 * 300)  # type: ignore[attr-defined]


def test_an_sdr_behind_a_filter_is_that_of_the_filtered_signal() -> None:
    x = laplace(4, length=4000)[None]
    recipe = parse_operator("highpass:hz=1000 > hard_clip:sdr=3")
    chain = recipe.build(x, RATE)
    entering = Distortion("highpass", {"hz": 1000, "rate": RATE})(x)
    error = (entering - chain(x)).norm() / entering.norm()
    assert 20 * math.log10(1 / error) == pytest.approx(3, abs=0.01)


def test_response_is_the_transform_of_the_impulse_response() -> None:
    b, a = FILTERS["peak"](RATE, 1000.0, gain_db=6.0, q=1.0)
    impulse = torch.zeros(4096, dtype=torch.float64)
    impulse[0] = 1
    spectrum: Callable[[Tensor], Tensor] = torch.fft.rfft
    hz = torch.arange(2049, dtype=torch.float64) * RATE / 4096
    torch.testing.assert_close(frequency_response(b, a, hz, RATE), spectrum(apply_filter(impulse, b, a)))
