"""The hypothesis of an overdrive with a dry path: found by the search, and undone exactly over the whole recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nldiff.operators import Operator, Rescaled
from nldiff.restoration.evidence import Judgement, judge
from nldiff.restoration.job import OnShare
from nldiff.restoration.overdrive_search import find_overdrive, first_state
from nldiff.restoration.peeling import undone
from nldiff.restoration.strategies import allowed_strategies
from nldiff.restoration.strategy import Strategy
from nldiff.restoration.workspace import Workspace, make_workspace


@dataclass(frozen=True)
class Overdriven(Strategy):
    """Undo an overdrive, sample by sample.

    Attributes:
        work: the undone recording, at a level of its own.
        judgement: of the excerpt that it was found on.
    """

    work: Workspace
    judgement: Judgement
    full_band = True

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> None:
        """Not found from an operator: known ones are split, see `nldiff.restoration.peeling`."""

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Read the undone recording."""
        return self.work.observed([self.work.read(chunk) for chunk in chunks])

    def judged(self, work: Workspace, y: Tensor, x: Tensor | None = None) -> Judgement:
        """As it was found."""
        return self.judgement


def overdriven(work: Workspace, y: Tensor) -> Iterator[Strategy]:
    """An overdrive with a dry path; none where undoing it does not make the excerpts much more predictable."""
    settings, rate = work.settings.overdrive, work.recording.sample_rate
    if len(allowed_strategies(work.settings.refinement.name)) == 1:
        return
    loudest = y[int(y.square().mean(1).argmax())].cpu().double().numpy()
    found = find_overdrive(loudest, rate, settings)
    if found is None:
        return
    inversion, skip = found.inversion(), round(settings.transient_seconds * rate)
    x = inversion(loudest[None])[:, skip:]
    seen = torch.from_numpy(loudest[None, skip:])
    # Sample for sample, the overdrive makes what was observed of what undoing it gave.
    judgement = judge(seen, torch.from_numpy(x), lambda _: seen, rate, settings=work.settings.evidence)
    own = replace(found, level=found.level / work.gain)
    head = work.recording.read(0, round(settings.start_seconds * rate)).astype(np.float64)
    states = np.array([[first_state(channel, own, rate, settings)] for channel in head])
    recording = undone(work.recording, replace(own.inversion(), start=states))
    inside = make_workspace(recording, work.prior, work.config, None, work.sample)
    yield Overdriven(Rescaled(found.distortion, inside.gain, found.level), inside, judgement)
