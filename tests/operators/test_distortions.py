import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laplace import laplace

from nldiff.operators.distortions import (
    amplified_clip,
    carbon_mic,
    hard_clip,
    quantize,
    sine_fold,
    soft_clip,
    triangle_fold,
    wavefold,
)


@given(gain_db=st.floats(0, 60), threshold=st.floats(0.01, 2), seed=st.integers(0, 10**6))
def test_amplified_clipper_is_the_louder_hard_clipper(gain_db: float, threshold: float, seed: int) -> None:
    x, gain = laplace(seed, length=100), math.exp(gain_db * math.log(10) / 20)
    expected = gain * hard_clip(x, -threshold / gain, threshold / gain)
    torch.testing.assert_close(amplified_clip(x, gain_db, threshold), expected, rtol=1e-12, atol=0)


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


@given(threshold=st.floats(0.01, 1), seed=st.integers(0, 10**6))
def test_triangle_folder_is_the_folder_repeated(threshold: float, seed: int) -> None:
    x = laplace(seed, length=100)
    y = x
    for _ in range(200):
        y = wavefold(y, threshold) if y.abs().max() > threshold else y
    torch.testing.assert_close(triangle_fold(x, threshold), y, rtol=0, atol=1e-12)


@given(size=st.floats(0.01, 1), seed=st.integers(0, 10**6))
def test_folders_are_odd_bounded_and_of_unit_slope_at_silence(size: float, seed: int) -> None:
    x = laplace(seed, length=100)
    for fold in (triangle_fold, sine_fold):
        y = fold(x, size)
        torch.testing.assert_close(fold(-x, size), -y, rtol=0, atol=1e-12)
        assert y.abs().max() <= size * (1 + 1e-12)
        small = 1e-4 * size * x
        torch.testing.assert_close(fold(small, size), small, rtol=1e-6, atol=1e-15)  # rounding at the size
