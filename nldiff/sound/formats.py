"""Formats of written audio: WAV, FLAC and AIFF, with dither and clipping where samples become whole numbers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.sound.files import sound_path

BITS = ("16", "24", "32f")
_SUFFIXES = {"wav": (".wav",), "flac": (".flac",), "aiff": (".aiff", ".aif")}
FORMATS = tuple(_SUFFIXES)


@dataclass(frozen=True)
class AudioFormat:
    """A format of written audio.

    Attributes:
        container: key of `FORMATS`.
        bits: "16", "24", or "32f" for float32, which keeps samples beyond full scale.

    Raises:
        NldiffError: an unknown container or number of bits, or floats in FLAC.
    """

    container: str = "wav"
    bits: str = "32f"

    def __post_init__(self) -> None:
        """Check the names."""
        if self.container not in FORMATS:
            raise NldiffError(f"format {self.container}: {', '.join(FORMATS)} expected")
        if self.bits not in BITS:
            raise NldiffError(f"{self.bits} bits: {', '.join(BITS)} expected")
        if (self.container, self.bits) == ("flac", "32f"):
            raise NldiffError("FLAC holds whole numbers: 16 or 24 bits expected")

    @property
    def suffix(self) -> str:
        """End of the file name, with the dot."""
        return _SUFFIXES[self.container][0]

    @property
    def levels(self) -> int | None:
        """Number of steps from zero to full scale; None for floats."""
        return None if self.bits == "32f" else 1 << (int(self.bits) - 1)


def named_container(path: Path) -> str | None:
    """The container that the end of a file's name asks for; None for other names."""
    return next((name for name, ends in _SUFFIXES.items() if path.suffix.lower() in ends), None)


class AudioWriter:
    """Writes blocks of samples to an open file.

    Whole numbers get triangular dither of ±1 step, always the same, unless it is not wanted or all samples of a block
    are whole steps already; what is beyond full scale is clipped then.

    Attributes:
        clipped: number of samples that were clipped.
    """

    def __init__(self, file: sf.SoundFile, audio_format: AudioFormat, dither: bool = True) -> None:
        self.clipped = 0
        self._file, self._format, self._dither = file, audio_format, dither
        self._random = np.random.default_rng(0)

    def write(self, block: NDArray[np.floating]) -> None:
        """Write samples [channels, n]."""
        levels = self._format.levels
        if levels is None:
            self._file.write(block.T.astype(np.float32))
            return
        steps = block.T.astype(np.float64) * levels
        if self._dither and not np.array_equal(steps, np.round(steps)):
            steps += self._random.random(steps.shape) - self._random.random(steps.shape)
        steps = np.round(steps)
        whole = steps.clip(-levels, levels - 1)
        self.clipped += int(np.count_nonzero(whole != steps))
        self._file.write(whole.astype(np.int32) * ((1 << 31) // levels))  # soundfile takes the upper bits


@contextmanager
def audio_writer(
    path: Path,
    sample_rate: int,
    channels: int,
    audio_format: AudioFormat,
    tags: Mapping[str, str] | None = None,
    dither: bool = True,
) -> Iterator[AudioWriter]:
    """Create a file and write to it; what comes of it is as complete as the block was.

    Args:
        path: the file; its name need not tell the format.
        sample_rate: in Hz.
        channels: number of channels.
        audio_format: container and bits.
        tags: names and texts as `Metadata.tags`; those that the container does not know are left out.
        dither: see `AudioWriter`; off for samples that are no sound.

    Raises:
        soundfile.SoundFileError, OSError: the file cannot be written.
    """
    subtype = "FLOAT" if audio_format.levels is None else f"PCM_{audio_format.bits}"
    container = audio_format.container.upper()
    with sf.SoundFile(sound_path(path), "w", sample_rate, channels, subtype=subtype, format=container) as file:
        for name, text in (tags or {}).items():
            setattr(file, name, text)
        yield AudioWriter(file, audio_format, dither)
