"""Training data: random, augmented crops of a folder of audio files.

Every crop is a pure function of (seed, step, item): a training run sees the same crops wherever it stops and
resumes, and with any number of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nldiff import sound
from nldiff.errors import NldiffError

_ATTEMPTS = 20
_SILENCE_RMS = 1e-4


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a crop; zeros switch them off.

    Attributes:
        level_db: standard deviation of the level around that of `Crops`, in dB.
        semitones: largest change of speed and pitch together, up or down, in semitones.
        eq_db: standard deviation of the gain of each of the five smooth equaliser bands, in dB.
        polarity: flip the sign of half of the crops, at random.
    """

    level_db: float = 0.0
    semitones: float = 0.0
    eq_db: float = 0.0
    polarity: bool = False


def equalise(x: np.ndarray, sample_rate: float, gains_db: np.ndarray) -> np.ndarray:
    """Zero-phase equaliser with smooth bands around 80, 300, 1000, 3000 and 9000 Hz; `x` [time], `gains_db` [5]."""
    octave = np.log2(np.maximum(np.fft.rfftfreq(len(x), 1 / sample_rate), 20.0))
    centres = np.log2([80.0, 300.0, 1000.0, 3000.0, 9000.0])
    curve = np.exp(-0.5 * (octave[:, None] - centres) ** 2) @ gains_db
    return np.fft.irfft(np.fft.rfft(x) * 10 ** (curve / 20), n=len(x))


class Crops(Dataset[Tensor]):
    """Random crops of the audio files below a folder.

    Index it with (step, item, length); the crop depends on these and on the seed alone. Files are drawn in proportion
    to their duration; channels of a file count as separate recordings.

    Args:
        folder: folder of audio files, searched recursively; any sample rates.
        sample_rate: rate of the crops in Hz.
        level: RMS of the crops before the random level change.
        augmentation: random changes of the crops.
        seed: seed of the drawing and of the changes.
        weights: file name pattern to a factor on how often such files are drawn.

    Raises:
        NldiffError: the folder is missing or holds no audio, a file cannot be read, a weight is negative, or all are
            zero; when indexed: a file is damaged where the crop lies, or too many crops are silent.
    """

    def __init__(
        self,
        folder: str | Path,
        sample_rate: int,
        level: float,
        augmentation: Augmentation,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.sample_rate, self.level, self.augmentation, self.seed = sample_rate, level, augmentation, seed
        self.folder = Path(folder)
        self.files = [sound.probe(path) for path in sound.find_audio([self.folder])]
        seconds = np.array([file.frames / file.sample_rate for file in self.files])
        for pattern, weight in (weights or {}).items():
            seconds *= [weight if fnmatch(file.path.name, pattern) else 1.0 for file in self.files]
        if seconds.min() < 0 or seconds.sum() == 0:
            raise NldiffError(f"train_weights={dict(weights or {})}: no negative factors, and not all zero, expected")
        self.probabilities = seconds / seconds.sum()

    def __getitem__(self, key: tuple[int, int, int]) -> Tensor:
        """Crop number `item` of `step`, [length] float32."""
        step, item, length = key
        rng = np.random.default_rng([self.seed, step, item])
        for _ in range(_ATTEMPTS):
            x = self._draw(rng, length)
            rms = np.sqrt(np.mean(x**2))
            if rms > _SILENCE_RMS:
                break
        else:
            raise NldiffError(f"{_ATTEMPTS} crops in a row of {self.folder} are silent")
        gain = self.level / rms * 10 ** (self.augmentation.level_db * rng.standard_normal() / 20)
        if self.augmentation.polarity and rng.random() < 0.5:
            gain = -gain
        return torch.from_numpy((x * gain).astype(np.float32))

    def _draw(self, rng: np.random.Generator, length: int) -> np.ndarray:
        file = self.files[rng.choice(len(self.files), p=self.probabilities)]
        channel = rng.integers(file.channels)
        speed = 2 ** (self.augmentation.semitones * rng.uniform(-1, 1) / 12)
        ratio = file.sample_rate * speed / self.sample_rate
        # A few samples more than needed: the resampler rounds its output length.
        wanted = int(np.ceil(length * ratio)) + 8
        start = rng.integers(max(1, file.frames - wanted + 1))
        x = sound.read(file.path, int(start), wanted)[0][channel]
        if ratio != 1:
            x = soxr.resample(x, file.sample_rate * speed, self.sample_rate)
        x = np.pad(x[:length], (0, max(0, length - len(x)))).astype(np.float64)
        if self.augmentation.eq_db:
            x = equalise(x, self.sample_rate, self.augmentation.eq_db * rng.standard_normal(5))
        return x
