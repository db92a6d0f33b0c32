import cmath
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import write_rows
from signals import FloatArray, need, noise, two_tones, voice

from nldiff.errors import NldiffError
from nldiff.evaluation.scoring import check_metrics
from nldiff.evaluation.tables import summary
from nldiff.figures import looks_of, plot_boxes
from nldiff.figures.run_folder import read_cells
from nldiff.metrics import (
    METRICS,
    Metric,
    bss_sdr,
    compute,
    delta_sdr,
    delta_sdr_clipped,
    lsd,
    mrstft,
    rr_mse,
    sdr,
    si_sdr,
)
from nldiff.metrics.lsd import power_spectrogram
from nldiff.metrics.mrstft import RESOLUTIONS
from nldiff.metrics.rr_mse import Curve, input_gain

SIGNALS = [name for name in METRICS if METRICS[name].inputs == "signals"]
PAIRS = [name for name in SIGNALS if METRICS[name].needs_reference]
COMPARISONS = [name for name in METRICS if METRICS[name].needs_reference]

# ------------------------------------------------------------ contract of every registered metric


def call(name: str, reference: Any, estimate: Any) -> Any:
    """Value of a metric for signals at 16 kHz."""
    metric = METRICS[name]
    signals = (reference, estimate) if metric.needs_reference else (estimate,)
    return metric.function(*signals, *([16000] if metric.takes_sample_rate else []))


def compare(name: str, limit: float) -> float:
    """Value of a metric for hard clipping at a limit (of a voice in noise below 0.8, or of a ramp to 0.18)."""
    need(name)
    if METRICS[name].inputs == "signals":
        signal = 2 * voice(1.2) + 0.02 * noise(19200)
        return float(call(name, signal, np.clip(signal, -limit, limit)))
    return METRICS[name].function(lambda r: r, lambda r: torch.clamp(r, -limit / 4, limit / 4))


# What equal signals get where it is not the end of the range: rounding is all that limits the projection of
# BSSEval, and PEAQ's network reaches its end for infinite inputs only.
EQUAL = {"bss_sdr": (150.0, math.inf), "peaq_odg": (0.1, 0.22)}


@pytest.mark.parametrize("name", COMPARISONS)
def test_equal_inputs_give_the_best_value(name: str) -> None:
    value = compare(name, limit=1.0)
    if name in EQUAL:
        low, high = EQUAL[name]
        assert low < value < high
    else:
        best = METRICS[name].range[METRICS[name].better == "higher"]
        assert value == (best if math.isinf(best) else pytest.approx(best, abs=1e-4))


@pytest.mark.parametrize("name", COMPARISONS)
def test_more_distortion_is_never_better(name: str) -> None:
    low, high = METRICS[name].range
    values = [compare(name, limit) for limit in (0.55, 0.45, 0.3, 0.15)]
    assert all(low < value < high for value in values)
    assert values == sorted(values, reverse=METRICS[name].better == "higher")
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", PAIRS)
def test_batches_and_tensors_are_items(name: str) -> None:
    need(name)
    x = (np.stack([[voice(0.8)], [0.5 * voice(1.2)[-12800:]]]) + 0.02 * noise(2, 1, 12800)).astype(np.float32)
    y = np.clip(x, -0.1, 0.1) + 0.01 * noise(2, 1, 12800, seed=1).astype(np.float32)
    values = call(name, x, y)
    assert values.dtype == np.float64
    assert values.shape == (2, 1)
    assert values[0] != values[1]
    np.testing.assert_allclose(values, [[call(name, x[i, 0], y[i, 0])] for i in range(2)], rtol=1e-9)
    np.testing.assert_array_equal(call(name, torch.tensor(x), torch.tensor(y, requires_grad=True)), values)
    half = torch.tensor(x[0, 0], dtype=torch.bfloat16)
    np.testing.assert_array_equal(call(name, half, y[0, 0]), call(name, half.float().numpy(), y[0, 0]))


@pytest.mark.parametrize("name", PAIRS)
def test_shapes_that_cannot_be_compared(name: str) -> None:
    need(name)
    with pytest.raises(NldiffError, match=r"reference has shape \[5000\] but estimate \[4999\]"):
        call(name, noise(5000), noise(4999))
    broken = noise(5000)
    broken[7] = np.inf
    with pytest.raises(NldiffError, match="reference contains NaN or infinite"):
        call(name, broken, noise(5000))


@pytest.mark.parametrize("name", SIGNALS)
def test_samples_that_cannot_be_rated(name: str) -> None:
    need(name)
    with pytest.raises(NldiffError, match=r"of shape \[2, 0\] has no samples"):
        call(name, noise(2, 0), noise(2, 0))
    broken = noise(5000)
    broken[7] = np.nan
    with pytest.raises(NldiffError, match="estimate contains NaN"):
        call(name, noise(5000), broken)


# ------------------------------------------------------------ metrics by name


