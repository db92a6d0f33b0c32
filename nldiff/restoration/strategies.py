"""How chunks are restored once the operator is known: strategies, each of which says for which operators it is meant.

A new strategy is one class and one entry of `STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import Identity, Operator
from nldiff.restoration.evidence import Judgement, judge
from nldiff.restoration.folds import FoldInversion
from nldiff.restoration.increasing import (
    CurveSettings,
    IncreasingCurve,
    known_increasing,
    matched_curve,
    nearest_increasing,
    plain_curves,
)
from nldiff.restoration.job import OnShare
from nldiff.restoration.ripple import rippled_curves
from nldiff.restoration.strategy import Strategy
from nldiff.restoration.workspace import FITTING, GUIDED_SECONDS, NETWORK_SECONDS, SAMPLING, Workspace

# Of thresholds whose log-odds are at least this fraction of the best, the lowest loses least if it is wrong.
_TIED = 0.95


@dataclass(frozen=True)
class SparseRefinement(Strategy):
    """For increasing curves: the sparsest signal of the feasible set, then the prior's last steps inside it."""

    curve: IncreasingCurve
    full_band = True
    side_by_side = True
    phase, like = "refining", FITTING

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> SparseRefinement | None:
        """Fits the curve to the refined signal as well, unless it is known."""
        settings = work.settings.curve
        if x is None:
            limit = settings.largest_rms * work.prior.sigma_data
            known = known_increasing(operator, limit, y, settings)
            if known is None:
                return None
            return cls.told(work, operator, known, y)
        curve = nearest_increasing(operator, x, y, settings)
        if curve is None:
            return None
        if not operator.trainable():
            return cls(operator, curve)
        # Where hypotheses are judged, the plain curves are hypotheses of their own.
        plain = [] if work.settings.evidence.judge else plain_starts(y, settings)
        return cls._fitted(work, y, (curve, x, settings.loosening), *plain)

    @classmethod
    def told(cls, work: Workspace, operator: Operator, curve: IncreasingCurve, y: Tensor) -> SparseRefinement:
        """The strategy for a curve that is right as it is."""
        x = work.refined(work.first_guess(y), curve, y)
        return cls(operator, tightened(work, curve, x, y, refit=False))

    @classmethod
    def promising(cls, work: Workspace, y: Tensor, curve: IncreasingCurve) -> bool:
        """Whether a smooth curve that is right would be believable."""
        exact = replace(curve, tolerance=curve.tolerance / 2**work.settings.curve.halvings)
        return cls(curve.table, exact).judged(work, y).log_odds > work.settings.evidence.hopeless

    @classmethod
    def plain(cls, work: Workspace, y: Tensor) -> Iterator[SparseRefinement]:
        """The strategy for the curve that the better of the plain ones leads to, if there is something to it."""
        starts = plain_starts(y, work.settings.curve)
        log_odds = [cls(curve.table, curve).judged(work, y).log_odds for curve, *_ in starts]
        rippled = [cls(operator, curve) for operator, curve in rippled_curves(y, work.settings.curve)]
        rippled_odds = [strategy.judged(work, y).log_odds for strategy in rippled]
        best = max(rippled_odds, default=-np.inf)
        if best > max(*log_odds, work.settings.evidence.hopeless):
            # A fitted curve would take the ripple for a bend.
            tied = [odds >= min(best, _TIED * best) for odds in rippled_odds]
            lowest = [each for each, is_tied in zip(rippled, tied, strict=True) if is_tied][-1]
            yield cls.told(work, lowest.operator, lowest.curve, y)
        elif max(log_odds) > work.settings.evidence.hopeless:
            yield cls._fitted(work, y, starts[int(np.argmax(log_odds))])

    @classmethod
    def _fitted(cls, work: Workspace, y: Tensor, *starts: Start) -> SparseRefinement:
        x, curve = refitted(work, y, *starts)
        curve = tightened(work, curve, x, y, refit=True)
        # Unlike a waveshaper, the table goes on sensibly where there were no samples to fit it on.
        return cls(curve.table, curve)

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Refine, polish or draw if the settings ask for it."""
        x = work.restored(work.first_guess(y), self.curve, y, on_share)
        return work.finished(chunks, x, self.curve, y)

    def seconds(self, work: Workspace) -> float:
        """Those of the iterations and the last network evaluations."""
        return work.settings.last_evaluations * NETWORK_SECONDS + work.refinement_seconds(brief=False)

    def evaluations(self, work: Workspace, spent: int) -> int:
        """Those of the polish or of the draw."""
        return spent + work.settings.last_evaluations

    def judged(self, work: Workspace, y: Tensor, x: Tensor | None = None) -> Judgement:
        """Judge the refined excerpts."""
        intervals = replace(self.curve, exact_where_steep=True).feasible(y)
        restored = intervals.project(work.refined(work.first_guess(y), self.curve, y))
        return judge(y, restored, self.operator, work.recording.sample_rate, intervals, work.settings.evidence)


@dataclass(frozen=True)
class PosteriorSampling(Strategy):
    """For every operator: samples from the posterior, as in the 2025 paper."""

    full_band = False
    phase, like = "sampling with this curve", SAMPLING

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> PosteriorSampling | None:
        """Needs the operator only, which stays as it was sampled."""
        if x is None:
            return None
        for parameter in operator.trainable():
            parameter.requires_grad_(False)
        return cls(operator)

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Sample anew with the operator held fixed."""
        posterior = work.sampled(chunks, y, self.operator, None, lambda step: on_share(1 / step.steps))
        return work.at_own_rate(posterior.audio, work.length)

    def seconds(self, work: Workspace) -> float:
        """Those of the diffusion steps."""
        return work.settings.sampler.steps * GUIDED_SECONDS

    def evaluations(self, work: Workspace, spent: int) -> int:
        """As many again, unless sampling for the operator restored whole chunks."""
        return spent if work.whole else 2 * spent

    @staticmethod
    def ready(work: Workspace) -> list[int]:
        """The joint chunks, if they are sampled as a whole."""
        return work.joint if work.whole else []


