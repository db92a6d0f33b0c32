import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import pluck
from hypothesis import given, settings
from hypothesis import strategies as st

from nldiff.errors import NldiffError
from nldiff.metrics.peaq import (
    MAX_ODG,
    MIN_ODG,
    difference_grade,
    distortion_index,
    modulation_differences,
    peaq,
    peaq_odg,
)
from nldiff.metrics.peaq_ear import (
    HOP,
    RATE,
    adapt,
    critical_bands,
    ear_weighting,
    excitation_and_noise,
    internal_noise,
    loudness,
    modulation,
    power_spectrum,
    smear,
    smooth,
    spread,
)
from nldiff.metrics.sdr import FloatArray


def sound(seconds: float = 1.0, rate: int = RATE, seed: int = 0) -> FloatArray:
    """Forty partials of decaying level up to 8.8 kHz, the same sound at every rate."""
    t = np.arange(round(seconds * rate)) / rate
    phases = np.random.default_rng(seed).uniform(0, 2 * math.pi, 40)
    return 0.1 * sum(np.sin(2 * math.pi * 220 * n * t + phases[n - 1]) / n for n in range(1, 41))


def noise(*shape: int, seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape)


def low_passed(signal: FloatArray, cutoff: float) -> FloatArray:
    spectrum = np.fft.rfft(signal)
    spectrum[np.fft.rfftfreq(len(signal), 1 / RATE) > cutoff] = 0
    return np.fft.irfft(spectrum, len(signal))


# ------------------------------------------------------------ the ear


def test_ear_weighting() -> None:
    # At 1 kHz: -2.184 + 6.5 exp(-0.6 * 2.3^2) - 0.001; at 3.3 kHz the exponential is 1.
    expected = [-2.184 + 6.5 * 0.0418360 - 0.001, -2.184 * 0.384759 + 6.5 - 0.001 * 73.5615]
    np.testing.assert_allclose(ear_weighting(np.array([1000.0, 3300.0])), expected, atol=5e-6)


def test_critical_bands() -> None:
    lower, centre, upper = critical_bands()
    # First and last rows of the standard's table of bands.
    np.testing.assert_allclose([lower[0], centre[0], upper[0]], [80.0, 91.708, 103.445], atol=1e-3)
    np.testing.assert_allclose([lower[1], centre[1], upper[1]], [103.445, 115.216, 127.023], atol=1e-3)
    np.testing.assert_allclose([lower[-1], upper[-1]], [17385.420, 18000.0], atol=5e-3)
    np.testing.assert_array_equal(lower[1:], upper[:-1])


def test_full_scale_is_92_db() -> None:
    sine = 32768 * np.sin(2 * math.pi * 1019.5 / RATE * np.arange(2048) + 0.3)
    assert 10 * math.log10(power_spectrum(sine).max()) == pytest.approx(92, abs=0.01)


def test_internal_noise() -> None:
    # 1.456 f^-0.8 dB with f in kHz: at the first band's 91.708 Hz 1.456 * 6.7620 = 9.8455 dB.
    assert 10 * math.log10(internal_noise()[0, 0]) == pytest.approx(9.8455, abs=1e-4)
    silence, noisy = np.zeros((2, 1, 1025)), np.ones((2, 1, 1025))
    excitation, difference = excitation_and_noise(silence)
    np.testing.assert_allclose(excitation, np.broadcast_to(spread(internal_noise()), (2, 109, 1)), rtol=1e-9)
    assert np.all(difference == 1e-12)
    # Equal spectra make no noise however loud they are; twice the magnitude makes the error of one.
    assert np.all(excitation_and_noise(noisy)[1] == 1e-12)
    noisy[1] *= 4
    width = critical_bands()[2] - critical_bands()[0]
    gain = 10 ** (ear_weighting(critical_bands()[1]) / 10)
    np.testing.assert_allclose(excitation_and_noise(noisy)[1][:, 0], gain * width / 23.4375, rtol=0.25)