def test_compute() -> None:
    x = np.stack([two_tones(), 0.5 * two_tones()])
    y = np.clip(x, -0.3, 0.3)
    values = compute(["lsd", "sdr"], torch.tensor(x), torch.tensor(y), 16000)
    assert list(values) == ["lsd", "sdr"]
    assert values["sdr"] == pytest.approx((sdr(x[0], y[0]) + sdr(x[1], y[1])) / 2, abs=1e-4)
    assert values["lsd"] == pytest.approx((lsd(x[0], y[0]) + lsd(x[1], y[1])) / 2, abs=1e-4)


def test_compute_passes_what_a_metric_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def record(*arguments: Any) -> float:
        calls.append(arguments)
        return float(len(calls))

    for name in SIGNALS:
        monkeypatch.setitem(METRICS, name, METRICS[name].__class__(**(vars(METRICS[name]) | {"function": record})))
    x, y = two_tones(), noise(16000)
    assert compute(["sdr", "stoi", "dnsmos"], x, y, 44100) == {"sdr": 1.0, "stoi": 2.0, "dnsmos": 3.0}
    assert calls == [(x, y), (x, y, 44100), (y, 44100)]


def peak_error(reference: FloatArray, estimate: FloatArray) -> FloatArray:
    return np.max(np.abs(reference - estimate), axis=-1)


def test_a_new_metric_is_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        METRICS, "peak_error", Metric("Peak error", peak_error, "signals", (0.0, math.inf), "V^2", "lower", True)
    )
    clean, restored = np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([[1.5, -2.0], [3.0, 2.0]])
    assert compute(["peak_error"], clean, restored, 8000) == {"peak_error": 1.25}
    check_metrics(["peak_error"], [])

    label = "Peak error (V²) ↓"
    row = {"task": "clip", "distortion": "clip:a=1", "level": "", "level_name": "", "method": "m", "clip": "c"}
    row |= {"seed": "0", "status": "ok", "error": "", "seconds": "1", "peak_error": "1.25"}
    write_rows(tmp_path / "results.csv", [row])
    cells = read_cells(tmp_path)
    (axes,) = plot_boxes(cells, looks_of(["m"])).axes
    assert axes.get_ylabel() == label
    text = summary([row | {"peak_error": 1.25}], ["peak_error"], [], "observed")
    assert f"| distortion | method | clips | failed | {label} |" in text and "| 1.25 |" in text


def test_names_and_rates_that_compute_refuses() -> None:
    x = two_tones()
    with pytest.raises(NldiffError, match=r"metric 'SDR' is unknown \(metrics of signals: sdr, si_sdr, .*nisqa"):
        compute(["sdr", "SDR"], x, x, 16000)
    with pytest.raises(NldiffError, match="metric 'rr_mse' compares curves, not signals"):
        compute(["rr_mse"], x, x, 16000)
    for rate in (0, -8000, 44100.0):
        with pytest.raises(NldiffError, match=f"sample rate {rate}: a positive whole number of Hz expected"):
            compute(["sdr"], x, x, rate)  # type: ignore[arg-type]


PACKAGES = {"stoi": "pystoi", "estoi": "pystoi", "pesq": "pesq", "dnsmos": "speechmos", "nisqa": "librosa"}


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].extra])
def test_a_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    monkeypatch.delitem(sys.modules, "speechmos.dnsmos", raising=False)
    with pytest.raises(NldiffError, match=rf'{PACKAGES[name]}.*pip install "nldiff\[{METRICS[name].extra}\]"$'):
        call(name, voice(1.0), voice(1.0))


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
    assert bss_sdr(x[0], np.zeros(100)) == -math.inf
    for function in (sdr, si_sdr, bss_sdr):
        with pytest.raises(NldiffError, match="reference is silent"):
            function(x, noise(2, 100, seed=1))


def test_bss_sdr_of_clipped_tones() -> None:
    """Value of two other implementations, which agree with each other to 1e-9."""
    assert bss_sdr(two_tones(), np.clip(two_tones(), -0.4, 0.4)) == pytest.approx(14.851271958169853, abs=1e-6)


@pytest.mark.parametrize("taps", [1, 2, 7, 64])
def test_bss_sdr_against_least_squares(taps: int) -> None:
    x, y = noise(2, 300)
    y += np.convolve(x, [0.5, -1.0, 0.25])[:300]
    delayed = np.stack([np.pad(x, (delay, taps - 1 - delay)) for delay in range(taps)], axis=1)
    padded = np.pad(y, (0, taps - 1))
    projection = delayed @ np.linalg.lstsq(delayed, padded, rcond=None)[0]
    expected = 10 * math.log10(np.sum(projection**2) / np.sum((padded - projection) ** 2))
    assert bss_sdr(x, y, taps) == pytest.approx(expected, abs=1e-9)
    if taps == 1:
        assert bss_sdr(x, y, taps) == pytest.approx(si_sdr(x, y), abs=1e-9)


def test_a_filter_is_no_distortion_to_bss_sdr() -> None:
    x = np.pad(noise(1000), (0, 40))
    filtered = np.convolve(x, noise(41, seed=1))[:1040]
    assert bss_sdr(x, filtered, taps=41) > 150
    assert si_sdr(x, filtered) < 0


