import cmath
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nldiff.errors import NldiffError
from nldiff.metrics import METRICS, lsd, rr_mse, sdr, si_sdr
from nldiff.metrics.lsd import power_spectrogram
from nldiff.metrics.rr_mse import Curve, input_gain
from nldiff.metrics.sdr import FloatArray


def two_tones(frames: int = 16000) -> FloatArray:
    seconds = np.arange(frames) / 16000
    return 0.5 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * np.sin(2 * np.pi * 1230 * seconds)


def noise(*shape: int, seed: int = 0) -> FloatArray:
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------ contract of every registered metric


def compare(name: str, limit: float) -> float:
    """Value of a metric for hard clipping at a limit (of tones in noise below 0.9, or of a ramp to 0.18)."""
    metric = METRICS[name]
    if metric.inputs == "signals":
        signal = two_tones() + 0.1 * noise(16000)
        return float(metric.function(signal, np.clip(signal, -limit, limit)))
    return metric.function(lambda r: r, lambda r: torch.clamp(r, -limit / 4, limit / 4))


@pytest.mark.parametrize("name", METRICS)
def test_equal_inputs_give_the_best_value(name: str) -> None:
    best = METRICS[name].range[METRICS[name].better == "higher"]
    assert compare(name, limit=1.0) == best


