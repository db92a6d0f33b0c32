"""Identification from files: reading the pair, and writing operator, curve, picture and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.figures.plots import save_figure
from nldiff.figures.responses import plot_device
from nldiff.identification.pairs import Identification, identify
from nldiff.operators import Chain, Operator, Rescaled, save_operator
from nldiff.operators.known import Distortion
from nldiff.version import __version__
from nldiff.writing import replace_together, scratch_folder, write_json

SUFFIXES = (".operator.json", ".curve.csv", ".device.png", ".json")
"""Ends of the names of the results."""

_LOWEST_HZ, _POINTS = 20.0, 500


@dataclass(frozen=True)
class IdentifiedFiles:
    """Paths written, and what was found."""

    operator: Path
    curve_table: Path
    picture: Path
    report_path: Path
    found: Identification


def identify_files(
    clean: str | Path,
    observed: str | Path,
    folder: str | Path,
    operator: str,
    *,
    stem: str | None = None,
    seed: int = 0,
) -> IdentifiedFiles:
    """Identify the device between two files and write STEM.operator.json, .curve.csv, .device.png and .json.

    Args:
        clean: audio file of what entered the device.
        observed: audio file of what came out, at the same rate, with as many channels.
        folder: where the results go; created if needed.
        operator: what the device is made of, see `nldiff.identify`.
        seed: of the first values that are tried, not negative.
        stem: of the results; that of `observed` by default.

    Raises:
        NldiffError: files that cannot be used or written, or a wrong description.
    """
    (x, rate), (y, other) = _read(clean), _read(observed)
    if rate != other:
        raise NldiffError(f"{observed}: {other} Hz, {clean}: {rate} Hz: the same rate expected")
    found = identify(x, y, rate, operator, seed=seed)
    folder = Path(folder)
    paths = [folder / f"{stem or Path(observed).stem}{suffix}" for suffix in SUFFIXES]
    with scratch_folder(folder) as scratch:
        written = [scratch / path.name for path in paths]
        save_operator(found.operator, written[0])
        found.curve.save(written[1])
        save_figure(_picture(found), written[2])
        write_json(written[3], _report(found, clean, observed, operator, seed))
        replace_together(written, folder)
    return IdentifiedFiles(paths[0], paths[1], paths[2], paths[3], found)


def _read(path: str | Path) -> tuple[np.ndarray, int]:
    with sound.readable(Path(path)) as readable:
        return sound.read(readable)


def responses(operator: Operator, hz: np.ndarray) -> dict[str, np.ndarray]:
    """Complex responses `[F]` of the filters before and behind the curves of a chain; without a curve, of all."""
    while isinstance(operator, Rescaled):
        operator = operator.operator
    parts = operator.operators if isinstance(operator, Chain) else (operator,)
    each = [part.frequency_response(torch.from_numpy(hz)) if isinstance(part, Distortion) else None for part in parts]
    linear = [response is not None for response in each]
    if not any(linear):
        return {}
    if all(linear):
        return {"filter": _product(each)}
    first, last = linear.index(False), len(linear) - linear[::-1].index(False)
    sides = {"before the curve": each[:first], "behind the curve": each[last:]}
    return {name: _product(side) for name, side in sides.items() if side}


def _product(each: list[torch.Tensor | None]) -> np.ndarray:
    result: np.ndarray = np.prod([response.numpy() for response in each if response is not None], axis=0)
    return result


def _picture(found: Identification) -> Any:
    hz = np.geomspace(_LOWEST_HZ, found.sample_rate / 2, _POINTS)
    curve = found.curve
    title = f"Device: held-out error-to-signal ratio {found.held_out_esr_db:.1f} dB"
    return plot_device(curve.inputs, curve.outputs, hz, responses(found.operator, hz), title)


def _report(found: Identification, clean: str | Path, observed: str | Path, operator: str, seed: int) -> dict[str, Any]:
    return {
        "clean": Path(clean).name,
        "observed": Path(observed).name,
        "description": operator,
        "operator": str(found.operator) if isinstance(found.operator, Distortion) else None,
        "sample_rate": found.sample_rate,
        "delay_samples": found.delay,
        "esr_db": found.esr_db,
        "held_out_esr_db": found.held_out_esr_db,
        "seed": seed,
        "version": __version__,
    }
