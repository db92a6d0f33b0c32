"""What earlier runs finished: reading the rows of cells, and finding damaged files."""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.evaluation.scoring import CURVE_POINTS
from nldiff.figures.run_folder import read_columns
from nldiff.reading import regular_file

_FIXED = ("task", "distortion", "level", "level_name", "method", "clip", "seed")


def read_row(path: Path, blank: Mapping[str, Any]) -> dict[str, Any]:
    """Read the row of a cell.

    Args:
        path: file of the cell.
        blank: the row of this cell without results; says which columns there are, and which cell it is.

    Raises:
        NldiffError: the file is missing or damaged, or is that of another cell.
    """
    regular_file(path)
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NldiffError(f"{path} cannot be read: {error}") from error
    # Version 0.1 did not keep the checksums of a cell's files.
    if not isinstance(row, dict) or set(row := {"files": None} | row) != set(blank):
        raise NldiffError(f"{path} does not hold the columns of a cell")
    for name, value in row.items():
        if name in _FIXED:
            fits = value == blank[name] and type(value) is type(blank[name])
        elif name == "status":
            fits = value in ("ok", "failed")
        elif name == "files":
            fits = value is None or isinstance(value, dict)
        elif name == "problems":
            fits = isinstance(value, list) and all(isinstance(line, str) for line in value)
        elif name == "error":
            fits = isinstance(value, str)
        else:
            fits = value is None or (type(value) in (int, float) and math.isfinite(value))
        if not fits:
            raise NldiffError(f"{path}: unexpected {name}: {str(value)[:50]!r}")
    return {name: row[name] for name in blank}


def checksums(folder: Path, paths: Iterable[Path]) -> dict[str, int]:
    """Path below a folder -> CRC-32 of the content, for those of the files that exist."""
    found = [path for path in paths if path.is_file()]
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in found}


def remove_damaged(paths: Iterable[Path], warn: Callable[[str], object]) -> bool:
    """Remove those of the curves (.csv), embeddings (.npy) and signals (.flac) of clips that cannot be read.

    Returns:
        Whether there was one.
    """
    damaged = [(path, reason) for path in paths if (reason := _damage(path))]
    for path, reason in damaged:
        path.unlink()
        warn(f"{reason}: done again")
    return bool(damaged)


def _damage(path: Path) -> str | None:
    """What is wrong with a file of numbers; None for a missing or good one."""
    if not path.exists():
        return None
    try:
        regular_file(path)
        if path.suffix == ".csv":
            if any(len(column) != CURVE_POINTS for column in read_columns(path).values()):
                return f"{path} is not complete"
        elif path.suffix == ".flac":
            sound.read(path)
        elif np.load(path, allow_pickle=False).ndim != 2:
            return f"{path} is not an embedding"
    except NldiffError as error:
        return str(error)
    except Exception as error:  # a damaged header can make NumPy raise anything
        return f"{path} cannot be read: {type(error).__name__}"
    return None