@pytest.mark.parametrize("name", METRICS)
def test_more_distortion_is_never_better(name: str) -> None:
    low, high = METRICS[name].range
    values = [compare(name, limit) for limit in (0.6, 0.45, 0.3, 0.15, 0.05)]
    assert all(low < value < high for value in values)
    assert values == sorted(values, reverse=METRICS[name].better == "higher")
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].inputs == "signals"])
def test_batches_and_tensors_are_items(name: str) -> None:
    function = METRICS[name].function
    x = noise(2, 3, 5000).astype(np.float32)
    y = x + noise(2, 3, 5000, seed=1).astype(np.float32)
    values = function(x, y)
    assert values.dtype == np.float64
    items = [[function(x[i, j], y[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(values, items, rtol=1e-12)
    np.testing.assert_array_equal(function(torch.tensor(x), torch.tensor(y, requires_grad=True)), values)
    half = torch.tensor(x, dtype=torch.bfloat16)
    np.testing.assert_array_equal(function(half, y), function(half.float().numpy(), y))


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].inputs == "signals"])
def test_signals_that_cannot_be_compared(name: str) -> None:
    function = METRICS[name].function
    with pytest.raises(NldiffError, match=r"reference has shape \[5000\] but estimate \[4999\]"):
        function(noise(5000), noise(4999))
    with pytest.raises(NldiffError, match=r"no samples to compare"):
        function(noise(2, 0), noise(2, 0))
    broken = noise(5000)
    broken[7] = np.nan
    with pytest.raises(NldiffError, match="estimate contains NaN"):
        function(noise(5000), broken)
    broken[7] = np.inf
    with pytest.raises(NldiffError, match="reference contains NaN or infinite"):
        function(broken, noise(5000))


# ------------------------------------------------------------ SDR


def test_sdr_by_hand() -> None:
    assert sdr(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)  # 5 against 0.5
    assert si_sdr(np.array([1.0, 0.0]), np.array([2.0, 1.0])) == pytest.approx(10 * math.log10(4))


def test_sdr_of_clipped_tones() -> None:
    """Values of two independent implementations, which agree with each other to 1e-12."""
    clipped = np.clip(two_tones(), -0.4, 0.4)
    assert sdr(two_tones(), clipped) == pytest.approx(11.706006401377898, abs=1e-9)
    assert si_sdr(two_tones(), clipped) == pytest.approx(13.994767663214603, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(gain=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 999))
def test_level_of_the_estimate(gain: float, sign: int, seed: int) -> None:
    x, disturbance = noise(2, 300, seed=seed)
    y = x + 0.3 * disturbance
    assert si_sdr(x, sign * gain * y) == pytest.approx(si_sdr(x, y), abs=1e-6)
    assert sdr(gain * x, gain * y) == pytest.approx(sdr(x, y), abs=1e-6)
    # For a pure change of level the distortion is |1 - gain| times the signal.
    if gain != 1:
        assert sdr(x, gain * x) == pytest.approx(-20 * math.log10(abs(1 - gain)), abs=1e-6)


def test_no_mean_is_removed() -> None:
    x = np.array([1.0, 1.0])
    assert si_sdr(x, np.array([2.0, 0.0])) == pytest.approx(0.0)  # half of the power lies along x


def test_silence() -> None:
    x = noise(2, 100)
    assert sdr(x[0], np.zeros(100)) == pytest.approx(0.0, abs=1e-12)
    assert si_sdr(x[0], np.zeros(100)) == -math.inf
    x[1] = 0
    for function in (sdr, si_sdr):
        with pytest.raises(NldiffError, match="reference is silent"):
            function(x, noise(2, 100, seed=1))


# ------------------------------------------------------------ LSD


def power_by_definition(signal: FloatArray, n_fft: int, hop: int) -> list[list[float]]:
    """Sum of the discrete Fourier transform term by term, with the mirrored sample looked up by its index."""
    last = len(signal) - 1
    frames = []
    for centre in range(0, len(signal) + 1, hop):
        bins = []
        for k in range(n_fft // 2 + 1):
            total = 0j
            for n in range(n_fft):
                position = abs(centre - n_fft // 2 + n)
                position = 2 * last - position if position > last else position
                window = math.sin(math.pi * n / n_fft) ** 2
                total += window * signal[position] * cmath.exp(-2j * math.pi * k * n / n_fft)
            bins.append(abs(total) ** 2)
        frames.append(bins)
    return frames


@pytest.mark.parametrize(("frames", "n_fft", "hop"), [(100, 16, 5), (64, 32, 8), (37, 8, 8)])
def test_lsd_against_its_definition(frames: int, n_fft: int, hop: int) -> None:
    x, y = noise(2, frames)
    power_x, power_y = power_by_definition(x, n_fft, hop), power_by_definition(y, n_fft, hop)
    np.testing.assert_allclose(power_spectrogram(x, n_fft, hop), power_x, rtol=1e-9, atol=1e-15)

    eps = 1e-4
    squares = [
        [(math.log10(a + eps) - math.log10(b + eps)) ** 2 for a, b in zip(row_x, row_y, strict=True)]
        for row_x, row_y in zip(power_x, power_y, strict=True)
    ]
    means = [sum(row) / len(row) for row in squares]
    mean_square = sum(means) / len(means)
    frame_root = sum(math.sqrt(mean) for mean in means) / len(means)
    assert lsd(x, y, n_fft, hop, eps) == pytest.approx(mean_square, rel=1e-9)
    assert lsd(x, y, n_fft, hop, eps, frame_root=True) == pytest.approx(frame_root, rel=1e-9)


@pytest.mark.parametrize(("eps", "mean_square", "frame_root"), [(1e-8, 20.5016, 4.3332), (1e-5, 5.3500, 2.2508)])
def test_lsd_of_clipped_tones(eps: float, mean_square: float, frame_root: float) -> None:
    """Values of an independent implementation with n_fft 2048 and hop 512, known to four digits."""
    clipped = np.clip(two_tones(), -0.4, 0.4)
    assert lsd(two_tones(), clipped, eps=eps) == pytest.approx(mean_square, abs=6e-5)
    assert lsd(two_tones(), clipped, eps=eps, frame_root=True) == pytest.approx(frame_root, abs=6e-5)
    if eps == 1e-8:
        assert lsd(two_tones(), clipped) == lsd(two_tones(), clipped, eps=eps)


@pytest.mark.parametrize("decibels", [-30.0, 10.0, 20.0])
def test_a_gain_is_its_bels_squared(decibels: float) -> None:
    x = noise(5000)
    y = 10 ** (decibels / 20) * x
    assert lsd(x, y, eps=1e-30) == pytest.approx((decibels / 10) ** 2, rel=1e-6)
    assert lsd(x, y, eps=1e-30, frame_root=True) == pytest.approx(abs(decibels) / 10, rel=1e-6)
    assert lsd(x, -x) == 0.0


def test_too_short_for_a_spectrum() -> None:
    assert power_spectrogram(noise(1025), 2048, 512).shape == (3, 1025)
    with pytest.raises(NldiffError, match="1024 samples are too few for a spectrum of 2048 samples"):
        lsd(noise(1024), noise(1024))


# ------------------------------------------------------------ RR-MSE


def test_rr_mse_by_hand() -> None:
    assert rr_mse(lambda r: r, lambda r: r + 0.01) == pytest.approx(-40.0, abs=1e-4)
    # Mean square of P points from -a to a: a^2 (P + 1) / (3 (P - 1)).
    mean_square = 0.18**2 * 1001 / (3 * 999)
    assert rr_mse(torch.zeros_like, lambda r: r) == pytest.approx(10 * math.log10(mean_square), abs=1e-5)
    mean_square = 3.0**2 * 11 / (3 * 9)
    assert rr_mse(torch.zeros_like, lambda r: r.double().numpy(), sigma=1.0, points=10) == pytest.approx(
        10 * math.log10(mean_square), abs=1e-5
    )


def test_the_sign_of_the_input_is_free_and_that_of_the_output_is_not() -> None:
    rectifier: Curve = torch.relu
    assert rr_mse(rectifier, lambda r: torch.relu(-r)) == -math.inf
    assert input_gain(rectifier, lambda r: torch.relu(-r)) == (-1.0, 0.0)
    # Neither sign of r turns -relu(r) into relu(r); the nearer one is off by |r|.
    mean_square = 0.18**2 * 1001 / (3 * 999)
    expected = 10 * math.log10(mean_square)
    assert rr_mse(rectifier, lambda r: -torch.relu(r)) == pytest.approx(expected, abs=1e-5)


def soft_rectifier(r: torch.Tensor) -> torch.Tensor:
    return torch.tanh(15 * r) + 4 * r**2


def quantiser(r: torch.Tensor) -> torch.Tensor:
    return 0.05 * torch.round(r / 0.05 + 0.2)


def folder(r: torch.Tensor) -> torch.Tensor:
    return torch.sin(60 * r) + r  # its error has several minima over the scale


@pytest.mark.parametrize("curve", [soft_rectifier, folder, quantiser])
@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.5, 2.0), sign=st.sampled_from([-1.0, 1.0]))
def test_fitted_scale(curve: Callable[[torch.Tensor], torch.Tensor], scale: float, sign: float) -> None:
    def scaled(r: torch.Tensor) -> torch.Tensor:
        return curve(r / (sign * scale))

    gain, error = input_gain(curve, scaled, fit_scale=True)
    assert error <= input_gain(curve, scaled)[1]
    if curve is not quantiser:
        assert gain == pytest.approx(sign * scale, rel=1e-3)
        assert rr_mse(curve, scaled, fit_scale=True) < -80
    else:  # steps make the error flat in places, so that a search ends near the best scale
        assert gain == pytest.approx(sign * scale, rel=0.05)


def test_fitted_scale_stays_within_a_factor_of_two() -> None:
    gain, _ = input_gain(soft_rectifier, lambda r: soft_rectifier(r / 3), fit_scale=True)
    assert gain == pytest.approx(2.0, rel=1e-4)
    gain, _ = input_gain(soft_rectifier, lambda r: soft_rectifier(-5 * r), fit_scale=True)
    assert gain == pytest.approx(-0.5, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999))
def test_fitting_the_scale_never_hurts(seed: int) -> None:
    heights = noise(2, 9, seed=seed)
    grid = np.linspace(-0.36, 0.36, 9)
    true, estimate = (lambda r, h=height: np.interp(r.numpy(), grid, h) for height in heights)
    assert rr_mse(true, estimate, fit_scale=True) <= rr_mse(true, estimate)


def test_curves_that_cannot_be_compared() -> None:
    with pytest.raises(NldiffError, match=r"estimated curve gives shape \[1, 1000\] for \[1000\] points"):
        rr_mse(lambda r: r, lambda r: r[None])
    with pytest.raises(NldiffError, match="true curve gives NaN or infinite values"):
        rr_mse(lambda r: torch.log(r), lambda r: r)
