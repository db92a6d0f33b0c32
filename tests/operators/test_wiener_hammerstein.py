"""A learnable device: its filters by other means, its rates, its file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import freqz, lfilter
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import Chain, TabulatedCurve, WienerHammerstein, load_operator, make_learnable, save_operator
from nldiff.operators.wiener_hammerstein import AFTER, BEFORE

RATE = 16000


def device(parameter_sets: int = 2, rate: float = RATE) -> WienerHammerstein:
    """In float64, with parameter sets that differ."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made = WienerHammerstein(parameter_sets, rate)
    finally:
        torch.set_default_dtype(before)
    made.reset(torch.zeros(parameter_sets, 1), [torch.Generator().manual_seed(i) for i in range(parameter_sets)])
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (made.before, made.after):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
        made.curve.values.copy_(torch.tanh(5 * made.curve.values) / 5)
    return made


def audio(items: int, frames: int) -> Tensor:
    return 0.1 * torch.randn(items, frames, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_starts_as_a_low_pass_behind_the_identity() -> None:
    made = make_learnable("wiener_hammerstein", 1, sample_rate=44100)
    made.double().reset(torch.zeros(1, 1), [torch.Generator()])
    made.curve = torch.nn.Identity()  # a spline over uneven knots is 0.5 % off
    x = audio(1, 4000)
    # Butterworth's low-pass by the bilinear transform, by hand
    k = math.tan(math.pi * 5000 / 44100)
    root = math.sqrt(2) * k
    y = lfilter([k**2, 2 * k**2, k**2], [1 + root + k**2, 2 * k**2 - 2, 1 - root + k**2], x.numpy())
    np.testing.assert_allclose(made(x).detach().numpy(), y, atol=1e-6)


def test_equals_its_known_chain() -> None:
    made, x = device(), audio(4, 3000)
    y = made(x).detach()
    for index in range(2):
        chain = made.known(index)
        expected = chain(x[2 * index : 2 * index + 2])
        torch.testing.assert_close(y[2 * index : 2 * index + 2], expected, rtol=0, atol=1e-4)
    table = chain.operators[len(BEFORE)]
    assert isinstance(table, TabulatedCurve)
    assert len(chain.operators) == len(BEFORE) + 1 + len(AFTER)


def test_a_section_has_the_response_that_its_numbers_say() -> None:
    made = device(1)
    with torch.no_grad():
        for parameter in (made.before, made.after):
            parameter.zero_()
        # the second section is a peak that starts at 300 Hz with q = 0.7
        made.before[0, 1] = torch.tensor([math.log(3) / 3, math.atanh(0.5), 0.0])
        made.after[0, -1, 0] = 10.0  # the low-pass is as high as it may be
        made.curve = torch.nn.Identity()  # type: ignore[assignment]
    impulse = torch.zeros(1, 4096, dtype=torch.float64)
    impulse[0, 0] = 0.5
    response = np.abs(np.fft.rfft(made(impulse).detach().numpy()[0]) / 0.5)
    a, w = 10 ** (12 / 40), 2 * math.pi * 900 / RATE
    alpha = math.sin(w) / 1.4
    b = [1 + alpha * a, -2 * math.cos(w), 1 - alpha * a]
    _, expected = freqz(b, [1 + alpha / a, -2 * math.cos(w), 1 - alpha / a], 2 * np.pi * np.arange(300) / 4096)
    np.testing.assert_allclose(response[:300], np.abs(expected), rtol=2e-3)


def test_parameters_have_the_gradients_of_finite_differences() -> None:
    made, x = device(1), audio(1, 12)

    def call(before: Tensor, after: Tensor) -> Tensor:
        return torch.func.functional_call(made, {"before": before, "after": after}, x)

    assert torch.autograd.gradcheck(call, (made.before, made.after), eps=1e-6, atol=1e-6)


def test_parameter_sets_serve_their_own_items() -> None:
    made, x = device(), audio(4, 500)
    made(x)[:2].sum().backward()
    for parameter in made.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].abs().sum() > 0
        assert parameter.grad[1].abs().sum() == 0
    # filters do not run from one item into the next
    torch.testing.assert_close(made(x)[1], made(x[[1, 0, 2, 3]])[0])


@pytest.mark.parametrize("frames", [100, 5000])
def test_prepared_equals_forward_and_follows_parameters(frames: int) -> None:
    made, x = device(), audio(2, frames)
    evaluate = made.prepare(x)
    for _ in range(2):
        torch.testing.assert_close(evaluate(), made(x), rtol=0, atol=1e-12)
        with torch.no_grad():
            made.before.add_(0.05)


def test_another_rate_shares_parameters_and_keeps_frequencies() -> None:
    made = device(1, 48000)
    twin = made.at_rate(48000, RATE)
    assert isinstance(twin, WienerHammerstein)
    assert twin.sample_rate == RATE
    assert twin.before is made.before and twin.curve is made.curve
    assert made.at_rate(48000, 48000) is made
    assert made.for_rate(RATE).sample_rate == RATE  # type: ignore[attr-defined]
    peaks = [chain.known().operators[1] for chain in (made, twin)]
    assert peaks[0].params["hz"] == peaks[1].params["hz"]  # type: ignore[attr-defined]
    # the low-pass is below half the lower rate
    with torch.no_grad():
        made.after[0, -1, 0] = 10.0
    assert twin.known().operators[-1].params["hz"] == pytest.approx(0.47 * RATE)  # type: ignore[attr-defined]


def test_is_saved_as_a_chain(tmp_path: Path) -> None:
    made, x = device(1), audio(2, 2000)
    save_operator(made, tmp_path / "device.json")
    loaded = load_operator(tmp_path / "device.json")
    assert isinstance(loaded, Chain)
    torch.testing.assert_close(loaded(x), made(x).detach(), rtol=0, atol=1e-4)


def test_options_are_checked() -> None:
    with pytest.raises(NldiffError, match="waveshaper 'wiener_hammerstein' has no option 'order'"):
        make_learnable("wiener_hammerstein", 1, order=3)
    with pytest.raises(NldiffError, match=r"unknown waveshaper 'hammerstein': known are .*wiener_hammerstein"):
        make_learnable("hammerstein", 1)
