"""A few steps of the prior from a low noise level over a refined signal.

The sparsest signal has no noise floor and no breath; the prior puts them back inside the same feasible set.
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
class PolishSettings:
    """How the prior goes over a refined signal; the group `polish`.

    Attributes:
        sigma: highest noise level, at the prior's level, from which it starts; 0 leaves it out.
        share: the noise level from which it starts is at most this fraction of the error that a signal is expected to
            have. A signal that is nearly right would be made worse by noise that is larger.
        steps: number of noise levels.
        draws: of the noise at every level; the mean of what the prior makes of them has a smaller error, and a little
            less of a noise floor.
        trust: how far off the prior is taken to be, as a fraction of the noise level. The larger it is, the further
            samples stay away from the edges of their intervals.
    """

    sigma: float = 0.0
    share: float = 0.25
    steps: int = 6
    draws: int = 1
    trust: float = 0.5

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "polish", ("sigma",), least=0)
        require(self, "polish", ("steps", "draws"), least=1)
        require(self, "polish", ("share", "trust"), above=0)


@torch.no_grad()
def polish(
    denoiser: Denoiser,
    x: Tensor,
    feasible: FeasibleSet,
    levels: Tensor,
    sources: Sequence[torch.Generator],
    at_prior_rate: Callable[[Tensor], Tensor] = lambda x: x,
    at_own_rate: Callable[[Tensor], Tensor] = lambda x: x,
    draws: int = PolishSettings.draws,
    trust: float = PolishSettings.trust,
) -> Tensor:
    """Let the prior go over `x`: noise is added and removed by the prior, and the result brought into the feasible set.

    That is done by its mean given the set, see `FeasibleSet.expectation`: a projection would leave what the prior
    places outside glued to the edge. What the prior changes is added to `x`, so that nothing is lost where its band is
    the narrower one.

    Args:
        denoiser: D(x, sigma).
        x: estimates of the clean signal [batch, time] at the prior's level.
        feasible: set of [batch, time].
        levels: noise levels of every item at the prior's level, falling, [steps, batch].
        sources: one CPU generator per item.
        at_prior_rate: resamples signals like `x` to the rate of the prior, where that is another one.
        at_own_rate: and back.
        draws: of the noise at every level, see `PolishSettings`.
        trust: see there.

    Returns:
        [batch, time], a member of the set.
    """
    for level in levels:
        before, sigma = at_prior_rate(x), level[:, None]
        after = sum(denoiser(before + sigma * draw_noise(before, sources), level) for _ in range(draws)) / draws
        x = feasible.expectation(x + at_own_rate(after - before), trust * sigma)
    return x


def polish_levels(settings: PolishSettings, sigma_min: float, errors: Tensor) -> Tensor:
    """Noise levels of `polish`: to `sigma_min`, by the same factor each, [steps, batch].

    Args:
        settings: where they start.
        sigma_min: the lowest one.
        errors: RMS of the error that every item is expected to have, [batch]. Where even the lowest level is too high
            for it, all are the lowest.
    """
    first = (settings.share * errors).clamp(sigma_min, max(settings.sigma, sigma_min))
    return falling_levels(first, sigma_min, settings.steps)


def falling_levels(first: Tensor, lowest: float, steps: int) -> Tensor:
    """Noise levels [steps, batch] from `first` [batch], not below `lowest`, to that, by the same factor each."""
    powers = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
    return first * (lowest / first) ** powers[:, None]
