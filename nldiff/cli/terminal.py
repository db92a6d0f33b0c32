"""Lines that stay one line, streams that may be closed while the program works, and a place for its caches."""

import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(text: object) -> str:
    """The text with its control characters, line breaks among them, written as escapes; names may hold any."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), str(text))


def complain(kind: str, text: object) -> None:
    """Print one line on stderr."""
    print(f"{kind}: {one_line(text)}", file=sys.stderr)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let stdout and stderr be closed by whoever reads them, or be missing, while the work goes on."""
    with redirect_stdout(cast(TextIO, _Lasting(sys.stdout))), redirect_stderr(cast(TextIO, _Lasting(sys.stderr))):
        yield
        sys.stdout.flush()


def private_folder() -> Path:
    """A temporary folder that belongs to this user alone, the same one from run to run where possible."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir(), f"nldiff-{user}")
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="nldiff-"))


class _Lasting:
    """A stream that takes everything and loses it once nobody reads it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or io.StringIO()
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text in any encoding

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lose()

    def _lose(self) -> None:
        # What Python still holds is flushed when it ends: it must go somewhere.
        try:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self._stream.fileno())
            os.close(sink)
        except (OSError, ValueError):
            self._stream = io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
