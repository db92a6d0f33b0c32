"""Short-time objective intelligibility of speech, through the package pystoi."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from nldiff.errors import NldiffError
from nldiff.metrics.packages import for_each, import_package
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair, refuse_silence


def stoi(reference: Signal, estimate: Signal, sample_rate: int) -> FloatArray:
    """STOI (Taal et al. 2011): correlation of third-octave envelopes up to 4.3 kHz in segments of 384 ms.

    Args:
        reference: clean speech, `[..., time]`, tensor or array.
        estimate: same shape.
        sample_rate: in Hz; pystoi resamples to 10 kHz.

    Returns:
        `[...]` (a numpy scalar for `[time]`), -1 to 1, in practice 0 to 1; 1 where both are equal.

    Raises:
        NldiffError: pystoi is missing, shapes differ, a value is not finite, a reference is silent, or less than
            0.4 s of the reference is not silent (more than 40 dB below its loudest frame).
    """
    return _stoi(reference, estimate, sample_rate, extended=False)


def estoi(reference: Signal, estimate: Signal, sample_rate: int) -> FloatArray:
    """Extended STOI (Jensen and Taal 2016): bands are compared jointly, so that modulated noise counts as well.

    Args, Returns, Raises: as `stoi`.
    """
    return _stoi(reference, estimate, sample_rate, extended=True)


def _stoi(reference: Signal, estimate: Signal, sample_rate: int, extended: bool) -> FloatArray:
    pystoi = import_package("pystoi", "metrics")
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    too_short = NldiffError("reference has less than 0.4 s that is not silent: too short for STOI")
    if x.shape[-1] < 0.4 * sample_rate:
        raise too_short

    def score(x: FloatArray, y: FloatArray) -> float:
        with warnings.catch_warnings(), _fixed_seed():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            try:
                return pystoi.stoi(x, y, sample_rate, extended=extended)
            except RuntimeWarning as warning:
                raise too_short from warning

    return for_each(score, x, y)


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Make ESTOI repeatable: pystoi adds faint noise from numpy's global generator, which decides silent estimates."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
