"""The curve of a recording, from its loudest chunks.

It is sampled along with them. Increasing curves are then fitted to the refined signal, from what was sampled and from
plain curves.
"""

from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from nldiff.operators.distortions import Distortion
from nldiff.operators.waveshapers import Waveshaper
from nldiff.restoration.refine import (
    IncreasingCurve,
    increasing_curve,
    known_increasing_curve,
    matched_curve,
    plain_curves,
    spread,
)
from nldiff.restoration.settings import configured_waveshaper
from nldiff.restoration.task import Curve, Progress, Task, seed_of
from nldiff.sampling.posterior import Posterior, Step, generators

# Where the curve is noted after every step, in multiples of the prior's level.
_NOTED_SIGMAS, _NOTED_POINTS = 4.0, 201
# Clean samples are not larger, in the same multiples.
_LARGEST_SIGMAS = 12.0
# One in so many of the iterations that the signal needs is enough for the curve.
_FEWER = 4
# The tolerance of the curve in its rounds of fitting, in multiples of the last one: samples that are held in the
# intervals of a wrong curve confirm it.
_LOOSER = (4, 2, 1)
# Those of a plain curve, which is about right or does not count.
_AS_STRICT = (1, 1, 1)
# How often the tolerance is halved for the result at most, and by how much the spread may grow each time: noise that
# does not fit between the bounds makes it grow by more.
_HALVINGS, _GROWTH = 5, 0.04
# After so many, noise is weak enough for samples to count as exact where the curve is steep.
_HALVINGS_EXACT = 2


@dataclass(frozen=True)
class Estimate:
    """The curve of a recording; see `estimate_curve`.

    Attributes:
        curve: maps clean samples [1, n] to observed ones at the prior's level.
        increasing: the increasing curve nearest to it, for signals to be refined; None where they are to be sampled.
        posterior: what was sampled along with it; None for a known increasing curve, which needs no sampling.
        polarity: -1 if the restored signal is upside down, else 1.
        grid: clean values [points] at which the curve was noted.
        noted: the curve at them after every diffusion step, [steps, points]; no rows for a known distortion.
    """

    curve: Curve
    increasing: IncreasingCurve | None
    posterior: Posterior | None
    polarity: int
    grid: np.ndarray
    noted: np.ndarray


def estimate_curve(task: Task, progress: Progress) -> Estimate:
    """Estimate the curve on the loudest frames by sampling.

    If the settings ask for refinement, an increasing curve is fitted once more, to the refined signal; and one that is
    known needs no sampling.

    Raises:
        NldiffError: sampling diverged.
    """
    y = task.observed(task.loudest)
    curve, level = _first_curve(task)
    grid = torch.linspace(-_NOTED_SIGMAS, _NOTED_SIGMAS, _NOTED_POINTS) * task.prior.sigma_data
    noted: list[np.ndarray] = []
    refine = task.settings.refine_iterations > 0
    if refine and task.known:
        limit = _LARGEST_SIGMAS * task.prior.sigma_data
        if increasing := known_increasing_curve(curve, limit, y):
            x = task.refined(task.first_guess(y), increasing, y, _iterations(task))
            increasing = tightened(task, increasing, x, y, refit=False)
            return Estimate(curve, increasing, None, 1, grid.numpy(), np.zeros((0, _NOTED_POINTS)))

    def stepped(step: Step) -> None:
        if isinstance(step.curve, Waveshaper):
            with torch.no_grad():
                noted.append(step.curve.curve(grid.to(task.device))[0].cpu().numpy())
        progress.advance()

    posterior = task.sampled(task.joint, y, curve, level, stepped)
    restored = task.at_own_rate(posterior.audio, y.shape[1])
    increasing = increasing_curve(curve, restored, y) if refine else None
    if increasing and isinstance(curve, Waveshaper):
        # Unlike a waveshaper, the table goes on sensibly where there were no samples to fit it on.
        restored, increasing = refitted(task, increasing, restored, y)
        curve = increasing = tightened(task, increasing, restored, y, refit=True)
    if isinstance(curve, Waveshaper):
        curve.requires_grad_(False)
    polarity = -1 if torch.sum((restored - restored.mean()) * (y - y.mean())) < 0 else 1
    curves = np.reshape(noted, (-1, _NOTED_POINTS))
    return Estimate(curve, increasing, posterior, polarity, grid.numpy(), curves)


