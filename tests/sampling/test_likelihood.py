import math

import numpy as np
import pytest
import scipy.signal
import torch
from helpers import OnAccelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.sampling.likelihood import CompressedSTFTCost, compressed_stft, guidance_scale
from nldiff.sampling.settings import CostSettings

COST = CompressedSTFTCost(CostSettings(16, 4))


def audio(items: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 0.06 * torch.randn(items, length, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numpy_spectrum(y: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """STFT `[F, M]` of one item as a loop over frames and an explicit Fourier matrix."""
    window = scipy.signal.get_window("hann", n_fft, fftbins=True)
    padded = np.concatenate([np.zeros(n_fft // 2), y, np.zeros(n_fft // 2)])
    frames = [padded[m * hop : m * hop + n_fft] * window for m in range(1 + len(y) // hop)]
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
    return fourier @ np.stack(frames, axis=1)


def numpy_cost(y: np.ndarray, y_hat: np.ndarray, n_fft: int, hop: int, exponent: float) -> float:
    """Eq. 8 with magnitude and phase taken apart, as printed."""
    a, b = (
        np.abs(s) ** exponent * np.exp(1j * np.angle(s)) for s in (numpy_spectrum(v, n_fft, hop) for v in (y, y_hat))
    )
    return float((np.abs(a - b) ** 2).sum() / a.shape[1])


@pytest.mark.parametrize(("n_fft", "hop", "length"), [(64, 16, 200), (64, 32, 64), (512, 128, 1000), (64, 16, 1)])
def test_spectrum_equals_numpy(n_fft: int, hop: int, length: int) -> None:
    y = audio(2, length)
    spectrum = compressed_stft(y, CostSettings(n_fft, hop))
    assert spectrum.shape == (2, 1 + length // hop, n_fft // 2 + 1)
    for i in range(2):
        s = numpy_spectrum(y[i].numpy(), n_fft, hop)
        expected = np.abs(s) ** (2 / 3) * np.exp(1j * np.angle(s))
        np.testing.assert_allclose(spectrum[i].numpy().T, expected, rtol=0, atol=1e-4)


def test_exponent_one_gives_the_plain_spectrum() -> None:
    y = audio(1, 300)
    np.testing.assert_allclose(
        compressed_stft(y, CostSettings(64, 16, 1.0))[0].numpy().T,
        numpy_spectrum(y[0].numpy(), 64, 16),
        rtol=0,
        atol=1e-12,
    )


def test_compressed_sinusoid_by_hand() -> None:
    # a cosine of amplitude A in the middle of bin k: |S| = A / 2 * sum(window) = A * n_fft / 4
    n = torch.arange(1024, dtype=torch.float64)
    y = 0.4 * torch.cos(2 * math.pi * 8 / 64 * n)[None]
    magnitude = compressed_stft(y, CostSettings(64, 16))[0, 30, 8].abs().item()  # a frame away from the ends
    assert magnitude == pytest.approx((0.4 * 16) ** (2 / 3), rel=1e-9)


@pytest.mark.parametrize("exponent", [2 / 3, 0.5, 1.0])
def test_cost_equals_numpy(exponent: float) -> None:
    y, y_hat = audio(3, 777, seed=1), audio(3, 777, seed=2)
    cost = CompressedSTFTCost(CostSettings(64, 16, exponent))(y, y_hat)
    expected = [numpy_cost(a.numpy(), b.numpy(), 64, 16, exponent) for a, b in zip(y, y_hat, strict=True)]
    assert cost.tolist() == pytest.approx(expected, rel=1e-6)


def test_gradient_matches_finite_differences() -> None:
    y, y_hat = audio(2, 37, seed=1), audio(2, 37, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(COST.prepare(y), (y_hat,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(("n_fft", "hop", "length"), [(16, 8, 16), (16, 2, 21), (64, 16, 5), (2, 1, 3)])
def test_gradient_at_awkward_lengths(n_fft: int, hop: int, length: int) -> None:
    y, y_hat = audio(1, length, seed=1), audio(1, length, seed=2).requires_grad_()
    cost = CompressedSTFTCost(CostSettings(n_fft, hop))
    assert torch.autograd.gradcheck(cost.prepare(y), (y_hat,), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("exponent", [2 / 3, 0.3, 1.0])
def test_cost_equals_the_distance_of_the_spectra_and_its_automatic_gradient(exponent: float) -> None:
    y, y_hat = audio(2, 2000, seed=1), audio(2, 2000, seed=2).requires_grad_()
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    settings = CostSettings(256, 64, exponent)
    fast = CompressedSTFTCost(settings)(y, y_hat)
    spectra = compressed_stft(y, settings) - compressed_stft(y_hat, settings)
    slow = spectra.abs().square().sum(2).mean(1)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad((c * weights).sum(), y_hat)[0] for c in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_spectrum_gradient_matches_finite_differences() -> None:
    y = audio(1, 20).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: compressed_stft(v, CostSettings(16, 4)), (y,), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_costs_nothing_and_has_zero_gradient(dtype: torch.dtype) -> None:
    y_hat = torch.zeros(2, 50, dtype=dtype, requires_grad=True)
    value = COST(torch.zeros(2, 50, dtype=dtype), y_hat)
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0]
    assert y_hat.grad is not None
    assert (y_hat.grad == 0).all()


def test_silent_estimate_of_a_sound_gets_a_finite_pull_towards_it() -> None:
    y = audio(1, 50, dtype=torch.float32)
    y_hat = torch.zeros(1, 50, requires_grad=True)
    COST(y, y_hat).sum().backward()
    assert y_hat.grad is not None
    assert y_hat.grad.isfinite().all()
    assert COST(y, -1e-3 * y_hat.grad / y_hat.grad.norm()).item() < COST(y, torch.zeros(1, 50)).item()


def test_item_alone_equals_item_in_batch() -> None:
    y, y_hat = audio(3, 100, seed=1, dtype=torch.float32), audio(3, 100, seed=2, dtype=torch.float32)
    together = COST(y, y_hat)
    assert together.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(COST(y[i : i + 1], y_hat[i : i + 1])[0], together[i], rtol=1e-6, atol=0)


def test_prepared_cost_sends_no_gradient_to_the_observation() -> None:
    y, y_hat = audio(1, 50, seed=1).requires_grad_(), audio(1, 50, seed=2).requires_grad_()
    COST(y, y_hat).sum().backward()
    assert y.grad is None
    assert y_hat.grad is not None


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 80), seed=st.integers(0, 1000))
def test_cost_is_a_distance_at_any_length(length: int, seed: int) -> None:
    y, y_hat = audio(1, length, seed), audio(1, length, seed + 1)
    assert COST(y, y).item() == pytest.approx(0, abs=1e-20)
    assert COST(y, y_hat).item() > 0
    assert COST(y, y_hat).item() == pytest.approx(COST(y_hat, y).item(), rel=1e-12)


def test_different_shapes_are_named() -> None:
    with pytest.raises(NldiffError, match=r"estimate \(1, 5\) and observation \(1, 6\) differ"):
        CompressedSTFTCost()(audio(1, 6), audio(1, 5))


def test_guidance_scale_by_hand() -> None:
    # sqrt(4) * 0.3 / (0.5 * 5) = 0.24 for a gradient of norm 5; half of that at twice the norm
    grad = torch.tensor([[3.0, 0.0, 4.0, 0.0], [6.0, 0.0, 8.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert guidance_scale(grad, 0.5, 0.3).tolist() == pytest.approx([0.24, 0.12, 0.0])
    sigma = torch.tensor([0.5, 0.25, 0.1])
    assert guidance_scale(grad, sigma, 0.3).tolist() == pytest.approx([0.24, 0.24, 0.0])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_guidance_scale_neither_underflows_nor_overflows(size: float) -> None:
    scale = guidance_scale(torch.full((1, 100), size), 1.0, 0.3)
    assert scale.item() == pytest.approx(0.3 / size, rel=1e-5)


def test_the_weight_needs_no_float64_on_accelerators() -> None:
    gradient, sigma = torch.randn(3, 50), torch.tensor([0.1, 0.5, 2.0])
    gradient[1] = 0
    for level in (0.3, sigma):
        given = level.as_subclass(OnAccelerator) if isinstance(level, Tensor) else level
        found = guidance_scale(gradient.as_subclass(OnAccelerator), given, 0.3)
        assert torch.equal(found, guidance_scale(gradient, level, 0.3))
