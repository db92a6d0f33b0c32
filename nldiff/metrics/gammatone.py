"""Gammatone filters of fourth order: the ear's frequency selectivity as PEMO-Q and R_nonlin model it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from nldiff.metrics.sdr import FloatArray

MIN_BANDWIDTH = 24.7  # Hz
EAR_Q = 9.265

# Bandwidth parameter of a fourth-order gammatone filter, relative to its equivalent rectangular bandwidth:
# (3!)^2 / (pi 6! 2^-6).
_BANDWIDTH_FACTOR = 1.019

_TAIL = 0.2  # s; the narrowest filter in use (50 Hz) has decayed by more than 200 dB


def erb(frequency: FloatArray | float) -> FloatArray:
    """Equivalent rectangular bandwidth of the ear in Hz at frequencies in Hz (Glasberg and Moore 1990)."""
    return MIN_BANDWIDTH + np.asarray(frequency) / EAR_Q


def erb_number(frequency: FloatArray | float) -> FloatArray:
    """Number of equivalent rectangular bandwidths below frequencies in Hz: the integral of 1 / `erb`."""
    return EAR_Q * np.log1p(np.asarray(frequency) / (MIN_BANDWIDTH * EAR_Q))


def erb_frequency(number: FloatArray | float) -> FloatArray:
    """Inverse of `erb_number`, Hz."""
    return MIN_BANDWIDTH * EAR_Q * np.expm1(np.asarray(number) / EAR_Q)


def gammatone_response(centre: float, frequencies: FloatArray, sample_rate: int) -> NDArray[np.complex128]:
    """Complex frequency response of one filter: real part of four equal one-pole filters in series.

    V. Hohmann, "Frequency analysis and synthesis using a Gammatone filterbank", 2002. The gain is 1 at the
    centre frequency, up to the mirror image of the pole: 0.3 % at 50 Hz, less than 0.02 % from 200 Hz up.

    Args:
        centre: centre frequency, Hz.
        frequencies: frequencies at which to evaluate the response, Hz.
        sample_rate: Hz.

    Returns:
        Complex, of the shape of `frequencies`.
    """
    radius = np.exp(-2 * np.pi * _BANDWIDTH_FACTOR * erb(centre) / sample_rate)
    pole = radius * np.exp(2j * np.pi * centre / sample_rate)
    delay = np.exp(-2j * np.pi * frequencies / sample_rate)
    resonance = (1 - radius) / (1 - pole * delay)
    mirrored = (1 - radius) / (1 - np.conj(pole) * delay)
    return np.square(np.square(resonance)) + np.square(np.square(mirrored))


def gammatone_bands(signal: FloatArray, centres: FloatArray, sample_rate: int) -> Iterator[FloatArray]:
    """Filter a signal into bands, one after the other to save memory.

    Args:
        signal: `[..., time]`.
        centres: centre frequencies, Hz.
        sample_rate: Hz.

    Yields:
        `[..., time]` for each centre frequency.
    """
    length = signal.shape[-1]
    n_fft = next_fast_len(length + round(_TAIL * sample_rate), real=True)
    spectrum = rfft(signal, n_fft)
    frequencies = rfftfreq(n_fft, 1 / sample_rate)
    for centre in centres:
        yield irfft(spectrum * gammatone_response(centre, frequencies, sample_rate), n_fft)[..., :length]
