"""Linear filters: their design from frequencies in Hz, their application, responses and inverses.

A filter is a pair of coefficients (b, a), float64 `[order + 1]` each with a[0] = 1, of `B(z) / A(z)`. First-order
filters and biquads are bilinear transforms of analogue ones that meet them at `hz`; the biquads are those of R.
Bristow-Johnson's "Cookbook formulae for audio equalizer biquad filter coefficients". Their poles are inside the unit
circle for all parameters in range. Designs take numbers or tensors without dimensions, and are differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor

Number: TypeAlias = float | Tensor
Coefficients: TypeAlias = tuple[Tensor, Tensor]

# Zeros that are this near to the unit circle are no zeros inside it; the inverse has none of its poles beyond this
# radius, but for one at 0 Hz, where an integrator forgets nothing and amplifies little.
_ON_CIRCLE, _LARGEST_RADIUS = 1e-9, 0.999
# Memories above this number of samples are taken to be those of the slowest pole alone.
_LONG = 50_000


def highpass(rate: float, hz: Number) -> Coefficients:
    """First-order high-pass, -3 dB at `hz`, as a capacitor between two stages makes it."""
    k = torch.tan(_angle(rate, hz) / 2)
    one = torch.ones_like(k)
    return _normalised([one, -one], [1 + k, k - 1])


def lowpass(rate: float, hz: Number) -> Coefficients:
    """First-order low-pass, -3 dB at `hz`."""
    k = torch.tan(_angle(rate, hz) / 2)
    return _normalised([k, k], [1 + k, k - 1])


def steep_highpass(rate: float, hz: Number, q: Number) -> Coefficients:
    """Second-order high-pass of resonance `q`; 0.707 is Butterworth's."""
    cosine, alpha = _biquad(rate, hz, q)
    return _normalised([(1 + cosine) / 2, -1 - cosine, (1 + cosine) / 2], [1 + alpha, -2 * cosine, 1 - alpha])


def steep_lowpass(rate: float, hz: Number, q: Number) -> Coefficients:
    """Second-order low-pass of resonance `q`; 0.707 is Butterworth's."""
    cosine, alpha = _biquad(rate, hz, q)
    return _normalised([(1 - cosine) / 2, 1 - cosine, (1 - cosine) / 2], [1 + alpha, -2 * cosine, 1 - alpha])


def peak(rate: float, hz: Number, gain_db: Number, q: Number) -> Coefficients:
    """Bell of `gain_db` at `hz`; its bandwidth is about `hz / q`."""
    cosine, alpha = _biquad(rate, hz, q)
    root = _amplitude(gain_db).sqrt()
    return _normalised(
        [1 + alpha * root, -2 * cosine, 1 - alpha * root], [1 + alpha / root, -2 * cosine, 1 - alpha / root]
    )


def low_shelf(rate: float, hz: Number, gain_db: Number) -> Coefficients:
    """Shelf of `gain_db` far below `hz`, where it has half of that; as steep as it can be without a bump."""
    cosine, alpha = _biquad(rate, hz, math.sqrt(0.5))
    root = _amplitude(gain_db).sqrt()
    side, mean, half = 2 * root.sqrt() * alpha, root + 1, root - 1
    return _normalised(
        [root * (mean - half * cosine + side), 2 * root * (half - mean * cosine), root * (mean - half * cosine - side)],
        [mean + half * cosine + side, -2 * (half + mean * cosine), mean + half * cosine - side],
    )


def high_shelf(rate: float, hz: Number, gain_db: Number) -> Coefficients:
    """Shelf of `gain_db` far above `hz`, where it has half of that; as steep as it can be without a bump."""
    b, a = low_shelf(rate, hz, -torch.as_tensor(gain_db, dtype=torch.float64))
    return b * _amplitude(gain_db), a


def fir(**taps: float) -> Coefficients:
    """Finite impulse response `b0 + b1 z^-1 + ...`, taps in order."""
    return torch.tensor(list(taps.values()), dtype=torch.float64), torch.ones(1, dtype=torch.float64)


FILTERS: dict[str, Callable[..., Coefficients]] = {
    "highpass": highpass,
    "lowpass": lowpass,
    "steep_highpass": steep_highpass,
    "steep_lowpass": steep_lowpass,
    "peak": peak,
    "low_shelf": low_shelf,
    "high_shelf": high_shelf,
}
"""Designs by name, called with the sample rate in Hz and the parameters."""


