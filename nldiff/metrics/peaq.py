"""PEAQ, basic version: audibility of the difference between two signals, as an objective difference grade.

ITU-R BS.1387-1 (2001), annex 2, with the corrections and choices of P. Kabal, "An Examination and Interpretation
of ITU-R BS.1387", McGill University, 2002 (version 2).

Agreement: for the 70 hard-clipped excerpts of Záviška, Rajmic, Ozerov and Rencker, "A Survey and an Extensive
Evaluation of Popular Audio Declipping Methods", 2021, the grades differ from the published ones, computed by
Kabal's program, by 0.0006 (root mean square) and at most 0.0035. Neither program is certified: the standard's own
test items ask for a tolerance that none of the open programs keeps.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter, resample_poly
from scipy.special import expit

from nldiff.errors import NldiffError
from nldiff.metrics import peaq_ear as ear
from nldiff.metrics.packages import for_each
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair

MIN_ODG, MAX_ODG = -3.98, 0.22
MIN_SECONDS = 0.6

_BLOCK = 256  # frames transformed at a time: bounds the memory that a long signal takes


class _Input(NamedTuple):
    """One input of the network: the range that is scaled to 0..1 and its weights in the three hidden nodes."""

    low: float
    high: float
    weights: tuple[float, float, float]


# BS.1387-1, annex 2, tables 16 to 18 (weights and biases) and the ranges beside them.
_INPUTS = {
    "BandwidthRef": _Input(393.916656, 921.0, (-0.502657, 0.436333, 1.219602)),
    "BandwidthTest": _Input(361.965332, 881.131226, (4.307481, 3.246017, 1.123743)),
    "TotalNMR": _Input(-24.045116, 16.212030, (4.984241, -2.211189, -0.192096)),
    "WinModDiff1": _Input(1.110661, 107.137772, (0.051056, -1.762424, 4.331315)),
    "ADB": _Input(-0.206623, 2.886017, (2.321580, 1.789971, -0.754560)),
    "EHS": _Input(0.074318, 13.933351, (-5.303901, -3.452257, -10.814982)),
    "AvgModDiff1": _Input(1.113683, 63.257874, (2.730991, -6.111805, 1.519223)),
    "AvgModDiff2": _Input(0.950345, 1145.018555, (0.624950, -1.331523, -5.955151)),
    "RmsNoiseLoud": _Input(0.029985, 14.819740, (3.102889, 0.871260, -5.922878)),
    "MFPD": _Input(0.000101, 1.0, (-1.051468, -0.939882, -0.142913)),
    "RelDistFrames": _Input(0.0, 1.0, (-1.804679, -0.503610, -0.620456)),
}
_HIDDEN_BIAS = (-2.518254, 0.654841, -2.207228)
_OUTPUT_WEIGHTS = (-3.817048, 4.107138, 4.629582)
_OUTPUT_BIAS = -0.307594


@dataclass(frozen=True)
class Peaq:
    """Result of `peaq`.

    Attributes:
        odg: objective difference grade, -3.98 (very annoying) to 0.22; from 0 on nothing is heard.
        di: distortion index, the network's output before it is mapped to the grade; higher is better.
        movs: the eleven model output variables by the standard's names.
    """

    odg: float
    di: float
    movs: dict[str, float]


def peaq(reference: Signal, estimate: Signal, sample_rate: int) -> Peaq:
    """Compare two mono signals by PEAQ, basic version, full scale at 92 dB SPL.

    The model is made for 16-bit audio at 48 kHz: other rates are resampled, and both signals are rounded down
    to 16 bits (without a limit at full scale), as for the published grades. The rounding matters because the
    estimate's noise floor decides its bandwidth: without rounding these grades change by up to 0.45, with
    rounding to the nearest step by up to 0.15.

    The signals must be aligned; they are not delayed, scaled or filtered to match. The part from the first to the
    last sound of the reference is judged; its first half second does not count for modulation and noise
    loudness, unless silence precedes it. A change of level alone counts as a difference. The network was
    trained on codecs and does not always give the worse grade to the larger of two large differences: a guitar
    string clipped 23 dB below its peak gets -3.9, clipped 32 dB below it -2.6.

    Args:
        reference: `[time]`, tensor or array, -1 to 1.
        estimate: same shape.
        sample_rate: of both, Hz. At up to 16 kHz nothing reaches 8.1 kHz, where the model begins to look for the
            bandwidth: the model is not made for such signals, so compare their grades only with one another.

    Returns:
        Grade, distortion index and model output variables.

    Raises:
        NldiffError: the signals are not mono or not of one shape, a value is not finite, the rate is not
            positive, a signal is silent, or the reference has less than 0.6 s of sound.
    """
    x, y = as_float64_pair(reference, estimate)
    if x.ndim != 1:
        raise NldiffError(f"PEAQ compares signals of shape [time], not {list(x.shape)}")
    if sample_rate <= 0:
        raise NldiffError(f"sample rate {sample_rate} Hz is not positive")
    signals = _to_16_bits(np.stack([x, y]), sample_rate)
    first, last = _bounds_of_sound(signals)

    # Frames before the first sound are not judged, but they set the state of the ear's filters.
    silent, count = first // ear.HOP, (last + 1) // ear.HOP
    length = (count - 1) * ear.HOP + ear.FRAME
    signals = np.pad(signals, ((0, 0), (0, max(0, length - signals.shape[-1]))))[:, :length]
    frames = np.lib.stride_tricks.sliding_window_view(signals, ear.FRAME, axis=-1)[:, :: ear.HOP]
    blocks = [_analyse(frames[:, start : start + _BLOCK]) for start in range(0, count, _BLOCK)]
    excitation, *judged_at_once = (np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
    noise, bandwidths, harmonics = (values[..., silent:] for values in judged_at_once)
    smeared = ear.smear(excitation)
    remembered = (smeared, ear.adapt(smeared), *ear.modulation(excitation))
    smeared, adapted, modulated, envelope = (pattern[..., silent:] for pattern in remembered)

    delay = max(0, math.ceil(0.5 * ear.FRAME_RATE) - silent)
    movs = (
        {"BandwidthRef": _mean_of_valid(bandwidths[0]), "BandwidthTest": _mean_of_valid(bandwidths[1])}
        | _noise_to_mask(noise, smeared[0])
        | modulation_differences(modulated[..., delay:], envelope[0, :, delay:])
        | _detection(smeared)
        | {"EHS": 1000 * _mean_of_valid(harmonics), "RmsNoiseLoud": _noise_loudness(modulated, adapted, smeared, delay)}
    )
    di = distortion_index(movs)
    return Peaq(difference_grade(di), di, {name: float(movs[name]) for name in _INPUTS})


def peaq_odg(reference: Signal, estimate: Signal, sample_rate: int) -> FloatArray:
    """Objective difference grades of `peaq`; every item and channel is compared on its own.

    Args:
        reference: `[..., time]`, tensor or array, -1 to 1.
        estimate: same shape.
        sample_rate: of both, Hz.

    Returns:
        -3.98 (very annoying) to 0.22 (nothing is heard), `[...]` (a numpy scalar for `[time]`).

    Raises:
        NldiffError: as `peaq`.
    """
    return for_each(lambda x, y: peaq(x, y, sample_rate).odg, *as_float64_pair(reference, estimate))


def distortion_index(movs: dict[str, float]) -> float:
    """Output of the network for the model output variables, annex 2; values outside their ranges are not limited."""
    scaled = [(movs[name] - entry.low) / (entry.high - entry.low) for name, entry in _INPUTS.items()]
    hidden = expit(scaled @ np.array([entry.weights for entry in _INPUTS.values()]) + _HIDDEN_BIAS)
    return float(hidden @ _OUTPUT_WEIGHTS + _OUTPUT_BIAS)


def difference_grade(di: float) -> float:
    """Map a distortion index to the objective difference grade."""
    return MIN_ODG + (MAX_ODG - MIN_ODG) * float(expit(di))


def _to_16_bits(signals: FloatArray, sample_rate: int) -> FloatArray:
    if sample_rate != ear.RATE:
        divisor = math.gcd(ear.RATE, sample_rate)
        signals = resample_poly(signals, ear.RATE // divisor, sample_rate // divisor, axis=-1)
    return np.floor(signals * ear.FULL_SCALE)


def _bounds_of_sound(signals: FloatArray) -> tuple[int, int]:
    """First and last sample of the reference's sound: the runs of five whose magnitudes add up to more than 200."""
    runs = np.lib.stride_tricks.sliding_window_view(np.pad(np.abs(signals), ((0, 0), (0, 4))), 5, axis=-1)
    loud = runs.sum(axis=-1) > 200
    for name, any_loud in zip(("reference", "estimate"), loud.any(axis=-1), strict=True):
        if not any_loud:
            raise NldiffError(f"{name} is silent: PEAQ cannot grade silence")
    places = np.flatnonzero(loud[0])
    first, last = int(places[0]), min(int(places[-1]) + 4, signals.shape[-1] - 1)
    seconds = (last + 1 - first) / ear.RATE
    if seconds < MIN_SECONDS:
        raise NldiffError(f"reference has only {seconds:.3f} s of sound: PEAQ needs at least {MIN_SECONDS} s")
    return first, last


