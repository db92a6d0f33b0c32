"""Files that are written completely or not at all, also if the program is killed or the power fails.

Everything is written in a hidden folder beside the result, flushed to the disk, and then renamed. A program that is
killed leaves such a folder; the next one that writes there removes it. A lock, which ends with its owner, tells the
folders of the dead from those in use.
"""

import ctypes
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from soundfile import SoundFileError

from nldiff.errors import NldiffError
from nldiff.interrupts import held

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing of the dead is removed
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".nldiff-"
_TRIES = 100
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of fcntl.h and linux/fs.h
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields a temporary path to write to: the same name in a hidden folder beside `path`. Leaving the block renames it to
    `path`, replacing an earlier file; an exception deletes it and leaves the earlier file as it was. Missing folders
    are created; they go away again if nothing is left in them.

    Raises:
        NldiffError: the folder cannot be created or written, `path` is a folder, or the block, which should
            only write, raised an error of the operating system or of soundfile.
    """
    path = Path(path)
    if path.is_dir():
        raise NldiffError(f"{path} is a folder: a file name is needed")
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(_scratch(path.parent))
        except OSError as error:
            raise NldiffError(f"{path} cannot be written in folder {path.parent}: {error.strerror}") from error
        try:
            (scratch / path.name).touch()
            yield scratch / path.name
            replace_together([scratch / path.name], path.parent)
        except (OSError, SoundFileError) as error:
            raise NldiffError(f"{path} cannot be written: {write_problem(error, path.parent)}") from error


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Hidden folder in `folder` that goes away with everything left in it.

    `folder` is created if needed; if nothing is left in it, it goes away again.

    Raises:
        NldiffError: `folder` cannot be written, or an operating system's or sound file error came out of the block.
    """
    try:
        with _scratch(folder) as scratch:
            yield scratch
    except (OSError, SoundFileError) as error:
        reason = write_problem(error, folder)
        raise NldiffError(f"results cannot be written to folder {folder}: {reason}") from error


def replace_together(written: Sequence[Path], folder: Path, outdated: Sequence[Path] = ()) -> None:
    """Move files of one scratch folder to `folder`; they replace those of the same names as a set.

    The last file stands for the set: its earlier version goes first and its new one comes last, so that it is never
    there beside another version of the others.

    Args:
        written: the files.
        folder: where they go.
        outdated: files that were made of the earlier set, which go before it, in this order.

    Raises:
        OSError: a file cannot be flushed, moved or removed.
    """
    for path in written:
        _flush(path)
    *others, last = written
    with held():
        _remove_files(outdated)
        if others:
            _remove_files([folder / last.name])
        for path in written:
            path.replace(folder / path.name)
        _flush_folder(folder)


def replace_after_report(report: Path, others: Sequence[Path], folder: Path, earlier: Sequence[Path] = ()) -> None:
    """Move a report of a scratch folder to `folder`, then the files that it is of.

    Wherever that is ended, every file there has a report of its own version beside it. The set may lack files, which
    are named in the report.

    Args:
        report: tells what the others are.
        others: files that it is of.
        folder: where they go.
        earlier: files of an earlier set, the report last; they go first, in this order.

    Raises:
        OSError: a file cannot be flushed, moved or removed.
    """
    for path in (report, *others):
        _flush(path)
    with held():
        _remove_files([*earlier, *(folder / path.name for path in others)])
        report.replace(folder / report.name)
        _flush_folder(folder)
        for path in others:
            path.replace(folder / path.name)
        _flush_folder(folder)


def replace_folder(written: Path, folder: Path) -> None:
    """Move a folder of a scratch folder to `folder`, which it replaces.

    Where the system can, as Linux does, the two change places at once; else there is a moment without either.

    Raises:
        OSError: a file cannot be flushed or moved.
    """
    for parent, _, names in os.walk(written):
        for name in names:
            _flush(Path(parent, name))
        _flush_folder(Path(parent))
    with held():
        if not (folder.exists() and _exchanged(written, folder)):
            if folder.exists():
                folder.rename(written.with_name(f"earlier-{written.name}"))
            written.rename(folder)
        _flush_folder(folder.parent)


