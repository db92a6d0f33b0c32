"""The process that restores: priors are loaded once, and it can be ended in the middle of its work."""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from urllib.parse import quote

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.interrupts import cleaned_up
from nldiff.report.preview import Download, build_preview
from nldiff.restoration.output import Outputs
from nldiff.restoration.restorer import Restorer
from nldiff.restoration.settings import RestoreConfig

PAGE = "index.html"
_PATIENCE = 2.0  # seconds until a process that does not end is killed


@dataclass(frozen=True)
class Setting:
    """What all recordings are restored with: settings, the prior among them, and the folder of what is temporary."""

    config: RestoreConfig
    folder: Path


class Worker:
    """Restores one recording after the other in a process of its own, which is started when it is needed.

    Args:
        setting: what to restore with.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the process and load the priors, if that is not done yet.

        Raises:
            NldiffError: unusable prior, device or settings, or the process was ended.
        """
        with self._lock:
            if self._process and self._process.is_alive():
                return
            context = get_context("spawn")
            self._connection, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self._setting), daemon=True)
            with _interrupts_blocked():  # until it is known here, so that whoever is interrupted can end it
                process.start()
                self._process = process
            theirs.close()
        self._answer(lambda done, total, phase: None)

    def restore(self, source: Path, folder: Path, on_step: Callable[[float, float, str], None]) -> None:
        """Restore a file; the results and the page `PAGE` with links to them go to a folder.

        Raises:
            NldiffError: the file cannot be restored, or the process was ended.
        """
        self.start()
        self._answer(on_step, (source, folder))

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            if self._process:
                self._process.terminate()
                self._process.join(_PATIENCE)
                self._process.kill()
                self._process.join()

    def _answer(self, on_step: Callable[[float, float, str], None], question: tuple[Path, Path] | None = None) -> None:
        assert self._connection
        try:
            if question:
                self._connection.send(question)
            while (answer := self._connection.recv()) is not None:
                if isinstance(answer, str):
                    raise NldiffError(answer)
                on_step(*answer)
        except (EOFError, OSError) as error:
            raise NldiffError("the process that restores was ended from outside (out of memory?)") from error


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let a program that is started inside take no notice of Ctrl-C, which reaches all programs of a terminal."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Python starts it along with the first process, and would let interrupts in again after that.
    resource_tracker.ensure_running()
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _work(connection: Connection, setting: Setting) -> None:
    """Answer every pair of file and folder: progress, as triples, then None if all went well, or what did not."""
    tempfile.tempdir = str(setting.folder)  # what is decoded goes away with the rest
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError), cleaned_up():
        try:
            config = setting.config
            restorer = Restorer(config.prior, config=config, on_step=lambda *progress: connection.send(progress))
        except NldiffError as error:
            connection.send(str(error))
            return
        connection.send(None)
        while True:
            source, folder = connection.recv()
            try:
                _restore(restorer, source, folder)
                connection.send(None)
            except NldiffError as error:
                connection.send(str(error).replace(str(source), source.name))
            except (OSError, MemoryError) as error:
                connection.send(f"{source.name}: {error or 'not enough memory'}")


def _restore(restorer: Restorer, source: Path, folder: Path) -> None:
    outputs = restorer.restore_file(source, folder)
    with sound.readable(source) as original:
        build_preview(
            original, outputs.audio, outputs.curve_picture, outputs.report, folder / PAGE, _downloads(outputs)
        )


def _downloads(outputs: Outputs) -> list[Download]:
    files = (
        (outputs.audio, "the restored recording"),
        (outputs.curve_table, "the curve as a table, for nldiff apply and nldiff export"),
        (outputs.curve_picture, "the curve as a picture"),
        (outputs.report_path, "settings, versions, verdict"),
    )
    return [Download(path.name, quote(path.name), content) for path, content in files]
