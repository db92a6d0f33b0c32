"""Draws around a refined signal, where several restorations are to show what the recording leaves open.

The sparsest signal is one guess. Noise is added, larger than its error is expected to be, and what the prior leaves of
the noise is kept: the Jacobian of a denoiser is the covariance of the clean signal, given the noisy one, over the
variance of the noise (Efron, "Tweedie's formula and selection bias", 2011). So this is what the prior takes to be
possible. The feasible set takes it back where the recording says what the signal is. Were the prior to remove noise
from the whole signal, as the polish does, so much of it would cost the guess its details.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldiff.errors import require
from nldiff.priors.edm import Denoiser
from nldiff.restoration.feasible import FeasibleSet
from nldiff.sampling.noise import draw_noise


@dataclass(frozen=True)
class DrawingSettings:
    """Whether a refined signal ends with a draw, and how; the group `drawing`.

    Attributes:
        enabled: refined signals are draws; that takes the place of the polish. `nldiff restore --samples` sets it.
        share: the noise level from which a draw starts, as a multiple of the error that is expected where the curve
            leaves samples open. The prior leaves little of the noise; the multiple was chosen so that draws differ from
            their mean about as much as that differs from the clean signal.
        steps: number of noise levels.
        trust: how far off the signal is taken to be, as a fraction of the noise level. The larger it is, the further
            samples stay away from the edges of their intervals.
    """

    enabled: bool = False
    share: float = 4.0
    steps: int = 8
    trust: float = 0.05

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "drawing", ("steps",), least=1)
        require(self, "drawing", ("share", "trust"), above=0)


@torch.no_grad()
def drawn(
    denoiser: Denoiser,
    x: Tensor,
    feasible: FeasibleSet,
    levels: Tensor,
    sources: Sequence[torch.Generator],
    at_prior_rate: Callable[[Tensor], Tensor] = lambda x: x,
    at_own_rate: Callable[[Tensor], Tensor] = lambda x: x,
    trust: float = DrawingSettings.trust,
) -> Tensor:
    """Draw a signal around `x`: add what the prior leaves of noise of each level, and bring it into the feasible set.

    Args:
        denoiser: D(x, sigma).
        x: estimates of the clean signal [batch, time] at the prior's level.
        feasible: set of [batch, time].
        levels: noise levels of every item at the prior's level, falling, [steps, batch].
        sources: one CPU generator per item.
        at_prior_rate: resamples signals like `x` to the rate of the prior, where that is another one.
        at_own_rate: and back.
        trust: see `DrawingSettings`.

    Returns:
        [batch, time], a member of the set.
    """
    for level in levels:
        quiet, sigma = at_prior_rate(x), level[:, None]
        noise = sigma * draw_noise(quiet, sources)
        # Of opposite noise the prior leaves the opposite, so that draws stay about the signal that they began with.
        change = (denoiser(quiet + noise, level) - denoiser(quiet - noise, level)) / 2
        x = feasible.expectation(x + at_own_rate(change), trust * sigma)
    return x
