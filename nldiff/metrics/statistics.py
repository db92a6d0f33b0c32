"""Bootstrap intervals and paired comparisons of scores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

Values: TypeAlias = Sequence[float] | NDArray[np.float64]
Statistic: TypeAlias = Literal["mean", "median"]

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A statistic with the bounds of its confidence interval; NaN for too few values."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Paired comparison of two methods on the same clips.

    Attributes:
        difference: median of the differences, with its interval.
        p_value: p-value of the two-sided Wilcoxon signed-rank test; 1 if all differences are 0, NaN without clips.
        pairs: number of clips.
    """

    difference: Interval
    p_value: float
    pairs: int


def bootstrap(values: Values, statistic: Statistic = "median", confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean or median with its percentile bootstrap interval (Efron 1979), from 10 000 resamples.

    Args:
        values: independent scores `[n]`; all finite.
        statistic: "mean" or "median".
        confidence: coverage of the interval, 0 to 1.
        seed: seed of the resampling; equal values give equal intervals.

    Returns:
        The interval; for one value its bounds are NaN, for none the estimate as well.
    """
    scores = np.asarray(values, dtype=np.float64)
    if len(scores) == 0:
        return Interval(math.nan, math.nan, math.nan)
    reduce: Callable[..., Any] = np.mean if statistic == "mean" else np.median
    estimate = float(reduce(scores))
    if len(scores) == 1:
        return Interval(estimate, math.nan, math.nan)
    # In pieces: the resamples of thousands of values at once would fill the memory.
    random = np.random.default_rng(seed)
    pieces = np.array_split(np.arange(_RESAMPLES), max(1, _RESAMPLES * len(scores) // 2**22))
    resampled = [reduce(random.choice(scores, (len(piece), len(scores))), axis=1) for piece in pieces]
    low, high = np.quantile(np.concatenate(resampled), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def compare(a: Values, b: Values, seed: int = 0) -> Paired:
    """Compare two methods on the same clips by the differences `a - b`.

    Args:
        a: scores of one method, `[clips]`, finite.
        b: scores of the other method on the same clips, in the same order.
        seed: seed of the bootstrap.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(differences) == 0:
        p_value = math.nan
    elif not differences.any():
        p_value = 1.0
    else:
        p_value = float(wilcoxon(differences).pvalue)
    return Paired(bootstrap(differences, "median", seed=seed), p_value, len(differences))
