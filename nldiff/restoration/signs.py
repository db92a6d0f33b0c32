"""Signs that an even curve, such as a rectifier, leaves open: stretches of a signal, the right way up.

Where a signal crosses zero, prediction says whether its sign changes. It does not say it where the signal is faint, nor
at attacks, so that whole notes would come back upside down. What binds notes to each other is their asymmetry: odd
moments of strings, pickups and voices keep their sign from note to note. The signs that make both likely, changes and
asymmetries, are found as in synchronisation over {+1, -1}: the asymmetry that all stretches share is estimated from
those signs, signs from the asymmetry, in turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.signal import butter, sosfilt

from nldiff.restoration.prediction import Predictor, framewise

# A change of sign is in doubt where it costs less than this, nats. Doubtful ones nearer to each other than this,
# seconds, are one.
_DOUBTFUL, _APART = 10.0, 0.002
# Errors of prediction have heavy tails: nats of normal ones per nat of odds.
_HEAVY = 2.0
# Cut-off frequencies of the low and the high band whose moments are taken, Hz.
_LOW, _HIGH = 400.0, 1200.0
# Asymmetries of recordings, and how far their stretches are off, RMS, in the order of `asymmetries`: of guitars.
_SHARED = np.array([0.47, 0.15, 0.37, 0.17, 0.20, 0.08, 0.26, 0.10])
_SCATTER = np.array([0.14, 0.12, 0.14, 0.18, 0.14, 0.09, 0.10, 0.11])
# Asymmetries depend on each other: they count this much. Most that those of one stretch count, nats.
_COUNTS, _MOST = 0.4, 8.0
# Stretches of this length, seconds, and of this power, as a fraction of the mean, count half.
_SHORT, _FAINT = 0.03, 0.01
# Rounds of signs and asymmetry, and of searching for doubtful changes.
_TURNS, _ROUNDS = 20, 3
# Signals are alike, or mirror images, from this correlation on.
_ALIKE = 0.5
# Samples that costs are computed for at once.
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Upright:
    """A signal, the right way up.

    Attributes:
        signs: +1 or -1 for every sample, by which it was multiplied, [time].
        doubt: power of the error that is to be expected, as a fraction of the signal's.
    """

    signs: np.ndarray
    doubt: float


def upright(x: np.ndarray, order: int, frame: int, sample_rate: int) -> Upright:
    """Turn stretches of a signal of which every sample may have either sign.

    Args:
        x: the signal, right but for the signs of stretches, [time], float64.
        order: of the prediction.
        frame: length of its windows, samples.
        sample_rate: Hz.
    """
    found = Upright(np.ones(len(x)), 0.0)
    for _ in range(_ROUNDS):  # a stretch that was turned no longer disturbs the prediction
        turned = _turned(found.signs * x, framewise(found.signs * x, order, frame), sample_rate)
        found = Upright(found.signs * turned.signs, turned.doubt)
    return found


def _turned(x: np.ndarray, predictor: Predictor, sample_rate: int) -> Upright:
    """The same, with a predictor of the signal."""
    costs = change_costs(x, predictor)
    changes = _doubtful(costs, round(_APART * sample_rate))
    ends = np.array([0, *changes, len(x)])
    stretches = [x[start:stop] for start, stop in pairwise(ends)]
    energies, lengths = np.array([np.sum(each**2) for each in stretches]), np.diff(ends)
    powers = energies / lengths / np.mean(x**2)
    weights = lengths / (lengths + _SHORT * sample_rate) * powers / (powers + _FAINT)
    means = _agreed(np.stack([asymmetries(each, sample_rate) for each in stretches]), weights, costs[changes] / _HEAVY)
    wrong, signs = (1 - np.abs(means)) / 2, np.where(means < 0, -1.0, 1.0)
    # A wrong sign makes an error of twice the sample.
    return Upright(np.repeat(signs, lengths), float(4 * np.sum(wrong * energies) / np.sum(energies)))


def change_costs(x: np.ndarray, predictor: Predictor) -> np.ndarray:
    """What it would cost to turn all of `x` [time] from every sample on, nats [time]; infinite for the first.

    Prediction errors count by the variance around them. As many of them change as the filters have coefficients.
    """
    order, samples = predictor.filters.shape[1], len(x)
    errors, variances = predictor.errors(x), predictor.local_variances(x)
    before = np.lib.stride_tricks.sliding_window_view(np.pad(x, (order, 0))[:-1], order)[:, ::-1]
    costs = np.zeros(samples + order)
    for start in range(0, samples, _BLOCK):
        now = slice(start, min(start + _BLOCK, samples))
        terms = before[now] * predictor.filters[predictor.frames[now]]
        # What older samples contribute to the prediction changes its sign: of all but the k newest.
        older = np.cumsum(terms[:, ::-1], axis=1)[:, ::-1]
        changes = 2 * older * (errors[now, None] + older) / variances[now, None]
        for k in range(order):
            costs[order + now.start - k : order + now.stop - k] += changes[:, k]
    costs = costs[order:]
    costs[:1] = np.inf
    return costs


def _doubtful(costs: np.ndarray, apart: int) -> np.ndarray:
    """Samples before which the sign may change, ascending; of those near to each other the likeliest."""
    found: list[int] = []
    for n in np.flatnonzero(costs < _DOUBTFUL):
        if not found or n - found[-1] >= apart:
            found.append(int(n))
        elif costs[n] < costs[found[-1]]:
            found[-1] = int(n)
    return np.array(found, dtype=np.int64)


def asymmetries(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """What changes its sign with a signal [time], from -1 to 1, [8].

    The skewness of the signal, its low and its high band, by the third absolute moments, and of their slopes; how far
    the signal and its slope go up more than down.
    """
    tiny = np.finfo(float).tiny
    low, high = (
        sosfilt(butter(2, 2 * hertz / sample_rate, kind, output="sos"), x)
        for hertz, kind in ((_LOW, "lowpass"), (_HIGH, "highpass"))
    )
    signals = [each for band in (x, low, high) for each in (band, np.diff(band, prepend=band[:1]))]
    skewness = [np.sum(each**3) / (np.sum(np.abs(each) ** 3) + tiny) for each in signals]
    swings = [(each.max() + each.min()) / (each.max() - each.min() + tiny) for each in signals[:2]]
    return np.array([*skewness, *np.clip(swings, -1, 1)])


def sign_like(x: np.ndarray, before: np.ndarray, shared: int, sample_rate: int) -> float:
    """-1 if a signal has to be turned to go on as another one does; else 1.

    Args:
        x: [time].
        before: another one, [time].
        shared: number of samples at the beginning of `x` that are the last ones of `before`, or mirror them, unless
            there is nothing but silence.
        sample_rate: Hz.
    """
    last, first = before[len(before) - shared :], x[:shared]
    product, scale = float(last @ first), float(np.linalg.norm(last) * np.linalg.norm(first))
    if abs(product) < _ALIKE * scale or scale <= _FAINT * shared * np.mean(before**2):
        both = asymmetries(x, sample_rate) * asymmetries(before, sample_rate)
        product = float(np.sum(both / _SCATTER**2))
    return -1.0 if product < 0 else 1.0


def _agreed(values: np.ndarray, weights: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Expected signs [stretches], from -1 to 1, under which stretches share their asymmetries.

    Args:
        values: asymmetries, [stretches, 8].
        weights: of the stretches, up to 1.
        costs: of a change of sign after every stretch but the last, nats.
    """
    scaled = np.sqrt(weights)[:, None] * values / _SCATTER
    directions = np.linalg.svd(scaled, full_matrices=False)[2][:3]
    best, largest = np.ones(len(weights)), -np.inf
    for start in (np.ones(len(weights)), *(np.sign(scaled @ each) for each in directions), *np.sign(values.T)):
        means = start
        for _ in range(_TURNS):
            before, means = means, _expected_signs(_fields(values, weights, means), costs)
            if np.allclose(before, means, atol=1e-3):
                break
        likelihood = _likelihood(values, weights, np.where(means < 0, -1.0, 1.0), costs)
        if likelihood > largest:
            best, largest = means, likelihood
    return best


