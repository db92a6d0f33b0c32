"""Signals that end a program: turned into an exception that cleans up, and held back while files are replaced."""

import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_LATER = 0.01  # seconds
_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: nothing but the exit code differs from Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        """Exit code of a program that ends by it."""
        return 128 + self.number


@contextmanager
def cleaned_up() -> Iterator[None]:
    """Raise `Ended` on SIGTERM and SIGHUP inside the block, once: another one would interrupt the cleaning up.

    Signals that are ignored, as by nohup, stay ignored. Does nothing outside the main thread.
    """
    earlier: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        for other in earlier:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    def lost(unraisable: "sys.UnraisableHookArgs") -> None:
        # Python drops what is raised while it frees an object, or calls back from C: the signal comes again, later.
        error = unraisable.exc_value
        if not isinstance(error, KeyboardInterrupt):
            hook(unraisable)
            return
        number = error.number if isinstance(error, Ended) else signal.SIGINT
        if isinstance(error, Ended):
            for other in earlier:
                signal.signal(other, end)
        threading.Timer(_LATER, interrupt_main, (number,)).start()

    hook = sys.unraisablehook
    if threading.current_thread() is threading.main_thread():
        sys.unraisablehook = lost
        for number in _ENDING:
            if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_DFL:
                earlier[number] = signal.signal(number, end)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP until the end of the block. Does nothing outside the main thread."""
    came: list[int] = []
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # None: not set from Python, and could not be set back
                earlier[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
