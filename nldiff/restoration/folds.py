"""Curves that rise and fall: every sample has one preimage on every monotone piece, and branch search says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nldiff.operators import Operator
from nldiff.restoration.branches import invert
from nldiff.restoration.evidence import Judgement, judge
from nldiff.restoration.fold_search import find_folds
from nldiff.restoration.increasing import known_increasing
from nldiff.restoration.job import OnShare
from nldiff.restoration.piecewise import PiecewiseCurve, piecewise
from nldiff.restoration.strategy import Strategy
from nldiff.restoration.workspace import Workspace


@dataclass(frozen=True)
class FoldInversion(Strategy):
    """For curves that are not increasing: the most predictable signal that the curve maps to the observed one.

    Known even curves are left to sampling: of whole notes they leave the sign open, which predictability does not tell.
    """

    curve: PiecewiseCurve
    full_band = True

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> FoldInversion | None:
        """Needs the operator only."""
        if x is not None or operator.context:
            return None
        limit = work.settings.curve.largest_rms * work.prior.sigma_data
        if known_increasing(operator, limit, y, work.settings.curve) or _even(operator, limit):
            return None
        return cls(operator, piecewise(operator, limit))

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Invert channel by channel."""
        return self._inverted(work, y)

    def judged(self, work: Workspace, y: Tensor, x: Tensor | None = None) -> Judgement:
        """Judge the inverse of the loudest excerpt."""
        loudest = y[[int(y.square().sum(1).argmax())]]
        restored = self._inverted(work, loudest)
        return judge(loudest, restored, self.operator, work.recording.sample_rate, settings=work.settings.evidence)

    def _inverted(self, work: Workspace, y: Tensor) -> Tensor:
        rate, settings = work.recording.sample_rate, work.settings.branches
        found = [invert(self.curve, item, rate, settings) for item in y.cpu().double().numpy()]
        return torch.from_numpy(np.stack(found)).to(y.dtype).to(y.device)


def folded(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    """Inversion of the folding curve that the excerpts [batch, n] show signs of, if there is one.

    Args:
        work: the recording, prior and settings.
        y: what was observed, at the prior's level and the recording's rate.
    """
    limit = work.settings.curve.largest_rms * work.prior.sigma_data
    for operator in find_folds(y.cpu().double().numpy(), work.recording.sample_rate, work.settings.branches):
        yield FoldInversion(operator, piecewise(operator, limit))


def _even(operator: Operator, limit: float) -> bool:
    """Whether a curve makes the same of a value and of its negative."""
    inputs = torch.linspace(0, limit, 1001)
    return torch.allclose(operator.static(inputs), operator.static(-inputs))