def test_delta_sdr_by_hand() -> None:
    x, observed, estimate = np.array([3.0, 4.0]), np.array([3.0, 3.0]), np.array([3.0, 3.5])
    assert delta_sdr(x, observed, estimate) == pytest.approx(20 * math.log10(2))
    assert delta_sdr(x, observed, x) == math.inf
    with pytest.raises(NldiffError, match="observed signal equals the reference"):
        delta_sdr(x, x, estimate)


def test_delta_sdr_of_clipped_samples_by_hand() -> None:
    x = np.array([1.0, 4.0, -5.0, 2.0])
    observed = np.clip(x, -3, 3)  # squared errors at the clipped samples: 1 and 4, then 1 and 0
    estimate = np.array([0.0, 5.0, -5.0, 2.0])
    expected = 10 * math.log10(5)
    assert delta_sdr_clipped(x, observed, estimate, 3) == pytest.approx(expected)
    assert delta_sdr_clipped(x, observed, estimate, torch.tensor([False, True, True, False])) == pytest.approx(expected)
    assert delta_sdr(x, observed, estimate) == pytest.approx(10 * math.log10(5 / 2))
    with pytest.raises(NldiffError, match="no sample is clipped"):
        delta_sdr_clipped(x, observed, estimate, 4.0)
    with pytest.raises(NldiffError, match=r"mask of clipped samples has shape \[3\] but the signals \[4\]"):
        delta_sdr_clipped(x, observed, estimate, np.ones(3, dtype=bool))
    with pytest.raises(NldiffError, match=r"shape \[4\] but estimate \[1\]"):
        delta_sdr_clipped(x, observed, estimate[:1], 3)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_a_method_that_keeps_the_other_samples(threshold: float) -> None:
    x = (2 * two_tones()).astype(np.float32)
    observed = np.round(np.clip(x, -threshold, threshold) * 2**15) / 2**15  # as in a file of 16 bit
    x = np.where(np.abs(x) < threshold, observed, x)
    estimate = np.where(np.abs(x) < threshold, observed, 1.2 * observed)
    expected = delta_sdr(x, observed, estimate)
    assert delta_sdr_clipped(x, observed, estimate, threshold) == pytest.approx(expected, abs=1e-3)


# ------------------------------------------------------------ LSD


def power_by_definition(signal: FloatArray, n_fft: int, hop: int, window_length: int) -> list[list[float]]:
    """Sum of the discrete Fourier transform term by term, with the mirrored sample looked up by its index."""
    last = len(signal) - 1
    frames = []
    for centre in range(0, len(signal) + 1, hop):
        bins = []
        for k in range(n_fft // 2 + 1):
            total = 0j
            for n in range(window_length):
                position = abs(centre - window_length // 2 + n)
                position = 2 * last - position if position > last else position
                window = math.sin(math.pi * n / window_length) ** 2
                total += window * signal[position] * cmath.exp(-2j * math.pi * k * n / n_fft)
            bins.append(abs(total) ** 2)
        frames.append(bins)
    return frames


@pytest.mark.parametrize(("frames", "n_fft", "hop"), [(100, 16, 5), (64, 32, 8), (37, 8, 8)])
def test_lsd_against_its_definition(frames: int, n_fft: int, hop: int) -> None:
    x, y = noise(2, frames)
    power_x, power_y = (power_by_definition(signal, n_fft, hop, n_fft) for signal in (x, y))
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


# ------------------------------------------------------------ MR-STFT


def test_mrstft_of_clipped_tones() -> None:
    """Value of another implementation in float32, known to four digits."""
    assert RESOLUTIONS == ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    assert mrstft(two_tones(), np.clip(two_tones(), -0.4, 0.4)) == pytest.approx(5.2296, abs=6e-5)


def test_mrstft_against_its_definition() -> None:
    x, y = noise(2, 90)
    y[:40] = 0  # so that the floor of 1e-4 counts
    resolutions = ((32, 7, 20), (16, 5, 16))
    expected = 0.0
    for n_fft, hop, window_length in resolutions:
        magnitude_x, magnitude_y = (
            np.sqrt(np.maximum(power_by_definition(signal, n_fft, hop, window_length), 1e-8)) for signal in (x, y)
        )
        assert (magnitude_y == 1e-4).any()
        expected += math.sqrt(np.sum((magnitude_x - magnitude_y) ** 2) / np.sum(magnitude_x**2))
        expected += np.mean(np.abs(np.log(magnitude_x) - np.log(magnitude_y)))
    assert mrstft(x, y, resolutions) == pytest.approx(expected / 2, rel=1e-9)


def test_mrstft_of_a_gain() -> None:
    x = 1000 * noise(5000)  # nothing near the floor
    assert mrstft(x, 0.5 * x) == pytest.approx(0.5 + math.log(2), abs=1e-6)
    assert mrstft(0.5 * x, x) == pytest.approx(1 + math.log(2), abs=1e-6)
    with pytest.raises(NldiffError, match="reference is silent"):
        mrstft(0 * x, x)


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
