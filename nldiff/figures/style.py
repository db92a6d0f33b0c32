"""Common style of the figures of an experiment: looks of methods, axes, legends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nldiff.figures.plots import STYLES
from nldiff.figures.run_folder import OBSERVED, estimators

# Methods that are known by name: label, and by their place a look that is theirs in all runs.
_KNOWN = {
    "ccr": "nldiff",
    "informed": "nldiff, told the distortion",
    "demucs": "Demucs",
    "aspade": "A-SPADE",
    "mlp": "nldiff, MLP",
    "sumtanh": "nldiff, sum of tanh",
    "wave-unet": "Wave-U-Net",
    "umx": "UMX",
    "blind": "nldiff",
    "crafx": "CRAFx",
    "sspade": "S-SPADE",
    "irm": "ideal ratio mask",
    "voicefixer": "VoiceFixer",
    "resemble-enhance": "Resemble Enhance",
}
# The spline is what nldiff uses unless told otherwise; beside other families it is named.
_FAMILIES, _SPLINE = {"blind", "mlp", "sumtanh"}, "nldiff, spline"
_MARKERS = "osD^vPX*<>"
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "ooo", "----", "||||", "OO")


@dataclass(frozen=True)
class Look:
    """Colour, line style, marker and hatch of a method, and what readers call it."""

    colour: str
    line: Any
    marker: str
    hatch: str
    label: str


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """Choose a look for each method, that of a known one in all runs; the distorted input is dashed.

    Looks are distinct for up to 40 (in bars and in grey: 10) methods that are not known.
    """
    looks, known, names = {}, list(_KNOWN), estimators(dict.fromkeys(methods))
    unknown = [method for method in names if method not in _KNOWN]
    for method in names:
        n = known.index(method) if method in _KNOWN else len(_KNOWN) + unknown.index(method)
        colour, line = STYLES[n % len(STYLES)]
        label = _SPLINE if method == "ccr" and _FAMILIES & set(names) else _KNOWN.get(method, method)
        looks[method] = Look(colour, line, _MARKERS[n % 10], _HATCHES[n % 10], label)
    return {OBSERVED: Look("black", (0, (4, 3)), "", "", "distorted")} | looks


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
