"""The hypothesis of a filter behind a curve: the recording is undone, and restored as one that was not filtered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from nldiff.operators import Chain, Operator, Rescaled
from nldiff.restoration.evidence import Judgement
from nldiff.restoration.job import OnShare
from nldiff.restoration.peeling import undone
from nldiff.restoration.plateaus import find_filter
from nldiff.restoration.strategies import SparseRefinement, allowed_strategies
from nldiff.restoration.strategy import Strategy
from nldiff.restoration.workspace import Workspace, make_workspace


@dataclass(frozen=True)
class Peeled(Strategy):
    """Undo what came last, and restore what is left with another strategy.

    Attributes:
        work: the recording without what came last, at a level of its own.
        inner: the strategy for it.
    """

    work: Workspace
    inner: Strategy
    full_band = True

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> None:
        """Not found from an operator: known ones are split, see `nldiff.restoration.peeling`."""

    @classmethod
    def around(cls, inner: Strategy, undone: Workspace, last: Operator, work: Workspace) -> Peeled:
        """Around a strategy for the recording that `last`, which keeps to scale, was undone of."""
        first = Rescaled(inner.operator, 1.0, work.gain / undone.gain)
        return cls(Chain([first, last]), undone, inner)

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Restore the chunks of the undone recording."""
        observed = self.work.observed([self.work.read(chunk) for chunk in chunks])
        return self.inner.restore(self.work, chunks, observed, on_share)

    def seconds(self, work: Workspace) -> float:
        """Those of the inner strategy."""
        return self.inner.seconds(self.work)

    def evaluations(self, work: Workspace, spent: int) -> int:
        """Those of the inner strategy."""
        return self.inner.evaluations(self.work, spent)

    def judged(self, work: Workspace, y: Tensor, x: Tensor | None = None) -> Judgement:
        """Weigh the restoration against the undone recording as it is."""
        return self.inner.judged(self.work, self.work.observed(self.work.excerpts))


def filtered(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    """Filters behind a curve that leaves plateaus; none where undoing no filter brings plateaus back."""
    if SparseRefinement not in allowed_strategies(work.settings.refinement.name):
        return
    loudest = y[int(y.square().mean(1).argmax())].cpu().double().numpy()
    last = find_filter(loudest, work.recording.sample_rate, work.settings.plateaus)
    if last is None:
        return
    inversion = last.inversion()
    assert inversion is not None, "found by what undoing it leaves"
    recording = undone(work.recording, inversion, centred=True)
    inside = make_workspace(recording, work.prior, work.config, None, work.sample)
    for inner in SparseRefinement.plain(inside, inside.observed(inside.excerpts)):
        yield Peeled.around(inner, inside, last, work)
