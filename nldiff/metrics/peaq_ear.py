"""The ear of PEAQ's basic version: from frames of samples to patterns of excitation, modulation and loudness.

ITU-R BS.1387-1 (2001), annex 2, sections 2.1 and 3, as P. Kabal reads it in "An Examination and Interpretation of
ITU-R BS.1387", McGill University, 2002 (version 2). Samples are 16-bit integers held as floats, -32768 to 32767.
A pattern is an array `[..., 109, frame]` over critical bands a quarter Bark wide; energies are relative to 0 dB SPL.
"""

from functools import cache

import numpy as np
from scipy.signal import lfilter

from nldiff.metrics.sdr import FloatArray

RATE = 48000
FRAME, HOP = 2048, 1024
FRAME_RATE = RATE / HOP
FULL_SCALE = 32768
BANDS, BAND_BARK = 109, 0.25
TINY = 1e-12

_LEVEL_DB = 92  # of a full-scale sine, SPL
_ADAPTATION_SECONDS = 0.050


# ------------------------------------------------------------ from samples to excitation


def ear_weighting(frequency: FloatArray) -> FloatArray:
    """Gain of the outer and middle ear in dB at positive frequencies in Hz."""
    f = frequency / 1000
    return -2.184 * f**-0.8 + 6.5 * np.exp(-0.6 * (f - 3.3) ** 2) - 0.001 * f**3.6


@cache
def critical_bands() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Lower edges, centres and upper edges of the bands in Hz, `[109]` each, from 80 Hz to 18 kHz."""
    lowest, highest = 7 * np.arcsinh(np.array([80, 18000]) / 650)
    edges = np.minimum(lowest + BAND_BARK * np.arange(BANDS + 1), highest)
    lower, centre, upper = (650 * np.sinh(z / 7) for z in (edges[:-1], (edges[:-1] + edges[1:]) / 2, edges[1:]))
    return lower, centre, upper


@cache
def internal_noise() -> FloatArray:
    """Energy of the ear's own noise in every band, `[109, 1]`."""
    return 10 ** (0.1456 * (critical_bands()[1][:, None] / 1000) ** -0.8)


def power_spectrum(frames: FloatArray) -> FloatArray:
    """Power in 1025 bins from 0 to 24 kHz, `[..., 1025]`, of frames `[..., 2048]` before the ear."""
    spectrum = np.fft.rfft(_window() * frames)
    return spectrum.real**2 + spectrum.imag**2


