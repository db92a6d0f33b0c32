"""Feasible sets: what an operator and an observation leave open of the clean signal."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class FeasibleSet(ABC):
    """All clean signals [batch, time] that an operator maps to what was observed, up to a tolerance."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest signals of the set to `x` [batch, time]."""


@dataclass(frozen=True)
class Intervals(FeasibleSet):
    """An interval for every sample.

    Attributes:
        low: smallest value of every sample [batch, time]; may be -infinite.
        high: largest value, same shape, not below `low`; may be infinite.
    """

    low: Tensor
    high: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Move every sample of `x` [batch, time] to the nearest value of its interval."""
        return torch.clamp(x, self.low, self.high)