def test_spreading_follows_the_formula_in_decibels() -> None:
    def directly(energy: FloatArray) -> FloatArray:
        centre = critical_bands()[1]
        powers = np.zeros(109)
        for j in range(109):
            upwards = -24 - 230 / centre[j] + 0.2 * 10 * math.log10(energy[j])
            slope_db = np.array([27 * (k - j) / 4 if k < j else upwards * (k - j) / 4 for k in range(109)])
            linear = 10 ** (slope_db / 10)
            powers += (energy[j] * linear / linear.sum()) ** 0.4
        return powers**2.5

    energy = 10 ** np.random.default_rng(2).uniform(0, 8, (2, 109))
    expected = np.stack([directly(row) / directly(np.ones(109)) for row in energy], axis=-1)
    np.testing.assert_allclose(spread(energy.T.copy()), expected, rtol=1e-9)


def test_smoothing_time_constants() -> None:
    step = np.ones((109, 40))
    frames = np.arange(1, 41)
    for band, frequency in ((0, 91.7081), (108, 17690.0436)):
        seconds = 0.008 + 100 / frequency * (0.050 - 0.008)
        expected = 1 - np.exp(-frames * HOP / RATE / seconds)
        np.testing.assert_allclose(smooth(step, 0.050)[band], expected, rtol=1e-5)


def test_smearing_keeps_rises_and_slows_falls() -> None:
    pulse = np.ones((109, 6))
    pulse[:, 2] = 1e6
    smeared = smear(pulse)
    np.testing.assert_allclose(smeared[:, 2], 1e6)
    pole = math.exp(-HOP / RATE / (0.008 + 100 / 91.7081 * 0.022))
    assert smeared[0, 3] == pytest.approx((1 - pole) * pole * 1e6, rel=1e-4)
    assert np.all(smeared >= pulse)


def test_adaptation_takes_out_levels_and_slow_filters() -> None:
    reference = 10 ** np.random.default_rng(3).uniform(2, 6, (109, 1)) * np.ones(200)
    louder, softer = adapt(np.stack([reference, 5 * reference])), adapt(np.stack([5 * reference, reference]))
    np.testing.assert_allclose(louder[:, :, -1], [reference[:, -1]] * 2, rtol=1e-3)
    np.testing.assert_allclose(softer[:, :, -1], [reference[:, -1]] * 2, rtol=1e-3)
    tilt = np.linspace(1, 3, 109)[:, None]
    reference, estimate = adapt(np.stack([reference, tilt * reference]))[:, 10:-10, -1]
    np.testing.assert_allclose(estimate / reference, 1, atol=0.1)


def test_modulation() -> None:
    constant = 50 * np.ones((109, 400))
    modulated, mean = modulation(constant)
    np.testing.assert_allclose(modulated[:, -1], 0, atol=1e-6)
    np.testing.assert_allclose(mean[:, -1], 50**0.3, rtol=1e-9)
    # The envelope jumps between 1 and 3 with every frame, 46.875 times a second, about a mean of 2.
    constant[:, ::2] = 1
    constant[:, 1::2] = 3 ** (1 / 0.3)
    modulated, mean = modulation(constant)
    steady = modulated[0, -2:].mean(), mean[0, -2:].mean()
    assert steady[1] == pytest.approx(2, rel=1e-3)
    assert steady[0] == pytest.approx(2 * 46.875 / (1 + 2 / 0.3), rel=0.01)


def test_loudness() -> None:
    # At the threshold in quiet nothing is heard; far above, ten times the energy is 10^0.23 as loud.
    threshold = 10 ** (0.364 * (critical_bands()[1][:, None] / 1000) ** -0.8)
    assert loudness(threshold) == pytest.approx(0, abs=1e-12)
    assert loudness(1e13 * threshold) / loudness(1e12 * threshold) == pytest.approx(10**0.23, rel=1e-2)
    # A 1 kHz tone of 40 dB is one sone by definition; the model's fit is loose, but of that order.
    sine = 32768 * 10 ** (-52 / 20) * np.sin(2 * math.pi * 1000 / RATE * np.arange(2048))
    excitation, _ = excitation_and_noise(power_spectrum(np.stack([sine, sine])[:, None]))
    assert 0.3 < loudness(excitation)[0, 0] < 3


# ------------------------------------------------------------ variables, network and grade