def write_problem(error: OSError | SoundFileError, folder: Path) -> str:
    """The reason of an error of writing, in one line; a full disk is named with its space."""
    if isinstance(error, OSError) and error.errno not in _FULL:
        name = f" ('{error.filename}')" if isinstance(error.filename, str) else ""
        return f"{error.strerror or error}{name}"
    disk = folder.resolve()
    while not os.path.ismount(disk) and disk != disk.parent:
        disk = disk.parent
    free = shutil.disk_usage(disk).free
    text = str(getattr(error, "strerror", None) or error)
    return f"{text.rstrip('.')} (disk {disk}, {free / 1e6:.0f} MB free)"


@contextmanager
def new_folders(folders: Iterable[Path]) -> Iterator[None]:
    """Folders that come into being in the block, these and what is above, go again after it if they are empty.

    Where several processes write to folders, the one that started them uses it: the first to leave a folder that it
    made would find it in use, and the last would not know that it was new.
    """
    missing = _missing(folders)
    with _cleared(lambda: _remove_empty(missing)):
        yield


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A hidden folder that goes away after the block, as do folders down to `folder` that are new and empty."""
    scratch, lock, missing = None, None, _missing([folder])

    def remove() -> None:
        nonlocal lock
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)
            lock = None
        _remove_empty(missing)

    with _cleared(remove):
        with held():  # a signal would leave what is not yet known here
            scratch, lock = _locked_folder(folder)
        yield scratch


def _missing(folders: Iterable[Path]) -> list[Path]:
    """Folders that do not exist, with what is above; the deepest are the first."""
    missing = {each for folder in folders for each in (folder, *folder.parents) if not os.path.exists(each)}
    return sorted(missing, key=lambda path: len(path.parts), reverse=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _cleared(remove: Callable[[], None]) -> Iterator[None]:
    """Call `remove` after the block while signals are held back, and again if one came before they were."""
    try:
        yield
    finally:
        try:
            with held():
                remove()
        except BaseException:
            remove()
            raise


def _locked_folder(folder: Path) -> tuple[Path, int | None]:
    """A new hidden folder in a folder, which is made if needed, with its lock; those of killed programs go.

    Programs that write there too may remove the folder while it is empty, and the hidden one while it is not locked:
    then both are made again. That is tried some times only, as the reason may be another one.
    """
    _sweep(folder)
    tries = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=folder, prefix=_PREFIX))
            return scratch, _locked(scratch)
        except (FileNotFoundError, FileExistsError, BlockingIOError):
            tries += 1
            if tries == _TRIES:
                raise


def _locked(folder: Path) -> int | None:
    """Descriptor that locks a folder; None where the file system has no locks.

    Raises:
        OSError: the folder cannot be opened; FileNotFoundError if another program removed it, BlockingIOError if
            another program has the lock.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError | FileNotFoundError):
            raise
        return None
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove the hidden folders of programs that were killed."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # in use, or gone
                    lock = _locked(Path(entry.path))
                    if lock is not None:
                        shutil.rmtree(entry.path, ignore_errors=True)
                        os.close(lock)


def _remove_files(paths: Sequence[Path]) -> None:
    """Remove files one after the other, also on the disk; those that are missing do not matter."""
    for path in paths:
        path.unlink(missing_ok=True)
        _flush_folder(path.parent)


def _exchanged(first: Path, second: Path) -> bool:
    """Let two paths change places; returns whether the system and the disk can."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    exchanged: int = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return exchanged == 0


def _flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, UTF-8, completely or not at all; see `json_values`.

    Raises:
        NldiffError: as `atomic_path`.
    """
    with atomic_path(path) as temporary:
        text = json.dumps(json_values(value), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def json_values(value: Any) -> Any:
    """The same with None for infinite and undefined numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
