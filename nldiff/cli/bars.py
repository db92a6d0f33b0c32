"""Progress bars."""

from tqdm import tqdm


def resume_bar(bar: tqdm, done: int) -> None:
    """Start a bar at `done`. The work of an earlier run does not count for speed and remaining time."""
    bar.initial = bar.n = bar.last_print_n = done
