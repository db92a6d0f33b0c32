"""Which branch of a folding curve every sample is on: the sequence that makes the clean signal most predictable.

Clean audio is nearly an autoregressive process for some 20 ms, which a jump to a wrong branch is not. The branches are
found by a Viterbi search in which every survivor predicts from its own samples, forwards and backwards in time, first
with one short filter for all of the signal, then with filters fitted to what was found.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from nldiff.errors import NldiffError, require
from nldiff.restoration.evidence import EvidenceSettings, predictability
from nldiff.restoration.piecewise import Candidates, PiecewiseCurve
from nldiff.restoration.prediction import Predictor, framewise, whole
from nldiff.restoration.signs import upright

# Slopes below this one do not amplify noise any more: turning points are ends.
_LEAST_SLOPE = 1e-3
# Numbers of survivors have 16 bits, see `nldiff.restoration.viterbi.search`.
_MOST_SURVIVORS = 1 << 15
# Sequences of branches that may tell survivors apart.
_MOST_STATES = 1 << 20
# How much less doubt decides for another search, and its cost of loudness as a multiple of the usual one.
_MUCH_LESS, _LOUDER = 0.01, 10.0
# Predictability counts down to errors 60 dB below the signal.
_QUIET = EvidenceSettings(noise_db=-60.0)


@dataclass(frozen=True)
class BranchSettings:
    """How branches are searched; the group `branches`.

    Attributes:
        order: of the prediction filters, a multiple of 4.
        start_order: of the first filter, which is that of the whole signal; a multiple of 4.
        second_order: of the filters in the second round, where there is a first, rough signal; a multiple of 4.
        rounds: searches with filters of the signal that the one before found, at most.
        memory: last branches that tell survivors apart; fewer where there are dozens of branches.
        survivors: largest number of them, below 32768.
        beam: a survivor is given up when it costs so much more than the best one, nats.
        loudness_cost: cost of a clean sample, nats per squared multiple of the observation's RMS. It decides between a
            signal and its mirror image at a turning point, which is as predictable.
        later_loudness: factor of that cost after the first round; loud transients that are hard to predict need it low.
        frame_seconds: length of the frames of the filters.
        noise_quantile: quantile of the frames' unpredicted variances that is taken for that of the noise.
        least_noise: least variance of noise that is reckoned with, as a fraction of the observation's power.
        noise_deviations: how far noise carries observed values beyond a turning point, in standard deviations.
    """

    order: int = 20
    start_order: int = 8
    second_order: int = 16
    rounds: int = 5
    memory: int = 4
    survivors: int = 64
    beam: float = 300.0
    loudness_cost: float = 0.05
    later_loudness: float = 0.2
    frame_seconds: float = 0.032
    noise_quantile: float = 0.05
    least_noise: float = 1e-7
    noise_deviations: float = 4.0

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "branches", ("order", "start_order", "second_order", "memory"), least=1)
        require(self, "branches", ("survivors",), least=1, below=_MOST_SURVIVORS)
        require(self, "branches", ("beam", "loudness_cost", "later_loudness", "frame_seconds"), above=0)
        require(self, "branches", ("noise_quantile",), least=0, below=1)
        require(self, "branches", ("rounds", "least_noise", "noise_deviations"), least=0)
        for name in ("order", "start_order", "second_order"):
            if getattr(self, name) % 4:
                raise NldiffError(f"branches.{name}={getattr(self, name)}: a multiple of 4 expected")


@dataclass(frozen=True)
class Branches:
    """The branches of a signal.

    Attributes:
        x: clean values, in intervals the likeliest ones, [time], float64.
        labels: branches, [time].
        doubt: power of the error that is to be expected, as a fraction of that of `x`: of the difference between what
            the searches forwards and backwards in time found, or, if it is more, what the samples may be off that
            another branch explains about as well.
    """

    x: np.ndarray
    labels: np.ndarray
    doubt: float


def invert(curve: PiecewiseCurve, observed: np.ndarray, sample_rate: int, settings: BranchSettings) -> Branches:
    """The most predictable signal that a curve maps to the observed one.

    The first search takes the observation to be exact. What the quietest frames of its result leave unpredicted is
    noise; a second search reckons with it where it is worth mentioning. Then branches are searched with loud samples
    costing more, as whole signals may come back as their mirror images. What leaves much less doubt is taken, or what
    is more predictable. Under an even curve every stretch between two doubtful zero crossings is then turned the right
    way up.

    Args:
        curve: cut into pieces.
        observed: [time], float64.
        sample_rate: Hz.
        settings: of the search.
    """
    power = float(np.mean(observed**2))
    if power == 0:
        return Branches(np.zeros_like(observed), np.zeros(len(observed), np.int8), 0.0)
    frame = round(settings.frame_seconds * sample_rate)
    candidates, noise = curve.candidates(observed), 0.0
    found = select_branches(observed, candidates, noise, sample_rate, settings)
    unpredicted = float(np.quantile(framewise(found.x, settings.order, frame).variances, settings.noise_quantile))
    if unpredicted >= settings.least_noise * power:
        candidates, noise = curve.candidates(observed, settings.noise_deviations * unpredicted**0.5), unpredicted
        found = select_branches(observed, candidates, noise, sample_rate, settings)
    if not curve.even:
        other = select_branches(observed, candidates, noise, sample_rate, louder(settings))
        before, after = (
            evidence(each.x, observed, chosen(candidates.slope, each.labels), sample_rate) for each in (found, other)
        )
        return other if other.doubt < _MUCH_LESS * found.doubt or after < before else found
    turned = upright(found.x, settings.order, frame, sample_rate)
    mirrored = len(curve.inputs) - 1 - found.labels
    return Branches(found.x * turned.signs, np.where(turned.signs < 0, mirrored, found.labels), turned.doubt)


def louder(settings: BranchSettings) -> BranchSettings:
    """Settings for signals whose mirror images at a turning point would be chosen otherwise."""
    return replace(settings, loudness_cost=_LOUDER * settings.loudness_cost)


def select_branches(
    observed: np.ndarray,
    candidates: Candidates,
    noise: float,
    sample_rate: int,
    settings: BranchSettings,
    start: Predictor | None = None,
) -> Branches:
    """Choose a candidate for every sample.

    Args:
        observed: not silent, [time], float64.
        candidates: what the curve offers.
        noise: variance of the noise in what was observed.
        sample_rate: Hz.
        settings: of the search.
        start: predictor of the first round; by default one for the whole of the observation.
    """
    power = float(np.mean(observed**2))
    slope = np.where(candidates.slope == 0, np.inf, np.maximum(candidates.slope, _LEAST_SLOPE))
    amplified = noise / slope**2
    predictor, frame = start or whole(observed, settings.start_order), round(settings.frame_seconds * sample_rate)
    found: Branches | None = None
    for i in range(settings.rounds + 1):
        weight = settings.loudness_cost / power * (settings.later_loudness if i or start else 1)
        before, found = found, _searched(candidates, amplified, predictor, power, weight, settings, found)
        if i == settings.rounds or (before and np.array_equal(before.labels, found.labels)):
            break
        order = settings.order if i else settings.second_order
        predictor = framewise(found.x, order, frame)
    assert found is not None, "there is at least one round"
    return found


def evidence(x: np.ndarray, y: np.ndarray, slope: np.ndarray, sample_rate: int) -> float:
    """Full form of J of a signal [time] that is observed as `y`."""
    tensors = (torch.from_numpy(np.ascontiguousarray(signal))[None] for signal in (x, y, slope.clip(min=_LEAST_SLOPE)))
    signal, observed, slopes = tensors
    return predictability(signal, sample_rate, observed, slope=slopes, settings=_QUIET)


def chosen(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Those of the branches `labels` [time] among `values` [time, branches]."""
    return np.take_along_axis(values, labels[:, None].astype(np.int64), axis=1)[:, 0]


