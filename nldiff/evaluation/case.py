"""A distorted clip and the operator that distorted it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nldiff import sound
from nldiff.operators import Operator, Recipe


@dataclass(frozen=True)
class Case:
    """A distorted clip.

    Attributes:
        clean, observed: signals `[time]`, float32.
        truth: the operator that maps `clean` to `observed`.
        sample_rate: Hz.
    """

    clean: NDArray[np.float32]
    observed: NDArray[np.float32]
    truth: Operator
    sample_rate: int

    @property
    def sigma(self) -> float:
        """RMS of the clean signal."""
        return sound.rms(self.clean)


def make_case(clean: NDArray[np.float32], sample_rate: int, recipe: Recipe) -> Case:
    """Distort a clean signal `[time]`.

    Raises:
        NldiffError: this signal cannot reach the input SDR.
    """
    x = torch.from_numpy(clean)
    truth = recipe.build(x)
    return Case(clean, truth(x).numpy(), truth, sample_rate)
