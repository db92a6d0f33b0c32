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
class Job:
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


class Jobs:
    """The recordings of one server, at most `MOST` of them; the oldest that are done make room for new ones.

    Args:
        worker: restores them.
        folder: for everything; whoever made it removes it.
    """

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker, self._folder = worker, folder
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._work, daemon=True).start()

    def all(self) -> list[Job]:
        """All jobs, the latest first."""
        with self._changed:
            return list(reversed(self._jobs.values()))

    def find(self, key: str) -> Job | None:
        """The job of a key."""
        with self._changed:
            return self._jobs.get(key)

    def create(self, name: str) -> Job:
        """A job with a folder to upload to; `submit` or `remove` follows.

        Raises:
            NldiffError: too many recordings wait, or the folder cannot be made.
        """
        with self._changed:
            for old in [job for job in self._jobs.values() if not job.open][: max(0, len(self._jobs) - MOST + 1)]:
                self._forget(old)
            if self._closed or len(self._jobs) >= MOST:
                raise NldiffError(f"{len(self._jobs)} recordings are waiting: try again later")
            job = Job(secrets.token_urlsafe(9), _safe_name(name), self._folder / secrets.token_hex(8))
            job.source.parent.mkdir(parents=True)
            self._jobs[job.key] = job
            return job

    def submit(self, job: Job) -> None:
        """Restore a recording that was uploaded, after those that came earlier."""
        with self._changed:
            job.state = WAITING
            self._changed.notify_all()

    def remove(self, job: Job) -> None:
        """Forget a job and remove its files; what works on it is ended."""
        with self._changed:
            if job.state == WORKING:
                self._worker.end()
            self._forget(job)

    def close(self) -> None:
        """End the work; no job is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._worker.end()

    def _forget(self, job: Job) -> None:
        job.state = FAILED
        self._jobs.pop(job.key, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None and not self._closed:
                    self._changed.wait()
                if job is None or self._closed:
                    return
                job.state = WORKING
            try:
                self._worker.restore(job.source, job.results, lambda *progress, job=job: _note(job, *progress))
                state, error = DONE, ""
            except (NldiffError, OSError) as problem:
                state, error = FAILED, str(problem)
            with self._changed:
                if job.state == WORKING:  # otherwise it was removed meanwhile
                    job.state, job.error = state, error
                    shutil.rmtree(job.source.parent, ignore_errors=True)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == WAITING), None)


def _note(job: Job, done: float, total: float, phase: str) -> None:
    job.done, job.total, job.phase = done, total, phase


def _safe_name(name: str) -> str:
    """A name for a file, from one that a browser says: no path, nothing hidden, not too long; its ending is kept."""
    words = _UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).strip(". ")
    stem, dot, ending = words.rpartition(".")
    ending = (dot + ending)[:16]
    stem = (stem or words).encode("utf-8", "replace")[: _LONGEST_NAME - len(ending.encode())].decode("utf-8", "ignore")
    return (stem + ending if dot else stem) or "recording"
