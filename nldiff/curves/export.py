"""Curves for other programs: Web Audio, FAUST, JSFX, C and ONNX.

All of them hold the table as evenly spaced points from -limit to limit, straight between them and flat outside, which
is what `Curve.look_up` computes. A table that is not evenly spaced is sampled at `DENSE` points first.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nldiff.curves.curve import Curve, Values
from nldiff.errors import NldiffError
from nldiff.version import __version__
from nldiff.writing import atomic_path

DENSE = 16385
# Deviation from even spacing that rounding in a CSV file explains, as a fraction of the width.
_EVEN = 1e-6
_COLUMNS = 8


@dataclass(frozen=True)
class Table:
    """Evenly spaced points of a curve: `values` [points] at inputs from -`limit` to `limit`."""

    limit: float
    values: Values


def even_table(curve: Curve) -> Table:
    """The points of a curve if they are evenly spaced about zero, `DENSE` points otherwise."""
    limit = float(np.max(np.abs(curve.inputs)))
    even = np.linspace(-limit, limit, len(curve.inputs))
    if np.max(np.abs(even - curve.inputs)) <= _EVEN * limit:
        return Table(limit, curve.outputs)
    return Table(limit, curve.look_up(np.linspace(-limit, limit, DENSE)))


def export_curve(curve: Curve, path: str | Path, kind: str) -> None:
    """Write a curve for another program, completely or not at all.

    Args:
        curve: its table is exported.
        path: the file.
        kind: key of `EXPORTS`.

    Raises:
        NldiffError: unknown kind, a package that is not installed, or the file cannot be written.
    """
    if kind not in EXPORTS:
        raise NldiffError(f"unknown kind of export '{kind}' (known: {', '.join(EXPORTS)})")
    content = EXPORTS[kind].content(even_table(curve))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _web_audio(table: Table) -> bytes:
    """Settings of a WaveShaperNode, whose curve spans inputs from -1 to 1: a GainNode before it does the rest."""
    settings = {
        "about": "GainNode (gain = inputGain), then WaveShaperNode (curve = new Float32Array(curve), oversample)",
        "generator": f"nldiff {__version__}",
        "inputGain": 1 / table.limit,
        "oversample": "4x",
        "curve": [float(f"{value:.9g}") for value in table.values],
    }
    return (json.dumps(settings) + "\n").encode()


def _faust(table: Table) -> bytes:
    """A FAUST program of one input and one output."""
    n = len(table.values)
    return f"""// Transfer curve found by nldiff {__version__}. No antialiasing: run it at a high rate, or oversample.
declare name "nldiff curve";

points = waveform{{{_lines(table.values, "", ",")}}};
curve(x) = low + (position - index) * (high - low)
with {{
    position = max(0.0, min({n - 1}.0, (x / {table.limit!r} + 1.0) * {(n - 1) / 2!r}));
    index = min({n - 2}, int(position));
    low = points, index : rdtable;
    high = points, index + 1 : rdtable;
}};
process = curve;
""".encode()


def _jsfx(table: Table) -> bytes:
    """An effect for REAPER, on both channels."""
    n = len(table.values)
    points = "\n".join(f"table[{i}] = {value:.9g};" for i, value in enumerate(table.values))
    channel = """position = max(0, min(last, (spl{0} / limit + 1) * last / 2));
index = min(last - 1, floor(position));
spl{0} = table[index] + (position - index) * (table[index + 1] - table[index]);
"""
    return f"""desc:nldiff curve
// Transfer curve found by nldiff {__version__}. Turn on oversampling of the effect (FX menu) against aliasing.

@init
table = 0;
limit = {table.limit!r};
last = {n - 1};
{points}

@sample
{channel.format(0)}{channel.format(1)}""".encode()


def _c_header(table: Table) -> bytes:
    """A header of C99 and C++."""
    n = len(table.values)
    return f"""/* Transfer curve found by nldiff {__version__}.
   No antialiasing: run it at a high rate, or oversample. */
