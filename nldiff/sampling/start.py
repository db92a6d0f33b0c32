"""What sampling starts from: a first estimate of the clean signal."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

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
"""The starts by name. Each takes observed samples at the prior's level, any shape, at least two different values, and
the RMS of clean audio at that level. `histogram`: the observation with the distribution of samples that clean audio
has, see `nldiff.sound.histogram`. `observation`: the observation itself, as in the 2025 paper."""
