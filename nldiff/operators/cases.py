"""Clean signals and what known distortions make of them: the cases of experiments and of supervised training."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nldiff import sound
from nldiff.operators.distortions import Distortion, calibrate, parse_distortion
from nldiff.operators.overdrive import sox_overdrive

_SOX = "overdrive"


@dataclass(frozen=True)
class Task:
    """A distortion as experiments and trainings name it.

    Attributes:
        text: as `parse_distortion` takes it; or `overdrive:gain_db=20,colour=20`, SoX's effect, whose filter gives
            it a memory (`nldiff.operators.overdrive`).
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
        clean, observed: signals `[time]`, float32.
        truth: curve between them; for SoX's overdrive that of the effect without its filter.
        sample_rate: Hz.
    """

    clean: NDArray[np.float32]
    observed: NDArray[np.float32]
    truth: Distortion
    sample_rate: int

    @property
    def sigma(self) -> float:
        """RMS of the clean signal."""
        return sound.rms(self.clean)

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


def make_case(clean: NDArray[np.float32], sample_rate: int, task: Task) -> Case:
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
