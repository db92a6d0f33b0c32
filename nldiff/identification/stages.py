"""Stages of a device with free parameters: a known distortion, a spline, a delay.

A stage works on audio `[..., time]`, float64, and on a vector of coordinates; where a parameter spans several powers
of ten its coordinate is its logarithm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from nldiff.errors import NldiffError
from nldiff.identification.alignment import delayed
from nldiff.operators import DISTORTIONS, Distortion, Operator, TabulatedCurve
from nldiff.operators.known import check_parameters

# Ranges narrower than those of the table, by the name of the parameter; sizes are multiples of the signal's peak.
_RANGES = {"hz": (1.0, 20000.0), "q": (0.25, 12.0), "gain_db": (-60.0, 60.0)}
_SIZES, _SEARCHED_SIZES, _SEARCHED_GAINS = (1e-4, 1e2), (0.02, 2.0), (0.2, 100.0)
# Sizes are told by their lower end in the table.
_TINY = DISTORTIONS["hard_clip"].parameters["threshold"].low
# Frequencies of equalisers: a shelf below those is a gain.
_EQUALISERS, _LOWEST = frozenset({"peak", "low_shelf", "high_shelf"}), 25.0
_FIRST_HZ = {"low_shelf": 150.0, "high_shelf": 4000.0, "lowpass": 8000.0, "steep_lowpass": 8000.0, "highpass": 30.0}
_FIRST_PEAK = 300.0
_SEARCHED = {"hz": (15.0, 20000.0), "q": (0.3, 6.0), "gain_db": (-24.0, 60.0)}
# Frequencies stay below this share of the sampling rate.
_HIGHEST = 0.48
# Those that are constants of the device, not settings: they keep their default unless they are given.
_CONSTANTS = frozenset({"pole"})
# Where high / low is at least this the logarithm is fitted.
_WIDE = 20.0
# A filter with a gain starts with this one: at 0 dB its frequency would change nothing.
_START_DB = 1.0
# How much a change of a curve's slope by that of its first line counts.
_BENDS = 3.0
_TABLE_POINTS = 1001
_LARGEST_DELAY = 100.0


@dataclass(frozen=True)
class Free:
    """A parameter to fit.

    Attributes:
        name: of the distortion's parameter.
        low, high: its range.
        searched: the range in which a first value is looked for.
        start: where nothing was looked for yet.
    """

    name: str
    low: float
    high: float
    searched: tuple[float, float]
    start: float

    @property
    def wide(self) -> bool:
        """Whether its logarithm is fitted."""
        return self.low > 0 and self.high >= _WIDE * self.low

    def coordinate(self, value: float) -> float:
        """Of a value."""
        return float(np.log(value)) if self.wide else value

    def value(self, coordinate: float) -> float:
        """At a coordinate, within the range."""
        return float(np.clip(np.exp(coordinate) if self.wide else coordinate, self.low, self.high))

    def grid(self, points: int) -> np.ndarray:
        """Coordinates at which a first value is looked for, `[points]`."""
        low, high = map(self.coordinate, self.searched)
        return np.linspace(low, high, points)


class Stage(ABC):
    """A part of a device."""

    @property
    def searched(self) -> tuple[Free, ...]:
        """Parameters whose first values may be looked for on a grid, in the order of the coordinates."""
        return ()

    @property
    @abstractmethod
    def bounds(self) -> np.ndarray:
        """Lowest and highest coordinates, `[2, size]`."""

    @abstractmethod
    def start(self) -> np.ndarray:
        """First coordinates, `[size]`."""

    @property
    def pulls(self) -> np.ndarray:
        """What is kept small of the distance from the first coordinates, `[rows, size]`, without unit."""
        return np.zeros((0, self.bounds.shape[1]))

    @abstractmethod
    def apply(self, x: np.ndarray, at: np.ndarray) -> np.ndarray:
        """What the stage makes of `x` with the coordinates `at` `[size]`."""

    def operator(self, at: np.ndarray) -> Operator | None:
        """The stage with these coordinates as an operator; None if it is no part of the device."""
        return None


@dataclass(frozen=True)
class KnownStage(Stage):
    """A distortion of the table, of which some parameters are given.

    Attributes:
        name: a key of `DISTORTIONS`.
        given: parameters that are fixed, `mix` among them.
        frees: those that are not.
        sample_rate: Hz.
    """

    name: str
    given: Mapping[str, float]
    frees: tuple[Free, ...]
    sample_rate: int

    @classmethod
    def of(cls, name: str, given: Mapping[str, float], sample_rate: int, peak: float, number: int) -> KnownStage:
        """Leave open what is not given.

        Args:
            name: a key of `DISTORTIONS`.
            given: parameters that are fixed.
            sample_rate: Hz.
            peak: of the clean signal.
            number: of stages of this name that came before on the same side of a curve.

        Raises:
            NldiffError: another rate than that of the audio is given, or a frequency that it does not have.
        """
        if given.get("rate", sample_rate) != sample_rate:
            raise NldiffError(f"distortion '{name}': rate={given['rate']:g}: the recordings have {sample_rate} Hz")
        if "hz" in given:
            check_parameters(name, {**given, "rate": sample_rate})
        frees = []
        for key, known in DISTORTIONS[name].parameters.items():
            if key in given or key in _CONSTANTS:
                continue
            low, high = known.low, known.high
            searched: tuple[float, float] = _SEARCHED.get(key, (low, high))
            start = _START_DB if key == "gain_db" and low < 0 and name != "gain" else known.default
            if low == _TINY:
                size, around = (1 / peak, _SEARCHED_GAINS) if name == "soft_clip" else (peak, _SEARCHED_SIZES)
                low, high, start = size * _SIZES[0], size * _SIZES[1], size
                searched = size * around[0], size * around[1]
            elif key in _RANGES:
                low, high = max(low, _RANGES[key][0]), min(high, _RANGES[key][1])
            if key == "hz":
                start = _FIRST_HZ.get(name, _FIRST_PEAK * 4.0**number if name == "peak" else start)
                low, high = _LOWEST if name in _EQUALISERS else low, min(high, _HIGHEST * sample_rate)
                searched = (searched[0], min(searched[1], high))
            searched = (float(max(searched[0], low)), float(min(searched[1], high)))
            frees.append(Free(key, float(low), float(high), searched, float(np.clip(start, low, high))))
        return cls(name, given, tuple(frees), sample_rate)

    @property
    def searched(self) -> tuple[Free, ...]:
        """All of them."""
        return self.frees

    @property
    def bounds(self) -> np.ndarray:
        """Those of the parameters."""
        ends = [[free.coordinate(free.low), free.coordinate(free.high)] for free in self.frees]
        return np.array(ends).reshape(-1, 2).T

    def start(self) -> np.ndarray:
        """Defaults, or the size of the signal."""
        return np.array([free.coordinate(free.start) for free in self.frees])

    @property
    def pulls(self) -> np.ndarray:
        """Those of an equaliser: 20 dB, and a factor of e in frequency or q, count as much."""
        equaliser = self.name in _EQUALISERS
        return np.diag([float(equaliser) / (20.0 if free.name == "gain_db" else 1.0) for free in self.frees])

    def _params(self, at: np.ndarray) -> dict[str, float]:
        free = {free.name: free.value(value) for free, value in zip(self.frees, at, strict=True)}
        known = {key: each.default for key, each in DISTORTIONS[self.name].parameters.items()}
        rate = {"rate": float(self.sample_rate)} if DISTORTIONS[self.name].in_hertz else {}
        return known | rate | dict(self.given) | free

    def apply(self, x: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Distort, with the dry path that `mix` leaves."""
        params = self._params(at)
        mix = params.pop("mix", 1.0)
        wet = DISTORTIONS[self.name].function(torch.from_numpy(x), **params).numpy()
        return wet if mix == 1 else x + mix * (wet - x)

    def operator(self, at: np.ndarray) -> Operator:
        """The distortion."""
        return Distortion(self.name, self._params(at))


