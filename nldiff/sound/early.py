"""Recordings that end early: the recorder lost power, a download broke off, a part of the file is damaged."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from nldiff.sound.files import BLOCK_FRAMES, TruncatedError, check_blocks, missing_share, open_sound, read_frames

_SMALL = 1 << 10


@dataclass(frozen=True)
class Part:
    """What can be read of a recording that ends early.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        frames: number of frames that can be read.
        promised: number of frames that the file should have; 0 where it does not say.
    """

    sample_rate: int
    channels: int
    frames: int
    promised: int

    @property
    def loss(self) -> str:
        """How much is missing, in words."""
        there = f"it ends early: {self.frames / self.sample_rate:.2f} s"
        if self.promised > self.frames:
            return f"{there} of {self.promised / self.sample_rate:.2f} s can be read"
        return f"{there} can be read, and the file does not say how long it was"


def readable_part(path: Path) -> Part:
    """Find how much can be read of a file that ends early, and validate that this can be restored.

    Raises:
        NldiffError: as `nldiff.sound.check_observation`, but not because the end is missing.
    """
    with open_sound(path, whole=False) as file:
        rate, channels, frames, share = file.samplerate, file.channels, file.frames, missing_share(file)
    good = _good_frames(path, frames)
    blocks = (read_part(path, at, min(BLOCK_FRAMES, good - at)) for at in range(0, good, BLOCK_FRAMES))
    check_blocks(f"what can be read of {path}", channels, rate, good, blocks)
    promised = round(good / (1 - share)) if share else frames if frames > good else 0
    return Part(rate, channels, good, promised)


def read_part(path: Path, start: int, frames: int) -> NDArray[np.float32]:
    """Read frames `[channels, frames]` of a file that ends early, all of them within its readable part.

    Raises:
        NldiffError: as `nldiff.sound.read`.
    """
    with open_sound(path, whole=False) as file:
        try:
            file.seek(start)
            return read_frames(file, path, frames)
        except (sf.SoundFileError, TruncatedError):
            pass
    # Without its end, a compressed file may be impossible to search: its beginning is decoded once more.
    with open_sound(path, whole=False) as file:
        for at in range(0, start, BLOCK_FRAMES):
            read_frames(file, path, min(BLOCK_FRAMES, start - at))
        return read_frames(file, path, frames)


def _good_frames(path: Path, frames: int) -> int:
    """Number of frames before the first that cannot be read."""
    good = 0
    for block in (BLOCK_FRAMES, _SMALL):
        with open_sound(path, whole=False) as file:
            try:
                for at in range(0, good, BLOCK_FRAMES):
                    read_frames(file, path, min(BLOCK_FRAMES, good - at))
                while good < frames:
                    read_frames(file, path, min(block, frames - good))
                    good += min(block, frames - good)
            except TruncatedError:
                continue
        break
    return good
