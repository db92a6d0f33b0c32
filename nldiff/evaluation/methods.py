"""The methods that `nldiff evaluate` compares, by name."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from nldiff import audio as audio_io
from nldiff.baselines.aspade import PRESETS, aspade
from nldiff.errors import NldiffError
from nldiff.nonlinearities import Distortion
from nldiff.priors import Prior
from nldiff.recording import Recording
from nldiff.restore import Restoration, curve_evolution, restore_blocks, settle, user_curve, versions
from nldiff.sampling import SamplerSettings
from nldiff.settings import RestoreConfig, check_config, sampler_settings
from nldiff.waveshapers import WAVESHAPERS

Audio: TypeAlias = NDArray[np.float32]
Method: TypeAlias = Callable[[Audio, int, Distortion], Restoration]
"""From the observation `[time]`, its rate in Hz and the true distortion to a restoration of the same shape.

Only informed methods may look at the distortion. Raises NldiffError where there is no result.
"""


@dataclass(frozen=True)
class Run:
    """What a method may want to know of the run.

    Attributes:
        config: settings of the restoration, with the seed of the cell.
        level: RMS of the clean signal: blind methods cannot find its scale, and return it at this one.
        prior: loads the run's prior, once.
        aspade: key of `nldiff.baselines.aspade.PRESETS`.
    """

    config: RestoreConfig
    level: float
    prior: Callable[[], Prior]
    aspade: str = "survey"


def observed(y: Audio, sample_rate: int, distortion: Distortion) -> Restoration:
    """Do nothing: the scores of the distorted input itself."""
    return signal_only(y, sample_rate, time.monotonic())


def declip(run: Run) -> Method:
    """A-SPADE, which is told the clipping levels.

    Raises:
        NldiffError: the preset is unknown; by the method, the distortion is not plain hard clipping.
    """
    if run.aspade not in PRESETS:
        raise NldiffError(f"aspade={run.aspade}: one of {', '.join(PRESETS)} expected")

    def method(y: Audio, sample_rate: int, distortion: Distortion) -> Restoration:
        started = time.monotonic()
        params = distortion.params
        if distortion.name not in FAMILIES["aspade"] or "mix" in params:
            raise NldiffError(f"aspade restores hard clipping only, not {distortion}")
        # Without the gain, so that its absolute stopping rule means the same in every case. In float32 as the samples
        # are: a rounded level must not miss those that were clipped to it.
        gain = np.float32(10 ** (params.get("gain_db", 0.0) / 20))
        high = np.float32(params["threshold"]) / gain
        low = np.float32(-params.get("ratio", 1.0) * params["threshold"]) / gain
        x = aspade(torch.from_numpy(y / gain)[None], float(low), float(high), PRESETS[run.aspade])[0].numpy()
        return signal_only(x, sample_rate, started)

    return method


def blind(waveshaper: str) -> Callable[[Run], Method]:
    """Blind posterior sampling with a family of curves.

    Raises:
        NldiffError: by what is returned, if the prior or a setting is unusable.
    """
    return lambda run: _sampling(run, replace(run.config, waveshaper=waveshaper), told=False)


def informed(run: Run) -> Method:
    """Posterior sampling that is told the distortion.

    Raises:
        NldiffError: the prior or a setting is unusable.
    """
    return _sampling(run, run.config, told=True)


METHODS: dict[str, Callable[[Run], Method]] = {
    "observed": lambda run: observed,
    **{name: blind(name) for name in WAVESHAPERS},
    "informed": informed,
    "aspade": declip,
}
"""Name to what makes the method; one that needs nothing of the run is entered as `lambda run: function`."""

FAMILIES: Mapping[str, tuple[str, ...]] = {"aspade": ("hard_clip", "asymmetric_clip", "amplified_clip")}
"""Distortions that a method is made for, where it is not made for all; it has no cells for the others."""


def no_curve(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Stands for the curve of a method that estimates none, which is then not judged."""
    raise NldiffError("the method estimates no curve")


def signal_only(audio: Audio, sample_rate: int, started: float) -> Restoration:
    """A restored signal `[time]` of a method without curve and diffusion, begun at `started` (`time.monotonic()`)."""
    seconds = time.monotonic() - started
    return Restoration(audio, sample_rate, no_curve, math.nan, (), 0, seconds, SamplerSettings(), {}, versions())


def _sampling(run: Run, config: RestoreConfig, told: bool) -> Method:
    prior = run.prior()
    check_config(config)
    sampler_settings(prior, config)

    def method(y: Audio, sample_rate: int, distortion: Distortion) -> Restoration:
        recording = Recording.from_array(y[None], sample_rate)
        blocks: list[NDArray[np.float32]] = []
        fit = restore_blocks(recording, prior, config, blocks.append, distortion if told else None)
        raw = np.concatenate(blocks, axis=1)
        gain, _, explained_db = settle(fit, recording, lambda start, frames: raw[:, start : start + frames])
        # A known curve fixes the scale. Else only the sign that `settle` chose is kept.
        gain = 1 / fit.observation_gain if told else float(np.copysign(run.level / audio_io.rms(raw), gain))
        return Restoration(
            audio=(raw[0] * gain).astype(np.float32),
            sample_rate=sample_rate,
            curve=no_curve if told else user_curve(fit, gain),
            explained_db=explained_db,
            evolution=curve_evolution(fit, gain),
            cost=fit.cost,
            evaluations=fit.evaluations,
            seconds=fit.seconds,
            settings=fit.settings,
            config=asdict(config),
            versions=versions(),
        )

    return method