def _fields(values: np.ndarray, weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Half the log-odds of a positive sign of every stretch, by what the others share."""
    precisions = weights[:, None] / _SCATTER**2
    evidence = precisions * means[:, None] * values
    shared = (evidence.sum(0) - evidence) / (1 / _SHARED**2 + precisions.sum(0) - precisions)
    return np.asarray(_MOST * np.tanh(_COUNTS / _MOST * np.sum(precisions * shared * values, axis=1)))


def _likelihood(values: np.ndarray, weights: np.ndarray, signs: np.ndarray, costs: np.ndarray) -> float:
    """Logarithm of that of signs, up to a constant."""
    return float(np.sum(signs * _fields(values, weights, signs)) / 2 - np.sum(costs * (signs[1:] != signs[:-1])))


def _expected_signs(fields: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Means of a chain of signs with these fields and costs of changes: sums over all, forwards and backwards."""

    def passed(order: slice, costs: np.ndarray) -> np.ndarray:
        messages, message = np.zeros(len(fields)), 0.0
        for i, (field, cost) in enumerate(zip(fields[order][:-1], costs, strict=True)):
            total = message + field
            message = 0.5 * (np.logaddexp(total, -total - cost) - np.logaddexp(-total, total - cost))
            messages[i + 1] = message
        return messages[order]

    return np.asarray(np.tanh(fields + passed(slice(None), costs) + passed(slice(None, None, -1), costs[::-1])))
