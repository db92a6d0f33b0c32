"""A recording that is read piece by piece, from memory or from a file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nldiff import sound

_BLOCK = 1 << 18


@dataclass(frozen=True)
class Recording:
    """A distorted recording that can be read piece by piece.

    Attributes:
        name: its name in messages.
        sample_rate: the recording's rate in Hz.
        channels, frames: number of channels and of samples per channel.
        read: called with (start, frames), returns float32 [channels, frames].
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
            NldiffError: the samples cannot be restored, see `nldiff.sound.check_samples`.
        """
        sound.check_samples(samples, sample_rate, name)
        channels, frames = samples.shape
        return cls(name, sample_rate, channels, frames, lambda start, frames: samples[:, start : start + frames])

    @classmethod
    def from_file(cls, path: Path) -> "Recording":
        """Wrap an audio file.

        Raises:
            NldiffError: the file cannot be read or restored, see `nldiff.sound.check_observation`.
        """
        info = sound.check_observation(path)
        rate, channels, frames = info.sample_rate, info.channels, info.frames
        return cls(path.name, rate, channels, frames, lambda start, frames: sound.read(path, start, frames)[0])

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, frames) of consecutive pieces that fit in memory and cover the recording."""
        for start in range(0, self.frames, _BLOCK):
            yield start, min(_BLOCK, self.frames - start)
