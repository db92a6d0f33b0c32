"""Peeling: what was done to a recording after the last lossy step is undone, and the rest is restored as ever.

Linear filters and overdrives with a dry path are undone sample by sample over the whole recording, in blocks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from nldiff.operators import Chain, Identity, Operator
from nldiff.sound.recording import Recording


def split(operator: Operator) -> tuple[Operator, Operator | None]:
    """Take an operator apart into what comes first, and the longest rest that can be undone; None if none can."""
    if operator.inversion():
        return Identity(), operator
    parts = list(operator.operators) if isinstance(operator, Chain) and operator.mix == 1 else [operator]
    after: list[Operator] = []
    while parts[-1].inversion():
        after.insert(0, parts.pop())
    if not after:
        return operator, None
    return _chain(parts), _chain(after)


def undone(recording: Recording, operator: Operator, centred: bool = False) -> Recording:
    """The recording before the last operator, read piece by piece like the recording itself.

    One pass over it notes the states between blocks, so that memory does not grow with the length.

    Args:
        recording: the observation.
        operator: what is undone, at the recording's rate and level; it has an inversion.
        centred: take the mean of every channel away: where the recording does not begin in silence, undoing a high-pass
            leaves an unknown constant.
    """
    inversion = operator.inversion()
    assert inversion is not None, "only what can be undone is"
    blocks = list(recording.blocks())
    states = [np.tile(inversion.start, (recording.channels, 1))]
    total = np.zeros((recording.channels, 1))
    for start, frames in blocks:
        x, after = inversion.step(recording.read(start, frames).astype(np.float64), states[-1])
        states.append(after)
        total += x.sum(axis=1, keepdims=True)
    mean = total / recording.frames if centred else np.zeros_like(total)
    size = blocks[0][1]

    @lru_cache(maxsize=2)
    def block(index: int) -> np.ndarray:
        observed = recording.read(*blocks[index]).astype(np.float64)
        return (inversion.step(observed, states[index])[0] - mean).astype(np.float32)

    def read(start: int, frames: int) -> np.ndarray:
        end = min(start + frames, recording.frames)
        first, last = start // size, max(start, end - 1) // size
        pieces = [block(index) for index in range(first, last + 1)]
        return np.concatenate(pieces, axis=1)[:, start - first * size : end - first * size]

    return replace(recording, read=read)


def _chain(operators: list[Operator]) -> Operator:
    return operators[0] if len(operators) == 1 else Chain(operators)
