"""SoX's overdrive backwards, a compiled loop: one thread, nothing cached on disk.

Its dry path makes it invertible: with the filter's state known, an input sample makes exactly one output sample, and
more makes more.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True)
def undo(observed: np.ndarray, state: float, gain: float, offset: float, pole: float, x: np.ndarray) -> float:
    """Find what was overdriven, sample by sample; see `nldiff.operators.distortions.sox_overdrive`.

    With `t = gain x + offset` and the clipper w, `x / 2 + 3 / 4 (w(t) + state) = y`, where the state is
    `pole u - v` of the sample before. Where the clipper is not at its limits that is a cubic with three real roots,
    of which the middle one is meant.

    Args:
        observed: [time], float64.
        state: before the first sample.
        gain: amplification before the clipper.
        offset: added before the clipper.
        pole: of the filter.
        x: receives the result, [time].

    Returns:
        The state after the last sample.
    """
    third = np.sqrt(1 + 2 / (3 * gain))
    for n in range(len(observed)):
        rest = observed[n] - 0.75 * state
        t = gain * 2 * (rest + 0.5) + offset
        if t <= -1:
            x[n], v = 2 * (rest + 0.5), -2 / 3
        else:
            t = gain * 2 * (rest - 0.5) + offset
            if t >= 1:
                x[n], v = 2 * (rest - 0.5), 2 / 3
            else:
                sine = 2 * (rest + offset / (2 * gain)) / third**3
                t = 2 * third * np.sin(np.arcsin(min(max(sine, -1.0), 1.0)) / 3)
                x[n], v = (t - offset) / gain, t - t * t * t / 3
        # pole u - v of this sample; u = v + state
        state = pole * (v + state) - v
    return state