#ifndef NLDIFF_CURVE_H
#define NLDIFF_CURVE_H

#define NLDIFF_CURVE_POINTS {n}
#define NLDIFF_CURVE_LIMIT {table.limit!r}

static const float nldiff_curve_table[NLDIFF_CURVE_POINTS] = {{{_lines(table.values, "f", ",")}}};

/* What the distortion makes of a sample; flat beyond +-NLDIFF_CURVE_LIMIT. */
static inline float nldiff_curve(float sample) {{
    const double last = NLDIFF_CURVE_POINTS - 1;
    const double position = (sample / NLDIFF_CURVE_LIMIT + 1.0) * last / 2.0;
    if (!(position > 0.0)) return nldiff_curve_table[0];
    if (position >= last) return nldiff_curve_table[NLDIFF_CURVE_POINTS - 1];
    const int index = (int)position;
    const double low = nldiff_curve_table[index], high = nldiff_curve_table[index + 1];
    return (float)(low + (position - index) * (high - low));
}}

#endif
""".encode()


def _onnx(table: Table) -> bytes:
    """A model from float32 `samples` of any shape to `distorted` of the same shape."""
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise NldiffError('onnx is not installed: pip install "nldiff[export]"') from error
    n = len(table.values)
    constants: dict[str, Any] = {
        "limit": np.float64(table.limit),
        "one": np.float64(1),
        "half": np.float64((n - 1) / 2),
        "first": np.float64(0),
        "last": np.float64(n - 1),
        "last_but_one": np.float64(n - 2),
        "table": table.values,
        "next": np.int64(1),
    }
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Cast", "samples", "x", {"to": onnx.TensorProto.DOUBLE}),
        ("Div", "x limit", "scaled", {}),
        ("Add", "scaled one", "shifted", {}),
        ("Mul", "shifted half", "anywhere", {}),
        ("Clip", "anywhere first last", "position", {}),
        ("Floor", "position", "floor", {}),
        ("Clip", "floor first last_but_one", "whole", {}),
        ("Cast", "whole", "index", {"to": onnx.TensorProto.INT64}),
        ("Add", "index next", "after", {}),
        ("Gather", "table index", "low", {}),
        ("Gather", "table after", "high", {}),
        ("Sub", "high low", "step", {}),
        ("Sub", "position whole", "share", {}),
        ("Mul", "share step", "part", {}),
        ("Add", "low part", "y", {}),
        ("Cast", "y", "distorted", {"to": onnx.TensorProto.FLOAT}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs.split(), [output], **options) for kind, inputs, output, options in steps],
        "nldiff_curve",
        [helper.make_tensor_value_info("samples", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("distorted", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="nldiff",
        producer_version=__version__,
    )  # fmt: skip
    return bytes(model.SerializeToString())


def _lines(values: Values, mark: str, separator: str) -> str:
    """Numbers of C and FAUST, some a line."""
    texts = [f"{value:.9g}" for value in values]
    numbers = [text if any(c in text for c in ".e") else f"{text}.0" for text in texts]
    rows = [numbers[start : start + _COLUMNS] for start in range(0, len(numbers), _COLUMNS)]
    return f"{separator}\n".join(f"{separator} ".join(f"{number}{mark}" for number in row) for row in rows)


@dataclass(frozen=True)
class Export:
    """A kind of export: what the file holds, the end of its name, and the content."""

    purpose: str
    suffix: str
    content: Callable[[Table], bytes]


EXPORTS = {
    "webaudio": Export("settings of a WaveShaperNode (Web Audio)", ".json", _web_audio),
    "faust": Export("FAUST program", ".dsp", _faust),
    "jsfx": Export("effect for REAPER", ".jsfx", _jsfx),
    "c": Export("header of C and C++", ".h", _c_header),
    "onnx": Export("ONNX model", ".onnx", _onnx),
}
"""Kinds of export; a new one is a function and an entry."""