@dataclass(frozen=True)
class Unchanged(Strategy):
    """The recording as it is, where no restoration is believable."""

    full_band = True

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> Unchanged:
        """Forget the operator."""
        return cls(Identity())

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Return what was observed."""
        return y


STRATEGIES: dict[str, type[Strategy]] = {
    "sparse": SparseRefinement,
    "branches": FoldInversion,
    "none": PosteriorSampling,
}
"""By name of the setting `refinement.name`; the first that is for an operator is taken, else posterior sampling."""


def allowed_strategies(name: str) -> list[type[Strategy]]:
    """The strategies that the setting `refinement.name` allows, posterior sampling last.

    All are for "auto", else the named one, and posterior sampling where that is not for the operator.

    Raises:
        NldiffError: unknown name.
    """
    if name not in ("auto", *STRATEGIES):
        raise NldiffError(f"refinement.name={name}: auto or one of {', '.join(STRATEGIES)} expected")
    named = [strategy for key, strategy in STRATEGIES.items() if name in ("auto", key)]
    return [*(strategy for strategy in named if strategy is not PosteriorSampling), PosteriorSampling]


def choose_strategy(work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> Strategy | None:
    """The first allowed strategy that is for the operator; the arguments are those of `Strategy.of`."""
    for candidate in allowed_strategies(work.settings.refinement.name):
        if strategy := candidate.of(work, operator, y, x):
            return strategy
    return None


Start: TypeAlias = tuple[IncreasingCurve, Tensor, Sequence[float]]
"""An increasing curve, the signals [batch, n] that it was found with, and `CurveSettings.loosening`."""


def plain_starts(y: Tensor, settings: CurveSettings) -> list[Start]:
    """The plain curves, with the observed signals."""
    # A plain curve is about right or does not count: it needs no loosening.
    strict = [1.0] * len(settings.loosening)
    return [(plain, y, strict) for plain in plain_curves(y, settings)]


def refitted(work: Workspace, y: Tensor, *starts: Start) -> tuple[Tensor, IncreasingCurve]:
    """Refine under a curve, fit the curve to what comes out, and again; from every start.

    What was sampled may have a part of the distortion left, and its curve the rest. Under a wrong curve the refined
    signal is less sparse than under the true one, so that the sparsest of the results is kept.

    Args:
        work: the recording, prior and settings.
        y: what was observed, at the prior's level, [batch, n] at the recording's rate.
        starts: curves, and signals that were found with them.

    Returns:
        The refined signals at the prior's level, and their curve.
    """
    settings = work.settings.curve
    found = []
    for candidate, signal, loosening in starts:
        for factor in loosening:
            loose = replace(candidate, tolerance=factor * candidate.tolerance)
            signal = work.refined(signal, loose, y)
            candidate = matched_curve(signal, y, settings)
        found.append((work.spread(signal), signal, candidate))
    return _matched_at_level(work, min(found, key=itemgetter(0))[1], y)


def tightened(work: Workspace, curve: IncreasingCurve, x: Tensor, y: Tensor, refit: bool) -> IncreasingCurve:
    """Halve the tolerance of a curve as long as the refined signal stays about as sparse.

    The smaller the tolerance, the less is lost of signals that were distorted a little, and the better is the curve
    that is fitted to them; but where there is noise in the observation, the steep inverse of a saturated curve makes
    large errors of it. If noise is weak, samples count as exact where the curve itself is steep, and keep their noise
    floor.

    Args:
        work: the recording, prior and settings.
        curve: as it was fitted, or is known.
        x: refined under it, [batch, n] at the recording's rate.
        y: what was observed, at the prior's level, same shape.
        refit: fit the curve again after every halving but the last.
    """
    settings = work.settings.curve
    loosest, finer, before = curve.tolerance, curve, work.spread(x)
    for _ in range(settings.halvings):
        finer = replace(finer, tolerance=curve.tolerance / 2)
        x = work.refined(x, finer, y)
        after = work.spread(x)
        if after > before + settings.spread_growth:
            break
        curve, before = finer, after
        if refit:
            x, finer = _matched_at_level(work, x, y)
    return replace(curve, exact_where_steep=curve.tolerance <= loosest / 2**settings.exact_after)


def _matched_at_level(work: Workspace, x: Tensor, y: Tensor) -> tuple[Tensor, IncreasingCurve]:
    """`x` at the prior's level, and the curve that makes the distribution of `y` of it."""
    gain = work.prior.sigma_data / float(x.square().mean().sqrt())
    return gain * x, matched_curve(gain * x, y, work.settings.curve)


def polarity(x: Tensor, y: Tensor) -> int:
    """-1 if the restored `x` is upside down in relation to the observed `y`, both of one shape; else 1."""
    return -1 if torch.sum((x - x.mean()) * (y - y.mean())) < 0 else 1


def split_channels(x: Tensor, chunks: list[int], channels: int) -> dict[int, np.ndarray]:
    """Chunk -> [channels, length], from [chunks * channels, length]."""
    return dict(zip(chunks, x.cpu().numpy().reshape(len(chunks), channels, -1), strict=True))
