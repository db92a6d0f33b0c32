"""Inputs side by side: every input by itself, in several processes of one thread each."""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from typing import Any

from tqdm import tqdm

from nldiff.errors import NldiffError
from nldiff.interrupts import Ended, cleaned_up, held

Run = Callable[[argparse.Namespace], int]
"""Runs a command with parsed options; returns the exit code."""
_told: list[Any] = []
"""In the processes: the command and its options, which each of them gets once."""


def run_in_processes(run: Run, options: argparse.Namespace, changes: Sequence[dict[str, Any]]) -> int:
    """Run a command once for each of `changes` of its options; what it prints comes out in their order.

    Args:
        run: the command, a function of a module.
        options: parsed options with `jobs`, the number of processes, which becomes 1 in each of them.
        changes: options that are different.

    Returns:
        The highest exit code.

    Raises:
        NldiffError: a process was ended from outside.
    """
    # Read when the processes load PyTorch; this one has done so.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    _start_tracker()
    codes, jobs = [0], min(options.jobs, len(changes))
    alone = argparse.Namespace(**vars(options) | {"jobs": 1, "bar": False})
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), _start, (run, alone)) as pool,
        tqdm(total=len(changes), unit="file", disable=options.quiet, dynamic_ncols=True) as bar,
    ):
        try:
            with held(), _ctrl_c_blocked():  # what has been started is known when a signal ends it
                futures = [pool.submit(_captured, each) for each in changes]
            for future in futures:
                code, out, err = future.result()
                codes.append(code)
                bar.update()
                for text, stream in ((out, sys.stdout), (err, sys.stderr)):
                    if text:
                        bar.write(text, file=stream, end="")
        except BrokenProcessPool as error:
            raise NldiffError(f"--jobs {options.jobs}: a process was ended from outside (out of memory?)") from error
        except BaseException:
            # Ctrl-C, or an error that ends the command. The processes ignore Ctrl-C, and are told of it here.
            for process in active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return max(codes)


def _start_tracker() -> None:
    """Start the helper of multiprocessing that does not ignore SIGHUP by itself: without it the end would be noisy."""
    # None: not set from Python, and could not be set back.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not None:
        earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        resource_tracker.ensure_running()
        signal.signal(signal.SIGHUP, earlier)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Keep Ctrl-C from processes that start in the block: they would show where it met them before `_start`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _start(run: Run, options: argparse.Namespace) -> None:
    """What a process does first: it leaves Ctrl-C to the first process, and owns nothing that outlives its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # by default one of the system
    _told.extend((run, options))
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the first process, also if that was killed: this one would wait for more to do for ever."""
    first = parent_process()
    if first is not None:
        first.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _captured(change: dict[str, Any]) -> tuple[int, str, str]:
    """Run the command that `_start` was told of; returns its exit code and what it printed to both streams."""
    run, options = _told
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), cleaned_up():
            code = run(argparse.Namespace(**vars(options) | change))
    except Ended as end:
        # Back in the pool it could wait for ever for a lock that another process had when it was ended.
        os._exit(end.code)
    return code, out.getvalue(), err.getvalue()
