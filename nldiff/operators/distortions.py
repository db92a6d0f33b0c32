"""Known distortions as pure functions of audio and parameters.

The curves are those evaluated by Švento et al. (2025), section 3.1.1, the full-wave rectifier, and two of Imort et al.
(2022): clipping after amplification, and SoX's overdrive without its filter. They are elementwise, take any shape, keep
shape and type, and are differentiable almost everywhere. `sox_overdrive` has memory: it filters along the last axis.
A new distortion is a function here and an entry of `nldiff.operators.known.DISTORTIONS`.
"""

from typing import Any

import torch
from scipy.signal import lfilter
from torch import Tensor


def hard_clip(x: Tensor, low: float, high: float) -> Tensor:
    """Limit to `[low, high]`."""
    return x.clamp(low, high)


def amplified_clip(x: Tensor, gain_db: float, threshold: float) -> Tensor:
    """Amplify, then limit to `[-threshold, threshold]`: eq. 2 and 3 of Imort et al. (2022).

    The output is louder than the input by `gain_db` where nothing is limited. With `g = 10^(gain_db / 20)`
    it is g times the output of the hard clipper at `threshold / g`.
    """
    return hard_clip(_amplitude(gain_db) * x, -threshold, threshold)


def gain(x: Tensor, gain_db: float) -> Tensor:
    """Amplify, and nothing else."""
    return _amplitude(gain_db) * x


def tanh_clip(x: Tensor, gain: float) -> Tensor:
    """Saturate softly: `tanh(g x) / g`, slope 1 at zero, limits `+-1 / g`."""
    return torch.tanh(gain * x) / gain


def soft_clip(x: Tensor, threshold: float, hardness: float) -> Tensor:
    """Saturate with an adjustable knee, after Defraene et al. (2012).

    With limit U, hardness r and `u = (|x| - r U) / (U - r U)`: `x` where `u <= 0`, elsewhere
    `sgn(x) (r U + (U - r U) tanh(u))`. r = 0 is `U tanh(x / U)`, r = 1 the hard clipper;
    the slope is continuous for r < 1. The formula follows descriptions of that work and was not checked
    against the printed paper.
    """
    linear = x.clamp(-hardness * threshold, hardness * threshold)
    span = (1 - hardness) * threshold
    return linear + span * torch.tanh((x - linear) / span) if span > 0 else linear


def wavefold(x: Tensor, threshold: float) -> Tensor:
    """Fold once: `x` for `|x| < t`, otherwise `sgn(x) (2 t - |x|)`."""
    return 2 * x.clamp(-threshold, threshold) - x


def triangle_fold(x: Tensor, threshold: float) -> Tensor:
    """Fold as often as it takes: a triangle wave of x, slope 1 at zero, turning at odd multiples of +-t.

    It is `t - |((x + t) mod 4 t) - 2 t|`: `x` for `|x| < t`, `sgn(x) (2 t - |x|)` up to `3 t`, and so on,
    always within `[-t, t]`.
    """
    return threshold - (torch.remainder(x + threshold, 4 * threshold) - 2 * threshold).abs()


def sine_fold(x: Tensor, amplitude: float) -> Tensor:
    """Fold softly, as a sine shaper does: `A sin(x / A)`, slope 1 at zero, first turning points `+-A pi / 2`."""
    return amplitude * torch.sin(x / amplitude)


def quantize(x: Tensor, step: float) -> Tensor:
    """Round to multiples of `step` (mid-tread: zero is a level); ties go to the even multiple.

    The true derivative is zero almost everywhere and would silence the guidance through a known quantiser.
    The backward pass therefore takes the derivative of the identity, which is what the staircase follows on
    average (straight-through estimator, Bengio et al. 2013).
    """
    levels = step * torch.round(x.detach() / step)
    return levels + (x - x.detach())  # adds an exact zero with slope 1


def half_wave(x: Tensor) -> Tensor:
    """Keep the positive half: `max(x, 0)`."""
    return torch.relu(x)


