"""Independent pieces of work on the cores side by side.

Threads inside one operation wait for each other after every operation. Where other programs run too, each wait may last
as long as the system leaves a core to them, thousands of times a second; pieces that are longer wait once, at the end.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def side_by_side(
    pieces: Iterable[Callable[[], _Result]], on_done: Callable[[_Result], object] | None = None
) -> list[_Result]:
    """Do pieces of work that do not depend on each other; returns their results in order.

    As many run at once as PyTorch may use threads, each with one thread inside its operations, so that pieces within
    pieces run one after the other. The pieces should spend their time in operations that release Python's lock. Pieces
    that are left over and too few for all threads follow one by one, with all threads inside their operations. The
    first exception of a piece is raised, after the pieces that run have ended.

    Args:
        pieces: of work.
        on_done: told the result of every piece that has ended, in the thread of the caller.
    """
    pieces, threads = list(pieces), torch.get_num_threads()
    if threads == 1 or len(pieces) <= 1:
        return [_done(piece(), on_done) for piece in pieces]
    together = len(pieces) // threads * threads or len(pieces)
    # The number of threads is a property of each thread, and what was set last is that of new ones.
    with ThreadPoolExecutor(min(threads, together), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(piece) for piece in pieces[:together]]
        try:
            for future in as_completed(futures):
                _done(future.result(), on_done)
            results = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            torch.set_num_threads(threads)
    return results + [_done(piece(), on_done) for piece in pieces[together:]]


def _done(result: _Result, on_done: Callable[[_Result], object] | None) -> _Result:
    if on_done:
        on_done(result)
    return result
