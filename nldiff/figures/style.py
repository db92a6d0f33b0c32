"""Common style of the figures of an experiment: looks of methods, axes, legends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nldiff.figures.plots import STYLES
from nldiff.figures.run_folder import OBSERVED, estimators

_MARKERS = "osD^vPX*<>"
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "ooo", "----", "||||", "OO")


@dataclass(frozen=True)
class Look:
    """Colour, line style, marker and hatch of a method."""

    colour: str
    line: Any
    marker: str
    hatch: str


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """Choose a look for each method: distinct for up to 40 (in bars and in grey: 10); the distorted input is dashed."""
    looks = {}
    for n, method in enumerate(estimators(dict.fromkeys(methods))):
        colour, line = STYLES[n % len(STYLES)]
        looks[method] = Look(colour, line, _MARKERS[n % 10], _HATCHES[n % 10])
    return {OBSERVED: Look("black", (0, (4, 3)), "", "")} | looks


def make_panels(
    count: int, title: str, columns: int, size: tuple[float, float] = (4.2, 3.2), share: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` axes in rows of `columns`, each of `size` inches; `share` gives all the same limits."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = Figure(figsize=(0.9 + size[0] * columns, 0.9 + size[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[count - columns : count]:
        axes.tick_params(labelbottom=True)  # the lowest of its column, even if axes are shared
    for axes in panels[:count]:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure, list(panels[:count])


def add_legend(figure: Figure, handles: Iterable[Any], labels: Sequence[str]) -> None:
    """Put a legend below the axes, in as few rows as fit."""
    rows = -(-len(labels) * 2.2 // figure.get_figwidth())
    columns = int(-(-len(labels) // rows))
    figure.legend(list(handles), labels, loc="outside lower center", ncols=columns, frameon=False)
