"""The methods that `nldiff evaluate` compares, by name."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nldiff import sound
from nldiff.baselines.external import EXTERNAL
from nldiff.baselines.networks import NETWORKS
from nldiff.errors import NldiffError
from nldiff.operators.distortions import Distortion
from nldiff.operators.waveshapers import WAVESHAPERS
from nldiff.priors.saved import Prior
from nldiff.restoration.methods import CLIPPERS, RESTORERS, Job, process_blocks, shipped_weights
from nldiff.restoration.restore import Restoration, restore, versions
from nldiff.restoration.settings import RestoreConfig, check_config, sampler_settings
from nldiff.sampling.posterior import SamplerSettings
from nldiff.sound.recording import Recording

Audio: TypeAlias = NDArray[np.float32]
Method: TypeAlias = Callable[[Audio, int, Distortion], Restoration]
"""From the observation `[time]`, its rate in Hz and the true distortion to a restoration of the same shape.

Only informed methods may look at the distortion. Raises NldiffError where there is no result.
"""


_SILENT = 1e-12


@dataclass(frozen=True)
class Run:
    """What a method may want to know of the run.

    Attributes:
        config: settings of the restoration, with the seed of the cell.
        level: RMS of the clean signal: blind methods cannot find its scale, and return it at this one.
        prior: loads the run's prior, once.
        aspade: key of `nldiff.baselines.aspade.PRESETS`.
        weights: network -> name or file of weights that take the place of the shipped ones.
        clean: the clean signal `[time]`, which only oracles may look at.
    """

    config: RestoreConfig
    level: float
    prior: Callable[[], Prior]
    aspade: str = "survey"
    weights: Mapping[str, str] = field(default_factory=dict)
    clean: Audio | None = None


def observed(y: Audio, sample_rate: int, distortion: Distortion) -> Restoration:
    """Do nothing: the scores of the distorted input itself."""
    return signal_only(y, sample_rate, time.monotonic())


def signal_method(name: str) -> Callable[[Run], Method]:
    """A method of `RESTORERS`; what it returns has its own scale, or the run's level if it has none.

    A network gets the weights that were trained for the distortion of the cell, A-SPADE is told the clipping levels.
    """

    def make(run: Run) -> Method:
        def method(y: Audio, sample_rate: int, distortion: Distortion) -> Restoration:
            started = time.monotonic()
            recording = Recording.from_array(y[None], sample_rate)
            clean = None if run.clean is None else run.clean[None]
            job = Job(recording, run.config, run.weights.get(name), distortion, clean, run.aspade)
            blocks: list[NDArray[np.float32]] = []
            process_blocks(recording, RESTORERS[name](job), run.config, blocks.append)
            result = signal_only(np.concatenate(blocks, axis=1)[0], sample_rate, started)
            return at_level(result, run.level) if name in EXTERNAL else result

        return method

    return make


def blind(waveshaper: str) -> Callable[[Run], Method]:
    """Blind posterior sampling with a family of curves.

    Raises:
        NldiffError: by what is returned, if the prior or a setting is unusable.
    """
    return lambda run: _sampling(run, replace(run.config, waveshaper=waveshaper), told=False)


def informed(run: Run) -> Method:
    """The restoration that is told the distortion.

    Raises:
        NldiffError: the prior or a setting is unusable.
    """
    return _sampling(run, run.config, told=True)


METHODS: dict[str, Callable[[Run], Method]] = {
    "observed": lambda run: observed,
    **{name: blind(name) for name in WAVESHAPERS},
    "informed": informed,
    **{name: signal_method(name) for name in RESTORERS},
}
"""Name to what makes the method; one that needs nothing of the run is entered as `lambda run: function`."""

FAMILIES: Mapping[str, tuple[str, ...]] = {"aspade": CLIPPERS, "sspade": CLIPPERS}
"""Distortions that a method is made for, where it is not made for all; it has no cells for the others."""


def has_cells(method: str, family: str, sample_rate: int, weights: Mapping[str, str]) -> bool:
    """Whether a method is made for a distortion at a rate, Hz; a network is if there are weights for both.

    Args:
        method: key of `METHODS`.
        family: name of the distortion.
        sample_rate: Hz.
        weights: see `Run`; a network that is in there is taken to be made for all.
    """
    if method in NETWORKS and method not in weights:
        return shipped_weights(method, family, sample_rate) is not None
    return family in FAMILIES.get(method, (family,))


def no_curve(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Stands for the curve of a method that estimates none, which is then not judged."""
    raise NldiffError("the method estimates no curve")


def signal_only(audio: Audio, sample_rate: int, started: float) -> Restoration:
    """A restored signal `[time]` of a method without curve and diffusion, begun at `started` (`time.monotonic()`)."""
    seconds = time.monotonic() - started
    return Restoration(audio, sample_rate, no_curve, math.nan, (), 0, seconds, SamplerSettings(), {}, versions())


def scaled(result: Restoration, gain: float) -> Restoration:
    """The same restoration with `gain` times the amplitude."""
    louder = replace(result, audio=(result.audio * gain).astype(np.float32), scale=result.scale * gain)
    if result.curve is no_curve:
        return louder
    x, curves = result.evolution or (np.zeros(0), np.zeros((0, 0)))
    return replace(louder, curve=lambda x: result.curve(np.asarray(x) / gain), evolution=(x * gain, curves))


def at_level(result: Restoration, level: float) -> Restoration:
    """The same restoration at another RMS."""
    return scaled(result, level / max(sound.rms(result.audio), _SILENT))


def _sampling(run: Run, config: RestoreConfig, told: bool) -> Method:
    prior = run.prior()
    check_config(config)
    sampler_settings(prior, config)

    def method(y: Audio, sample_rate: int, distortion: Distortion) -> Restoration:
        if not told:
            return at_level(restore(y, sample_rate, prior, config=config), run.level)
        # A known curve fixes the scale, and is not judged.
        result = restore(y, sample_rate, prior, known=distortion, config=config)
        return replace(scaled(result, 1 / result.scale), curve=no_curve)

    return method
