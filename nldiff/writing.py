"""Files that are written completely or not at all."""

import json
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soundfile import SoundFileError

from nldiff.errors import NldiffError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields a temporary path (hidden, same folder, same suffix) to write to. Leaving the block renames it to
    `path`, replacing an earlier file; an exception deletes it and leaves the earlier file as it was. Missing
    folders are created, and stay.

    Raises:
        NldiffError: the folder cannot be created or written, `path` is a folder, or the block, which should
            only write, raised an error of the operating system or of soundfile.
    """
    path = Path(path)
    if path.is_dir():
        raise NldiffError(f"{path} is a folder: a file name is needed")
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise NldiffError(f"{path} cannot be written in folder {path.parent}: {error.strerror}") from error
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, SoundFileError) as error:  # most likely a full disk
        raise NldiffError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


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
