"""What a method found."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from nldiff.operators import Identity, Operator
from nldiff.restoration.estimation import Trace, Verdict
from nldiff.restoration.settings import Settings


@dataclass(frozen=True)
class Sampling:
    """How a method with a prior came to its result.

    Attributes:
        prior: name of the prior.
        prior_scores: why it was chosen, see `nldiff.priors.choice.Choice`; empty if it was named.
        settings: of the method, complete.
        cost: mean of eq. 8 over the jointly restored items in every diffusion step; empty if nothing was sampled.
        evaluations: network evaluations per item, those for the operator included.
        trace: how the curve came about, at the prior's level.
        verdict: what the evidence says; None where the operator was known or evidence was not asked for.
    """

    prior: str
    prior_scores: dict[str, float]
    settings: Settings
    cost: tuple[float, ...]
    evaluations: int
    trace: Trace
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Fit:
    """What a method found, at its own level.

    Attributes:
        operator: maps clean signals to observed ones at the method's level; None for methods that find none.
        observation_gain: method's level = `observation_gain` * observed sample.
        seconds: wall time.
        restored_band_hz: upper end of the band that was restored, Hz: that of the recording, or of the method if it is
            lower; above it the result is silent, or observed (`above_band` of `RestoreConfig`).
        weights: name of the network's weights; None for methods without.
        sampling: of methods with a prior.
    """

    operator: Operator | None
    observation_gain: float
    seconds: float
    restored_band_hz: float
    weights: str | None = None
    sampling: Sampling | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the recording comes back as it is."""
        verdict = self.sampling.verdict if self.sampling else None
        return verdict.unchanged if verdict else isinstance(self.operator, Identity)

    def values(self) -> dict[str, Any]:
        """What reports say of it."""
        sampling = self.sampling
        return {
            "prior": sampling.prior if sampling else None,
            "prior_scores": sampling.prior_scores if sampling else {},
            "settings": dataclasses.asdict(sampling.settings) if sampling else None,
            "verdict": _verdict(sampling.verdict) if sampling else None,
            "cost": sampling.cost if sampling else (),
            "network_evaluations": sampling.evaluations if sampling else 0,
            "seconds": self.seconds,
            "restored_band_hz": self.restored_band_hz,
            "weights": self.weights,
        }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    values = dataclasses.asdict(verdict) | {"margin": verdict.margin, "warnings": verdict.warnings}
    values["expected_sdr_db"] = dataclasses.asdict(verdict.expected) if verdict.expected else None
    if verdict.judgement:
        values["judgement"]["confidence"] = verdict.judgement.confidence
    return values
