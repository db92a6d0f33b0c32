"""A recording that is read piece by piece, from memory or from a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.reading import regular_file
from nldiff.sound.early import Part, read_part, readable_part

_BLOCK = 1 << 18


@dataclass(frozen=True)
class Recording:
    """A distorted recording that can be read piece by piece.

    Attributes:
        name: its name in messages.
        sample_rate: the recording's rate in Hz.
        channels, frames: number of channels and of samples per channel.
        read: called with (start, frames), returns float32 [channels, frames].
        loss: how much of it is missing, in words; empty if it is whole.
        joins: frames at which another file begins, ascending, where several are taken for one recording.
    """

    name: str
    sample_rate: int
    channels: int
    frames: int
    read: Callable[[int, int], np.ndarray]
    loss: str = ""
    joins: tuple[int, ...] = ()

    @classmethod
    def of_several(cls, recordings: Sequence["Recording"]) -> "Recording":
        """Several recordings one after the other, as one.

        Raises:
            NldiffError: their rates or numbers of channels differ.
        """
        first = recordings[0]
        for other in recordings[1:]:
            if (other.sample_rate, other.channels) != (first.sample_rate, first.channels):
                raise NldiffError(
                    f"{other.name}: {other.sample_rate} Hz and {other.channels} channels, {first.name}: "
                    f"{first.sample_rate} Hz and {first.channels}: recordings of one rate and as many channels expected"
                )
        ends = np.cumsum([recording.frames for recording in recordings]).tolist()

        def read(start: int, frames: int) -> np.ndarray:
            pieces = [
                recording.read(max(start - begin, 0), min(start + frames, end) - max(start, begin))
                for recording, begin, end in zip(recordings, [0, *ends], ends, strict=False)
                if start < end and start + frames > begin
            ]
            return np.concatenate([np.zeros((first.channels, 0), np.float32), *pieces], axis=1)

        names = ", ".join(recording.name for recording in recordings)
        loss = "; ".join(f"{recording.name}: {recording.loss}" for recording in recordings if recording.loss)
        return cls(names, first.sample_rate, first.channels, ends[-1], read, loss, tuple(ends[:-1]))

    @classmethod
    def from_array(cls, samples: np.ndarray, sample_rate: int, name: str = "audio") -> "Recording":
        """Wrap `samples` [channels, time].

        Raises:
            NldiffError: the samples cannot be restored, see `nldiff.sound.check_samples`.
        """
        sound.check_samples(samples, sample_rate, name)
        channels, frames = samples.shape
        return cls(name, sample_rate, channels, frames, lambda start, frames: samples[:, start : start + frames])

    @classmethod
    def from_file(cls, path: Path, strict: bool = True) -> "Recording":
        """Wrap an audio file.

        Args:
            path: the file; it must not change while the recording is in use.
            strict: refuse a file that ends early, instead of taking what can be read of it.

        Raises:
            NldiffError: the file cannot be read or restored, see `nldiff.sound.check_observation`; or, while it is
                read, that it was changed.
        """
        identity = regular_file(path)
        try:
            info: sound.AudioInfo | Part = sound.check_observation(path)
        except sound.TruncatedError:
            if strict:
                raise
            info = readable_part(path)

        def read(start: int, frames: int) -> np.ndarray:
            if regular_file(path) != identity:
                raise NldiffError(f"{path} was changed while it was read")
            return read_part(path, start, frames) if isinstance(info, Part) else sound.read(path, start, frames)[0]

        loss = info.loss if isinstance(info, Part) else ""
        return cls(path.name, info.sample_rate, info.channels, info.frames, read, loss)

    def beginning(self, frame: int) -> int:
        """First frame of the file that a frame, from 0, is of."""
        return max(first for first in (0, *self.joins) if first <= frame)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, frames) of consecutive pieces that fit in memory and cover the recording; none crosses a join."""
        for first, end in pairwise((0, *self.joins, self.frames)):
            for start in range(first, end, _BLOCK):
                yield start, min(_BLOCK, end - start)
