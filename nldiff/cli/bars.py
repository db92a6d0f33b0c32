"""Progress bars."""

from tqdm import tqdm


def restoration_bar(name: str, quiet: bool) -> tqdm:
    """A bar of seconds for `show_progress`; the name of the recording stands before it."""
    # The delay keeps the bar back until work has begun: a file that is refused gets one line.
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    return tqdm(desc=name, bar_format=form, delay=1e-6, mininterval=0, disable=quiet, dynamic_ncols=True)


def show_progress(bar: tqdm, done: float, total: float, phase: str) -> None:
    """Set the bar to `done` of `total` seconds and name the phase; an `OnStep` once the bar is bound."""
    bar.total = total
    bar.set_postfix_str(phase, refresh=False)
    bar.update(done - bar.n)


def resume_bar(bar: tqdm, done: int) -> None:
    """Start a bar at `done`. The work of an earlier run does not count for speed and remaining time."""
    bar.initial = bar.n = bar.last_print_n = done
