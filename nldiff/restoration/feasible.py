"""Feasible sets: what an operator and an observation leave open of the clean signal."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

_ROOT_2 = math.sqrt(2)
# In standard deviations: where an end of an interval no longer matters, a finite stand-in for infinity (its square is
# finite in float32), and what is narrow.
_FAR, _INFINITE, _NARROW = 8.0, 1e6, 0.01


class FeasibleSet(ABC):
    """All clean signals [batch, time] that an operator maps to what was observed, up to a tolerance."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest signals of the set to `x` [batch, time]."""

    @abstractmethod
    def expectation(self, x: Tensor, deviation: Tensor | float) -> Tensor:
        """Mean of clean signals that are Gaussian around `x` [batch, time], given that they are in the set.

        Args:
            x: means before the set was known.
            deviation: standard deviation of every sample, above 0; a number, or [batch, 1].
        """


@dataclass(frozen=True)
class Intervals(FeasibleSet):
    """An interval for every sample.

    Attributes:
        low: smallest value of every sample [batch, time]; may be -infinite.
        high: largest value, same shape, not below `low`; may be infinite.
    """

    low: Tensor
    high: Tensor

    def of(self, items: list[int]) -> Intervals:
        """Those of some items of the batch."""
        return Intervals(self.low[items], self.high[items])

    def project(self, x: Tensor) -> Tensor:
        """Move every sample of `x` [batch, time] to the nearest value of its interval."""
        return torch.clamp(x, self.low, self.high)

    def expectation(self, x: Tensor, deviation: Tensor | float) -> Tensor:
        """Mean of the Gaussian truncated to the interval, for every sample; unlike a projection never on its edge."""
        below, above = (self.low - x) / deviation, (self.high - x) / deviation
        # The formula is for an interval whose near end, seen from x, is the lower one; the others are mirrored.
        mirror = below + above < 0
        near, far = torch.where(mirror, -above, below), torch.where(mirror, -below, above)
        near, far = near.clamp(min=-_FAR), far.clamp(max=_INFINITE)
        # Densities and tails relative to the density at the near end: nothing underflows.
        decay = torch.exp((near.square() - far.square()) / 2)
        tails = torch.special.erfcx(near / _ROOT_2) - decay * torch.special.erfcx(far / _ROOT_2)
        shift = _ROOT_2 / math.sqrt(math.pi) * (1 - decay) / tails
        # Where the interval is narrow both differences cancel, and the mean is its middle.
        shift = torch.where(far - near < _NARROW, (near + far) / 2, shift)
        return self.project(x + deviation * torch.where(mirror, -shift, shift))
