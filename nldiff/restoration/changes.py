"""Changes of the distortion within a recording, seen by where samples pile up."""

import numpy as np
import torch

from nldiff.restoration.measures import plateau_share
from nldiff.sound.recording import Recording

# Samples of a chunk that are piled up, as a fraction, for its extremes to be those of a plateau.
_PILED_UP = 0.01
# Plateaus differ if they are apart by more than this fraction; rare samples beyond them do not count.
_APART, _RARE = 0.05, 1e-3


def plateau_changes(recording: Recording, starts: list[int], length: int) -> list[str]:
    """Say where plateaus move: a level that was changed after clipping, or a clipper that was set otherwise.

    Args:
        recording: the observation.
        starts: of chunks of it, in frames.
        length: of the chunks, in frames.

    Returns:
        A warning with the time of the first change, if there is one.
    """
    ends: dict[int, np.ndarray] = {}
    for start in starts:
        chunk = recording.read(start, length)
        if plateau_share(torch.from_numpy(chunk)) > _PILED_UP:
            ends[start] = np.quantile(chunk, [_RARE, 1 - _RARE])
    if len(ends) < 2:
        return []
    reference = next(iter(ends.values()))
    for start, found in ends.items():
        if np.max(np.abs(found - reference)) > _APART * np.ptp(reference):
            seconds = start / recording.sample_rate
            return [f"samples pile up at another level from about {seconds:.1f} s on: was the level changed there?"]
    return []