def _analyse(frames: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Excitation `[2, 109, n]`, noise `[109, n]`, bandwidths `[2, n]` and error harmonics `[n]` of `[2, n, 2048]`."""
    power = ear.power_spectrum(frames)
    return *ear.excitation_and_noise(power), _bandwidths(power), _error_harmonics(frames, power)


# ------------------------------------------------------------ model output variables, annex 2, section 4


def _mean_of_valid(values: FloatArray) -> float:
    """Mean of the values that are not negative; 0 if there is none."""
    valid = values[values >= 0]
    return float(valid.mean()) if len(valid) else 0.0


def _bandwidths(power: FloatArray) -> FloatArray:
    """Number of bins up to the last one well above the estimate's noise floor, `[2, n]`; -1: frame not counted."""
    lowest, highest = 346, 921  # 8.1 and 21.6 kHz
    floor = power[1, :, highest : ear.FRAME // 2].max(axis=-1, keepdims=True)
    bins = np.arange(highest)
    above = (power[0, :, :highest] >= 10 * floor) & (bins > lowest)
    reference = np.where(above, bins, -2).max(axis=-1)
    above = (power[1, :, :highest] >= 10**0.5 * floor) & (bins <= reference[:, None])
    return np.stack([reference, np.where(above, bins, -2).max(axis=-1)]) + 1.0


def _noise_to_mask(noise: FloatArray, reference: FloatArray) -> dict[str, float]:
    mask_db = np.maximum(3, 0.25 * ear.BAND_BARK * np.arange(ear.BANDS)[:, None])
    ratio = noise / (reference * 10 ** (-mask_db / 10))
    audible = ratio.max(axis=0) > 10**0.15
    return {"TotalNMR": 10 * math.log10(ratio.mean()), "RelDistFrames": float(np.mean(audible))}


def modulation_differences(modulated: FloatArray, envelope: FloatArray) -> dict[str, float]:
    """The three measures of modulation that was added or lost, section 4.2, in percent.

    Args:
        modulated: modulation of reference and estimate, `[2, 109, frame]`, four frames or more.
        envelope: mean envelope of the reference, `[109, frame]`: quiet frames weigh less.
    """
    reference, estimate = modulated
    added = estimate - reference
    difference_1 = 100 * np.mean(np.abs(added) / (1 + reference), axis=0)
    difference_2 = 100 * np.mean(np.where(added < 0, -0.1 * added, added) / (0.01 + reference), axis=0)
    weight = np.sum(envelope / (envelope + 100 * ear.internal_noise() ** 0.3), axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(np.sqrt(difference_1), math.floor(0.1 * ear.FRAME_RATE))
    return {
        "WinModDiff1": math.sqrt(np.mean(windows.mean(axis=-1) ** 4)),
        "AvgModDiff1": float(np.average(difference_1, weights=weight)),
        "AvgModDiff2": float(np.average(difference_2, weights=weight)),
    }


def _noise_loudness(modulated: FloatArray, adapted: FloatArray, smeared: FloatArray, delay: int) -> float:
    noise = ear.internal_noise()
    threshold = 0.15 * modulated + 0.5
    reference, estimate = threshold * adapted
    masking = np.exp(-1.5 * (adapted[1] - adapted[0]) / adapted[0])
    audible = np.maximum(estimate - reference, 0) / (noise + reference * masking)
    partial = 24 * np.mean((noise / threshold[1]) ** 0.23 * ((1 + audible) ** 0.23 - 1), axis=0)
    # Both signals must have been loud enough once, 50 ms before.
    loud = np.flatnonzero(np.all(ear.loudness(smeared) > 0.1, axis=0))
    start = int(loud[0]) if len(loud) else len(partial)
    judged = partial[max(delay, start + math.ceil(0.050 * ear.FRAME_RATE)) :]
    return math.sqrt(np.mean(judged**2)) if len(judged) else 0.0


def _detection(smeared: FloatArray) -> dict[str, float]:
    """Largest probability of hearing a difference, and by how many just noticeable steps it is exceeded."""
    reference, estimate = 10 * np.log10(smeared)
    missing = reference - estimate
    level = np.where(missing > 0, 0.3 * reference + 0.7 * estimate, estimate)
    polynomial = np.polynomial.Polynomial([-0.198719, 0.0550197, -0.00102438, 5.05622e-6, 9.01033e-11])
    heard = np.where(level > 0, level, np.inf)
    step = np.where(level > 0, 5.95072 * (6.39468 / heard) ** 1.71332 + polynomial(level), np.inf)
    undetected = 0.5 ** ((missing / step) ** np.where(missing > 0, 4, 6))
    probability = 1 - np.prod(undetected, axis=0)
    steps = np.sum(np.abs(np.trunc(missing)) / step, axis=0)[probability > 0.5]
    distortion = 0.0
    if len(steps):
        distortion = math.log10(steps.mean()) if steps.any() else -0.5
    return {"MFPD": float(lfilter([0.1], [1.0, -0.9], probability).max()), "ADB": distortion}


def _error_harmonics(frames: FloatArray, power: FloatArray) -> FloatArray:
    """Strength of a harmonic structure of the error, `[n]`; -1: both frames are too quiet to count.

    It is a peak in the spectrum of the autocorrelation of the difference of both log spectra.
    """
    lags = 256
    difference = np.diff(np.log(np.maximum(power[..., : 2 * lags - 1], ear.TINY)), axis=0)[0]
    start = np.fft.rfft(difference[:, :lags], 2 * lags)
    products = np.fft.irfft(start.conj() * np.fft.rfft(difference, 2 * lags), 2 * lags)[:, :lags]
    sums = np.cumsum(np.pad(difference**2, ((0, 0), (1, 0))), axis=-1)
    energy = sums[:, lags:] - sums[:, :lags]
    norm = np.sqrt(np.maximum(energy[:, :1] * energy, 0))
    correlation = np.divide(products, norm, out=np.ones_like(products), where=norm > 0)
    window = np.sqrt(8 / 3) / lags * np.hanning(lags)
    spectrum = np.fft.rfft(window * (correlation - correlation.mean(axis=-1, keepdims=True)))
    peaks = spectrum.real**2 + spectrum.imag**2
    # Kabal: a peak is any value above the one at 0, wherever the first valley lies.
    highest = np.max(np.where(peaks > peaks[:, :1], peaks, 0), axis=-1)
    loud = np.any(np.sum(frames[..., ear.HOP :] ** 2, axis=-1) >= 8000, axis=0)
    return np.where(loud, highest, -1.0)
