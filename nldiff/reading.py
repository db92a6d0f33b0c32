"""Files that are read: regular ones only, and the same one from beginning to end."""

import os
import stat
from pathlib import Path
from typing import TypeAlias

from nldiff.errors import NldiffError

Identity: TypeAlias = tuple[int, int, int, int]
"""Device, number, size and time of the last change of a file: another one has another identity."""


def regular_file(path: str | Path) -> Identity:
    """The identity of a file that can be read without waiting.

    Raises:
        NldiffError: `path` does not exist, or is a folder, pipe, device or socket.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise NldiffError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise NldiffError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe, device or socket"
        raise NldiffError(f"{path} is a {kind}: a file is needed")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
