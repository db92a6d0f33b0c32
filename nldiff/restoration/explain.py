"""The curve between a restoration and the recording, for methods that find none."""

from collections.abc import Callable

import numpy as np
import torch

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.operators import Operator, Rescaled
from nldiff.operators.waveshapers import CatmullRom
from nldiff.sound.recording import Recording

_BINS = 4096
# RMS that the spline has its points for, and how much a change of its slope weighs against errors at that level: enough
# to draw straight lines where there are no samples.
_CURVE_RMS, _SMOOTHNESS = 0.06, 1e-8


def fitted_curve(recording: Recording, raw: Callable[[int, int], np.ndarray]) -> Operator:
    """Fit the curve from a restoration to the recording.

    The spline of the 2025 paper (`CatmullRom`), which is linear in its control values, in the sense of least squares:
    the samples are counted in 4096 bins, and the mean of the observed samples of every bin is fitted.

    Args:
        recording: the observation.
        raw: (start, frames) -> the restoration, [channels, frames].

    Raises:
        NldiffError: the restoration is silent.
    """
    power = peak = 0.0
    for start, frames in recording.blocks():
        x = raw(start, frames).astype(np.float64)
        power, peak = power + np.sum(x**2), max(peak, float(np.abs(x).max()))
    if peak < sound.SILENCE_PEAK:
        raise NldiffError(f"the result for {recording.name} is silent")
    level = (power / (recording.channels * recording.frames)) ** 0.5
    counts, sums = np.zeros(_BINS), np.zeros(_BINS)
    for start, frames in recording.blocks():
        x, y = (read(start, frames).ravel().astype(np.float64) for read in (raw, recording.read))
        index = ((x / peak + 1) / 2 * _BINS).astype(int).clip(0, _BINS - 1)
        counts += np.bincount(index, minlength=_BINS)
        sums += np.bincount(index, y, minlength=_BINS)
    centres = ((np.arange(_BINS) + 0.5) / _BINS * 2 - 1) * peak
    filled, gain = counts > 0, _CURVE_RMS / level
    spline = least_squares_spline(
        centres[filled] * gain, sums[filled] / counts[filled] * gain, counts[filled] / counts.sum()
    )
    return Rescaled(spline, level / _CURVE_RMS, level / _CURVE_RMS)


@torch.no_grad()
def least_squares_spline(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> CatmullRom:
    """The `CatmullRom` spline nearest to points `x`, `y` [points], |x| about 0.06; `weights` [points] add up to 1."""
    spline = CatmullRom(1).double()
    unknowns = spline.values.shape[1]
    basis = CatmullRom(unknowns).double()
    basis.values.copy_(torch.eye(unknowns))
    design = basis.portrait(torch.from_numpy(x)).curve.numpy().T
    grid = spline.grid.numpy()
    bends = np.diff(np.diff(np.eye(unknowns), axis=0) / np.diff(grid)[:, None], axis=0)
    root = np.sqrt(weights)[:, None]
    system = np.concatenate([root * design, _SMOOTHNESS**0.5 * bends])
    target = np.concatenate([root[:, 0] * y, np.zeros(len(bends))])
    spline.values.copy_(torch.from_numpy(np.linalg.lstsq(system, target)[0]))
    return spline.float().requires_grad_(False)
