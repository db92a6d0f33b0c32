"""Fault injection: a program that is ended between any two of its file operations, or calls."""

import gc
import inspect
import os
import signal
import sys
from collections.abc import Callable, Collection
from types import FrameType

from nldiff.interrupts import Ended, cleaned_up

_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "fcntl.flock"}


def killed(operation: Callable[[], object], number: int) -> bool:
    """Run in a child that is killed before its file operation `number`; returns whether it was."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, _: object) -> None:
            nonlocal count
            if event in _OPERATIONS:
                count += 1
                if count > number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            operation()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def ended(operation: Callable[[], object], number: int, ending: signal.Signals, files: Collection[str]) -> bool:
    """Run in a child that gets a signal at call or return `number` inside source files; returns whether it did.

    Python handles signals at these places, and where a loop begins again.
    """
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
        gc.freeze()  # what was there before
        count, code = 0, 0

        def hook(frame: FrameType, event: str, argument: object) -> None:
            nonlocal count
            resumed = event == "call" and frame.f_code.co_flags & inspect.CO_GENERATOR  # not where one is thrown into
            if frame.f_code.co_filename in files and not resumed:
                count += 1
                if count > number:
                    sys.setprofile(None)
                    os.kill(os.getpid(), ending)

        try:
            with cleaned_up():
                sys.setprofile(hook)
                operation()
        except Ended as end:
            code = end.code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        finally:
            sys.setprofile(None)
        gc.collect()  # as every program does at its end
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -ending, 128 + ending)  # while handlers are set back, it ends as without them
    return code != 0
