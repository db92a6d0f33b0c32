"""Waveforms."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nldiff.figures.plots import STYLES
from nldiff.metrics.sdr import Signal, as_float64

_COLUMNS = 1600


def plot_waveforms(signals: Mapping[str, Signal], sample_rate: int) -> Figure:
    """Column of waveforms on one scale: lowest and highest sample of every stretch.

    Args:
        signals: name to audio `[time]`; lengths may differ.
        sample_rate: rate of all signals, Hz.
    """
    figure = Figure(figsize=(8.0, 0.6 + 1.3 * len(signals)), layout="constrained")
    panels = figure.subplots(len(signals), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, signal), (colour, _) in zip(panels, signals.items(), STYLES, strict=False):
        samples = as_float64(signal)
        starts = np.unique(np.linspace(0, len(samples), _COLUMNS, endpoint=False).astype(int))
        low, high = (extreme.reduceat(samples, starts) for extreme in (np.minimum, np.maximum))
        axes.fill_between(starts / sample_rate, low, high, color=colour, linewidth=0.6)
        axes.set_title(name, loc="left", fontsize="medium")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_xlim(0, max(len(signal) for signal in signals.values()) / sample_rate)
    panels[-1].set_xlabel("time (s)")
    figure.supylabel("sample value", fontsize="medium")
    return figure
