"""Clipping whose plateaus are no longer flat: noise, a resampler or a codec came after it.

What follows the clipper moves samples of the plateau up and down. Those that went down look as if they had not been
clipped, and would hold the restored signal down if they counted as exact. A threshold below the plateau gives them
free. It costs little: samples between the two were hardly changed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nldiff.operators import TabulatedCurve
from nldiff.restoration.increasing import CurveSettings, IncreasingCurve, with_tolerance

# Bins between zero and the extreme, where plateaus are looked for as a fraction of it, how much higher than the density
# below it a plateau must be, and least share of samples above it.
_BINS, _OUTER, _RISE, _LEAST_SHARE = 64, 0.3, 1.3, 2e-3
# Share of samples beyond what counts as the extreme.
_RARE = 1e-4
# Ripple that is none, and most of it, as fractions of the plateau's value.
_FLAT, _ROUGHEST = 2e-3, 0.1
# Thresholds below the plateau, in standard deviations of its ripple.
_DEVIATIONS = (2.5, 4.0, 6.0)


def rippled_curves(y: Tensor, settings: CurveSettings) -> list[tuple[TabulatedCurve, IncreasingCurve]]:
    """Clipping at the plateaus, and curves with thresholds below them that say what is known of the samples.

    The nearest thresholds come first; there are none without plateaus, or without ripple.

    Args:
        y: observed samples, any shape.
        settings: of the tables.
    """
    observed = y.flatten().cpu().double().numpy()
    top, bottom = plateau(observed), plateau(-observed)
    if not (top or bottom):
        return []
    limit = settings.largest_rms * float(np.sqrt(np.mean(observed**2)))

    def clipped(deviations: float) -> TabulatedCurve:
        high, low = (each[0] - deviations * each[1] if each else limit for each in (top, bottom))
        inputs = np.array([-limit, -low, high, limit])
        return TabulatedCurve(torch.from_numpy(inputs), torch.from_numpy(inputs.clip(-low, high)))

    return [(clipped(0), with_tolerance(clipped(d), observed, settings)) for d in _DEVIATIONS]


def plateau(samples: np.ndarray) -> tuple[float, float] | None:
    """Value around which samples [n] pile up near their highest, and the standard deviation above it.

    None if they do nowhere, are all the same there, or spread too far. The density of clean samples falls towards the
    extremes: where it rises again by a third, something limited them.
    """
    highest = float(np.quantile(samples, 1 - _RARE))
    if highest <= 0:
        return None
    counts, edges = np.histogram(samples, _BINS, (0, 1.5 * highest))
    density = np.convolve(counts, np.ones(3) / 3, "same")
    outer = int(_OUTER * _BINS / 1.5)
    lowest_below = np.minimum.accumulate(density)
    rise = np.where(np.arange(_BINS) >= outer, density / (lowest_below + 1), 0)
    best = int(np.argmax(density * (rise > _RISE)))
    if rise[best] <= _RISE:
        return None
    near = samples[(samples >= edges[best - 1]) & (samples < edges[best + 2])]
    value = float(np.median(near))
    above = samples[samples > value] - value
    ripple = float(np.sqrt(np.mean(above**2))) if len(above) else 0.0
    found = len(above) > _LEAST_SHARE * len(samples) and _FLAT < ripple / value < _ROUGHEST
    return (value, ripple) if found else None
