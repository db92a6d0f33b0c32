"""Figures of transfer curves and spectrograms.

Each `plot` function returns a matplotlib `Figure` of its own, without pyplot and its global state; `save_figure` writes
it. Colours can be told apart with colour blindness, line styles in grey.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from nldiff.errors import NldiffError
from nldiff.interrupts import held
from nldiff.metrics.sdr import FloatArray, Signal, as_float64
from nldiff.transforms.spectrogram import constant_q_magnitudes, power_spectrogram
from nldiff.writing import atomic_path

FrequencyAxis: TypeAlias = Literal["linear", "cqt"]

# Colours of Okabe and Ito's palette; two darker ones replace its yellow, which is too pale for a line. No two curves
# share colour or line style. Truth is a thin black line.
STYLES = (
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
_MAX_SPECTRA = 2000  # more columns than pixels would only be slow


def plot_curve(
    grid: Signal,
    estimate: Signal,
    histogram_of: Signal,
    truth: Signal | None = None,
    title: str = "Estimated transfer curve",
    band: tuple[Signal, Signal] | None = None,
) -> Figure:
    """Picture of one estimated curve and of the samples that it was estimated from.

    Args:
        grid: input values `[G]`, increasing.
        estimate: f_hat(grid) `[G]`.
        histogram_of: restored audio, any shape, for the panel below the curve; the range shown holds 99.99 % of its
            samples.
        truth: f(grid) `[G]`, where known.
        title: title of the figure.
        band: lower and upper ends `[G]` of where the true curve is believed to lie.

    Returns:
        Figure of two axes: the curve and the distribution of the samples.
    """
    samples = as_float64(histogram_of).ravel()
    limit = float(np.quantile(np.abs(samples), 0.9999)) or float(np.max(np.abs(as_float64(grid))))
    figure = Figure(figsize=(5.6, 6.2), layout="constrained")
    curve, panel = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    _draw_curves(curve, {"estimate": estimate}, grid, truth, limit, band)
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
    band: tuple[Signal, Signal] | None = None,
) -> Figure:
    """Picture of several estimated curves on one axes.

    Args:
        curves: name to f_hat(grid) `[G]`, at most eight.
        grid: input values `[G]`, increasing; all of them are shown.
        truth: f(grid) `[G]`, where known.
        title: title of the figure.
        band: as in `plot_curve`.

    Raises:
        NldiffError: more curves than can be told apart.
    """
    if len(curves) > len(STYLES):
        raise NldiffError(f"{len(curves)} curves in one picture: at most {len(STYLES)} can be told apart")
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_curves(axes, curves, grid, truth, float(np.max(np.abs(as_float64(grid)))), band)
    axes.set_title(title)
    axes.set_xlabel("restored sample value (input)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def plot_spectrograms(
    signals: Mapping[str, Signal], sample_rate: int, fmax: float | None = None, frequency: FrequencyAxis = "linear"
) -> Figure:
    """Column of spectrograms with one colour scale, 80 dB below the loudest point of all of them.

    Args:
        signals: name to audio `[time]`; lengths may differ.
        sample_rate: rate of all signals, Hz.
        fmax: highest frequency shown, Hz; default: all.
        frequency: axis, see `draw_spectrograms`.

    Raises:
        NldiffError: a signal is too short for a spectrum (about 23 ms), or the axis is unknown.
    """
    figure = Figure(figsize=(8.0, 0.9 + 2.0 * len(signals)), layout="constrained")
    panels = list(figure.subplots(len(signals), 1, sharex=True, sharey=True, squeeze=False)[:, 0])
    image = draw_spectrograms(panels, signals, sample_rate, _MAX_SPECTRA, frequency)
    for axes, name in zip(panels, signals, strict=True):
        axes.set_title(name, loc="left", fontsize="medium")
    panels[0].set_xlim(0, max(len(signal) for signal in signals.values()) / sample_rate)
    if fmax is not None:
        panels[0].set_ylim(top=fmax / 1000 if frequency == "linear" else np.log2(fmax / 1000))
    panels[-1].set_xlabel("time (s)")
    figure.supylabel("frequency (kHz)", fontsize="medium")
    figure.colorbar(image, ax=panels, label="level (dB)", pad=0.02)
    return figure


def draw_spectrograms(
    panels: Sequence[Axes], signals: Mapping[str, Signal], sample_rate: int, columns: int, frequency: FrequencyAxis
) -> AxesImage:
    """Draw one spectrogram per panel, with one colour scale down from the loudest point of all of them.

    Args:
        panels: one axes per signal.
        signals: name to audio `[time]`.
        sample_rate: rate of all signals, Hz.
        columns: spectra per picture, about, at most.
        frequency: "linear" (short-time Fourier transform; the vertical axis is in kHz) or "cqt" (constant-Q transform
            from 55 Hz upwards; the vertical axis is in octaves above 1 kHz and has labels in kHz).

    Returns:
        One of the images, for a colour bar.

    Raises:
        NldiffError: a signal is too short for a spectrum, or the axis is unknown.
    """
    if frequency not in ("linear", "cqt"):
        raise NldiffError(f"frequency={frequency}: linear or cqt expected")
    n_fft = 2 ** round(np.log2(0.046 * sample_rate))
    bottom, top = 0.0, sample_rate / 2000
    levels = []
    for samples in map(as_float64, signals.values()):
        hop = max(n_fft // 4, len(samples) // columns)
        if frequency == "linear":
            power = power_spectrogram(samples, n_fft, hop).T
        else:
            magnitudes, centres = constant_q_magnitudes(samples, sample_rate, hop)
            power, octaves = magnitudes**2, np.log2(centres / 1000)
            bottom, top = (1.5 * octaves[i] - 0.5 * octaves[j] for i, j in ((0, 1), (-1, -2)))
        levels.append(10 * np.log10(power + 1e-20))
    loudest = max(float(level.max()) for level in levels)
    for axes, signal, level in zip(panels, signals.values(), levels, strict=True):
        extent, vmin = (0.0, len(signal) / sample_rate, bottom, top), -_DYNAMIC_RANGE_DB
        image = axes.imshow(
            level - loudest, extent=extent, vmin=vmin, vmax=0.0, origin="lower", aspect="auto", cmap="magma"
        )
        if frequency == "cqt":
            ticks = [khz for khz in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if np.log2(khz) < top]
            axes.set_yticks(np.log2(ticks), [f"{khz:g}" for khz in ticks])
    return image


def save_figure(figure: Figure, path: str | Path, dpi: float = 150) -> None:
    """Write a figure, completely or not at all, as PNG (`dpi` pixels per inch) or SVG, by the suffix of the path.

    Raises:
        NldiffError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise NldiffError(f"{path} cannot be written: pictures are .png or .svg")
    with atomic_path(path) as temporary:
        draw(figure, temporary, dpi=dpi)


