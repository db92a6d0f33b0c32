"""Compiled loops of the branch search: one thread, no randomness, nothing cached on disk.

They are plain loops throughout, since numpy's functions of arrays and slices take seconds each to compile.

Arguments of several functions:
    low: smallest clean value of every branch [time, branches]; NaN where a branch has none.
    high: largest clean value, same shape.
    spread: variance of the clean value around its prediction, same shape.
    filters: prediction coefficients of every frame [frames, order], that of the sample before first; the order is a
        multiple of 4.
    frames: frame of every sample [time].
    weight: of the squared clean value in the cost.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Cost of a hypothesis that is not alive.
_NEVER = 1e300
# Costs that differ by less are tied: the first of them stay.
_TIE = 1e-9
# Branches that a survivor may go on to: those with values nearest to its prediction.
_NEAREST = 4
# Largest number of rounds of repair.
_REPAIRS = 3


@njit
def _clamped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@njit(nogil=True)
def search(
    low: np.ndarray,
    high: np.ndarray,
    spread: np.ndarray,
    filters: np.ndarray,
    frames: np.ndarray,
    weight: float,
    memory: int,
    survivors: int,
    beam: float,
) -> np.ndarray:
    """The cheapest sequence of branches [time]: a Viterbi search whose states are the last `memory` branches.

    Every state predicts from the samples of its own best sequence (per-survivor processing). States that cost more than
    the best one by `beam` are given up, and so are the worst ones beyond `survivors`.
    """
    samples, branches, order = low.shape[0], low.shape[1], filters.shape[1]
    keys = branches**memory
    capacity = min(survivors, keys)
    parents, labels = np.empty((samples, capacity), np.int16), np.empty((samples, capacity), np.int8)
    history, following = np.zeros((capacity, order)), np.zeros((capacity, order))
    key, cost = np.zeros(capacity, np.int64), np.zeros(capacity)
    slot = np.full(keys, -1, np.int64)  # state -> position among the new hypotheses
    new_key, new_cost, new_value = np.zeros(keys, np.int64), np.zeros(keys), np.zeros(keys)
    new_parent, new_label = np.zeros(keys, np.int64), np.zeros(keys, np.int64)
    offered, level, inverse = np.zeros(branches, np.int64), np.zeros(branches), np.zeros(branches)
    turned, alive = _turned(filters), 1
    for n in range(samples):
        count = _offers(low, spread, n, offered, level, inverse)
        # The sample n - 1 - k is at position (n - 1 - k) mod order; position j meets column shift + j.
        position, found = n % order, 0
        shift = (order - position) % order
        for s in range(alive):
            prediction = _survivors_prediction(turned[frames[n]], shift, history[s])
            first, last = _nearest(low, n, offered, count, prediction)
            for j in range(first, last):
                b = offered[j]
                value = _clamped(prediction, low[n, b], high[n, b])
                total = cost[s] + level[j] + weight * value**2 + (value - prediction) ** 2 * inverse[j]
                state = (key[s] * branches + b) % keys
                i = slot[state]
                if i < 0:
                    i, found = found, found + 1
                    slot[state] = i
                    new_key[i], new_cost[i] = state, _NEVER
                if total < new_cost[i]:
                    new_cost[i], new_value[i], new_parent[i], new_label[i] = total, value, s, b
        (best, limit), alive = _best_and_limit(new_cost[:found], capacity, beam), 0
        for i in range(found):
            slot[new_key[i]] = -1
            if new_cost[i] <= limit and alive < capacity:
                parent = new_parent[i]
                for j in range(order):
                    following[alive, j] = history[parent, j]
                following[alive, position] = new_value[i]
                key[alive], cost[alive] = new_key[i], new_cost[i] - best
                parents[n, alive], labels[n, alive] = parent, new_label[i]
                alive += 1
        history, following = following, history
    return _traced_back(parents, labels, cost[:alive])


@njit
def _offers(
    low: np.ndarray, spread: np.ndarray, n: int, offered: np.ndarray, level: np.ndarray, inverse: np.ndarray
) -> int:
    """Fill in the branches that have a value at sample `n`, and of each the costs of its spread; how many they are."""
    count = 0
    for b in range(low.shape[1]):
        if not np.isnan(low[n, b]):
            offered[count], level[count], inverse[count] = b, np.log(spread[n, b]), 1 / spread[n, b]
            count += 1
    return count


@njit
def _nearest(low: np.ndarray, n: int, offered: np.ndarray, count: int, prediction: float) -> tuple[int, int]:
    """Range of the offered branches, which ascend in value, with as many below the prediction as above it."""
    above = 0
    while above < count and low[n, offered[above]] < prediction:
        above += 1
    first = max(0, min(above - _NEAREST // 2, count - _NEAREST))
    return first, min(first + _NEAREST, count)


@njit
def _turned(filters: np.ndarray) -> np.ndarray:
    """Filters as the ring of the last samples needs them: the oldest sample first, twice over."""
    order = filters.shape[1]
    turned = np.empty((len(filters), 2 * order))
    for f in range(len(filters)):
        for k in range(order):
            turned[f, order - 1 - k] = turned[f, 2 * order - 1 - k] = filters[f, k]
    return turned


@njit
def _survivors_prediction(turned: np.ndarray, shift: int, history: np.ndarray) -> float:
    """From the ring of a survivor's last samples."""
    p0, p1, p2, p3 = 0.0, 0.0, 0.0, 0.0
    for j in range(0, len(history), 4):
        p0 += turned[shift + j] * history[j]
        p1 += turned[shift + j + 1] * history[j + 1]
        p2 += turned[shift + j + 2] * history[j + 2]
        p3 += turned[shift + j + 3] * history[j + 3]
    return (p0 + p1) + (p2 + p3)


