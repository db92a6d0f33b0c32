"""Overlapping chunks of a recording: where they start, and how they are joined again."""

from collections.abc import Iterable, Iterator

import numpy as np

from nldiff.sound.recording import Recording


def chunk_starts(recording: Recording, chunk_seconds: float, overlap_seconds: float) -> tuple[list[int], int]:
    """Starts of equally spaced, overlapping chunks, and their common length, in frames of the recording."""
    rate = recording.sample_rate
    return equal_parts(recording.frames, round(chunk_seconds * rate), round(overlap_seconds * rate))


def equal_parts(frames: int, length: int, overlap: int) -> tuple[list[int], int]:
    """Starts of equally spaced parts of some frames, and their length: `length`, or all frames if there are no more.

    They overlap by at least `overlap` frames.
    """
    if frames <= length:
        return [0], frames
    count = -(-(frames - overlap) // (length - overlap))
    return np.linspace(0, frames - length, count).round().astype(int).tolist(), length


def cross_fade(tail: np.ndarray, chunk: np.ndarray) -> np.ndarray:
    """Fade `chunk` [channels, n] in over the `tail` [channels, m], m <= n, of the chunk before it.

    The fade is linear because both estimate the same signal: where they agree, they are kept exactly.
    """
    m = tail.shape[1]
    weight = ((np.arange(m) + 0.5) / max(m, 1)).astype(np.float32)
    faded = tail + (chunk[:, :m] - tail) * weight
    return np.concatenate([faded, chunk[:, m:]], axis=1)


def joined(chunks: Iterable[np.ndarray], starts: list[int], frames: int) -> Iterator[np.ndarray]:
    """Join overlapping `chunks` that begin at `starts`: yields consecutive blocks [channels, n] of `frames` in all."""
    tail = None
    for chunk, start, end in zip(chunks, starts, [*starts[1:], frames], strict=True):
        piece = chunk if tail is None else cross_fade(tail, chunk)
        yield piece[:, : end - start]
        tail = piece[:, end - start :]
