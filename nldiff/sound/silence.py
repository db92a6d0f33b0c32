"""Digital silence: where it is in a recording, and keeping it in what is made of it."""

import numpy as np

from nldiff.sound.recording import Recording

_SECONDS = 0.25
"""Shortest run of zeros that counts. Rectified and coarsely quantised audio is zero for shorter times."""


def silent_runs(recording: Recording) -> list[list[tuple[int, int]]]:
    """The runs of zeros (start, end) of every channel, in frames."""
    runs: list[list[tuple[int, int]]] = [[] for _ in range(recording.channels)]
    least = round(_SECONDS * recording.sample_rate)
    last = np.full(recording.channels, -1)  # sample that is not zero
    for start, frames in [*recording.blocks(), (recording.frames, 0)]:
        # what comes after the end ends the last run
        block = recording.read(start, frames) if frames else np.ones((recording.channels, 1))
        for channel, samples in enumerate(block):
            loud = np.concatenate([last[channel : channel + 1], start + np.flatnonzero(samples)])
            for i in np.flatnonzero(np.diff(loud) > least):
                runs[channel].append((int(loud[i]) + 1, int(loud[i + 1])))
            last[channel] = loud[-1]
    return runs


def silenced(block: np.ndarray, runs: list[list[tuple[int, int]]], start: int) -> np.ndarray:
    """A block [channels, n] that begins at frame `start`, with zeros in the runs; the same one if there are none."""
    inside = [(c, max(a - start, 0), b - start) for c, each in enumerate(runs) for a, b in each]
    inside = [(c, a, b) for c, a, b in inside if b > 0 and a < block.shape[1]]
    if inside:
        block = block.copy()
    for channel, first, last in inside:
        block[channel, first:last] = 0
    return block
