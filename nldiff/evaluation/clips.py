"""The clean clips of an experiment, and what distortions make of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.operators import Operator, Recipe

Audio: TypeAlias = NDArray[np.float32]

_SILENCE = 1e-6


@dataclass(frozen=True)
class Clip:
    """A piece of a file.

    Attributes:
        name: path below the data folder without suffix, then the number of the piece if a file may have several.
        path: the file.
        start: start of the piece, seconds.
    """

    name: str
    path: Path
    start: float


def find_clips(folder: str | Path, files: int, pieces: int, seconds: float) -> list[Clip]:
    """List clips of a folder in alphabetical order.

    Args:
        folder: folder that is searched for audio files, with its subfolders; or one file.
        files: number of files; 0 takes all.
        pieces: largest number of consecutive pieces of a file; 0 takes all. The first one may be shorter than
            `seconds`, further ones are not.
        seconds: length of a piece.

    Raises:
        NldiffError: there is no audio, or a file cannot be read.
    """
    root = Path(folder)
    clips = []
    for path in sound.find_audio([root])[: files or None]:
        name = path.relative_to(root).with_suffix("").as_posix() if root.is_dir() else path.stem
        name = name.encode(errors="backslashreplace").decode()  # tables are UTF-8
        info = sound.probe(path)
        whole = max(1, int(info.frames / info.sample_rate / seconds))
        count = min(pieces or whole, whole)
        clips += [Clip(f"{name}.{i + 1}" if pieces != 1 else name, path, i * seconds) for i in range(count)]
    return clips


def read_clip(clip: Clip, seconds: float, sample_rate: int, level: float) -> Audio:
    """Read a clip as mono `[time]`.

    Args:
        clip: the clip.
        seconds: largest duration.
        sample_rate: rate of the result, Hz.
        level: RMS of the result; 0 keeps that of the file.

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


@dataclass(frozen=True)
class Case:
    """A distorted clip.

    Attributes:
        clean, observed: signals `[time]`, float32.
        truth: the operator that maps `clean` to `observed`.
        sample_rate: Hz.
    """

    clean: Audio
    observed: Audio
    truth: Operator
    sample_rate: int

    @property
    def sigma(self) -> float:
        """RMS of the clean signal."""
        return sound.rms(self.clean)


def make_case(clean: Audio, sample_rate: int, recipe: Recipe) -> Case:
    """Distort a clean signal `[time]`.

    Raises:
        NldiffError: this signal cannot reach the input SDR.
    """
    x = torch.from_numpy(clean)
    truth = recipe.build(x, sample_rate)
    return Case(clean, truth(x).numpy(), truth, sample_rate)