def excitation_and_noise(power: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Excitation by two signals, not yet smeared in time, and the noise: the error of the estimate.

    Args:
        power: spectra of reference and estimate, `[2, frame, 1025]`.

    Returns:
        Excitation `[2, 109, frame]` and noise `[109, frame]`, the latter from the difference of magnitudes.
    """
    magnitude = np.sqrt(_ear_gain() * power)
    energy = np.maximum(magnitude**2 @ _grouping(), TINY).swapaxes(-1, -2)
    noise = np.maximum((magnitude[0] - magnitude[1]) ** 2 @ _grouping(), TINY).T
    return spread(energy + internal_noise()), noise


def spread(energy: FloatArray) -> FloatArray:
    """Spread the energy of every band over the others, BS.1387-1 annex 2, section 2.1.7.

    The energy of a band at f Hz and L dB falls by 27 dB per Bark downwards and by 24 + 230 / f - 0.2 L dB
    upwards. Contributions to a band add up as powers of 0.4; equal energies of 1 remain 1.

    Args:
        energy: `[..., 109, frame]`, positive.

    Returns:
        The same shape.
    """
    return _spread(energy) / _spread(np.ones((BANDS, 1)))


def _spread(energy: FloatArray) -> FloatArray:
    centre, band = critical_bands()[1][:, None], np.arange(BANDS)[:, None]
    down = 10 ** (-2.7 * BAND_BARK)
    up = 10 ** ((-2.4 - 23 / centre) * BAND_BARK) * energy ** (0.2 * BAND_BARK)
    total = (1 - down ** (band + 1)) / (1 - down) + (1 - up ** (BANDS - band)) / (1 - up) - 1
    part = (energy / total) ** 0.4
    result = lfilter([1.0], [1.0, -(down**0.4)], part[..., ::-1, :], axis=-2)[..., ::-1, :].copy()
    up **= 0.4
    for shift in range(1, BANDS):
        part = part[..., :-1, :] * up[..., : BANDS - shift, :]
        result[..., shift:, :] += part
    return result**2.5


@cache
def _window() -> FloatArray:
    """Hann window, scaled so that a full-scale sine of 1019.5 Hz reaches 92 dB in its highest bin."""
    offset = 1019.5 * FRAME / RATE % 1
    distance = min(offset, 1 - offset) * (FRAME - 1) / FRAME
    peak = np.sinc(distance) / (1 - distance**2)
    return np.hanning(FRAME) * 10 ** (_LEVEL_DB / 20) / (peak * FULL_SCALE / 4 * (FRAME - 1))


@cache
def _ear_gain() -> FloatArray:
    """Power gain of the ear in every bin, `[1025]`; none at 0 Hz."""
    frequency = np.arange(1, FRAME // 2 + 1) * RATE / FRAME
    return np.append(0.0, 10 ** (ear_weighting(frequency) / 10))


@cache
def _grouping() -> FloatArray:
    """Share of every bin's width that lies in every band, `[1025, 109]`."""
    lower, _, upper = critical_bands()
    width = RATE / FRAME
    bins = np.arange(FRAME // 2 + 1)[:, None] * width
    overlap = np.minimum(upper, bins + width / 2) - np.maximum(lower, bins - width / 2)
    return np.maximum(overlap, 0) / width


# ------------------------------------------------------------ patterns over time


def smooth(pattern: FloatArray, seconds: float) -> FloatArray:
    """First-order low-pass over time, from rest.

    Args:
        pattern: `[..., 109, frame]`.
        seconds: time constant at 100 Hz; it falls to 8 ms towards higher frequencies.

    Returns:
        The same shape.
    """
    constants = 0.008 + 100 / critical_bands()[1] * (seconds - 0.008)
    result = np.empty_like(pattern)
    for band, pole in enumerate(np.exp(-1 / (FRAME_RATE * constants))):
        result[..., band, :] = lfilter([1 - pole], [1.0, -pole], pattern[..., band, :])
    return result


def smear(excitation: FloatArray) -> FloatArray:
    """Let an excitation `[..., 109, frame]` decay slowly, as masking after a sound does."""
    return np.maximum(smooth(excitation, 0.030), excitation)


def adapt(smeared: FloatArray) -> FloatArray:
    """Remove differences of level and of slowly changing spectral shape from two patterns, section 3.1.

    Args:
        smeared: reference and estimate, `[2, 109, frame]`.

    Returns:
        The same shape; the stronger of the two is lowered.
    """
    reference, estimate = smooth(smeared, _ADAPTATION_SECONDS)
    correction = (np.sum(np.sqrt(reference * estimate), axis=0) / np.sum(estimate, axis=0)) ** 2
    levelled = smeared * np.stack([1 / np.maximum(correction, 1), np.minimum(correction, 1)])[:, None]
    cross = smooth(levelled[0] * levelled[1], _ADAPTATION_SECONDS)
    own = smooth(levelled[0] ** 2, _ADAPTATION_SECONDS)
    ratios = np.stack([np.minimum(cross / own, 1), np.minimum(own / cross, 1)])
    distance = np.arange(BANDS) - np.arange(BANDS)[:, None]
    neighbours = (distance >= -3) & (distance <= 4)
    mean_ratios = neighbours / neighbours.sum(axis=1, keepdims=True) @ ratios
    return levelled * smooth(mean_ratios, _ADAPTATION_SECONDS)


def modulation(excitation: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Modulation of an excitation's envelope and the mean envelope, section 3.2, both `[..., 109, frame]`."""
    envelope = excitation**0.3
    change = FRAME_RATE * np.abs(np.diff(envelope, axis=-1, prepend=0))
    mean = smooth(envelope, _ADAPTATION_SECONDS)
    return smooth(change, _ADAPTATION_SECONDS) / (1 + mean / 0.3), mean


def loudness(smeared: FloatArray) -> FloatArray:
    """Total loudness of a pattern `[..., 109, frame]` in sone, section 3.3, `[..., frame]`."""
    centre = critical_bands()[1][:, None] / 1000
    threshold = 10 ** (0.364 * centre**-0.8)
    index = 10 ** ((-2 - 2.05 * np.arctan(centre / 4) - 0.75 * np.arctan((centre / 1.6) ** 2)) / 10)
    specific = (1 - index + index * smeared / threshold) ** 0.23 - 1
    return 24 * np.mean(np.maximum(1.07664 * (threshold / (1e4 * index)) ** 0.23 * specific, 0), axis=-2)
