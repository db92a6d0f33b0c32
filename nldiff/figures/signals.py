"""Figures of single restorations: transfer curves, spectrograms, changes over the diffusion steps."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nldiff.figures.plots import FrequencyAxis, draw_spectrograms
from nldiff.figures.style import Look, add_legend, make_panels
from nldiff.metrics.sdr import FloatArray, Signal

_PICTURES_PER_ROW, _MAX_SPECTRA = 5, 800
# Above it there is little to see on a linear axis, which is shared with what there is below.
_TOP_KHZ = 8.0

Table: TypeAlias = Mapping[str, FloatArray]


def plot_curve_grid(
    panels: Mapping[str, tuple[Table | None, Mapping[str, Table]]],
    looks: Mapping[str, Look],
    title: str = "Transfer curves",
) -> Figure:
    """Estimated transfer curves and the truth, one panel per distortion.

    Args:
        panels: name to (the true curve, where known; method to estimated curve); curves are tables of x and y.
        looks: method to look, see `looks_of`.
        title: title of the figure.
    """
    figure, axes_of = make_panels(len(panels), title, columns=3, size=(3.4, 3.1))
    lines = {}
    for (name, (truth, estimates)), axes in zip(panels.items(), axes_of, strict=True):
        reference = truth or next(iter(estimates.values()))
        limit, height = (float(np.max(np.abs(reference[key]))) for key in "xy")
        for n, (method, curve) in enumerate(estimates.items()):
            look, some = looks[method], (10 + 25 * n, max(1, len(curve["x"]) // 6))
            style = {"color": look.colour, "linestyle": look.line, "marker": look.marker, "markevery": some}
            (lines[method],) = axes.plot(curve["x"], curve["y"], markersize=5, linewidth=1.8, **style)
            # A curve that went astray must not flatten the others.
            height = max(height, min(float(np.max(np.abs(curve["y"]))), 1.5 * height))
        if truth:
            (lines["truth"],) = axes.plot(truth["x"], truth["y"], color="black", linewidth=1.0)
        lines["identity"] = axes.axline((0, 0), slope=1, color="0.55", linestyle=":", linewidth=1.2, zorder=1)
        axes.set(xlim=(-limit, limit), ylim=(-1.08 * height, 1.08 * height))
        axes.set(xlabel="input sample value", ylabel="output sample value")
        axes.set_title(name, fontsize="medium")
    order = [name for name in (*looks, "truth", "identity") if name in lines]
    add_legend(figure, [lines[name] for name in order], [_label(name, looks) for name in order])
    return figure


def plot_spectrogram_row(
    signals: Mapping[str, Signal], sample_rate: int, title: str = "", frequency: FrequencyAxis = "linear"
) -> Figure:
    """Spectrograms to 8 kHz side by side, in rows of five, with one colour scale down from the loudest point of all.

    Args:
        signals: name to audio `[time]`.
        sample_rate: rate of all signals, Hz.
        title: title of the figure.
        frequency: axis, see `draw_spectrograms`.

    Raises:
        NldiffError: a signal is too short for a spectrum (about 23 ms), or the axis is unknown.
    """
    figure, panels = make_panels(len(signals), title, _PICTURES_PER_ROW, size=(2.5, 2.5), share=True)
    image = draw_spectrograms(panels, signals, sample_rate, _MAX_SPECTRA, frequency)
    for axes, name in zip(panels, signals, strict=True):
        axes.grid(False)
        axes.set_title(name, fontsize="medium")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    if frequency == "linear":
        panels[0].set_ylim(top=min(_TOP_KHZ, sample_rate / 2000))
    figure.supxlabel("time (s)", fontsize="medium")
    figure.supylabel("frequency (kHz)", fontsize="medium")
    figure.colorbar(image, ax=list(panels), label="level (dB)", pad=0.02)
    return figure


def plot_evolution(
    costs: Mapping[str, Table],
    curves: Mapping[str, Table],
    looks: Mapping[str, Look],
    truth: Table | None = None,
    title: str = "",
) -> Figure:
    """Cost and curves over the diffusion steps.

    Args:
        costs: method to table of step and cost (positive).
        curves: method to table of x and, under the number of every step shown, the curve at x.
        looks: method to look, see `looks_of`.
        truth: table of x and y, where known.
        title: title of the figure.
    """
    figure, (first, *others) = make_panels(1 + len(curves), title, columns=4, size=(3.4, 3.1))
    lines = {}
    for method, table in costs.items():
        look, some = looks[method], max(1, len(table["step"]) // 8)
        style = {"color": look.colour, "linestyle": look.line, "marker": look.marker, "markevery": some}
        (lines[method],) = first.plot(table["step"], table["cost"], **style)
    first.set(xlabel="diffusion step", ylabel="cost", yscale="log")
    first.set_title("Fit to the observation", fontsize="medium")

    # This map runs from light to dark in grey too. Its palest colours, which would vanish on white, are left out.
    shades = ListedColormap(colormaps["viridis_r"](np.linspace(0.1, 1.0, 256)))
    scale = Normalize(1, max((int(key) for table in curves.values() for key in table if key != "x"), default=1))
    for axes, (method, table) in zip(others, curves.items(), strict=True):
        for step in (key for key in table if key != "x"):
            axes.plot(table["x"], table[step], color=shades(scale(int(step))), linewidth=1.4)
        if truth:
            (lines["truth"],) = axes.plot(truth["x"], truth["y"], color="black", linestyle="--", linewidth=1.4)
        axes.set(xlabel="input sample value", ylabel="output sample value")
        axes.set_title(f"Curve of {_label(method, looks)}", fontsize="medium")
    if others:
        figure.colorbar(ScalarMappable(scale, shades), ax=others, label="diffusion step", pad=0.02)
    add_legend(figure, lines.values(), [_label(name, looks) for name in lines])
    return figure


def _label(name: str, looks: Mapping[str, Look]) -> str:
    return looks[name].label if name in looks else name
