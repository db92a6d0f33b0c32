"""R_nonlin: correlation, band by band, between a signal and its nonlinearly distorted version."""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.interpolate import PchipInterpolator

from nldiff.errors import NldiffError
from nldiff.metrics.gammatone import erb_frequency, erb_number, gammatone_bands
from nldiff.metrics.packages import for_each
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair

FRAME = 0.03  # s
MAX_LAG = 0.01  # s
LEVEL_RANGE = 60.0  # dB

# 40 equal steps on the scale of equivalent rectangular bandwidths from 50 Hz up to, and without, 22.05 kHz.
CENTRES = erb_frequency(np.linspace(erb_number(50.0), erb_number(22050.0), 41)[:-1])

_SILENCE = 1e-20  # mean square per sample: -200 dB, above the rounding errors of the filters

# Transmission of the outer ear in a free field and attenuation of the middle ear, ANSI S3.4-2007: Hz, dB, dB.
_EAR = np.array(
    [
        (20, 0.0, 39.6),
        (25, 0.0, 32.0),
        (31.5, 0.0, 25.85),
        (40, 0.0, 21.4),
        (50, 0.0, 18.5),
        (63, 0.0, 15.9),
        (80, 0.0, 14.1),
        (100, 0.0, 12.4),
        (125, 0.1, 11.0),
        (160, 0.3, 9.6),
        (200, 0.5, 8.3),
        (250, 0.9, 7.4),
        (315, 1.4, 6.2),
        (400, 1.6, 4.8),
        (500, 1.7, 3.8),
        (630, 2.5, 3.3),
        (750, 2.7, 2.9),
        (800, 2.6, 2.6),
        (1000, 2.6, 2.6),
        (1250, 3.2, 4.5),
        (1500, 5.2, 5.4),
        (1600, 6.6, 6.1),
        (2000, 12.0, 8.5),
        (2500, 16.8, 10.4),
        (3000, 15.3, 7.3),
        (3150, 15.2, 7.0),
        (4000, 14.2, 6.6),
        (5000, 10.7, 7.0),
        (6000, 7.1, 9.2),
        (6300, 6.4, 10.2),
        (8000, 1.8, 12.2),
        (9000, -0.9, 10.8),
        (10000, -1.6, 10.1),
        (11200, 1.9, 12.7),
        (12500, 4.9, 15.0),
        (14000, 2.0, 18.2),
        (15000, -2.0, 23.8),
        (16000, 2.5, 32.3),
        (20000, 2.5, 50.0),
    ]
)


def r_nonlin(reference: Signal, estimate: Signal, sample_rate: int) -> FloatArray:
    """R_nonlin (Tan, Moore, Zacharov and Mattila, J. Audio Eng. Soc. 52(9), 2004).

    Both signals pass a filter of the outer and middle ear and 40 gammatone filters. In each frame of 30 ms and
    each band the largest value, for lags of up to 10 ms, of the normalised cross-correlation is taken; then the
    mean over the bands whose level in the estimate is within 60 dB of the frame's strongest band, then the mean
    over frames. The value does not depend on levels and delays below 10 ms, and hardly on linear filters.

    Fitted are the range of 60 dB (any range above 55 dB gives nearly the same agreement) and the choice of the
    estimate's levels. For the ten hard-clipped excerpts of Záviška, Rajmic, Ozerov and Rencker, "A
    Survey and an Extensive Evaluation of Popular Audio Declipping Methods", 2021, at seven input SDRs each, the
    values differ from the published ones by 0.006 (root mean square) and at most 0.015, except for the glockenspiel:
    there they are higher by 0.02 (input SDR 1 dB) to 0.16 (20 dB), for an unknown reason.

    Args:
        reference: clean signal, `[..., time]`, tensor or array.
        estimate: distorted or restored signal, same shape.
        sample_rate: Hz. Bands above half of it are left out; otherwise the value hardly depends on it.

    Returns:
        `[...]` (a numpy scalar for `[time]`), in practice 0 to 1; 1 where both are equal. A band or frame in
        which only one of the two is silent counts as 0.

    Raises:
        NldiffError: shapes differ, a value is not finite, or the signals are shorter than one frame.
    """
    x, y = as_float64_pair(reference, estimate)
    if x.shape[-1] < round(FRAME * sample_rate):
        raise NldiffError(f"{x.shape[-1]} samples are shorter than one frame of R_nonlin (30 ms)")

    def score(x: FloatArray, y: FloatArray) -> float:
        ear = ear_filter(np.stack([x, y]), sample_rate)
        centres = CENTRES[sample_rate / 2 > CENTRES]
        bands = gammatone_bands(ear, centres, sample_rate)
        correlation, energy = np.stack([band_correlation(b[0], b[1], sample_rate) for b in bands], axis=1)
        weights = energy >= energy.max(axis=0) * 10 ** (-LEVEL_RANGE / 10)
        return float(np.mean(np.sum(weights * correlation, axis=0) / np.sum(weights, axis=0)))

    return for_each(score, x, y)


def ear_gain(frequencies: FloatArray) -> FloatArray:
    """Gain (linear) of outer and middle ear at frequencies in Hz; constant below 20 Hz and above 20 kHz."""
    hertz, outer, middle = _EAR.T
    decibels = PchipInterpolator(hertz, outer - middle)(np.clip(frequencies, hertz[0], hertz[-1]))
    return 10 ** (decibels / 20)


def ear_filter(signal: FloatArray, sample_rate: int) -> FloatArray:
    """Filter `[..., time]` with `ear_gain` and no delay."""
    length = signal.shape[-1]
    n_fft = next_fast_len(length + round(0.1 * sample_rate), real=True)
    return irfft(rfft(signal, n_fft) * ear_gain(rfftfreq(n_fft, 1 / sample_rate)), n_fft)[..., :length]


def band_correlation(x: FloatArray, y: FloatArray, sample_rate: int) -> tuple[FloatArray, FloatArray]:
    """Compare one band of two signals frame by frame; samples after the last whole frame are left out.

    Args:
        x: band of the reference, `[time]`.
        y: band of the estimate, `[time]`.
        sample_rate: Hz.

    Returns:
        The largest normalised cross-correlation for lags within `MAX_LAG` and the energy of y, `[frames]` each.
    """
    length, max_lag = round(FRAME * sample_rate), round(MAX_LAG * sample_rate)
    count = len(x) // length
    frames = np.stack([x, y])[:, : count * length].reshape(2, count, length)
    energy = np.sum(frames**2, axis=-1)
    n_fft = next_fast_len(length + max_lag, real=True)
    spectra = rfft(frames, n_fft)
    correlation = irfft(spectra[0] * spectra[1].conj(), n_fft)
    largest = np.maximum(correlation[:, : max_lag + 1].max(axis=-1), correlation[:, -max_lag:].max(axis=-1))
    silent = energy <= _SILENCE * length
    audible = ~silent.any(axis=0)
    normalised = largest / np.sqrt(np.where(audible, energy[0] * energy[1], 1))
    # Rounding makes equal signals give exactly 1 in spite of the transforms.
    return np.where(audible, np.round(normalised, 12), silent.all(axis=0)), energy[1]
