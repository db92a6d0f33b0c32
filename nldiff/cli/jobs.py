"""Inputs side by side: every input by itself, in several processes of one thread each."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import active_children, get_context, resource_tracker
from threading import RLock
from typing import Any

from tqdm import tqdm

from nldiff.errors import NldiffError
from nldiff.interrupts import Ended, cleaned_up

Run = Callable[[argparse.Namespace], int]
"""Runs a command with parsed options; returns the exit code."""


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
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), _start) as pool,
        tqdm(total=len(changes), unit="file", disable=options.quiet, dynamic_ncols=True) as bar,
    ):
        alone = [argparse.Namespace(**vars(options) | {"jobs": 1} | each) for each in changes]
        futures = [pool.submit(_captured, run, one) for one in alone]
        try:
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
    if hasattr(signal, "SIGHUP"):
        earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        resource_tracker.ensure_running()
        signal.signal(signal.SIGHUP, earlier)


def _start() -> None:
    """What a process does first: it leaves Ctrl-C to the first process, and owns nothing that outlives its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(RLock())  # by default one of the system


def _captured(run: Run, options: argparse.Namespace) -> tuple[int, str, str]:
    """Run a command; returns its exit code and what it printed to both streams. No bar is shown."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        options.bar = False
        try:
            with cleaned_up():
                code = run(options)
        except Ended as end:
            # Back in the pool it could wait for ever for a lock that another process had when it was ended.
            os._exit(end.code)
    return code, out.getvalue(), err.getvalue()