@njit
def _best_and_limit(costs: np.ndarray, capacity: int, beam: float) -> tuple[float, float]:
    """Least cost, and the largest one that survives: the beam is halved until there is room for all below it."""
    best = _NEVER
    for cost in costs:
        best = min(best, cost)
    limit, within = beam, len(costs)
    while within > capacity and limit > _TIE:
        limit, within = limit / 2, 0
        for cost in costs:
            within += cost <= best + limit
    return best, best + limit


@njit
def _traced_back(parents: np.ndarray, labels: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Branches [time] of the cheapest survivor of the last sample; `parents`, `labels` [time, survivors]."""
    result = np.empty(len(labels), np.int8)
    survivor = 0
    for s in range(len(costs)):
        if costs[s] < costs[survivor]:
            survivor = s
    for n in range(len(labels) - 1, -1, -1):
        result[n] = labels[n, survivor]
        survivor = parents[n, survivor]
    return result


@njit
def merge(
    labels: np.ndarray,
    others: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    spread: np.ndarray,
    filters: np.ndarray,
    frames: np.ndarray,
    weight: float,
) -> np.ndarray:
    """Take the cheaper of two sequences of branches [time] wherever they differ, then repair what was taken.

    Both are changed: `labels` to the result, `others` to nothing of use. Returns clean values [time], in intervals
    those that are predicted best.
    """
    order, samples = filters.shape[1], len(labels)
    x = np.zeros(samples)
    _follow(labels, x, 0, samples, low, high, filters, frames)
    start = 0
    while start < samples:
        stop, same = start, 0
        while stop + same < samples and same <= order:
            if labels[stop + same] != others[stop + same]:
                stop, same = stop + same + 1, 0
            else:
                same += 1
        if stop > start:
            _exchange(labels, others, x, start, stop, low, high, spread, filters, frames, weight)
        start = stop + same
    for _ in range(_REPAIRS):
        if _repair(labels, others, x, low, high, spread, filters, frames, weight) == 0:
            break
    return x


@njit
def _repair(
    labels: np.ndarray,
    others: np.ndarray,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    spread: np.ndarray,
    filters: np.ndarray,
    frames: np.ndarray,
    weight: float,
) -> int:
    """Move segments between two switches to other branches, and their ends by a sample, where that costs less.

    Returns how often it did.
    """
    branches, samples, changes, start = low.shape[1], len(x), 0, 0
    while start < samples:
        stop = start + 1
        while stop < samples and labels[stop] == labels[start]:
            stop += 1
        before, own, after = labels[max(start - 1, 0)], labels[start], labels[min(stop, samples - 1)]
        for move in range(branches + 3):
            first, last, branch = start, stop, move
            if move >= branches:  # the first sample to the segment before, the last to that behind, one from before
                first = (start, stop - 1, max(start - 1, 0))[move - branches]
                last, branch = first + 1, (before, after, own)[move - branches]
            if labels[first] != branch:
                for n in range(first, last):
                    others[n] = branch
                changes += _exchange(labels, others, x, first, last, low, high, spread, filters, frames, weight)
        start = stop
    return changes


@njit
def _exchange(
    labels: np.ndarray,
    others: np.ndarray,
    x: np.ndarray,
    start: int,
    stop: int,
    low: np.ndarray,
    high: np.ndarray,
    spread: np.ndarray,
    filters: np.ndarray,
    frames: np.ndarray,
    weight: float,
) -> int:
    """Exchange the branches of the samples from `start` to before `stop` with `others` if that costs less: 1 if so."""
    for n in range(start, stop):
        if np.isnan(low[n, others[n]]):
            return 0
    end = min(stop + filters.shape[1], len(x))
    costs = (0.0, 0.0)
    for attempt in range(3):  # as it is, exchanged, and back if that was no good
        if attempt:
            for n in range(start, stop):
                labels[n], others[n] = others[n], labels[n]
            _follow(labels, x, start, stop, low, high, filters, frames)
        total = 0.0
        for n in range(start, end):
            error, variance = x[n] - _prediction(x, filters, frames, n), spread[n, labels[n]]
            total += error * error / variance + np.log(variance) + weight * x[n] * x[n]
        costs = (costs[1], total)
        if attempt == 1 and costs[1] < costs[0]:
            return 1
    return 0


@njit
def _follow(
    labels: np.ndarray,
    x: np.ndarray,
    start: int,
    stop: int,
    low: np.ndarray,
    high: np.ndarray,
    filters: np.ndarray,
    frames: np.ndarray,
) -> None:
    """Set the samples from `start` to before `stop` to the values of their branches, of intervals the likeliest."""
    for n in range(start, stop):
        x[n] = low[n, labels[n]]
        if x[n] != high[n, labels[n]]:
            x[n] = _clamped(_prediction(x, filters, frames, n), low[n, labels[n]], high[n, labels[n]])


@njit
def _prediction(x: np.ndarray, filters: np.ndarray, frames: np.ndarray, n: int) -> float:
    """Of sample n from those before it; there is silence before the first."""
    total = 0.0
    for k in range(min(filters.shape[1], n)):
        total += filters[frames[n], k] * x[n - 1 - k]
    return total