def draw(figure: Figure, file: Path | BinaryIO, **options: Any) -> None:
    """`figure.savefig`, which Ctrl-C waits for: compiled parts of matplotlib put another error in its place."""
    with held():
        figure.savefig(file, **options)


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, Signal],
    grid: Signal,
    truth: Signal | None,
    limit: float,
    band: tuple[Signal, Signal] | None,
) -> None:
    """Draw curves, identity, truth and band over inputs from -limit to limit."""
    x = as_float64(grid)
    drawn: list[FloatArray] = []
    for (name, values), (colour, style) in zip(curves.items(), STYLES, strict=False):
        drawn.append(as_float64(values))
        axes.plot(x, drawn[-1], color=colour, linestyle=style, linewidth=2.2, label=name)
    if truth is not None:
        drawn.append(as_float64(truth))
        axes.plot(x, drawn[-1], color="black", linewidth=1.0, label="truth")
    if band is not None:
        low, high = map(as_float64, band)
        axes.fill_between(x, low, high, color="0.8", linewidth=0, label="band", zorder=0)
    axes.axline((0, 0), slope=1, color="0.55", linestyle=":", linewidth=1.2, label="identity", zorder=1)

    shown = np.abs(x) <= limit
    height = max([limit, *(float(np.max(np.abs(values[shown]), initial=0.0)) for values in drawn)])
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-1.05 * height, 1.05 * height)
    axes.set_ylabel("observed sample value (output)")
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