def test_added_and_lost_modulation() -> None:
    ones = np.ones((109, 8))
    envelope = 100 * internal_noise() ** 0.3 * ones
    added = modulation_differences(np.stack([ones, 3 * ones]), envelope)
    expected = {"WinModDiff1": 100 * 2 / (1 + 1), "AvgModDiff1": 100 * 2 / (1 + 1), "AvgModDiff2": 100 * 2 / (0.01 + 1)}
    assert added == pytest.approx(expected)
    lost = modulation_differences(np.stack([3 * ones, ones]), envelope)  # a tenth as bad in the second measure
    expected = {"WinModDiff1": 100 * 2 / (1 + 3), "AvgModDiff1": 100 * 2 / (1 + 3), "AvgModDiff2": 10 * 2 / (0.01 + 3)}
    assert lost == pytest.approx(expected)
    # Where the weight is 1/2 in four frames with a difference and 2/3 in four without.
    envelope[:, 4:] *= 2
    estimate = 3 * ones
    estimate[:, 4:] = 1
    half = modulation_differences(np.stack([ones, estimate]), envelope)
    assert half["AvgModDiff1"] == pytest.approx(100 * (1 / 2) / (1 / 2 + 2 / 3))
    # Windows of four frames hold 4, 3, 2, 1 and 0 of the differing ones.
    assert half["WinModDiff1"] == pytest.approx(100 * math.sqrt((1 + 0.75**4 + 0.5**4 + 0.25**4) / 5))


def test_network() -> None:
    # At the lower ends of all ranges only the biases are left: logistic(-2.518254, 0.654841, -2.207228) is
    # 0.0745877, 0.658086 and 0.0991024, so that DI = -0.284705 + 2.702849 + 0.458803 - 0.307594.
    lowest = {
        "BandwidthRef": 393.916656,
        "BandwidthTest": 361.965332,
        "TotalNMR": -24.045116,
        "WinModDiff1": 1.110661,
        "ADB": -0.206623,
        "EHS": 0.074318,
        "AvgModDiff1": 1.113683,
        "AvgModDiff2": 0.950345,
        "RmsNoiseLoud": 0.029985,
        "MFPD": 0.000101,
        "RelDistFrames": 0.0,
    }
    assert distortion_index(lowest) == pytest.approx(2.56935, abs=2e-4)
    # A reference of full bandwidth adds its weights to the hidden nodes: logistic(-3.020911, 1.091177, -0.987626)
    # is 0.0464876, 0.748600 and 0.271376.
    expected = -3.817048 * 0.0464876 + 4.107138 * 0.748600 + 4.629582 * 0.271376 - 0.307594
    assert distortion_index(lowest | {"BandwidthRef": 921.0}) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("di", "odg"), [(1.304, -0.676), (-3.029, -3.786), (3.135, 0.045), (-0.045, -1.927)])
def test_grades_of_the_standard(di: float, odg: float) -> None:
    assert difference_grade(di) == pytest.approx(odg, abs=1e-3)  # pairs from the table of test items


# ------------------------------------------------------------ whole comparisons


def test_identical_signals_differ_in_nothing() -> None:
    result = peaq(sound(), sound(), RATE)
    assert 0 < result.odg < MAX_ODG
    assert result.odg == difference_grade(result.di)
    assert result.movs["BandwidthRef"] == result.movs["BandwidthTest"]
    zero = ["WinModDiff1", "ADB", "EHS", "AvgModDiff1", "AvgModDiff2", "RmsNoiseLoud", "MFPD", "RelDistFrames"]
    assert [result.movs[name] for name in zero] == [0.0] * 8
    assert result.movs["TotalNMR"] < -80


def test_gross_distortion_reaches_the_ends_of_the_measures() -> None:
    result = peaq(sound(), np.clip(30 * sound(), -0.5, 0.5), RATE)
    assert result.odg == pytest.approx(MIN_ODG, abs=0.15)
    assert result.movs["RelDistFrames"] == 1
    assert result.movs["MFPD"] == pytest.approx(1, abs=0.05)


