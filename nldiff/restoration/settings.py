"""Settings of a restoration: what they are, their validation, and how prior and user change the library's."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nldiff import sound
from nldiff.errors import NldiffError, require
from nldiff.operators import Learnable, make_learnable
from nldiff.priors import Prior
from nldiff.priors.old_settings import translate_settings
from nldiff.restoration.bent import BentSettings
from nldiff.restoration.branches import BranchSettings
from nldiff.restoration.drawing import DrawingSettings
from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.measures import EvidenceSettings
from nldiff.restoration.overdrive_search import OverdriveSettings
from nldiff.restoration.plateaus import PlateauSettings
from nldiff.restoration.polish import PolishSettings
from nldiff.restoration.sparse import RefinementSettings
from nldiff.sampling.settings import CostSettings, OperatorFitSettings, SamplerSettings
from nldiff.sampling.start import STARTS

LEVELS = ("auto", "unity", "rms", "peak")
"""Rules for the level of a result.

unity: what was not distorted keeps its level: slope 1 where the curve is straight. auto: the same, or all of the result
lowered so that its peaks stay below full scale. rms: the RMS of the recording, constants aside, lowered like auto.
peak: the highest sample of the recording, constants aside.
"""


@dataclass(frozen=True)
class Quality:
    """How much work a restoration is worth.

    Attributes:
        iterations: of the refinement, as a share of what the prior recommends.
        changes: settings that take the place of what the prior recommends: group -> name -> value.
    """

    iterations: float = 1.0
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


QUALITIES = {
    "fast": Quality(1 / 3, {"sampler": {"steps": 20}, "polish": {"sigma": 0.0}, "curve": {"loosening": (2.0, 1.0)}}),
    "normal": Quality(),
    "best": Quality(2.0),
}
"""The qualities by name. What the user sets counts in all of them."""


@dataclass
class RestoreConfig:
    """What defines a restoration besides the recording; the fields of `--config` files and `key=value` arguments.

    Attributes:
        prior: name of a shipped prior, path of a prior file, or auto: the shipped prior that explains the recording
            best, see `nldiff.priors.choice`.
        waveshaper: family of the curve: ccr, mlp or sumtanh; or wiener_hammerstein: filters, curve, filters.
        waveshaper_options: arguments of that family.
        sampler, cost, operator_fit, refinement, curve, polish, drawing, evidence, branches, plateaus, overdrive, bent:
            fields in these groups of `Settings` that differ from what the prior recommends.
        level: of the result, one of `LEVELS`.
        quality: key of `QUALITIES`: how much work is spent.
        seed: seed of everything random, not negative.
        device: auto, cpu, cuda, cuda:N or mps.
        above_band: what becomes of the band above half the prior's rate where signals are sampled: "drop" leaves it
            out, "keep" mixes the observed band, distortion products included, into the result. Where they are refined,
            it is restored like the rest.
        warm_start: what sampling starts from: "histogram", the observation with the distribution of samples that
            clean audio has, see `nldiff.sound.histogram`; or "observation", as in the 2025 paper.
        chunk_seconds, overlap_seconds: longer recordings are split; neighbours are cross-faded over the overlap,
            which is less than half a chunk.
        excerpt_seconds: with a refinement, the operator is estimated on the loudest stretch of this length of a chunk.
        joint_items: chunks times channels that the operator is estimated on together; at least one chunk is.
        batch_size: chunks times channels in one network call; 0 chooses 1 on a CPU and 8 elsewhere. Other sizes round
            differently, which sampling lets grow: results differ in detail.
    """

    prior: str = "auto"
    waveshaper: str = "ccr"
    waveshaper_options: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    operator_fit: dict[str, Any] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, Any] = field(default_factory=dict)
    polish: dict[str, Any] = field(default_factory=dict)
    drawing: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    branches: dict[str, Any] = field(default_factory=dict)
    plateaus: dict[str, Any] = field(default_factory=dict)
    overdrive: dict[str, Any] = field(default_factory=dict)
    bent: dict[str, Any] = field(default_factory=dict)
    level: str = "auto"
    quality: str = "normal"
    seed: int = 0
    device: str = "auto"
    above_band: str = "drop"
    warm_start: str = "histogram"
    chunk_seconds: float = 6.25
    overlap_seconds: float = 0.5
    excerpt_seconds: float = 3.0
    joint_items: int = 4
    batch_size: int = 0

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """What the user changes in the groups of `Settings`; names of version 0.1 under `sampler` are translated."""
        given = {f.name: dict(getattr(self, f.name)) for f in dataclasses.fields(Settings)}
        old = translate_settings(given.pop("sampler"))
        return {name: old.get(name, {}) | given.get(name, {}) for name in {**old, **given}}


@dataclass(frozen=True)
class Settings:
    """Settings of the method, complete; every group is documented where it is used."""

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    cost: CostSettings = field(default_factory=CostSettings)
    operator_fit: OperatorFitSettings = field(default_factory=OperatorFitSettings)
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    curve: CurveSettings = field(default_factory=CurveSettings)
    polish: PolishSettings = field(default_factory=PolishSettings)
    drawing: DrawingSettings = field(default_factory=DrawingSettings)
    evidence: EvidenceSettings = field(default_factory=EvidenceSettings)
    branches: BranchSettings = field(default_factory=BranchSettings)
    plateaus: PlateauSettings = field(default_factory=PlateauSettings)
    overdrive: OverdriveSettings = field(default_factory=OverdriveSettings)
    bent: BentSettings = field(default_factory=BentSettings)

    @property
    def refines(self) -> bool:
        """Whether any refinement is wanted."""
        return self.refinement.name != "none"

    @property
    def last_evaluations(self) -> int:
        """Network evaluations per item after a refinement: those of the draw, or of the polish."""
        if self.drawing.enabled:
            return 2 * self.drawing.steps
        return self.polish.steps * self.polish.draws if self.polish.sigma else 0


def check_config(config: RestoreConfig) -> None:
    """Validate up front all settings but the groups, which `resolve_settings` validates.

    Raises:
        NldiffError: a value out of range, or an unknown waveshaper or option of it.
    """
    require(config, "", ("seed", "batch_size", "overlap_seconds"), least=0)
    require(config, "", ("joint_items",), least=1)
    require(config, "", ("chunk_seconds", "excerpt_seconds"), least=sound.MIN_SECONDS)
    if 2 * config.overlap_seconds >= config.chunk_seconds:
        raise NldiffError(
            f"overlap_seconds={config.overlap_seconds:g}: less than half of chunk_seconds={config.chunk_seconds:g} "
            "expected"
        )
    if config.above_band not in ("drop", "keep"):
        raise NldiffError(f"above_band={config.above_band}: drop or keep expected")
    if config.level not in LEVELS:
        raise NldiffError(f"level={config.level}: one of {', '.join(LEVELS)} expected")
    if config.quality not in QUALITIES:
        raise NldiffError(f"quality={config.quality}: {', '.join(QUALITIES)} expected")
    if config.warm_start not in STARTS:
        raise NldiffError(f"warm_start={config.warm_start}: {' or '.join(STARTS)} expected")
    configured_waveshaper(config)


def resolve_settings(prior: Prior, config: RestoreConfig) -> Settings:
    """The library's defaults, changed by the prior's recommendations, changed by the quality, changed by the user.

    The schedule never goes below the lowest noise level that the prior was trained on.

    Raises:
        NldiffError: unknown setting, or a value of the wrong type or out of range.
    """
    recommended, given, quality = prior.settings, config.groups, QUALITIES[config.quality]
    names = [f.name for f in dataclasses.fields(Settings)]
    try:
        for name, values in recommended.items():
            _known(names, name, "group")
            _group(name, values)
    except NldiffError as error:
        raise NldiffError(f"prior {prior.name} is damaged: {error}") from error
    sources = recommended, quality.changes, given
    merged = {name: {k: v for source in sources for k, v in source.get(name, {}).items()} for name in names}
    settings = Settings(**{name: _group(name, values) for name, values in merged.items()})
    counts = {name: getattr(settings.refinement, name) for name in ("iterations", "settling")}
    own = given.get("refinement", {})
    scaled = {k: max(min(1, n), round(quality.iterations * n)) for k, n in counts.items() if k not in own}
    settings = dataclasses.replace(settings, refinement=dataclasses.replace(settings.refinement, **scaled))
    sampler = dataclasses.replace(settings.sampler, sigma_min=max(settings.sampler.sigma_min, prior.sigma_min))
    if 0 < settings.polish.sigma < sampler.sigma_min:
        raise NldiffError(f"polish.sigma={settings.polish.sigma:g}: 0 or at least {sampler.sigma_min:g} expected")
    return dataclasses.replace(settings, sampler=sampler)


def configured_waveshaper(config: RestoreConfig) -> Learnable:
    """A learnable operator with one parameter set, as `config` describes it.

    Raises:
        NldiffError: unknown family or option.
    """
    try:
        return make_learnable(config.waveshaper, 1, **config.waveshaper_options)
    except TypeError as error:
        raise NldiffError(f"waveshaper_options={config.waveshaper_options}: {error}") from error


def _group(name: str, changes: Mapping[str, Any]) -> Any:
    """The default settings of a group with changes."""
    schema = type(getattr(Settings(), name))
    known = [f.name for f in dataclasses.fields(schema)]
    for key in changes:
        _known(known, key, "setting", f"{name}.")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(changes)))
    except (OmegaConfBaseException, TypeError) as error:
        where = ".".join(filter(None, [name, getattr(error, "full_key", None)]))
        raise NldiffError(f"{where}: {str(error).splitlines()[0]}") from error


def _known(names: list[str], name: str, kind: str, group: str = "") -> None:
    if name not in names:
        raise NldiffError(f"unknown {kind} '{group}{name}' (known: {', '.join(names)})")
