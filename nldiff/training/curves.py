"""Random increasing curves, and what a restoration knows of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from nldiff.operators import Operator, TabulatedCurve
from nldiff.restoration.increasing import CurveSettings, IncreasingCurve, known_increasing


@dataclass(frozen=True)
class CurveErrors:
    """How exactly the curves of the training are known.

    Attributes:
        perturbed_share: share of curves that are off, as estimated ones are.
        perturbation: standard deviation of their relative error along the input.
        loose_share: share of recordings with noise, which curves bind loosely; the tolerance is halved less often.
    """

    perturbed_share: float = 0.1
    perturbation: float = 0.03
    loose_share: float = 0.15


def random_monotone(random: np.random.Generator, rms: float) -> TabulatedCurve:
    """Draw a smooth curve that never falls, with flat parts: a monotone cubic over four to eight pieces.

    Args:
        random: source of randomness.
        rms: of the signals that it is for; the pieces end within 4 RMS, and the curve rises around zero.
    """
    ends = np.sort(rms * 4 * random.uniform(-1, 1, random.integers(3, 8)))
    ends = np.concatenate([[-4 * rms], ends, [4 * rms]])
    slopes = 10 ** random.uniform(-1.3, 0.3, len(ends) - 1)
    slopes[random.random(len(slopes)) < 0.3] = 0
    slopes[np.searchsorted(ends, 0) - 1] = random.uniform(0.3, 1)
    heights = np.concatenate([[0], np.cumsum(slopes * np.diff(ends))])
    grid = np.linspace(ends[0], ends[-1], 2048)
    curve = np.maximum.accumulate(PchipInterpolator(ends, heights)(grid))
    curve -= np.interp(0, grid, curve)
    return TabulatedCurve(torch.from_numpy(grid), torch.from_numpy(curve))


def noisy_and_known(
    operator: Operator, y: Tensor, rms: float, errors: CurveErrors, random: np.random.Generator
) -> tuple[Tensor, IncreasingCurve | None]:
    """Draw the noise of a recording, and what a restoration knows of its curve.

    Args:
        operator: the true, increasing curve.
        y: what it makes of clean audio, [batch, time].
        rms: of the clean audio.
        errors: how exactly curves are known.
        random: source of randomness.

    Returns:
        The recording, and the curve; None if the operator is not increasing.
    """
    settings = CurveSettings()
    curve = known_increasing(operator, settings.largest_rms * rms, y, settings)
    if curve is None:
        return y, None
    halvings = settings.halvings
    if random.random() < errors.loose_share:
        halvings = int(random.integers(settings.halvings))
        # Noise of a third of the tolerance seldom leaves it.
        noise = random.standard_normal(y.shape) * (curve.tolerance / 2**halvings / 3)
        y = y + torch.from_numpy(noise.astype(np.float32))
    if random.random() < errors.perturbed_share:
        curve = replace(curve, table=_perturbed(curve.table, errors.perturbation, rms, random))
    exact = halvings >= settings.exact_after
    return y, replace(curve, tolerance=curve.tolerance / 2**halvings, exact_where_steep=exact)


def _perturbed(curve: TabulatedCurve, size: float, rms: float, random: np.random.Generator) -> TabulatedCurve:
    """A curve whose inputs are off by a smooth relative error of standard deviation `size`."""
    knots = rms * np.arange(-12.0, 13.0, 2.0)
    error = PchipInterpolator(knots, size * random.standard_normal(len(knots)))(curve.inputs.numpy())
    inputs = np.maximum.accumulate(curve.inputs.numpy() * (1 + error))
    return TabulatedCurve(torch.from_numpy(inputs), curve.outputs)