def refitted(task: Task, increasing: IncreasingCurve, restored: Tensor, y: Tensor) -> tuple[Tensor, IncreasingCurve]:
    """Refine what the prior sampled, fit the curve to what comes out, and again; the same from plain curves.

    What was sampled may have a part of the distortion left, and its curve the rest. Under a wrong curve the refined
    signal is less sparse than under the true one, so that the sparsest of the results is kept.

    Args:
        task: the recording, prior and settings.
        increasing: the curve that was sampled.
        restored: the signals that were sampled [batch, n], at the recording's rate.
        y: what was observed of them, at the prior's level, same shape.

    Returns:
        The refined signals at the prior's level, and their curve.
    """
    starts = [(increasing, restored, _LOOSER), *((curve, y, _AS_STRICT) for curve in plain_curves(y))]
    found = []
    for curve, x, looser in starts:
        for factor in looser:
            x = task.refined(x, replace(curve, tolerance=factor * curve.tolerance), y, _iterations(task))
            curve = matched_curve(x, y)
        found.append((spread(x, task.windows), x, curve))
    _, x, curve = min(found, key=itemgetter(0))
    return _matched_at_level(task, x, y)


def tightened(task: Task, curve: IncreasingCurve, x: Tensor, y: Tensor, refit: bool) -> IncreasingCurve:
    """Halve the tolerance of a curve as long as the refined signal stays about as sparse.

    The smaller the tolerance, the less is lost of signals that were distorted a little, and the better is the curve
    that is fitted to them; but where there is noise in the observation, the steep inverse of a saturated curve makes
    large errors of it. If noise is weak, samples count as exact where the curve itself is steep, and keep their noise
    floor.

    Args:
        task: the recording, prior and settings.
        curve: as it was fitted, or is known.
        x: refined under it, [batch, n] at the recording's rate.
        y: what was observed, at the prior's level, same shape.
        refit: fit the curve again after every halving but the last.
    """
    loosest, finer, before = curve.tolerance, curve, spread(x, task.windows)
    for _ in range(_HALVINGS):
        finer = replace(finer, tolerance=curve.tolerance / 2)
        x = task.refined(x, finer, y, _iterations(task))
        after = spread(x, task.windows)
        if after > before + _GROWTH:
            break
        curve, before = finer, after
        if refit:
            x, finer = _matched_at_level(task, x, y)
    return replace(curve, exact_where_steep=curve.tolerance <= loosest / 2**_HALVINGS_EXACT)


def _matched_at_level(task: Task, x: Tensor, y: Tensor) -> tuple[Tensor, IncreasingCurve]:
    """`x` at the prior's level, and the curve that makes the distribution of `y` of it."""
    gain = task.prior.sigma_data / float(x.square().mean().sqrt())
    return gain * x, matched_curve(gain * x, y)


def _first_curve(task: Task) -> tuple[Curve, float | None]:
    """The known distortion or a waveshaper to be fitted, and the level to hold the signal at, if it is not given."""
    if task.known:
        return partial(_at_level, task.known, task.gain), None
    waveshaper = configured_waveshaper(task.config).to(task.device)
    samples = np.concatenate(task.loudest, axis=1) * task.gain
    sources = generators([seed_of(task.config.seed, -1, 0)])
    waveshaper.reset(torch.from_numpy(samples.reshape(1, -1)).to(task.device), sources)
    return waveshaper, task.prior.sigma_data


def _iterations(task: Task) -> int:
    """Of a refinement of the joint chunks."""
    return 1 + task.settings.refine_iterations // _FEWER


def _at_level(known: Distortion, gain: float, x: Tensor) -> Tensor:
    """A distortion that is defined for file samples, applied at the prior's level."""
    return known(x / gain) * gain
