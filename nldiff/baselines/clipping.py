"""Levels at which a recording was clipped."""

import numpy as np
import torch

from nldiff.baselines.aspade import detect_clipping
from nldiff.sound.recording import Recording


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
