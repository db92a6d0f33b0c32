"""Pictures of devices: a curve, and the frequency responses before and behind it."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nldiff.figures.plots import STYLES
from nldiff.metrics.sdr import FloatArray

_LEAST_DB, _SHOWN_DB = -60.0, 3.0


def plot_device(
    inputs: FloatArray, outputs: FloatArray, hz: FloatArray, responses: Mapping[str, FloatArray], title: str
) -> Figure:
    """Picture of a device.

    Args:
        inputs: of its curve, `[points]`.
        outputs: what the curve makes of them, `[points]`.
        hz: frequencies above 0, `[F]`.
        responses: name to complex response at them, `[F]`; none: the curve alone.
        title: of the figure.

    Returns:
        Figure of one axes, or two: the curve, and the magnitudes in dB.
    """
    figure = Figure(figsize=(10.0 if responses else 5.4, 4.6), layout="constrained")
    panels = figure.subplots(1, 2 if responses else 1, squeeze=False)[0]
    panels[0].plot(inputs, outputs, color=STYLES[0][0], linewidth=2.2)
    panels[0].set_xlabel("input of the curve")
    panels[0].set_ylabel("output of the curve")
    if responses:
        levels = [20 * np.log10(np.maximum(np.abs(response), 1e-6)) for response in responses.values()]
        for name, level, (colour, style) in zip(responses, levels, STYLES, strict=False):
            panels[1].semilogx(hz, level, color=colour, linestyle=style, linewidth=2.2, label=name)
        lowest, highest = min(float(level.min()) for level in levels), max(float(level.max()) for level in levels)
        panels[1].set_ylim(max(lowest, _LEAST_DB) - _SHOWN_DB, highest + _SHOWN_DB)
        panels[1].set_xlabel("frequency (Hz)")
        panels[1].set_ylabel("gain (dB)")
        panels[1].legend(frameon=False)
    for axes in panels:
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure
