"""Curves that rise and fall: every sample has one preimage on every monotone piece, and branch search says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from nldiff.operators import Operator
from nldiff.restoration.branches import invert
from nldiff.restoration.evidence import Judgement, judge
from nldiff.restoration.fold_search import find_folds, find_rectifier
from nldiff.restoration.increasing import known_increasing
from nldiff.restoration.job import OnShare
from nldiff.restoration.piecewise import PiecewiseCurve, piecewise
from nldiff.restoration.signs import sign_like
from nldiff.restoration.strategy import Strategy
from nldiff.restoration.workspace import Workspace

# Expected error as a share of the result's power, above which it is doubtful: -12 dB.
_DOUBTFUL = 10**-1.2
# What the log-odds of a doubtful one count: a clipper with a filter behind it may pass for a fold, and nearly tie.
_COUNTS = 0.95
# Largest ratio of the levels of clean and folded signals that is reckoned with.
_SOFTER = 2.0


@dataclass(frozen=True)
class FoldInversion(Strategy):
    """For curves that are not increasing: the most predictable signal that the curve maps to the observed one.

    Attributes:
        curve: the operator, cut into pieces.
        searched: of every signal that was restored, power and expected error, summed over samples.
        latest: number and samples of the chunk of every channel that was restored last.
    """

    curve: PiecewiseCurve
    searched: list[tuple[float, float]] = field(default_factory=list, compare=False)
    latest: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict, compare=False)
    full_band = True

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> FoldInversion | None:
        """Needs the operator only."""
        if x is not None or operator.context:
            return None
        limit = work.settings.curve.largest_rms * work.prior.sigma_data
        if known_increasing(operator, limit, y, work.settings.curve):
            return None
        return cls(operator, piecewise(operator, limit))

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Invert channel by channel."""
        restored, errors = self._inverted(work, y)
        self.searched.append((float(restored.cpu().double().square().sum()), errors))
        return self._the_same_way_up(work, chunks, restored) if self.curve.even else restored

    def doubts(self) -> tuple[str, ...]:
        """Whether the error that is to be expected of all that was restored is large."""
        power, error = (sum(each) for each in zip(*self.searched, strict=True)) if self.searched else (0.0, 0.0)
        if error <= _DOUBTFUL * power:
            return ()
        decibels = 10 * np.log10(power / error)
        return (
            f"the branches of the folding curve are in doubt: a cautious guess is an SDR of {decibels:.0f} dB, and the "
            "result may be worse than the recording",
        )

    def judged(self, work: Workspace, y: Tensor, x: Tensor | None = None) -> Judgement:
        """Judge the inverse of the loudest excerpt; where branches are in doubt, so is the judgement."""
        loudest = y[[int(y.square().sum(1).argmax())]]
        settings = work.settings.evidence
        restored, error = self._inverted(work, loudest)
        judgement = judge(loudest, restored, self.operator, work.recording.sample_rate, settings=settings)
        power = float(restored.cpu().double().square().sum())
        if error <= _DOUBTFUL * power:
            return judgement
        return replace(judgement, log_odds=_COUNTS * judgement.log_odds)

    def _inverted(self, work: Workspace, y: Tensor) -> tuple[Tensor, float]:
        """The clean signals, and the squared error that is to be expected, summed."""
        rate, settings = work.recording.sample_rate, work.settings.branches
        found = [invert(self.curve, item, rate, settings) for item in y.cpu().double().numpy()]
        restored = torch.from_numpy(np.stack([each.x for each in found])).to(y.dtype).to(y.device)
        return restored, float(sum(each.doubt * np.sum(each.x**2) for each in found))

    def _the_same_way_up(self, work: Workspace, chunks: list[int], restored: Tensor) -> Tensor:
        """Turn channels of chunks so that each goes on as before; the others of the first chunk like the first one."""
        turned = []
        for row, x in enumerate(restored.cpu().double().numpy()):
            chunk, channel = chunks[row // work.recording.channels], row % work.recording.channels
            number, before = self.latest.get(channel, (-1, x))
            shared = len(x)
            if chunk and number == chunk - 1:
                shared -= work.starts[chunk] - work.starts[chunk - 1]
            elif channel:
                before = self.latest[0][1]
            else:
                before = x
            signed = sign_like(x, before, shared, work.recording.sample_rate) * x
            self.latest[channel] = chunk, signed
            turned.append(signed)
        return torch.from_numpy(np.stack(turned)).to(restored.dtype).to(restored.device)


def folded(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    """Inversion of the folding curve that the excerpts [batch, n] show signs of, if there is one.

    Args:
        work: the recording, prior and settings.
        y: what was observed, at the prior's level and the recording's rate.
    """
    settings = work.settings
    found = settings.branches, settings.bent, settings.curve
    for operator in find_folds(y.cpu().double().numpy(), work.recording.sample_rate, *found):
        yield _found(work, operator)


def rectified(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    """Inversion of the full-wave rectifier, if the excerpts show signs of one; the arguments are those of `folded`."""
    operator = find_rectifier(y.cpu().double().numpy(), work.recording.sample_rate, work.settings.branches)
    if operator:
        yield _found(work, operator)


def _found(work: Workspace, operator: Operator) -> FoldInversion:
    # Folding makes a recording softer than the clean signal was.
    limit = _SOFTER * work.settings.curve.largest_rms * work.prior.sigma_data
    return FoldInversion(operator, piecewise(operator, limit))
