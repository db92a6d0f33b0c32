"""A recording that is read piece by piece, from memory or from a file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    """

    name: str
    sample_rate: int
    channels: int
    frames: int
    read: Callable[[int, int], np.ndarray]
    loss: str = ""

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

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, frames) of consecutive pieces that fit in memory and cover the recording."""
        for start in range(0, self.frames, _BLOCK):
            yield start, min(_BLOCK, self.frames - start)
