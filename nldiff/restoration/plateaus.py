"""A filter behind a clipper, found by the plateaus: clipped samples are atoms of the amplitude histogram.

A filter smears the plateaus that clipping and rectifying leave, and undoing the right one brings them back; a wrong one
does not. Of the histogram of what a candidate leaves, the largest share of samples that two neighbouring bins hold
more than those beside them is taken, in the outer thirds of the range, both sides added: no more than 0.002 for clean
music and speech, whatever is undone, and the share of the clipped samples for what clipped them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.optimize import minimize
from scipy.signal import lfilter

from nldiff.errors import require
from nldiff.operators import DISTORTIONS, Distortion
from nldiff.operators.filters import FILTERS
from nldiff.restoration.measures import loudest


@dataclass(frozen=True)
class PlateauSettings:
    """How a filter behind a clipper is searched; the group `plateaus`.

    Attributes:
        seconds: of the excerpt, the loudest.
        transient_seconds: its beginning, where the state of the filter is not known, does not count.
        quiet: samples do not count where the level is below this fraction of the excerpt's: silence is no plateau.
        coarse_bins, fine_bins: of the histogram on the grid of candidates, and in the local search.
        evaluations: of every round of the local search, at most.
        least: smallest share of samples on plateaus for a filter to be believed.
        rise, gain: that share must be above what the recording has without undoing anything by this factor, or more by
            this much.
        atom: of that share, this fraction must be left in bins of a quarter of the width.
    """

    seconds: float = 1.0
    transient_seconds: float = 0.05
    quiet: float = 0.2
    coarse_bins: int = 100
    fine_bins: int = 400
    evaluations: int = 60
    least: float = 0.015
    rise: float = 4.0
    gain: float = 0.1
    atom: float = 0.33

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "plateaus", ("seconds", "rise", "gain"), above=0)
        require(self, "plateaus", ("transient_seconds", "quiet", "least", "atom"), least=0)
        require(self, "plateaus", ("coarse_bins", "fine_bins"), least=30)
        require(self, "plateaus", ("evaluations",), least=1)


@dataclass(frozen=True)
class Candidate:
    """A filter and the share of samples that undoing it leaves on plateaus."""

    name: str
    params: dict[str, float]
    share: float


# Frequencies in Hz, gains in dB and widths of the grid.
_GAINS = (-12.0, -8.0, -5.5, -3.0, 3.0, 5.5, 8.0, 12.0)
_HIGHPASS = np.geomspace(2, 200, 17)
_LOW = np.geomspace(50, 800, 9)
_HIGH = np.geomspace(1000, 8000, 7)
_PEAK = np.geomspace(100, 6400, 10)
_WIDTHS = (0.7, 1.5)
# Ranges of the local search: frequencies in Hz, up to this fraction of the rate and as far as filters go, gains in dB,
# widths.
_LOWEST, _HIGHEST = 0.5, 0.45
_BOUNDS = {"gain_db": (-18.0, 18.0), "q": (0.3, 6.0)}
# Scale of the local search: of the logarithm of a frequency, of a gain in dB, of the logarithm of a width.
_STEPS = {"hz": 0.1, "gain_db": 1.0, "q": 0.2}
_LEVEL_SECONDS = 0.02


def find_filter(y: np.ndarray, sample_rate: int, settings: PlateauSettings) -> Distortion | None:
    """The filter that was applied after samples were limited, or None where there is no sign of one.

    Args:
        y: observed, [time], float64, any level.
        sample_rate: Hz.
        settings: of the search.
    """
    excerpt = loudest(y, round(settings.seconds * sample_rate))
    counted = _loud(excerpt, sample_rate, settings)
    if counted.sum() < settings.fine_bins:
        return None
    own = plateau_excess(excerpt[counted], settings.fine_bins)
    needed = max(settings.least, min(settings.rise * own, own + settings.gain))

    def share(name: str, params: dict[str, float], bins: int) -> float:
        b, a = FILTERS[name](sample_rate, **params)
        return plateau_excess(lfilter(a.numpy(), b.numpy(), excerpt)[counted], bins)

    best: dict[str, Candidate] = {}
    for name, params in _grid(sample_rate):
        found = share(name, params, settings.coarse_bins)
        if name not in best or found > best[name].share:
            best[name] = Candidate(name, params, found)
    candidates, rounds = list(best.values()), _rounds(settings)
    for kept, (bins, size) in zip((len(candidates), 2, 1), rounds, strict=True):
        candidates = sorted(candidates, key=lambda candidate: -candidate.share)[:kept]
        candidates = [_improved(c, share, bins, size, sample_rate, settings.evaluations) for c in candidates]
    (winner,) = candidates
    reached = share(winner.name, winner.params, settings.fine_bins)
    # Of a hump, finer bins hold less.
    if winner.share < settings.atom * reached or reached < needed:
        return None
    return Distortion(winner.name, {**winner.params, "rate": sample_rate})


def _rounds(settings: PlateauSettings) -> list[tuple[int, float]]:
    """Bins of the histogram, and size of the steps, of the rounds of the local search."""
    return [(settings.coarse_bins, 1.0), (settings.fine_bins, 0.3), (4 * settings.fine_bins, 0.05)]


def plateau_excess(x: np.ndarray, bins: int) -> float:
    """Share of samples on plateaus at both ends, see above; `x` [time]."""
    low, high = x.min(), x.max()
    if not high > low:
        return 0.0
    index = ((x - low) * (bins / (high - low))).astype(np.int64)
    counts = np.bincount(np.minimum(index, bins - 1), minlength=bins) / len(x)
    padded = np.pad(counts, (2, 3))
    pairs = padded[:-1] + padded[1:]  # pair i holds bins i - 2 and i - 1
    excess = pairs[2:-2] - (pairs[:-4] + pairs[4:]) / 2
    outer = bins // 3
    return float(max(excess[:outer].max(), 0) + max(excess[-outer:].max(), 0))


def _grid(sample_rate: int) -> Iterator[tuple[str, dict[str, float]]]:
    yield from (("highpass", {"hz": hz}) for hz in _HIGHPASS)
    for name, frequencies in (("low_shelf", _LOW), ("high_shelf", _HIGH)):
        yield from ((name, {"hz": hz, "gain_db": gain}) for hz in _below(frequencies, sample_rate) for gain in _GAINS)
    for hz in _below(_PEAK, sample_rate):
        yield from (("peak", {"hz": hz, "gain_db": gain, "q": q}) for gain in _GAINS for q in _WIDTHS)


def _below(frequencies: np.ndarray, sample_rate: int) -> np.ndarray:
    return frequencies[frequencies < _HIGHEST * sample_rate]


def _improved(
    start: Candidate,
    share: Callable[[str, dict[str, float], int], float],
    bins: int,
    size: float,
    sample_rate: int,
    evaluations: int,
) -> Candidate:
    """Search near a candidate by Nelder and Mead's method, with steps of about `size`."""
    keys, table = list(start.params), DISTORTIONS[start.name].parameters
    bounds = {**_BOUNDS, "hz": (_LOWEST, min(_HIGHEST * sample_rate, table["hz"].high))}

    def params(moves: np.ndarray) -> dict[str, float]:
        found = {}
        for key, move in zip(keys, moves * [_STEPS[key] for key in keys], strict=True):
            value = start.params[key]
            found[key] = value + move if key == "gain_db" else value * np.exp(np.clip(move, -5, 5))
        return {key: float(np.clip(value, *bounds[key])) for key, value in found.items()}

    simplex = size * np.vstack([np.zeros(len(keys)), np.eye(len(keys))])
    options = {"maxfev": evaluations, "initial_simplex": simplex, "xatol": size / 100, "fatol": 1e-5}
    found = minimize(
        lambda moves: -share(start.name, params(moves), bins), simplex[0], method="Nelder-Mead", options=options
    )
    return Candidate(start.name, params(found.x), -float(found.fun))


def _loud(y: np.ndarray, sample_rate: int, settings: PlateauSettings) -> np.ndarray:
    """Which samples count: loud ones behind the transient."""
    power = uniform_filter1d((y - y.mean()) ** 2, max(1, round(_LEVEL_SECONDS * sample_rate)), mode="nearest")
    counted = power > settings.quiet**2 * power.mean()
    counted[: round(settings.transient_seconds * sample_rate)] = False
    return counted