@dataclass(frozen=True)
class SplineStage(Stage):
    """Any curve: a natural cubic spline through values at knots, straight beyond them; its values are coordinates.

    Attributes:
        knots: inputs, ascending.
        slope: of the straight line that it starts from, about output over input.
    """

    knots: np.ndarray
    slope: float

    @classmethod
    def over(cls, signal: np.ndarray, points: int, slope: float, headroom: float = 1.2) -> SplineStage:
        """Half of the knots evenly over the range of a signal with some room beyond it, half where its samples are."""
        limit = headroom * float(np.max(np.abs(signal)))
        even = np.linspace(-limit, limit, points - points // 2)
        dense = np.quantile(signal, np.linspace(0.002, 0.998, points // 2))
        knots = np.sort(np.concatenate([even, dense]))
        apart = np.concatenate([[True], np.diff(knots) > limit / (8 * points)])
        return cls(knots[apart], slope)

    @property
    def bounds(self) -> np.ndarray:
        """None."""
        return np.outer([-np.inf, np.inf], np.ones(len(self.knots)))

    def start(self) -> np.ndarray:
        """A line."""
        return self.slope * self.knots

    @property
    def pulls(self) -> np.ndarray:
        """Second derivatives: where there are no samples, the curve goes on as it was."""
        gaps = np.diff(self.knots)
        rows = np.zeros((len(gaps) - 1, len(self.knots)))
        for i, (left, right) in enumerate(pairwise(gaps)):
            rows[i, i : i + 3] = 1 / left, -1 / left - 1 / right, 1 / right
        return _BENDS * rows / self.slope

    def apply(self, x: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Interpolate."""
        low, high = self.knots[0], self.knots[-1]
        spline = CubicSpline(self.knots, at, bc_type="natural")
        inside = x.clip(low, high)
        value: np.ndarray = spline(inside)
        beyond = x - inside
        if beyond.any():
            first, last = spline([low, high], 1)
            value += np.where(beyond < 0, first, last) * beyond
        return value

    def operator(self, at: np.ndarray) -> Operator:
        """A table of the spline, flat beyond its knots."""
        grid = np.linspace(self.knots[0], self.knots[-1], _TABLE_POINTS)
        return TabulatedCurve(torch.from_numpy(grid), torch.from_numpy(self.apply(grid, at)))


@dataclass(frozen=True)
class DelayStage(Stage):
    """A delay in samples, which is not the device's."""

    first: float

    @property
    def bounds(self) -> np.ndarray:
        """A few samples around what the cross-correlation says, where filters may have misled it."""
        return np.array([[-_LARGEST_DELAY], [_LARGEST_DELAY]])

    def start(self) -> np.ndarray:
        """What is left of the alignment."""
        return np.array([self.first])

    def apply(self, x: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Delay."""
        return delayed(x, float(at[0]))
