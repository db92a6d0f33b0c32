"""A transfer curve: what a distortion makes of sample values."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nldiff.errors import NldiffError
from nldiff.figures import plots
from nldiff.operators import TabulatedCurve
from nldiff.reading import regular_file
from nldiff.writing import atomic_path

Values = NDArray[np.float64]

CURVE_POINTS = 1001
_COLUMNS = ("input", "output", "low", "high")
# Falls of a curve that are taken for rounding, as fractions of its range.
_ROUNDING = 1e-6


class Curve:
    """What a distortion makes of sample values: a table, straight between its points and flat outside.

    Args and attributes, arrays float64 that cannot be written:
        inputs: samples of the clean signal `[points]`, at least 2, that never fall.
        outputs: samples of the distorted signal `[points]`.
        low: lower end of the band in which the outputs are believed to lie `[points]`; None where there is no band.
        high: upper end of it.
        exact: the function that the table was taken from, used instead of the table where it is there.

    Raises:
        NldiffError: if the table has another form.

    Examples:
        >>> curve = Curve([-1, -0.5, 0.5, 1], [-0.5, -0.5, 0.5, 0.5])
        >>> curve([-2, 0.25, 0.8]).tolist()
        [-0.5, 0.25, 0.5]
        >>> curve.inverse([-0.5, 0.25]).tolist()
        [-0.5, 0.25]
    """

    def __init__(
        self,
        inputs: ArrayLike,
        outputs: ArrayLike,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        exact: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.inputs = _column("inputs", inputs)
        self.outputs = _column("outputs", outputs)
        self.low = None if low is None else _column("low", low)
        self.high = None if high is None else _column("high", high)
        self.exact = exact
        lengths = {len(column) for column in self._columns}
        if len(lengths) > 1:
            raise NldiffError(f"curve: columns of {' and '.join(map(str, sorted(lengths)))} points")
        if np.any(np.diff(self.inputs) < 0) or self.inputs[0] == self.inputs[-1]:
            raise NldiffError("curve: inputs that never fall and are not all the same expected")
        if (self.low is None) != (self.high is None):
            raise NldiffError("curve: a band has a lower and an upper end")
        if self.low is not None and self.high is not None and np.any(self.low > self.high):
            raise NldiffError("curve: a band whose lower end is above the upper one")

    @classmethod
    def from_function(
        cls,
        function: Callable[[np.ndarray], np.ndarray],
        limit: float,
        points: int = CURVE_POINTS,
        band: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None] = lambda grid: None,
    ) -> "Curve":
        """Take a table of a function from -`limit` to `limit`; the function stays what calls evaluate.

        `band` gives the lower and the upper end of the band at inputs [points], or None.
        """
        grid = np.linspace(-limit, limit, points)
        low, high = band(grid) or (None, None)
        return cls(grid, function(grid), low, high, exact=function)

    def __call__(self, samples: ArrayLike) -> Values:
        """Distort samples of any shape; float64."""
        values = np.asarray(samples, dtype=np.float64)
        return np.asarray((self.exact or self.look_up)(values), dtype=np.float64)

    def look_up(self, samples: ArrayLike) -> Values:
        """Distort samples of any shape by the table alone, which is what a saved curve does."""
        return np.asarray(np.interp(np.asarray(samples, dtype=np.float64), self.inputs, self.outputs))

    def inverse(self, samples: ArrayLike) -> Values:
        """Find the clean samples that the table distorts to `samples`, any shape; float64.

        Where several inputs give the output, as where a clipper is flat, the one nearest to zero is taken; outputs
        that the curve does not reach give the end of the table.

        Raises:
            NldiffError: the outputs both rise and fall.
        """
        inputs, outputs = self.inputs, self.outputs
        if outputs[-1] < outputs[0]:
            return Curve(inputs, -outputs).inverse(-np.asarray(samples, dtype=np.float64))
        rising = np.maximum.accumulate(outputs)
        if np.max(rising - outputs) > _ROUNDING * np.ptp(outputs):
            raise NldiffError("curve: outputs that rise and fall have no inverse")
        table = TabulatedCurve(torch.from_numpy(inputs.copy()), torch.from_numpy(rising))
        wanted = torch.from_numpy(np.asarray(np.clip(samples, rising[0], rising[-1]), dtype=np.float64))
        first, last = (table.inverse(wanted, right).numpy().clip(inputs[0], inputs[-1]) for right in (False, True))
        return np.clip(0.0, first, last)

    def operator(self) -> TabulatedCurve:
        """The table as an operator, which can be told to a restoration as `known`."""
        inputs, outputs = self.inputs, self.outputs
        return TabulatedCurve(torch.from_numpy(inputs.copy()), torch.from_numpy(outputs.copy()))

    def scaled(self, factor: float) -> "Curve":
        """The same curve for clean signals of `factor` times the amplitude, not 0."""
        exact = self.exact
        function = None if exact is None else lambda x: exact(np.asarray(x) / factor)
        # upside down, the table is read from its end
        direction = -1 if factor < 0 else 1
        low, high = (None if band is None else band[::direction] for band in (self.low, self.high))
        return Curve(self.inputs[::direction] * factor, self.outputs[::direction], low, high, function)

    def plot(self, samples: ArrayLike | None = None, title: str = "Estimated transfer curve") -> Figure:
        """Draw the table.

        Args:
            samples: restored audio, any shape, for a panel of where the samples lie; limits the range shown.
            title: of the figure.
        """
        inputs, outputs = self.inputs, self.outputs
        band = None if self.low is None or self.high is None else (self.low, self.high)
        if samples is None:
            return plots.plot_curves({"estimate": outputs}, inputs, title=title, band=band)
        return plots.plot_curve(inputs, outputs, np.asarray(samples), title=title, band=band)

    def save(self, path: str | Path) -> None:
        """Write the table as CSV with columns input, output and, with a band, low and high; all or nothing.

        Raises:
            NldiffError: the file cannot be written.
        """
        columns = self._columns
        with atomic_path(path) as temporary, temporary.open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(_COLUMNS[: len(columns)])
            writer.writerows([f"{value:.7g}" for value in row] for row in zip(*columns, strict=True))

    @classmethod
    def load(cls, path: str | Path) -> "Curve":
        """Read a table that `save` or `nldiff restore` wrote.

        Raises:
            NldiffError: the file cannot be read, or is no such table.
        """
        try:
            regular_file(path)
            with Path(path).open(newline="", encoding="utf-8-sig") as text:  # spreadsheets write such a mark
                header, *rows = [row for row in csv.reader(text) if row] or [[]]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise NldiffError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if tuple(header) not in (_COLUMNS[:2], _COLUMNS):
            raise NldiffError(f"{path} is no curve: the columns {','.join(_COLUMNS[:2])}[,low,high] expected")
        for number, row in enumerate(rows, 1):
            if len(row) != len(rows[0]):
                raise NldiffError(f"{path} is no curve: point {number} has {len(row)} values, point 1 {len(rows[0])}")
        try:
            table = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
            return cls(*table.T)
        except (ValueError, TypeError) as error:
            raise NldiffError(f"{path} is no curve: {error}") from error

    @property
    def _columns(self) -> list[Values]:
        return [column for column in (self.inputs, self.outputs, self.low, self.high) if column is not None]


def _column(name: str, values: ArrayLike) -> Values:
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise NldiffError(f"curve: {name} are no numbers") from error
    if column.ndim != 1 or len(column) < 2:
        raise NldiffError(f"curve: {name} of shape {list(column.shape)}: [points], at least 2, expected")
    # a difference of finite numbers can be infinite
    if not np.isfinite(column).all() or column.max() / 2 - column.min() / 2 > np.finfo(np.float64).max / 2:
        raise NldiffError(f"curve: {name} that are NaN, infinite or too far apart")
    column.flags.writeable = False
    return column
