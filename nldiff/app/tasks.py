"""What the page was asked for: one recording after the other is restored, and the last ones are kept."""

import re
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from nldiff.app.worker import Worker
from nldiff.errors import NldiffError

WAITING, WORKING, DONE, FAILED = "waiting", "working", "done", "failed"
MOST = 10
_LONGEST_NAME = 150  # bytes; results have longer names, and file systems allow 255
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029/\\:*?"<>|]+')


@dataclass
class Task:
    """One recording: its key in addresses, its name, its folder, and how far it is."""

    key: str
    name: str
    folder: Path
    state: str = "uploading"
    phase: str = ""
    done: float = 0.0
    total: float = 0.0
    error: str = ""

    @property
    def source(self) -> Path:
        """The recording as it was uploaded."""
        return self.folder / "upload" / self.name

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return self.folder / "results"

    @property
    def open(self) -> bool:
        """Whether something is still to be done."""
        return self.state not in (DONE, FAILED)


class Tasks:
    """The recordings of one server, at most `MOST` of them; the oldest that are done make room for new ones.

    Args:
        worker: restores them.
        folder: for everything; whoever made it removes it.
    """

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker, self._folder = worker, folder
        self._tasks: dict[str, Task] = {}
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._work, daemon=True).start()

    def all(self) -> list[Task]:
        """All tasks, the latest first."""
        with self._changed:
            return list(reversed(self._tasks.values()))

    def find(self, key: str) -> Task | None:
        """The task of a key."""
        with self._changed:
            return self._tasks.get(key)

    def create(self, name: str) -> Task:
        """A task with a folder to upload to; `submit` or `remove` follows.

        Raises:
            NldiffError: too many recordings wait, or the folder cannot be made.
        """
        with self._changed:
            for old in [task for task in self._tasks.values() if not task.open][: max(0, len(self._tasks) - MOST + 1)]:
                self._forget(old)
            if self._closed or len(self._tasks) >= MOST:
                raise NldiffError(f"{len(self._tasks)} recordings are waiting: try again later")
            task = Task(secrets.token_urlsafe(9), _safe_name(name), self._folder / secrets.token_hex(8))
            task.source.parent.mkdir(parents=True)
            self._tasks[task.key] = task
            return task

    def submit(self, task: Task) -> None:
        """Restore a recording that was uploaded, after those that came earlier."""
        with self._changed:
            task.state = WAITING
            self._changed.notify_all()

    def remove(self, task: Task) -> None:
        """Forget a task and remove its files; what works on it is ended."""
        with self._changed:
            if task.state == WORKING:
                self._worker.end()
            self._forget(task)

    def close(self) -> None:
        """End the work; no task is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._worker.end()

    def _forget(self, task: Task) -> None:
        task.state = FAILED
        self._tasks.pop(task.key, None)
        shutil.rmtree(task.folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (task := self._next()) is None and not self._closed:
                    self._changed.wait()
                if task is None or self._closed:
                    return
                task.state = WORKING
            try:
                self._worker.restore(task.source, task.results, lambda *progress, task=task: _note(task, *progress))
                state, error = DONE, ""
            except (NldiffError, OSError) as problem:
                state, error = FAILED, str(problem)
            with self._changed:
                if task.state == WORKING:  # otherwise it was removed meanwhile
                    task.state, task.error = state, error
                    shutil.rmtree(task.source.parent, ignore_errors=True)

    def _next(self) -> Task | None:
        return next((task for task in self._tasks.values() if task.state == WAITING), None)


def _note(task: Task, done: float, total: float, phase: str) -> None:
    task.done, task.total, task.phase = done, total, phase


def _safe_name(name: str) -> str:
    """A name for a file, from one that a browser says: no path, nothing hidden, not too long; its ending is kept."""
    words = _UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).strip(". ")
    stem, dot, ending = words.rpartition(".")
    ending = (dot + ending)[:16]
    stem = (stem or words).encode("utf-8", "replace")[: _LONGEST_NAME - len(ending.encode())].decode("utf-8", "ignore")
    return (stem + ending if dot else stem) or "recording"