def test_more_noise_is_never_better() -> None:
    guitar, hiss = pluck(110.0, 1.0, RATE).astype(np.float64), noise(RATE)
    results = [peaq(guitar, guitar + level * hiss, RATE) for level in (0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)]
    grades = [result.odg for result in results]
    assert grades == sorted(set(grades), reverse=True)
    assert grades[0] > 0 and grades[-1] < -3.8
    ratios = [result.movs["TotalNMR"] for result in results[2:]]
    np.testing.assert_allclose(np.diff(ratios), 20 * np.log10([3, 10 / 3, 3, 10 / 3]), atol=1.0)


def test_harder_clipping_is_never_better() -> None:
    guitar = pluck(110.0, 1.0, RATE).astype(np.float64)
    grades = [peaq(guitar, np.clip(guitar, -limit, limit), RATE).odg for limit in (0.3, 0.2, 0.15, 0.1, 0.05)]
    assert grades == sorted(set(grades), reverse=True)
    assert grades[-1] < -3.5


def test_bandwidths() -> None:
    white = 0.005 * noise(RATE)
    movs = peaq(low_passed(white, 15000), low_passed(white, 10000), RATE).movs
    # Bins are 23.4375 Hz wide; the window adds a few on top of the edge.
    assert 0 <= movs["BandwidthRef"] - 15000 / 23.4375 < 6
    assert 0 <= movs["BandwidthTest"] - 10000 / 23.4375 < 6
    movs = peaq(low_passed(white, 7000), low_passed(white, 7000), RATE).movs
    assert movs["BandwidthRef"] == movs["BandwidthTest"] == 0


def test_error_with_harmonics() -> None:
    # A comb filter's ripple in the log spectrum repeats every 500 Hz: a harmonic structure, unlike added noise.
    white = 0.1 * noise(RATE)
    comb = white + 0.5 * np.roll(white, 96)
    hiss = white + 0.05 * noise(RATE, seed=4)
    assert peaq(white, comb, RATE).movs["EHS"] > 10 * peaq(white, hiss, RATE).movs["EHS"]


def test_silence_around_the_sound_does_not_matter() -> None:
    x, y = sound(), np.clip(sound(), -0.15, 0.15)
    before = peaq(x, y, RATE)
    assert peaq(np.pad(x, (0, 30000)), np.pad(y, (0, 30000)), RATE) == before
    # With half a second of silence or more at the front, whole frames of it change nothing but a decayed memory.
    first, second = (peaq(np.pad(x, (n * HOP, 0)), np.pad(y, (n * HOP, 0)), RATE) for n in (30, 60))
    assert first.odg == pytest.approx(second.odg, abs=1e-4)
    assert first.odg == pytest.approx(before.odg, abs=0.3)


@pytest.mark.parametrize("rate", [44100, 96000])
def test_the_sample_rate_hardly_matters(rate: int) -> None:
    def grade(rate: int) -> float:
        tone = np.sin(2 * math.pi * 3030 * np.arange(rate) / rate)
        return peaq(sound(rate=rate), sound(rate=rate) + 0.01 * tone, rate).odg

    assert grade(rate) == pytest.approx(grade(RATE), abs=0.01)


def test_blocks_of_frames_join_without_a_seam() -> None:
    # 6 s are 281 frames, more than one block; a fault of either block's last or first frames would be heard.
    x = sound(6.0)
    assert peaq(x, x, RATE).movs["RelDistFrames"] == 0
    y = x.copy()
    y[256 * HOP : 257 * HOP] *= 0.5
    frames = peaq(x, y, RATE).movs["RelDistFrames"] * (6 * RATE // HOP)
    assert round(frames, 6) in (2, 3)  # the frames that overlap the change


def test_batches_and_tensors_are_items() -> None:
    x = np.stack([[sound(0.7, seed=2 * i + j) for j in range(2)] for i in range(2)]).astype(np.float32)
    y = x + np.float32(1e-3) * noise(*x.shape).astype(np.float32)
    grades = peaq_odg(x, y, RATE)
    assert grades.dtype == np.float64
    np.testing.assert_array_equal(grades, [[peaq(x[i, j], y[i, j], RATE).odg for j in range(2)] for i in range(2)])
    np.testing.assert_array_equal(peaq_odg(torch.tensor(x), torch.tensor(y, requires_grad=True), RATE), grades)
    assert np.shape(peaq_odg(x[0, 0], y[0, 0], RATE)) == ()


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 3000), extra=st.integers(0, 1100), level=st.floats(1e-3, 3), seed=st.integers(0, 99))
def test_the_shortest_sounds_anywhere_have_a_grade(start: int, extra: int, level: float, seed: int) -> None:
    x = np.pad(0.5 * np.sign(noise(28800, seed=seed)), (start, extra))
    result = peaq(x, x + level * noise(len(x), seed=seed + 1), RATE)
    assert MIN_ODG < result.odg < MAX_ODG
    assert all(math.isfinite(value) for value in result.movs.values())


