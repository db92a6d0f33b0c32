"""A recording that is read piecewise, and how it is cut into overlapping chunks and joined again."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nldiff import audio as audio_io
from nldiff.settings import RestoreConfig

_BLOCK = 1 << 18


@dataclass(frozen=True)
class Recording:
    """A distorted recording that can be read piecewise.

    Attributes:
        name: what messages call it.
        sample_rate: Hz.
        channels, frames: size.
        read: (start, frames) -> float32 [channels, frames].
    """

    name: str
    sample_rate: int
    channels: int
    frames: int
    read: Callable[[int, int], np.ndarray]

    @classmethod
    def from_array(cls, samples: np.ndarray, sample_rate: int, name: str = "audio") -> "Recording":
        """Wrap `samples` [channels, time].

        Raises:
            NldiffError: nothing in it could be restored, see `audio.check_samples`.
        """
        audio_io.check_samples(samples, sample_rate, name)
        channels, frames = samples.shape
        return cls(name, sample_rate, channels, frames, lambda start, frames: samples[:, start : start + frames])

    @classmethod
    def from_file(cls, path: Path) -> "Recording":
        """Wrap an audio file.

        Raises:
            NldiffError: the file cannot be read or nothing in it could be restored.
        """
        stats = audio_io.check_observation(path)
        return cls(
            path.name,
            stats.sample_rate,
            stats.channels,
            stats.frames,
            read=lambda start, frames: audio_io.read(path, start, frames)[0],
        )

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, frames) of consecutive pieces that fit in memory and cover everything."""
        for start in range(0, self.frames, _BLOCK):
            yield start, min(_BLOCK, self.frames - start)


def chunk_starts(recording: Recording, config: RestoreConfig) -> tuple[list[int], int]:
    """Start of every chunk and their common length, in frames of the recording; equally spaced, overlapping."""
    length = round(config.chunk_seconds * recording.sample_rate)
    overlap = round(config.overlap_seconds * recording.sample_rate)
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


def from_rate(piece: np.ndarray, rate: int, sample_rate: int, length: int) -> np.ndarray:
    """`piece` [channels, time] from the `rate` at which it was restored to `length` samples at `sample_rate`, Hz."""
    back = audio_io.resample(piece, rate, sample_rate)[:, :length]
    return np.pad(back, ((0, 0), (0, length - back.shape[1])))


def above_band(piece: np.ndarray, sample_rate: int, rate: int) -> np.ndarray:
    """What of `piece` [channels, time] at `sample_rate` is lost at `rate`: the complement of what `from_rate` fills."""
    within = audio_io.resample(piece.astype(np.float32), sample_rate, rate)
    return piece - from_rate(within, rate, sample_rate, piece.shape[1])
