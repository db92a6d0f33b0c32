"""What sampling starts from: a first estimate of the clean signal."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.sound.histogram import histogram_match

FirstGuess = Callable[[Tensor], Tensor]
"""Observed audio [batch, time] at the prior's level -> an estimate of the clean audio, same shape and level."""


def _histogram(samples: np.ndarray, rms: float) -> FirstGuess:
    match = histogram_match(samples, rms)
    return lambda y: torch.from_numpy(match(y.cpu().numpy())).to(y.device)


STARTS: dict[str, Callable[[np.ndarray, float], FirstGuess]] = {
    "histogram": _histogram,
    "observation": lambda samples, rms: lambda y: y,
}
"""The starts by name. `histogram`: the observation with the distribution of samples that clean audio has, see
`nldiff.sound.histogram`. `observation`: the observation itself, as in the 2025 paper."""


def first_guess(name: str, samples: np.ndarray, rms: float) -> FirstGuess:
    """Choose what sampling starts from.

    Args:
        name: a key of `STARTS`.
        samples: observed samples at the prior's level, any shape, at least two different values.
        rms: RMS of clean audio at that level, linear.

    Returns:
        The function from observed to estimated clean audio.

    Raises:
        NldiffError: unknown name.
    """
    if name not in STARTS:
        raise NldiffError(f"unknown start '{name}': known are {', '.join(STARTS)}")
    return STARTS[name](samples, rms)
