"""Clips and distortions of an experiment, and the cases that they make together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nldiff import audio as audio_io
from nldiff.errors import NldiffError
from nldiff.evaluation.methods import Audio
from nldiff.nonlinearities import Distortion, calibrate, parse_distortion
from nldiff.overdrive import sox_overdrive

_SOX = "overdrive"
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


@dataclass(frozen=True)
class Task:
    """A distortion as an experiment names it.

    Attributes:
        text: as `parse_distortion` takes it; or `overdrive:gain_db=20,colour=20`, SoX's effect, whose filter gives
            it a memory (`nldiff.overdrive`).
        family: name of the distortion.
        params: parameters that the text gives, `sdr` among them.
    """

    text: str
    family: str
    params: dict[str, float]

    @property
    def level(self) -> tuple[float | None, str]:
        """Number in dB that tells how strong the distortion is and what it is called; None and "" without one."""
        for key, name in (("sdr", "input SDR"), ("gain_db", "gain")):
            if key in self.params:
                return self.params[key], name
        return None, ""


@dataclass(frozen=True)
class Case:
    """A distorted clip.

    Attributes:
        clean, observed: signals `[time]`.
        truth: curve between them; for SoX's overdrive that of the effect without its filter.
        sample_rate: Hz.
    """

    clean: Audio
    observed: Audio
    truth: Distortion
    sample_rate: int

    @property
    def sigma(self) -> float:
        """RMS of the clean signal."""
        return audio_io.rms(self.clean)

    @property
    def amplified(self) -> bool:
        """Whether the distortion makes its input louder by a gain, which says nothing of the restoration."""
        return "gain_db" in self.truth.params


def parse_task(text: str) -> Task:
    """Read a distortion of an experiment.

    Raises:
        NldiffError: as `parse_distortion`.
    """
    family, colon, rest = text.strip().partition(":")
    if family == _SOX:
        return Task(text, _SOX, parse_distortion(f"overdrive_static{colon}{rest}")[1])
    return Task(text, *parse_distortion(text))


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
    for path in audio_io.find_audio([root])[: files or None]:
        name = path.relative_to(root).with_suffix("").as_posix() if root.is_dir() else path.stem
        name = name.encode(errors="backslashreplace").decode()  # it goes into tables, which are UTF-8
        info = audio_io.probe(path)
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
    rate = audio_io.probe(clip.path).sample_rate
    audio, _ = audio_io.read(clip.path, round(clip.start * rate), round(seconds * rate))
    mono = audio_io.resample(audio.mean(axis=0, keepdims=True), rate, sample_rate)[0]
    rms = audio_io.rms(mono)
    if rms < _SILENCE:
        raise NldiffError(f"{clip.path} is silent from {clip.start:g} s for {seconds:g} s")
    return mono * np.float32(level / rms) if level else mono


def make_case(clean: Audio, sample_rate: int, task: Task) -> Case:
    """Distort a clean signal `[time]`.

    Raises:
        NldiffError: the input SDR cannot be reached with this signal.
    """
    x = torch.from_numpy(clean)
    if task.family == _SOX:
        truth = Distortion("overdrive_static", task.params)
        wet = sox_overdrive(x, truth.params["gain_db"], truth.params["colour"])
        y = torch.lerp(x, wet, truth.params.get("mix", 1.0))
    else:
        truth = (
            calibrate(task.family, x, **task.params) if "sdr" in task.params else Distortion(task.family, task.params)
        )
        y = truth(x)
    return Case(clean, y.numpy(), truth, sample_rate)
