"""The overdrive effect of SoX, sample by sample as the `sox` program computes it.

It is the distortion of the CEG-OD data of Imort et al. (2022). It has memory, a filter that removes the mean,
so it is no entry of `DISTORTIONS`; the curve without the filter is `overdrive_static` there.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.signal import lfilter
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators.distortions import cubic_clip


def sox_overdrive(x: Tensor, gain_db: float = 20.0, colour: float = 20.0) -> Tensor:
    """Apply the effect `overdrive gain colour` of SoX 14.4.2.

    With `c = colour / 200`, `g = 10^(gain_db / 20)` and the cubic clipper `w(d) = d - d^3 / 3` on `|d| <= 1`,
    `+-2 / 3` outside:

        `v[n] = w(g x[n] + c)`
        `u[n] = v[n] - v[n-1] + 0.995 u[n-1]`
        `y[n] = x[n] / 2 + 3 / 4 u[n]`

    with `v = u = 0` before the first sample: the offset c makes a click that decays within some 1000 samples.
    The filter's pole does not depend on the sample rate; it cuts below 35 Hz at 44.1 kHz. Input and output are
    limited to full scale, `[-1, 1]`, as they are in SoX. A gain of exactly 0 dB changes nothing, whatever the
    colour: SoX drops the effect.

    Args:
        x: audio `[batch, time]` (any leading shape), full scale 1. All items are processed alone.
        gain_db: amplification before the clipper, dB, 0 to 100.
        colour: strength of the even harmonics, 0 to 100.

    Returns:
        Overdriven audio in the shape and type of `x`, computed in float64; differentiable with respect to `x`.

    Raises:
        NldiffError: if `gain_db` or `colour` is out of its range.
    """
    for name, value in (("gain_db", gain_db), ("colour", colour)):
        if not 0 <= value <= 100:
            raise NldiffError(f"sox_overdrive: {name}={value:g} is out of range (0 to 100)")
    dry = x.double().clamp(-1, 1)
    if gain_db == 0:
        return dry.to(x.dtype)
    wet = _RemoveMean.apply(cubic_clip(10 ** (gain_db / 20) * dry + colour / 200))
    return (dry / 2 + 0.75 * wet).clamp(-1, 1).to(x.dtype)


class _RemoveMean(torch.autograd.Function):
    """High-pass `(1 - z^-1) / (1 - 0.995 z^-1)` from rest, over the last axis."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        u = lfilter([1.0, -1.0], [1.0, -0.995], v.detach().cpu().numpy())
        return torch.from_numpy(u).to(v.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # the transpose of a causal filter is the same filter running backwards in time
        (gradient,) = gradients
        return _RemoveMean.apply(gradient.flip(-1)).flip(-1)
