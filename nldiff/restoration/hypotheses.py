"""Hypotheses about the operator of a recording: what is tried before, and beside, posterior sampling.

A new hypothesis is one entry of `HYPOTHESES`: a function that proposes strategies for excerpts, the likeliest first,
and none where there is no sign of its kind of distortion. All are judged by the same evidence, `Strategy.judged`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from torch import Tensor

from nldiff.restoration.bent import bent_curve
from nldiff.restoration.evidence import Judgement
from nldiff.restoration.filtered import filtered
from nldiff.restoration.folds import FoldInversion, folded, rectified
from nldiff.restoration.overdriven import overdriven
from nldiff.restoration.strategies import SparseRefinement, Strategy, allowed_strategies
from nldiff.restoration.workspace import Workspace

Propose: TypeAlias = Callable[[Workspace, Tensor], Iterator[Strategy]]
"""Strategies for the observed excerpts [batch, n], at the prior's level and the recording's rate."""


@dataclass(frozen=True)
class Candidate:
    """A hypothesis and what the evidence says of it.

    Attributes:
        hypothesis: its name, a key of `HYPOTHESES`, or "sampled".
        strategy: the restoration that it leads to.
        judgement: of that restoration on the excerpts.
    """

    hypothesis: str
    strategy: Strategy
    judgement: Judgement


def _clipped(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    if SparseRefinement in allowed_strategies(work.settings.refinement.name):
        yield from SparseRefinement.plain(work, y)


def _bent(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    if SparseRefinement in allowed_strategies(work.settings.refinement.name):
        curve = bent_curve(y, work.recording.sample_rate, work.settings.bent, work.settings.curve)
        if curve and SparseRefinement.promising(work, y, curve):
            yield SparseRefinement.told(work, curve.table, curve, y)


def _if_searched(propose: Propose) -> Propose:
    def proposed(work: Workspace, y: Tensor) -> Iterator[Strategy]:
        if FoldInversion in allowed_strategies(work.settings.refinement.name):
            yield from propose(work, y)

    return proposed


HYPOTHESES: dict[str, Propose] = {
    "rectified": _if_searched(rectified),
    "folded": _if_searched(folded),
    "filtered": filtered,
    "overdriven": overdriven,
    "clipped": _clipped,
    "bent": _bent,
}
"""By name, in the order in which they are tried: those first that see at once that they are not meant."""
MISTAKABLE = frozenset({"folded", "filtered"})
"""Those that plateaus with noise or ripple may pass for: the others are tried as well."""


def judged_hypotheses(work: Workspace, y: Tensor) -> list[Candidate]:
    """Try the hypotheses in turn until the evidence leaves no doubt of one that is not `MISTAKABLE`; the best first."""

    def certain(candidate: Candidate) -> bool:
        return candidate.hypothesis not in MISTAKABLE and candidate.judgement.log_odds >= work.settings.evidence.certain

    found: list[Candidate] = []
    for name, propose in HYPOTHESES.items():
        for strategy in propose(work, y):
            found.append(Candidate(name, strategy, strategy.judged(work, y)))
        if any(map(certain, found)):
            break
    return by_evidence(found)


def by_evidence(candidates: list[Candidate]) -> list[Candidate]:
    """The same, the most believable first."""
    return sorted(candidates, key=attrgetter("judgement.log_odds"), reverse=True)
