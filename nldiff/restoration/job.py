"""What a method gets to work on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from nldiff.curves.applied_operators import at_sample_rate
from nldiff.operators import Operator
from nldiff.priors import Prior
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

Emit: TypeAlias = Callable[[np.ndarray], object]
"""Takes consecutive restored blocks [channels, n] float32, in order, at the method's own level."""

OnStep: TypeAlias = Callable[[float, float, str], object] | None
"""Called after every step with (seconds so far, expected seconds in all, what is being done)."""

OnShare: TypeAlias = Callable[[float], None]
"""Called with shares of a piece of work, after each; they add up to at most 1."""


@dataclass(frozen=True)
class Job:
    """A recording to restore and what a method may want to know.

    Attributes:
        recording: what is to be restored.
        config: device, seed, chunks and settings.
        priors: candidates for methods with a prior; the one that explains the recording best is used.
        weights: name or path of the weights of a network; None chooses them.
        known: the operator in units of the recording's samples, where it is known; filters that were told another rate
            are designed anew.
        clean: the clean signal [channels, frames], for methods that are allowed to look at it.
        spade: key of `nldiff.baselines.aspade.PRESETS`.

    Raises:
        NldiffError: parts of the known operator were told different rates.
    """

    recording: Recording
    config: RestoreConfig
    priors: Sequence[Prior] = ()
    weights: str | None = None
    known: Operator | None = None
    clean: np.ndarray | None = None
    spade: str = "short"

    def __post_init__(self) -> None:
        """Bring the operator to the rate of the recording."""
        if self.known:
            object.__setattr__(self, "known", at_sample_rate(self.known, self.recording.sample_rate))
