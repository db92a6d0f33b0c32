"""A first estimate of the clean signal from the distribution of the observed samples.

A memoryless increasing distortion keeps the order of the samples, so it maps every quantile of the clean signal to the
same quantile of the observation. If the distribution of clean samples is known roughly (music and speech are close to
Laplacian), comparing quantiles gives the clean value of every observed one. The estimate is wrong where the distortion
is not increasing. Otherwise its peaks are as loud as clean ones, whereas those of the observation are flattened.
"""

from collections.abc import Callable

import numpy as np

_TABLE = 8192


def laplace_quantile(p: np.ndarray, rms: float) -> np.ndarray:
    """Quantile function of the Laplace distribution of mean 0 and standard deviation `rms`, 0 < p < 1."""
    return np.sign(p - 0.5) * -np.log1p(-2 * np.abs(p - 0.5)) * rms / 2**0.5


def histogram_match(observed: np.ndarray, rms: float) -> Callable[[np.ndarray], np.ndarray]:
    """Find the increasing map that gives `observed` a Laplace distribution of RMS `rms`.

    Equal samples, such as those at a clipping level, are mapped to the middle of the quantiles that they cover.

    Args:
        observed: samples of the distorted signal, any shape, at least two different values.
        rms: RMS of the clean signal, linear.

    Returns:
        A function from samples of the observation, any shape, to float32 samples of the estimate.
    """
    values, counts = np.unique(observed, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / observed.size
    clean = laplace_quantile(middle, rms)
    keep = np.unique(np.linspace(0, len(values) - 1, _TABLE).round().astype(int))
    values, clean = values[keep], clean[keep]
    return lambda samples: np.interp(samples, values, clean).astype(np.float32)