def test_signals_that_cannot_be_graded() -> None:
    x = sound(0.7)
    with pytest.raises(NldiffError, match=r"reference has shape \[33600\] but estimate \[33599\]"):
        peaq(x, x[1:], RATE)
    with pytest.raises(NldiffError, match=r"PEAQ compares signals of shape \[time\], not \[1, 33600\]"):
        peaq(x[None], x[None], RATE)
    with pytest.raises(NldiffError, match="sample rate 0 Hz is not positive"):
        peaq(x, x, 0)
    with pytest.raises(NldiffError, match="reference is silent"):
        peaq(1e-4 * x, x, RATE)
    with pytest.raises(NldiffError, match="estimate is silent"):
        peaq_odg(np.stack([x, x]), np.stack([x, 0 * x]), RATE)
    with pytest.raises(NldiffError, match=r"reference has only 0\.500 s of sound: PEAQ needs at least 0\.6 s"):
        peaq(np.pad(0.1 * np.sign(x[:24000]), 9000), np.pad(x[:24000], 9000), RATE)
    with pytest.raises(NldiffError, match="reference is silent"):
        peaq(np.zeros(3), np.zeros(3), RATE)


# ------------------------------------------------------------ published grades

CASES = [
    ("a25_harp", 15),
    ("a35_glockenspiel", 20),
    ("a42_accordion", 10),
    ("a58_guitar_sarasate", 20),
    ("a66_wind_ensemble_stravinsky", 7),
]
INPUT_SDRS = [1, 3, 5, 7, 10, 15, 20]


def survey() -> Path:
    """Folder of the declipping survey of 2021: excerpts, clipping thresholds, grades by Kabal's program."""
    folder = Path(os.environ.get("NLDIFF_DATA", "")) / "declipping_survey"
    if not (folder / "published_results.json").exists():
        pytest.skip("published PEAQ grades not checked: $NLDIFF_DATA/declipping_survey is missing")
    return folder


def deviation(folder: Path, excerpt: str, input_sdr: int) -> float:
    """Our grade of a hard-clipped excerpt less the published one."""
    threshold = json.loads((folder / "thresholds.json").read_text())[f"{excerpt}.wav"][INPUT_SDRS.index(input_sdr)][0]
    published = json.loads((folder / "published_results.json").read_text())
    row, column = published["sounds"].index(excerpt), published["input_sdr_db"].index(input_sdr)
    clean, rate = sf.read(folder / f"{excerpt}.wav")
    grade = peaq(clean, np.clip(clean, -threshold, threshold), rate).odg
    return grade - published["results"]["PEAQ"]["clipped"][row][column]


@pytest.mark.parametrize(("excerpt", "input_sdr"), CASES)
def test_published_grades(excerpt: str, input_sdr: int) -> None:
    assert abs(deviation(survey(), excerpt, input_sdr)) < 0.005


@pytest.mark.slow
def test_all_published_grades_faster_than_real_time() -> None:
    folder = survey()
    excerpts = json.loads((folder / "thresholds.json").read_text())
    start = time.process_time()
    deviations = [deviation(folder, name.removesuffix(".wav"), sdr) for name in excerpts for sdr in INPUT_SDRS]
    assert time.process_time() - start < 7 * 67  # seconds of audio: ten excerpts, each seven times
    assert len(deviations) == 70
    assert math.sqrt(np.mean(np.square(deviations))) < 0.001
    assert np.abs(deviations).max() < 0.005
