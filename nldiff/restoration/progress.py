"""Progress of a restoration in seconds: phases have names, and each counts by what it takes."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nldiff.restoration.job import OnStep


@dataclass
class _Phase:
    """Work of one kind: units in all, what one takes as far as was known before, units done and their seconds.

    What was counted first is kept apart: preparations come with it.
    """

    units: float
    seconds: float
    like: str | None
    first: tuple[float, float] = (0.0, 0.0)
    done: float = 0.0
    spent: float = 0.0

    def count(self, units: float, seconds: float) -> None:
        """Add units that are done."""
        if not self.done:
            self.first = units, seconds
        self.done, self.spent = self.done + units, self.spent + seconds
        self.units = max(self.units, self.done)

    def measured(self) -> float:
        """Seconds that a unit takes; some must be done."""
        units, seconds = self.first if self.done > self.first[0] else (0.0, 0.0)
        return (self.spent - seconds) / (self.done - units)


class Progress:
    """Counts work by phases and measures what it takes.

    Args:
        on_step: told of every step, where there is one; see `OnStep`. Only the thread that made this object calls it.
        clock: seconds from any start.
    """

    def __init__(self, on_step: OnStep = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._on_step, self._clock = on_step, clock
        self._started = self._last = clock()
        self._phases: dict[str, _Phase] = {}
        self._now = ""
        self._lock, self._owner = threading.RLock(), threading.get_ident()

    def expect(self, phase: str, units: float, seconds: float, like: str | None = None) -> None:
        """Plan a phase, or plan it anew.

        Args:
            phase: what is done, as a user reads it.
            units: of work in all, those that are done already included.
            seconds: what one takes, roughly; measured as soon as one is done.
            like: phase of the same kind of work: as much as that is slower than planned, this one will be too.
        """
        with self._lock:
            planned = self._phases.setdefault(phase, _Phase(0, 0, None))
            planned.units, planned.seconds, planned.like = max(units, planned.done), seconds, like

    def advance(self, phase: str = "sampling", units: float = 1.0) -> None:
        """Count work that took the time since work was counted last. More than was planned adds to the plan."""
        with self._lock:
            now = self._clock()
            self._phases.setdefault(phase, _Phase(0, 0, None)).count(units, now - self._last)
            self._last, self._now = now, phase
        if threading.get_ident() == self._owner:
            self._tell()

    def close(self) -> None:
        """Nothing more is to come of what was planned so far: it needed less."""
        with self._lock:
            for phase in self._phases.values():
                phase.units = phase.done

    def finish(self) -> None:
        """Nothing more is to come at all."""
        self.close()
        self._last = self._clock()
        self._tell()

    def remaining(self) -> float:
        """Expected seconds until everything planned is done."""
        return sum((phase.units - phase.done) * self._seconds(phase) for phase in self._phases.values())

    def _tell(self) -> None:
        if self._on_step and self._now:
            phase, done = self._phases[self._now], self._last - self._started
            count = f" {math.ceil(phase.done - 1e-6)}/{math.ceil(phase.units - 1e-6)}" if phase.units > 1 else ""
            self._on_step(done, done + self.remaining(), f"{self._now}{count}")

    def _seconds(self, phase: _Phase) -> float:
        """What a unit takes: as measured; else as planned, corrected by what was measured of a phase like it."""
        if phase.done:
            return phase.measured()
        like = self._phases.get(phase.like or "")
        return phase.seconds * (like.measured() / like.seconds if like and like.done and like.seconds else 1)
