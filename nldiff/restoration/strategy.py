"""The contract of a strategy: how chunks are restored once the operator is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nldiff.operators import Operator
from nldiff.restoration.evidence import Judgement, judge
from nldiff.restoration.job import OnShare
from nldiff.restoration.workspace import Workspace


@dataclass(frozen=True)
class Strategy(ABC):
    """A way to restore the chunks of a recording.

    Attributes:
        operator: maps clean signals to observed ones at the prior's level; possibly a better one than was found before.
        full_band: the result has the band of the recording, whatever the prior's is.
        side_by_side: chunks may be restored in several threads at once, and need little memory.
        phase, like: of `restore`, see `Progress.expect`.
    """

    operator: Operator
    full_band: ClassVar[bool]
    side_by_side: ClassVar[bool] = False
    phase: ClassVar[str] = "restoring"
    like: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> Strategy | None:
        """The strategy for an operator, or None if it is not meant for it.

        Args:
            work: the recording, prior and settings.
            operator: maps clean signals to observed ones at the prior's level.
            y: observed excerpts at the prior's level, [batch, n] at the recording's rate.
            x: clean excerpts that were sampled along with the operator, same shape; None if it is known and nothing was
                sampled yet.
        """

    @abstractmethod
    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        """Clean chunks [chunks * channels, length] of the observed ones `y`, both at the prior's level.

        `on_share` may be told after every part of the work which share of the whole it was.
        """

    def seconds(self, work: Workspace) -> float:
        """Roughly what `restore` takes for one second of one channel."""
        return 0.01

    def evaluations(self, work: Workspace, spent: int) -> int:
        """Network evaluations per item, the `spent` ones for the operator included."""
        return spent

    def judged(self, work: Workspace, y: Tensor, x: Tensor | None = None) -> Judgement:
        """Weigh the restoration of the excerpts `y` against the recording as it is.

        Args:
            work: the recording, prior and settings.
            y: see `of`.
            x: what was sampled; the restoration itself where the strategy is to sample, else not needed.
        """
        assert x is not None, "a strategy that restores otherwise judges otherwise"
        return judge(y, x, self.operator, work.recording.sample_rate, settings=work.settings.evidence)

    def doubts(self) -> tuple[str, ...]:
        """What a user should know of the chunks that were restored, a line each."""
        return ()

    @staticmethod
    def ready(work: Workspace) -> list[int]:
        """Chunks that sampling for the operator, where it is needed, restores as this strategy would."""
        return []
