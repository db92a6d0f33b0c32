"""Invertible constant-Q transform: a non-stationary Gabor frame, one tensor per octave.

The half spectrum [0, Nyquist] of a real signal is covered by overlapping windows whose squares sum to one at every
frequency (a tight frame), so the inverse uses the same windows as the analysis and white noise stays white.
Velasco, Holighaus, Dörfler, Grill: "Constructing an invertible constant-Q transform with nonstationary Gabor
frames", DAFx 2011, describes the construction; the octave-wise layout suits a U-Net (Svento et al. 2025, sec. 3.1).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

_PLANS_KEPT = 8


@dataclass(frozen=True)
class _Plan:
    """Index tables for one signal length; `frames[g]` is the number of frames of group g, lowest group last."""

    length: int
    frames: tuple[int, ...]
    gather_index: Tensor  # [coefficients]: the frequency that a coefficient slot reads
    gather_weight: Tensor  # [coefficients]: window value, 0 where the slot is outside the window
    scatter_index: Tensor  # [2, frequencies]: the two coefficient slots that touch a frequency
    scatter_weight: Tensor  # [2, frequencies]


class _Windows(torch.autograd.Function):
    """Multiply the spectrum by all windows. The adjoint gathers too, which is much faster than a scatter."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, plan: _Plan) -> Tensor:
        ctx.plan = plan
        return spectrum[:, plan.gather_index] * plan.gather_weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _WindowsAdjoint.apply(grads[0], ctx.plan), None


