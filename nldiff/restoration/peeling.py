"""Peeling: what was done to a recording after the last lossy step is undone, and the rest is restored as ever.

Linear filters and overdrives with a dry path are undone sample by sample over the whole recording, in blocks.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from functools import lru_cache

import numpy as np

from nldiff.operators import Chain, Identity, Operator
from nldiff.operators.filters import Inversion
from nldiff.sound.recording import Recording


def peel(recording: Recording, operator: Operator) -> tuple[Recording, Operator, Operator]:
    """Undo the longest last part of a known operator that can be undone.

    Returns:
        The recording before that part, what made it, and that part; `recording` itself where nothing can be undone.
    """
    first, last = split(operator)
    inversion = None if isinstance(last, Identity) else last.inversion()
    return undone(recording, inversion) if inversion else recording, first, last


def split(operator: Operator) -> tuple[Operator, Operator]:
    """Take an operator apart into what comes first, and the longest rest that can be undone."""
    if operator.inversion():
        return Identity(), operator
    parts = list(operator.operators) if isinstance(operator, Chain) and operator.mix == 1 else [operator]
    after: list[Operator] = []
    while parts[-1].inversion():
        after.insert(0, parts.pop())
    return (_chain(parts), _chain(after)) if after else (operator, Identity())


def undone(recording: Recording, inversion: Inversion, centred: bool = False) -> Recording:
    """The recording before the last operator, read piece by piece like the recording itself.

    One pass over it notes the states between blocks, so that memory does not grow with the length. Every one of
    several files that are taken together starts anew.

    Args:
        recording: the observation.
        inversion: of the operator, at the recording's rate and level; its start may be one for every channel.
        centred: take the mean of every channel away: where the recording does not begin in silence, undoing a high-pass
            leaves an unknown constant.
    """
    blocks = list(recording.blocks())
    starts = [start for start, _ in blocks]
    silence = np.broadcast_to(inversion.start, (recording.channels, inversion.start.shape[-1]))
    states: list[np.ndarray] = []
    totals: list[np.ndarray] = []
    after = silence
    for start, frames in blocks:
        if start == recording.beginning(start):
            after = silence
            totals.append(np.zeros((recording.channels, 1)))
        states.append(after)
        x, after = inversion.step(recording.read(start, frames).astype(np.float64), after)
        totals[-1] += x.sum(axis=1, keepdims=True)
    lengths = np.diff([0, *recording.joins, recording.frames])
    means = [centred * total / length for total, length in zip(totals, lengths, strict=True)]

    @lru_cache(maxsize=2)
    def block(index: int) -> np.ndarray:
        observed = recording.read(*blocks[index]).astype(np.float64)
        mean = means[bisect_right(recording.joins, starts[index])]
        return (inversion.step(observed, states[index])[0] - mean).astype(np.float32)

    def read(start: int, frames: int) -> np.ndarray:
        end = min(start + frames, recording.frames)
        first, last = (bisect_right(starts, frame) - 1 for frame in (start, max(start, end - 1)))
        pieces = [block(index) for index in range(first, last + 1)]
        return np.concatenate(pieces, axis=1)[:, start - starts[first] : end - starts[first]]

    return replace(recording, read=read)


def _chain(operators: list[Operator]) -> Operator:
    return operators[0] if len(operators) == 1 else Chain(operators)
