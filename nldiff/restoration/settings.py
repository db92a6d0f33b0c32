"""Settings of a restoration: what they are, their checks, and how prior and user change the sampler's."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.operators.waveshapers import Waveshaper, make_waveshaper
from nldiff.priors.saved import Prior
from nldiff.sampling.posterior import SamplerSettings


@dataclass
class RestoreConfig:
    """What defines a restoration besides the recording; the fields of `--config` files and `key=value` arguments.

    Attributes:
        prior: name of a shipped prior, path of a prior file, or auto: the shipped prior that explains the recording
            best, see `nldiff.priors.choice`.
        waveshaper: family of the curve: ccr, mlp or sumtanh.
        waveshaper_options: arguments of that family.
        sampler: fields of `SamplerSettings` that differ from what the prior recommends.
        seed: seed of everything random, not negative.
        device: auto, cpu, cuda, cuda:N or mps.
        above_band: what becomes of the band above half the prior's rate where signals are sampled: "drop" leaves it
            out, "keep" mixes the observed band, distortion products included, into the result. Where they are refined,
            it is restored like the rest.
        warm_start: what sampling starts from: "histogram", the observation with the distribution of samples that
            clean audio has, see `nldiff.sound.histogram`; or "observation", as in the 2025 paper.
        chunk_seconds, overlap_seconds: longer recordings are split; neighbours are cross-faded over the overlap,
            which is less than half a chunk.
        excerpt_seconds: with the refinement, the curve is estimated on the loudest stretch of this length of a chunk.
        joint_items: chunks times channels that the curve is estimated on together; at least one chunk is.
        batch_size: chunks times channels in one network call; 0 chooses 1 on a CPU and 8 elsewhere.
    """

    prior: str = "auto"
    waveshaper: str = "ccr"
    waveshaper_options: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    above_band: str = "drop"
    warm_start: str = "histogram"
    chunk_seconds: float = 6.25
    overlap_seconds: float = 0.5
    excerpt_seconds: float = 3.0
    joint_items: int = 4
    batch_size: int = 0


def check_config(config: RestoreConfig) -> None:
    """Find out before the work whether the settings make sense; `sampler_settings` does it for those of the sampler.

    Raises:
        NldiffError: a value out of range, or an unknown waveshaper or option of it.
    """
    _require(config, ("seed", "batch_size", "overlap_seconds"), 0)
    _require(config, ("joint_items",), 1)
    _require(config, ("chunk_seconds", "excerpt_seconds"), sound.MIN_SECONDS)
    if 2 * config.overlap_seconds >= config.chunk_seconds:
        raise NldiffError(
            f"overlap_seconds={config.overlap_seconds:g}: less than half of chunk_seconds={config.chunk_seconds:g} "
            "expected"
        )
    if config.above_band not in ("drop", "keep"):
        raise NldiffError(f"above_band={config.above_band}: drop or keep expected")
    if config.warm_start not in ("histogram", "observation"):
        raise NldiffError(f"warm_start={config.warm_start}: histogram or observation expected")
    configured_waveshaper(config)


def sampler_settings(prior: Prior, config: RestoreConfig) -> SamplerSettings:
    """Library defaults, overridden by the prior's recommendations, overridden by the user.

    The schedule never goes below the lowest noise level that the prior was trained on.

    Raises:
        NldiffError: unknown setting, or a value of the wrong type or out of range.
    """
    known = {f.name for f in dataclasses.fields(SamplerSettings)}
    chosen = {**prior.sampler, **config.sampler}
    for key in chosen:
        if key not in known:
            raise NldiffError(f"unknown sampler setting '{key}' (known: {', '.join(sorted(known))})")
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SamplerSettings), chosen))
    except OmegaConfBaseException as error:
        raise NldiffError(f"sampler setting {error.full_key or ''}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, SamplerSettings)
    settings = dataclasses.replace(settings, sigma_min=max(settings.sigma_min, prior.sigma_min))
    _require(settings, ("steps",), 2)
    _require(settings, ("sigma_max",), settings.sigma_min * (1 + 1e-6))
    _require(settings, ("rho",), 1e-3)
    _require(settings, ("churn", "zeta", "operator_learning_rate"), 0)
    _require(settings, ("operator_iterations", "operator_warmup", "operator_segments"), 0)
    _require(settings, ("refine_iterations",), 0)
    _require(settings, ("operator_segment_length",), 1)
    if not settings.refine_windows or any(window < 4 or window % 4 for window in settings.refine_windows):
        raise NldiffError(f"refine_windows={list(settings.refine_windows)}: positive multiples of 4 expected")
    _require(settings, ("polish_sigma",), 0)
    if 0 < settings.polish_sigma < settings.sigma_min:
        raise NldiffError(f"polish_sigma={settings.polish_sigma:g}: 0 or at least {settings.sigma_min:g} expected")
    _require(settings, ("polish_steps",), 1)
    _require(settings, ("cost_n_fft",), 2)
    _require(settings, ("cost_hop",), 1)
    if settings.cost_n_fft % 2:
        raise NldiffError(f"cost_n_fft={settings.cost_n_fft}: an even number expected")
    if settings.cost_hop == settings.cost_n_fft or settings.cost_n_fft % settings.cost_hop:
        raise NldiffError(
            f"cost_hop={settings.cost_hop}: a proper divisor of cost_n_fft={settings.cost_n_fft} expected"
        )
    if len(settings.operator_betas) != 2 or not all(0 <= beta < 1 for beta in settings.operator_betas):
        raise NldiffError(f"operator_betas={settings.operator_betas}: two numbers, 0 or more and below 1, expected")
    return settings


def configured_waveshaper(config: RestoreConfig) -> Waveshaper:
    """A waveshaper with one parameter set, as `config` describes it.

    Raises:
        NldiffError: unknown family or option.
    """
    try:
        return make_waveshaper(config.waveshaper, 1, **config.waveshaper_options)
    except TypeError as error:
        raise NldiffError(f"waveshaper_options={config.waveshaper_options}: {error}") from error


def _require(settings: RestoreConfig | SamplerSettings, names: tuple[str, ...], least: float) -> None:
    for name in names:
        value = getattr(settings, name)
        if not least <= value < math.inf:
            raise NldiffError(f"{name}={value}: a number of at least {least:g} expected")