class _WindowsAdjoint(torch.autograd.Function):
    """Adjoint of `_Windows`: every frequency collects from the two windows that contain it."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, plan: _Plan) -> Tensor:
        ctx.plan = plan
        first, second = plan.scatter_index
        return slots[:, first] * plan.scatter_weight[0] + slots[:, second] * plan.scatter_weight[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Windows.apply(grads[0], ctx.plan), None


class ConstantQ:
    """Tight constant-Q frame of `octaves` octaves below Nyquist, plus one linear group down to 0 Hz.

    Group g = 0 to octaves-1 holds the octave (Nyquist / 2^(g+1), Nyquist / 2^g). Group `octaves` splits the rest, 0 to
    Nyquist / 2^octaves, into as many equally wide bands. Every band is demodulated to baseband. DC belongs to the
    lowest band and Nyquist to the highest, so nothing is lost.

    Group g has a frame every `hop * 2^g` samples at any length; the linear group has the rate of the lowest octave.
    Signals are zero-padded at the end to a multiple of `hop * 2^(octaves-1)`, the `granule`.

    Args:
        octaves: number of octaves.
        bins_per_octave: bands per octave.
        window: "hann" (smooth, decays fast in time) or "kaiser" (beta 1, the papers' almost rectangular window).

    Raises:
        ValueError: unknown window.
    """

    def __init__(self, octaves: int = 8, bins_per_octave: int = 32, window: str = "hann") -> None:
        if window not in ("hann", "kaiser"):
            raise ValueError(f"window '{window}': 'hann' or 'kaiser' expected")
        if min(octaves, bins_per_octave) < 1:
            raise ValueError(f"{octaves} octaves of {bins_per_octave} bins: at least 1 expected")
        self.octaves, self.bins_per_octave, self.window = octaves, bins_per_octave, window
        # The widest band spans this fraction of the sampling rate; a lower frame rate would alias.
        span = 0.5 * (2 ** (0.5 / bins_per_octave) - 2 ** (-1.5 / bins_per_octave))
        self.hop = int(1 / span)
        while next_fast_len(self.hop) != self.hop:
            self.hop -= 1
        self.granule = self.hop * 2 ** (octaves - 1)
        self._plans: OrderedDict[tuple[int, torch.device, torch.dtype], _Plan] = OrderedDict()

    def centres(self, length: int) -> np.ndarray:
        """Band centres of groups octaves .. 0 in ascending order, in units of fs / length. Shape [bands]."""
        bins, nyquist = self.bins_per_octave, length / 2
        step = np.arange(self.octaves * bins) + 0.5
        lowest = nyquist * 2.0**-self.octaves
        return np.concatenate([(np.arange(bins) + 0.5) * lowest / bins, lowest * 2 ** (step / bins)])

    def padded_length(self, samples: int) -> int:
        """Number of samples after padding: the next multiple of `granule`."""
        return self.granule * max(1, -(-samples // self.granule))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Analyse `x` [batch, time], float32 or float64.

        Returns `octaves + 1` complex tensors [batch, bins_per_octave, frames], highest octave first, bands in
        ascending frequency. For white noise of variance 1, the variance of the coefficients (real + imaginary) is
        between 0.5 and 1 within an octave.
        """
        plan = self._plan(self.padded_length(x.shape[-1]), x.device, x.dtype)
        spectrum = torch.fft.rfft(x, n=plan.length, norm="ortho")
        slots = _Windows.apply(spectrum, plan)
        sizes = [self.bins_per_octave * frames for frames in plan.frames]
        return [
            torch.fft.ifft(part.unflatten(-1, (self.bins_per_octave, frames)), norm="ortho") * 2**0.5
            for part, frames in zip(slots.split(sizes, dim=-1), plan.frames, strict=True)
        ]

    def inverse(self, coefficients: list[Tensor], samples: int) -> Tensor:
        """Synthesise audio [batch, `samples`] from the tensors of `forward`."""
        first = coefficients[0]
        plan = self._plan(self.padded_length(samples), first.device, first.real.dtype)
        slots = torch.cat([torch.fft.fft(c, norm="ortho").flatten(1) * 0.5**0.5 for c in coefficients], dim=-1)
        spectrum = _WindowsAdjoint.apply(slots, plan)
        return torch.fft.irfft(spectrum, n=plan.length, norm="ortho")[:, :samples]

    def _plan(self, length: int, device: torch.device, dtype: torch.dtype) -> _Plan:
        key = (length, device, dtype)
        plan = self._plans.pop(key, None) or self._make_plan(length, device, dtype)
        self._plans[key] = plan
        while len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan

    def _shape(self, distance: np.ndarray) -> np.ndarray:
        """Window at a distance from its centre; 0 = centre, 1 = the neighbouring centre."""
        if self.window == "hann":
            return np.cos(np.pi / 2 * distance)
        return np.i0(np.sqrt(np.clip(1 - distance**2, 0, 1)))

    def _make_plan(self, length: int, device: torch.device, dtype: torch.dtype) -> _Plan:
        bins, centres = self.bins_per_octave, self.centres(length)
        frames = tuple(length // self.hop // 2 ** min(g, self.octaves - 1) for g in range(self.octaves + 1))
        # Band k of the ascending order belongs to this group and starts at this slot of the flat layout.
        group = self.octaves - np.arange(len(centres)) // bins
        group_start = np.concatenate([[0], np.cumsum(bins * np.array(frames))])
        band_frames = np.array(frames)[group]
        band_start = group_start[group] + (np.arange(len(centres)) % bins) * band_frames

        frequency = np.arange(length // 2 + 1)
        upper = np.searchsorted(centres, frequency, side="right")
        below, above = np.clip(upper - 1, 0, None), np.clip(upper, None, len(centres) - 1)
        gap = np.where(above > below, centres[above] - centres[below], 1.0)
        position = np.where(above > below, (frequency - centres[below]) / gap, 0.0)
        weights = np.stack([self._shape(position), self._shape(1 - position)])
        weights[1, above == below] = 0.0  # beyond the first and the last centre there is only one band
        weights /= np.sqrt((weights**2).sum(0))
        bands = np.stack([below, above])
        offset = np.mod(frequency - np.round(centres[bands]).astype(int), band_frames[bands])
        slot = band_start[bands] + offset

        gather_index = np.zeros(group_start[-1], dtype=np.int64)
        gather_weight = np.zeros(group_start[-1])
        used = weights > 0
        gather_index[slot[used]] = np.broadcast_to(frequency, slot.shape)[used]
        gather_weight[slot[used]] = weights[used]

        tensor = partial(torch.as_tensor, device=device)
        return _Plan(
            length,
            frames,
            tensor(gather_index),
            tensor(gather_weight, dtype=dtype),
            tensor(slot),
            tensor(weights, dtype=dtype),
        )
