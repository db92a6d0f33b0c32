"""Figures of transfer curves, spectrograms and cost traces.

Each function returns a matplotlib `Figure` of its own, without pyplot and its global state; `save_figure`
writes it. Colours are told apart with colour blindness, line styles in grey.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nldiff.errors import NldiffError
from nldiff.metrics.lsd import power_spectrogram
from nldiff.metrics.sdr import FloatArray, Signal, as_float64
from nldiff.writing import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito's palette, with two darker ones in place of its yellow, too pale for a line; no two curves
# share colour or line style. Truth is a thin black line.
_STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", (0, (1, 1))),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (8, 3))),
    ("#882255", (0, (3, 1, 1, 1))),
    ("#666633", (0, (8, 1, 1, 1, 1, 1))),
)
_DYNAMIC_RANGE_DB = 80.0
_MAX_SPECTRA = 2000  # more columns than a picture has pixels are only slow


def plot_curve(
    grid: Signal,
    estimate: Signal,
    histogram_of: Signal,
    truth: Signal | None = None,
    title: str = "Estimated transfer curve",
) -> "Figure":
    """Picture of one estimated curve over the samples that it was estimated from.

    Args:
        grid: input values `[G]`, increasing.
        estimate: f_hat(grid) `[G]`.
        histogram_of: restored audio, any shape; it sets the range shown (99.99 % of the samples) and the
            panel below the curve.
        truth: f(grid) `[G]`, where known.
        title: above the figure.

    Returns:
        A figure of two axes: the curve and the distribution of the samples.
    """
    from matplotlib.figure import Figure

    samples = as_float64(histogram_of).ravel()
    limit = float(np.quantile(np.abs(samples), 0.9999)) or float(np.max(np.abs(as_float64(grid))))
    figure = Figure(figsize=(5.6, 6.2), layout="constrained")
    curve, panel = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    _draw_curves(curve, {"estimate": estimate}, grid, truth, limit)
    curve.set_title(title)

    panel.hist(samples, bins=100, range=(-limit, limit), color="0.6", log=True)
    panel.set_xlabel("restored sample value (input)")
    panel.set_ylabel("samples")
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*curve.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_curves(
    curves: Mapping[str, Signal],
    grid: Signal,
    truth: Signal | None = None,
    title: str = "Transfer curves",
) -> "Figure":
    """Picture of several estimated curves on one axes.

    Args:
        curves: name to f_hat(grid) `[G]`, at most six.
        grid: input values `[G]`, increasing; all of it is shown.
        truth: f(grid) `[G]`, where known.
        title: above the figure.

    Raises:
        NldiffError: more curves than can be told apart.
    """
    from matplotlib.figure import Figure

    if len(curves) > len(_STYLES):
        raise NldiffError(f"{len(curves)} curves in one picture: at most {len(_STYLES)} can be told apart")
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_curves(axes, curves, grid, truth, float(np.max(np.abs(as_float64(grid)))))
    axes.set_title(title)
    axes.set_xlabel("restored sample value (input)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def plot_spectrograms(signals: Mapping[str, Signal], sample_rate: int, fmax: float | None = None) -> "Figure":
    """Column of spectrograms with one colour scale, 80 dB below the loudest point of them all.

    Args:
        signals: name to audio `[time]`; lengths may differ.
        sample_rate: in Hz, of all signals.
        fmax: highest frequency shown in Hz; default half the sample rate.

    Raises:
        NldiffError: a signal is too short for a spectrum (about 23 ms).
    """
    from matplotlib.figure import Figure

    n_fft = 2 ** round(np.log2(0.046 * sample_rate))
    levels = {}
    for name, signal in signals.items():
        hop = max(n_fft // 4, len(signal) // _MAX_SPECTRA)
        levels[name] = 10 * np.log10(power_spectrogram(signal, n_fft, hop).T + 1e-20)
    loudest = max(float(level.max()) for level in levels.values())

    figure = Figure(figsize=(8.0, 0.9 + 2.0 * len(signals)), layout="constrained")
    panels = figure.subplots(len(signals), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, level) in zip(panels, levels.items(), strict=True):
        image = axes.imshow(
            level - loudest,
            extent=(0.0, len(signals[name]) / sample_rate, 0.0, sample_rate / 2000),
            vmin=-_DYNAMIC_RANGE_DB,
            vmax=0.0,
            origin="lower",
            aspect="auto",
            cmap="magma",
        )
        axes.set_title(name, loc="left", fontsize="medium")
    panels[0].set_xlim(0, max(len(signal) for signal in signals.values()) / sample_rate)
    panels[0].set_ylim(0, (fmax or sample_rate / 2) / 1000)
    panels[-1].set_xlabel("time (s)")
    figure.supylabel("frequency (kHz)", fontsize="medium")
    figure.colorbar(image, ax=list(panels), label="level (dB)", pad=0.02)
    return figure


def plot_trace(cost_trace: Signal | Sequence[float]) -> "Figure":
    """Picture of the cost after each diffusion step, on a logarithmic axis.

    Args:
        cost_trace: `[steps]`, positive.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    cost = as_float64(cost_trace)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(np.arange(1, len(cost) + 1), cost, color=_STYLES[0][0], marker=".")
    axes.set_title("Fit to the observation")
    axes.set_xlabel("diffusion step")
    axes.set_ylabel("cost")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(which="both", color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_figure(figure: "Figure", path: str | Path, dpi: float = 150) -> None:
    """Write a figure as PNG (`dpi` pixels an inch) or SVG, by the path's suffix, atomically.

    Raises:
        NldiffError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise NldiffError(f"{path} cannot be written: pictures are .png or .svg")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def _draw_curves(axes: "Axes", curves: Mapping[str, Signal], grid: Signal, truth: Signal | None, limit: float) -> None:
    """Draw curves, identity and truth over inputs from -limit to limit."""
    x = as_float64(grid)
    drawn: list[FloatArray] = []
    for (name, values), (colour, style) in zip(curves.items(), _STYLES, strict=False):
        drawn.append(as_float64(values))
        axes.plot(x, drawn[-1], color=colour, linestyle=style, linewidth=2.2, label=name)
    if truth is not None:
        drawn.append(as_float64(truth))
        axes.plot(x, drawn[-1], color="black", linewidth=1.0, label="truth")
    axes.axline((0, 0), slope=1, color="0.55", linestyle=":", linewidth=1.2, label="identity", zorder=1)

    shown = np.abs(x) <= limit
    height = max([limit, *(float(np.max(np.abs(values[shown]), initial=0.0)) for values in drawn)])
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-1.05 * height, 1.05 * height)
    axes.set_ylabel("observed sample value (output)")
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