def full_wave(x: Tensor) -> Tensor:
    """Rectify both halves: `|x|`."""
    return x.abs()


def carbon_mic(x: Tensor, asymmetry: float, gain: float) -> Tensor:
    """Carbon microphone: `(1 - a) x / (1 - a g x)` (Quatieri et al. 2000; Oksanen and Välimäki 2011).

    The curve has a pole at `x = 1 / (a g)`. From 99 % of the pole upwards the output stays at the value it
    has there, so it is finite, continuous and rising for every input.
    """
    x = x.clamp(max=0.99 / (asymmetry * gain))
    return (1 - asymmetry) * x / (1 - asymmetry * gain * x)


def cubic_clip(x: Tensor) -> Tensor:
    """Saturate softly at `+-2 / 3`: `x - x^3 / 3` for `|x| <= 1`, constant outside; the slope is continuous."""
    x = x.clamp(-1, 1)
    return x - x**3 / 3


def overdrive_static(x: Tensor, gain_db: float, colour: float) -> Tensor:
    """Static curve of SoX's overdrive: what `sox_overdrive` does without its filter.

    With `c = colour / 200`, `g = 10^(gain_db / 20)` and w the cubic clipper:
    `x / 2 + 3 / 4 (w(g x + c) - w(c))`, limited to `[-1, 1]`. The offset c makes the curve asymmetric. The
    filter removes whatever mean the clipper leaves; the curve subtracts its value at silence. 0 dB, where SoX
    leaves the signal alone, is no exception here.
    """
    offset = torch.tensor(colour / 200, dtype=x.dtype, device=x.device)
    wet = cubic_clip(_amplitude(gain_db) * x + offset) - cubic_clip(offset)
    return (x / 2 + 0.75 * wet).clamp(-1, 1)


def sox_overdrive(x: Tensor, gain_db: float, colour: float, pole: float) -> Tensor:
    """Apply the effect `overdrive gain colour` of SoX 14.4.2, sample by sample as the program computes it.

    It is the distortion of the CEG-OD data of Imort et al. (2022). With `c = colour / 200`, `g = 10^(gain_db / 20)` and
    the cubic clipper w:

        `v[n] = w(g x[n] + c)`
        `u[n] = v[n] - v[n-1] + pole u[n-1]`
        `y[n] = x[n] / 2 + 3 / 4 u[n]`

    with `v = u = 0` before the first sample: the offset c makes a click that decays within some 1000 samples. Input and
    output are limited to full scale, `[-1, 1]`, as they are in SoX. A gain of exactly 0 dB changes nothing else,
    whatever the colour: SoX drops the effect.

    Args:
        x: audio `[..., time]`, full scale 1. All items are processed alone.
        gain_db: amplification before the clipper, dB.
        colour: strength of the even harmonics, 0 to 100.
        pole: of the filter that removes the mean; SoX takes 0.995 at every sample rate, which cuts below 35 Hz at
            44.1 kHz.

    Returns:
        Overdriven audio in the shape and type of `x`, computed in float64 on the CPU; differentiable with respect to
        `x`.
    """
    dry = x.cpu().double().clamp(-1, 1)  # not every accelerator has float64
    if gain_db == 0:
        return x.clamp(-1, 1)
    wet = _RemoveMean.apply(cubic_clip(_amplitude(gain_db) * dry + colour / 200), pole)
    return (dry / 2 + 0.75 * wet).clamp(-1, 1).to(x.dtype).to(x.device)


class _RemoveMean(torch.autograd.Function):
    """High-pass `(1 - z^-1) / (1 - pole z^-1)` from rest, over the last axis."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, pole: float) -> Tensor:
        ctx.pole = pole
        u = lfilter([1.0, -1.0], [1.0, -pole], v.detach().cpu().numpy())
        return torch.from_numpy(u).to(v.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # the transpose of a causal filter is the same filter running backwards in time
        (gradient,) = gradients
        return _RemoveMean.apply(gradient.flip(-1), ctx.pole).flip(-1), None


def _amplitude(gain_db: float) -> float:
    return 10 ** (gain_db / 20)
