"""Levels at which audio was clipped."""

import math

import numpy as np
import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.sound.recording import Recording

# A clean signal is at its highest value once, or twice in a row after rounding; a clipped signal stays there.
_SHORTEST_PLATEAU = 3


def detect_clipping(y: Tensor) -> tuple[Tensor, Tensor]:
    """Find the clipping levels of hard-clipped audio.

    The lowest or highest value of an item is its clipping level if at least three samples in a row have exactly that
    value. Anything that moves these samples apart (a filter, a change of rate, a lossy file) hides the levels; they
    must be given then.

    Args:
        y: audio `[batch, time]`.

    Returns:
        Lower and upper level, `[batch]` each; minus infinity and infinity where there is none, as in a constant item.

    Raises:
        NldiffError: y is not finite floating-point audio of that shape.
    """
    check_audio(y)
    low, high = y.aminmax(dim=1)
    varies = low < high
    return (
        torch.where(varies & _has_plateau(y == low[:, None]), low, -math.inf),
        torch.where(varies & _has_plateau(y == high[:, None]), high, math.inf),
    )


def clipping_levels(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper level at which a recording stays, see `detect_clipping`; float32 [channels] each."""
    extremes = np.array([[np.inf], [-np.inf]], np.float32).repeat(recording.channels, axis=1)
    levels = -extremes
    for start, frames in recording.blocks():
        block = torch.from_numpy(recording.read(start, frames))
        found = [level.numpy() for level in detect_clipping(block)]
        for i, (extreme, further) in enumerate(zip(block.aminmax(dim=1), (np.less, np.greater), strict=True)):
            value = extreme.numpy()
            beyond = further(value, extremes[i])
            # Beyond all blocks before, or as far and the first to stay there.
            new = beyond | ((value == extremes[i]) & np.isfinite(found[i]))
            levels[i, new], extremes[i, beyond] = found[i][new], value[beyond]
    return levels[0], levels[1]


def check_audio(y: Tensor) -> None:
    """Validate that `y` is finite floating-point audio `[batch, time]`, time >= 1.

    Raises:
        NldiffError: it is not.
    """
    if y.ndim != 2 or y.shape[1] == 0 or not y.is_floating_point():
        raise NldiffError(f"audio has shape {list(y.shape)} and type {y.dtype}: must be [batch, time], floating-point")
    if not y.isfinite().all():
        raise NldiffError("audio contains NaN or infinite samples")


def _has_plateau(marked: Tensor) -> Tensor:
    """Whether `_SHORTEST_PLATEAU` values in a row are True, `[B, T]` -> `[B]`."""
    if marked.shape[1] < _SHORTEST_PLATEAU:
        return marked.new_zeros(len(marked))
    return marked.unfold(1, _SHORTEST_PLATEAU, 1).all(-1).any(-1)