def _searched(
    candidates: Candidates,
    noise: np.ndarray,
    predictor: Predictor,
    power: float,
    weight: float,
    settings: BranchSettings,
    rough: Branches | None,
) -> Branches:
    """Search forwards and backwards, and keep the better.

    Args:
        candidates: see `select_branches`.
        noise: its variance in the clean values, [time, pieces].
        predictor: of the clean signal.
        power: of the observation, the variance of samples of which those before are not known.
        weight: cost of the squared clean value.
        settings: of the search.
        rough: what was found before; None if nothing was.
    """
    from nldiff.restoration.viterbi import merge, search  # numba takes its time

    ahead, order = predictor.local_variances(rough.x if rough else None), predictor.filters.shape[1]
    # Memory is needed for every sequence of so many branches.
    memory = min(settings.memory, int(np.log(_MOST_STATES) / np.log(max(2, candidates.low.shape[1]))))

    def labels(direction: int) -> np.ndarray:
        expected = ahead[::direction].copy()
        expected[:order] = power
        low, high = (np.ascontiguousarray(ends[::direction]) for ends in (candidates.low, candidates.high))
        frames = np.ascontiguousarray(predictor.frames[::direction])
        spread = noise[::direction] + expected[:, None]
        limits = max(1, memory), settings.survivors, settings.beam
        return search(low, high, spread, predictor.filters, frames, weight, *limits)[::direction].copy()

    # Two threads would both compile the function that neither finds compiled.
    with ThreadPoolExecutor(2 if search.signatures else 1) as pool:
        both = list(pool.map(labels, (1, -1)))
    ahead[:order] = power
    time = np.arange(len(ahead))
    apart = candidates.low[time, both[0]] - candidates.low[time, both[1]]  # merging changes both
    spread = noise + ahead[:, None]
    x = merge(both[0], both[1], candidates.low, candidates.high, spread, predictor.filters, predictor.frames, weight)
    errors = max(float(np.sum(apart**2)), _ambiguity(x, predictor, candidates.low, noise))
    return Branches(x, both[0], errors / max(float(np.sum(x**2)), np.finfo(float).tiny))


def _ambiguity(x: np.ndarray, predictor: Predictor, values: np.ndarray, noise: np.ndarray) -> float:
    """Squared error that is to be expected if every sample is the value that it is, or another one, by its prediction.

    Args:
        x: clean values, [time].
        predictor: of them.
        values: those of all branches, [time, pieces].
        noise: its variance in them, same shape.
    """
    predicted = x - predictor.errors(x)
    variances = predictor.local_variances(x)[:, None] + noise
    costs = (values - predicted[:, None]) ** 2 / variances + np.log(variances)
    odds = np.exp(-0.5 * (costs - np.nanmin(costs, axis=1, keepdims=True)))
    odds = np.nan_to_num(odds)
    return float(np.sum(odds * np.nan_to_num(values - x[:, None]) ** 2 / odds.sum(1, keepdims=True)))
