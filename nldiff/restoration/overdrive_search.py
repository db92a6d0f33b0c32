"""The search for an overdrive with a dry path: the parameters that make what undoing it leaves most predictable.

The dry path of SoX's overdrive keeps all of the clean signal, and every set of gain, colour and output level makes
another signal of a recording. The right one is far more predictable than the others, in the full form of evidence J,
which is a likelihood of what was observed: without the Jacobian a wrong gain would win by its level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.signal import argrelmin

from nldiff.errors import require
from nldiff.operators import Distortion, Rescaled
from nldiff.operators.filters import Inversion
from nldiff.restoration.evidence import EvidenceSettings, predictability
from nldiff.restoration.measures import loudest


@dataclass(frozen=True)
class OverdriveSettings:
    """How an overdrive is searched; the group `overdrive`.

    Attributes:
        coarse_seconds, fine_seconds: of the excerpt, on the grid and in the local search.
        transient_seconds: its beginning, where the state of the filter is not known, does not count.
        start_seconds: beginning of the recording that the state before it is found by.
        state_seconds: how long that state is heard.
        started: number of parameter sets that the first local search starts from.
        evaluations: of a local search, at most.
        frame_seconds, order: of the prediction, see `EvidenceSettings`.
        noise_db: noise that signals are taken to have, on the grid and in the rounds of the local search: the less, the
            narrower is the way to the right parameters.
        least_gain: how much evidence J must be below that of the recording, nats.
        sharpness: how much it must rise where the output level is wrong by 2 %, nats. Where something else distorted
            the recording, it hardly depends on it.
    """

    coarse_seconds: float = 0.75
    fine_seconds: float = 1.5
    transient_seconds: float = 0.1
    start_seconds: float = 0.2
    state_seconds: float = 0.05
    started: int = 3
    evaluations: int = 70
    frame_seconds: float = 0.04
    order: int = 24
    noise_db: tuple[float, ...] = (-40.0, -50.0, -60.0, -75.0)
    least_gain: float = 0.3
    sharpness: float = 0.15

    def __post_init__(self) -> None:
        """Validate the values."""
        names = ("coarse_seconds", "fine_seconds", "start_seconds", "state_seconds", "frame_seconds")
        require(self, "overdrive", names, above=0)
        require(self, "overdrive", ("transient_seconds", "least_gain", "sharpness"), least=0)
        require(self, "overdrive", ("started", "evaluations", "order"), least=1)
        require(self, "overdrive", ("noise_db",), below=0)


# The grid: gain in dB, output level as the logarithm of the multiple of the largest sample, colour; and the box of the
# local search with the size of its first steps.
_GAINS, _LEVELS, _COLOURS = np.arange(10.0, 61.0, 5.0), np.arange(0.0, 1.6, 0.25), (5.0, 20.0, 35.0)
_BOX = ((1.0, 70.0), (-0.3, 3.0), (0.0, 100.0))
_STEPS = np.array([2.0, 0.1, 8.0])
# Error of the output level, as its logarithm, that the sharpness is taken at.
_WRONG_LEVEL = 0.02
# A dry path leaves no more than this share of samples at an extreme.
_LARGEST_PLATEAU = 0.005
# States before the first sample that are tried, how exactly the best is found, and how much louder the beginning may be
# with the right one than with another.
_STATES, _EXACT_STATE, _LOUDER = np.linspace(-1.5, 1.5, 61), 1e-6, 2.0


@dataclass(frozen=True)
class Overdrive:
    """Parameters of an overdrive and the value of a sample that it makes at full scale."""

    gain_db: float
    level: float
    colour: float

    @property
    def distortion(self) -> Distortion:
        """In units of full scale."""
        return Distortion("overdrive", {"gain_db": self.gain_db, "colour": self.colour})

    def inversion(self, state: float = 0.0) -> Inversion:
        """What undoes it, with the state of the filter before the first sample."""
        found = Rescaled(self.distortion, 1.0, self.level).inversion()
        assert found is not None, "an overdrive has a dry path"
        return replace(found, start=np.array([state]))

    def slope(self, x: np.ndarray) -> np.ndarray:
        """Derivative of an observed sample by the clean one, `x`."""
        gain = 10 ** (self.gain_db / 20)
        wet = np.clip(1 - (gain * x + self.colour / 200) ** 2, 0, None)
        return self.level * (0.5 + 0.75 * gain * wet)


def find_overdrive(y: np.ndarray, sample_rate: int, settings: OverdriveSettings) -> Overdrive | None:
    """The overdrive that a signal went through, or None where there is no sign of one.

    Signals without a frame behind the transient are too short to show one.

    Args:
        y: observed, [time], float64, any level.
        sample_rate: Hz.
        settings: of the search.
    """
    if max(np.mean(y == y.max()), np.mean(y == y.min())) > _LARGEST_PLATEAU:
        return None
    peak, skip = float(np.abs(y).max()), round(settings.transient_seconds * sample_rate)
    coarse, fine = (
        loudest(y, round(seconds * sample_rate)) for seconds in (settings.coarse_seconds, settings.fine_seconds)
    )
    if min(len(coarse), len(fine)) - skip < settings.frame_seconds * sample_rate:
        return None

    def evidence(values: np.ndarray, excerpt: np.ndarray, noise_db: float) -> float:
        if any(not low <= value <= high for value, (low, high) in zip(values, _BOX, strict=True)):
            return np.inf
        overdrive = Overdrive(float(values[0]), float(peak * np.exp(values[1])), float(values[2]))
        return undone_evidence(excerpt, overdrive, 0.0, skip, sample_rate, settings, noise_db)

    first, *later = settings.noise_db
    found = sorted((evidence(np.array(values), coarse, first), values) for values in product(_GAINS, _LEVELS, _COLOURS))
    if _own_evidence(coarse, skip, sample_rate, settings, first) - found[0][0] < settings.least_gain / 3:
        return None
    kept = [np.array(values) for _, values in found[: settings.started]]
    for narrowing, noise_db in enumerate(later, 1):
        finer = partial(evidence, excerpt=fine, noise_db=noise_db)
        rounds = [_improved(finer, start, narrowing, settings) for start in kept]
        kept = [values for _, values in sorted(rounds, key=lambda result: result[0])][
            : max(1, settings.started - narrowing)
        ]
    best, last = kept[0], later[-1]
    cost = evidence(best, fine, last)
    beside = [evidence(best + np.array([0.0, step, 0.0]), fine, last) for step in (-_WRONG_LEVEL, _WRONG_LEVEL)]
    gain = _own_evidence(fine, skip, sample_rate, settings, last) - cost
    if gain < settings.least_gain or min(beside) - cost < settings.sharpness:
        return None
    return Overdrive(float(best[0]), float(peak * np.exp(best[1])), float(best[2]))


def _improved(
    cost: Callable[[np.ndarray], float], start: np.ndarray, narrowing: int, settings: OverdriveSettings
) -> tuple[float, np.ndarray]:
    """Search by Nelder and Mead's method, with smaller steps in every round: cost and parameters."""
    simplex = start + np.vstack([np.zeros(3), np.diag(_STEPS) / narrowing**2])
    options = {"maxfev": settings.evaluations, "initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-5}
    result = minimize(cost, start, method="Nelder-Mead", options=options)
    return float(result.fun), result.x


def _own_evidence(y: np.ndarray, skip: int, sample_rate: int, settings: OverdriveSettings, noise_db: float) -> float:
    """Evidence J of what was observed as it is, [time]."""
    samples, one = torch.from_numpy(y[None, skip:]), torch.ones(1)
    return predictability(samples, sample_rate, slope=one, settings=_terms(settings, noise_db))


def undone_evidence(
    y: np.ndarray,
    overdrive: Overdrive,
    state: float,
    skip: int,
    sample_rate: int,
    settings: OverdriveSettings,
    noise_db: float,
) -> float:
    """Evidence J, full form, of what undoing an overdrive makes of `y` [time], without the first `skip` samples."""
    x = overdrive.inversion(state)(y[None])[:, skip:]
    slope = torch.from_numpy(overdrive.slope(x))
    return predictability(torch.from_numpy(x), sample_rate, slope=slope, settings=_terms(settings, noise_db))


def first_state(y: np.ndarray, overdrive: Overdrive, sample_rate: int, settings: OverdriveSettings) -> float:
    """State of the overdrive's filter before `y` [time], the beginning of a recording that may have been cut off.

    Evidence is lowest at the right one and rises at once beside it. Where next to nothing is heard yet, wrong states
    are as good, as what they add decays smoothly; but they make it much louder.
    """
    brief = round(settings.state_seconds * sample_rate)

    def evidence(state: float) -> float:
        return undone_evidence(y, overdrive, state, 0, sample_rate, settings, settings.noise_db[-1])

    def energy(state: float) -> float:
        return float(np.mean(overdrive.inversion(state)(y[None, :brief]) ** 2))

    costs, energies = (np.array([cost(state) for state in _STATES]) for cost in (evidence, energy))
    lowest = argrelmin(costs)[0]
    quiet = lowest[energies[lowest] <= _LOUDER**2 * energies.min()]
    best = quiet[costs[quiet].argmin()] if len(quiet) else energies.argmin()
    cost = evidence if len(quiet) else energy
    step = _STATES[1] - _STATES[0]
    around = _STATES[best] - step, _STATES[best] + step
    return float(minimize_scalar(cost, bounds=around, method="bounded", options={"xatol": _EXACT_STATE}).x)


def _terms(settings: OverdriveSettings, noise_db: float) -> EvidenceSettings:
    return EvidenceSettings(frame_seconds=settings.frame_seconds, order=settings.order, noise_db=noise_db)
