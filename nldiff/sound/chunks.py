"""How a recording is cut into overlapping chunks, and how they are joined again."""

from collections.abc import Iterable, Iterator

import numpy as np

from nldiff.sound.recording import Recording


def chunk_starts(recording: Recording, chunk_seconds: float, overlap_seconds: float) -> tuple[list[int], int]:
    """Start of every chunk and their common length, in frames of the recording; equally spaced, overlapping."""
    length = round(chunk_seconds * recording.sample_rate)
    overlap = round(overlap_seconds * recording.sample_rate)
    if recording.frames <= length:
        return [0], recording.frames
    count = -(-(recording.frames - overlap) // (length - overlap))
    return np.linspace(0, recording.frames - length, count).round().astype(int).tolist(), length


def cross_fade(tail: np.ndarray, chunk: np.ndarray) -> np.ndarray:
    """`chunk` [channels, n], its beginning faded in over the `tail` [channels, m], m <= n, of the one before it.

    Linear, since both estimate the same signal: where they agree, the result is exactly what they agree on.
    """
    m = tail.shape[1]
    weight = ((np.arange(m) + 0.5) / max(m, 1)).astype(np.float32)
    faded = tail + (chunk[:, :m] - tail) * weight
    return np.concatenate([faded, chunk[:, m:]], axis=1)


def joined(chunks: Iterable[np.ndarray], starts: list[int], frames: int) -> Iterator[np.ndarray]:
    """Consecutive blocks [channels, n], `frames` in all, from overlapping `chunks` that begin at `starts`."""
    tail = None
    for chunk, start, end in zip(chunks, starts, [*starts[1:], frames], strict=True):
        piece = chunk if tail is None else cross_fade(tail, chunk)
        yield piece[:, : end - start]
        tail = piece[:, end - start :]
