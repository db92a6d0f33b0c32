"""The clean clips of an experiment."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nldiff import sound
from nldiff.errors import NldiffError

Audio: TypeAlias = NDArray[np.float32]

_SILENCE = 1e-6


@dataclass(frozen=True)
class Clip:
    """A piece of a file.

    Attributes:
        name: path below the data folder without suffix, and the number of the piece if the file has several.
        path: the file.
        start: beginning of the piece, seconds.
    """

    name: str
    path: Path
    start: float


def find_clips(folder: str | Path, files: int, pieces: int, seconds: float) -> list[Clip]:
    """List clips of a folder in alphabetical order.

    Args:
        folder: searched for audio files, subfolders too; or one file.
        files: how many files, 0 for all.
        pieces: consecutive pieces of each file, 0 for all; there is always one, the others are of full length.
        seconds: length of a piece.

    Raises:
        NldiffError: there is no audio, or a file cannot be read.
    """
    root = Path(folder)
    clips = []
    for path in sound.find_audio([root])[: files or None]:
        name = path.relative_to(root).with_suffix("").as_posix() if root.is_dir() else path.stem
        name = name.encode(errors="backslashreplace").decode()  # it goes into tables, which are UTF-8
        info = sound.probe(path)
        whole = max(1, int(info.frames / info.sample_rate / seconds))
        count = min(pieces or whole, whole)
        clips += [Clip(f"{name}.{i + 1}" if pieces != 1 else name, path, i * seconds) for i in range(count)]
    return clips


def read_clip(clip: Clip, seconds: float, sample_rate: int, level: float) -> Audio:
    """Read a clip as mono `[time]`.

    Args:
        clip: what to read.
        seconds: longest duration.
        sample_rate: to which it is resampled, Hz.
        level: RMS that it is brought to; 0 keeps its own.

    Raises:
        NldiffError: the file cannot be read, or the clip is silent.
    """
    rate = sound.probe(clip.path).sample_rate
    audio, _ = sound.read(clip.path, round(clip.start * rate), round(seconds * rate))
    mono = sound.resample(audio.mean(axis=0, keepdims=True), rate, sample_rate)[0]
    rms = sound.rms(mono)
    if rms < _SILENCE:
        raise NldiffError(f"{clip.path} is silent from {clip.start:g} s for {seconds:g} s")
    return mono * np.float32(level / rms) if level else mono