def apply_filter(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Filter audio `[..., time]` from rest, in float64 on the CPU; type and device of the result are those of `x`.

    Differentiable with respect to audio and coefficients.
    """
    return _Filter.apply(x.cpu().double(), b, a).to(x.dtype).to(x.device)


def frequency_response(b: Tensor, a: Tensor, hz: Tensor, rate: float) -> Tensor:
    """Complex response at the frequencies `hz` `[F]`; differentiable with respect to the coefficients."""
    angles = hz.double()[:, None] * (2 * math.pi / rate)
    above, below = (torch.exp(-1j * angles * torch.arange(len(c))) @ c.to(torch.complex128) for c in (b, a))
    return above / below


def memory_of(b: Tensor, a: Tensor) -> int:
    """Number of past samples that a filter depends on, to 60 dB: what comes later adds up to no more than that."""
    above, below = np.trim_zeros(b.detach().numpy(), "b"), a.detach().numpy()
    radius = float(np.abs(np.roots(below)).max(initial=0.0))
    if radius == 0:
        return max(len(above) - 1, 0)
    slowest = math.ceil(math.log(1e-3) / math.log(radius))
    if slowest > _LONG:
        return slowest
    # poles that coincide forget later than each alone
    length = 2 * slowest + len(above)
    response = np.abs(lfilter(above, below, np.eye(1, length)[0]))
    rest = np.cumsum(response[::-1])[::-1]
    return int(np.count_nonzero(rest > 1e-3 * rest[0])) - 1


@dataclass(frozen=True)
class Inversion:
    """What undoes an operator, sample after sample, so that a recording can be undone in blocks.

    Attributes:
        start: state before the first sample, as if there had been silence, `[size]`.
        step: (observed `[channels, n]`, states `[channels, size]`) -> (what entered the operator, states after it),
            float64.
        exact: the operator makes the observation of the result; else that is a regularised one.
    """

    start: np.ndarray
    step: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    exact: bool = True

    def __call__(self, observed: np.ndarray) -> np.ndarray:
        """Undo a whole recording `[channels, time]`."""
        return self.step(observed, np.tile(self.start, (len(observed), 1)))[0]


def inverse_filter(b: Tensor, a: Tensor) -> Inversion | None:
    """The inverse of a minimum-phase filter; None for others.

    Where the filter removes all of a frequency but 0 Hz, nothing brings it back: the zero is moved inside the circle.
    """
    below, above = a.detach().numpy(), np.trim_zeros(b.detach().numpy(), "b")
    if not len(above):
        return None
    zeros = np.roots(above)
    radii = np.abs(zeros)
    if above[0] == 0 or radii.max(initial=0.0) > 1 + _ON_CIRCLE:
        return None
    lost = (radii > _LARGEST_RADIUS) & (np.abs(zeros - 1) > 1 - _LARGEST_RADIUS)
    if lost.any():
        above = above[0] * np.real(np.poly(np.where(lost, zeros * (_LARGEST_RADIUS / radii), zeros)))
    size = max(len(above), len(below)) - 1

    def step(observed: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if size == 0:
            return observed * (below[0] / above[0]), states
        return lfilter(below, above, observed, zi=states)

    return Inversion(np.zeros(size), step, not lost.any())


class _Filter(torch.autograd.Function):
    """`B(z) / A(z)` from rest over the last axis, of (audio, b, a); its derivatives can be derived again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, a: Tensor) -> Tensor:
        y = lfilter(b.detach().cpu().numpy(), a.detach().cpu().numpy(), x.detach().cpu().numpy())
        result = torch.from_numpy(np.ascontiguousarray(y)).to(x.device)
        ctx.save_for_backward(x, b, a)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (x, b, a) = gradients, ctx.saved_tensors
        wanted = ctx.needs_input_grad
        one = torch.ones(1, dtype=b.dtype)
        # the transpose of a causal filter is the same filter running backwards in time
        dx = _Filter.apply(gradient.flip(-1), b, a).flip(-1) if wanted[0] else None
        recursive = _Filter.apply(x, one, a) if wanted[1] or wanted[2] else x
        db = _correlated(gradient, recursive, len(b)).to(b.device) if wanted[1] else None
        da = -_correlated(gradient, _Filter.apply(recursive, b, a), len(a)).to(a.device) if wanted[2] else None
        return dx, db, da


def _correlated(gradient: Tensor, signal: Tensor, count: int) -> Tensor:
    """`sum over n of gradient[n] signal[n - k]` over all items, for k from 0, `[count]`."""
    shifted = (torch.nn.functional.pad(signal, (k, 0))[..., : signal.shape[-1]] for k in range(count))
    return torch.stack([(gradient * delayed).sum() for delayed in shifted])


def _normalised(b: Sequence[Tensor], a: Sequence[Tensor]) -> Coefficients:
    return torch.stack(list(b)) / a[0], torch.stack(list(a)) / a[0]


def _angle(rate: float, hz: Number) -> Tensor:
    return torch.as_tensor(hz, dtype=torch.float64) * (2 * math.pi / rate)


def _biquad(rate: float, hz: Number, q: Number) -> tuple[Tensor, Tensor]:
    """Cosine of the frequency, and the cookbook's alpha."""
    angle = _angle(rate, hz)
    return torch.cos(angle), torch.sin(angle) / (2 * q)


def _amplitude(gain_db: Number) -> Tensor:
    return 10 ** (torch.as_tensor(gain_db, dtype=torch.float64) / 20)
