"""Samplers: solvers of the guided probability-flow ODE from the first noise level to 0.

A sampler is a generator function. It gets noisy audio, its noise levels, the churn and the guide, and yields after
every step. A new one is a function here and a line in `SAMPLERS`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from torch import Tensor


class Guided(NamedTuple):
    """What the guide finds at one noise level.

    Attributes:
        slope: dx/dsigma of the ODE, -sigma times the posterior score [batch, time].
        x0: denoised estimate [batch, time] at the prior's level.
        cost: eq. 8 at `x0`, [batch]; zeros without an observation.
    """

    slope: Tensor
    x0: Tensor
    cost: Tensor


class Guide(Protocol):
    """`guide(x, sigma)`: denoises, fits the operator and follows the observation, see `nldiff.sampling.guide`."""

    def __call__(self, x: Tensor, sigma: float, fit: bool = True) -> Guided:
        """Evaluate at `x` [batch, time] of noise level `sigma`; `fit` says whether the operator is fitted as well."""
        ...


Churn = Callable[[Tensor, float], tuple[Tensor, float]]
"""Noisy audio and its noise level -> noisier audio and the higher level, see `nldiff.sampling.noise.add_churn`."""

Sampler = Callable[[Tensor, Sequence[float], Churn, Guide], Iterator[tuple[Tensor, Guided]]]
"""(noise of the first level added to the start [batch, time], levels [steps + 1] ending with 0, churn, guide) -> after
every step the audio at the next level, and what the guide found at the step's first evaluation."""


def euler(x: Tensor, levels: Sequence[float], churn: Churn, guide: Guide) -> Iterator[tuple[Tensor, Guided]]:
    """First order: Alg. 1 of the 2025 paper, with churn."""
    for sigma, following in pairwise(levels):
        x, raised = churn(x, sigma)
        guided = guide(x, raised)
        x = x + (following - raised) * guided.slope
        yield x, guided


def heun(x: Tensor, levels: Sequence[float], churn: Churn, guide: Guide) -> Iterator[tuple[Tensor, Guided]]:
    """Second order: every step but the last averages the slopes at both its ends (Karras et al. 2022, Alg. 2).

    The operator is fitted at the first of them alone.
    """
    for sigma, following in pairwise(levels):
        x, raised = churn(x, sigma)
        guided = guide(x, raised)
        change = following - raised
        ahead = x + change * guided.slope
        if following > 0:
            ahead = x + change * (guided.slope + guide(ahead, following, fit=False).slope) / 2
        x = ahead
        yield x, guided


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun}
"""The samplers by name."""
