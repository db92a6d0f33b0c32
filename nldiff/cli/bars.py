"""Progress bars."""

from tqdm import tqdm


def resume_bar(bar: tqdm, done: int) -> None:
    """Start a bar at `done`: what an earlier run did does not count for the speed and the remaining time."""
    bar.initial = bar.n = bar.last_print_n = done
