"""Signals that end a program: turned into an exception that cleans up, and held back while files are replaced."""

import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Any

_LATER = 0.05  # seconds
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
    """Raise `Ended` on SIGTERM and SIGHUP inside the block, again and again until the block is left or cleans up.

    Python drops what is raised while it frees an object or calls back from C, and some of its own functions put another
    error in its place: what comes out of the block then is the interruption, Ctrl-C as well. Signals that are ignored,
    as by nohup, stay ignored. Does nothing outside the main thread.
    """
    numbers: SimpleQueue[int | None] = SimpleQueue()  # of signals; unlike an event it may be used in handlers
    left, leaving = threading.Event(), False
    taken, late = list[int](), list[int]()

    def end(number: int, frame: FrameType | None) -> None:
        numbers.put(number)
        if leaving:
            late.append(number)
        elif not _cleans_up():
            raise Ended(number)

    def repeat() -> None:
        number = numbers.get()
        while number is not None and not left.wait(_LATER):
            interrupt_main(signal.Signals(number))

    def lost(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            hook(unraisable)
        elif not isinstance(unraisable.exc_value, Ended):
            threading.Timer(_LATER, interrupt_main, (signal.SIGINT,)).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook = sys.unraisablehook
    # Started here: the handler could be interrupted by another signal while it starts one.
    repeats = threading.Thread(target=repeat, daemon=True)
    repeats.start()
    try:
        try:
            sys.unraisablehook = lost
            for number in _ENDING:
                if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_DFL:
                    taken.append(number)
                    signal.signal(number, end)
            yield
        except Exception as error:
            if (interruption := _within(error, KeyboardInterrupt)) is None:
                raise
            raise interruption from None
        finally:
            leaving = True  # or `Ended` is raised here, and the program cleans up: nothing is raised from here on
    finally:
        left.set()
        numbers.put(None)
        repeats.join()
        sys.unraisablehook = hook
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if not _cleans_up():
            for number in late:
                signal.raise_signal(number)


def _cleans_up() -> bool:
    """Whether the program is in a block that runs because of `Ended`: that must not be interrupted."""
    return _within(sys.exc_info()[1], Ended) is not None


def _within(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error of a kind that was handled when this one came, or this one itself."""
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error


@contextmanager
def held() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP until the end of the block. Does nothing outside the main thread."""
    came: list[int] = []
    earlier: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # None: not set from Python, and could not be set back
                    earlier[number] = handler
                    signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number in reversed(_ENDING):  # Ctrl-C, after which a program may go on, is the last
            if number in earlier:
                signal.signal(number, earlier[number])
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
