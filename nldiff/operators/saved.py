"""Operators as readable JSON files with a version: known distortions, chains, levels and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nldiff.errors import NldiffError
from nldiff.operators.known import Distortion
from nldiff.operators.operator import AtRate, Chain, Identity, Operator, Rescaled
from nldiff.operators.table import TabulatedCurve
from nldiff.operators.wiener_hammerstein import WienerHammerstein
from nldiff.reading import regular_file
from nldiff.writing import atomic_path

FORMAT, VERSION = "nldiff operator", 1
"""What a file says of itself."""


def save_operator(operator: Operator, path: str | Path) -> None:
    """Write an operator to a file, completely or not at all.

    Raises:
        NldiffError: it has parts that are not saved, learnable curves for example, or the file cannot be written.
    """
    text = json.dumps({"format": FORMAT, "version": VERSION, "operator": _described(operator)}, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_operator(path: str | Path) -> Operator:
    """Read an operator from a file.

    Raises:
        NldiffError: the file cannot be read, is no operator, is of a later version, or holds values out of range.
    """
    regular_file(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise NldiffError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NldiffError(f"{path} is no JSON file") from error
    except RecursionError as error:
        raise NldiffError(f"{path} is nested too deep") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NldiffError(f"{path} is no operator of nldiff: format {FORMAT!r} expected")
    if content.get("version") != VERSION:
        raise NldiffError(f"{path}: version {content.get('version')} of the format; this program reads {VERSION}")
    try:
        return _built(content["operator"])
    except NldiffError as error:
        raise NldiffError(f"{path}: {error}") from error
    except RecursionError as error:
        raise NldiffError(f"{path} is nested too deep") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise NldiffError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _described(operator: Operator) -> dict[str, Any]:
    if isinstance(operator, Distortion):
        return {"type": "distortion", "name": operator.name, "parameters": dict(operator.params)}
    if isinstance(operator, Chain):
        return {"type": "chain", "mix": operator.mix, "operators": [_described(part) for part in operator.operators]}
    if isinstance(operator, Rescaled):
        levels = {"input_level": operator.input_level, "output_level": operator.output_level}
        return {"type": "rescaled", **levels, "operator": _described(operator.operator)}
    if isinstance(operator, AtRate):
        rates = {"rate": operator.rate, "outer_rate": operator.outer_rate}
        return {"type": "at_rate", **rates, "operator": _described(operator.operator)}
    if isinstance(operator, TabulatedCurve):
        return {"type": "table", "inputs": operator.inputs.tolist(), "outputs": operator.outputs.tolist()}
    if isinstance(operator, Identity):
        return {"type": "identity"}
    if isinstance(operator, WienerHammerstein):
        return _described(operator.known())
    raise NldiffError(f"operators of the type {type(operator).__name__} are not saved")


def _built(content: Mapping[str, Any]) -> Operator:
    if content["type"] not in _BUILDERS:
        raise NldiffError(f"unknown type of operator {content['type']!r} (known: {', '.join(_BUILDERS)})")
    return _BUILDERS[content["type"]](content)


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Operator]] = {
    "distortion": lambda content: Distortion(content["name"], content["parameters"]),
    "chain": lambda content: Chain([_built(part) for part in content["operators"]], content["mix"]),
    "rescaled": lambda content: Rescaled(_built(content["operator"]), content["input_level"], content["output_level"]),
    "table": lambda content: TabulatedCurve(
        *(torch.tensor(content[key], dtype=torch.float64) for key in ("inputs", "outputs"))
    ),
    "at_rate": lambda content: AtRate(_built(content["operator"]), content["rate"], content["outer_rate"]),
    "identity": lambda content: Identity(),
}
