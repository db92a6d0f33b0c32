"""Progress of a restoration, counted in steps."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Progress:
    """Counts steps: `on_step`, where there is one, is called with (steps done, steps in all)."""

    on_step: Callable[[int, int], object] | None
    planned: int
    done: int = 0

    def advance(self) -> None:
        """Count one more step."""
        self.done += 1
        if self.on_step:
            self.on_step(self.done, self.planned)

    def plan(self, steps: int) -> None:
        """Correct the number of steps in all; tells `on_step` where all of them are done already."""
        changed, self.planned = steps != self.planned, steps
        if changed and self.done == steps and self.on_step:
            self.on_step(self.done, self.planned)
