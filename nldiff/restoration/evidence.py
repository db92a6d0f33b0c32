"""Evidence: is a restoration believable, or did nothing happen to the recording?

A wrong curve betrays itself: what it leaves of the distortion, or adds, makes the signal less predictable. Evidence J
is the log power of the innovations of frame-wise linear prediction in relation to the power of the signal, nats. For
smooth curves it is the entropy of the innovations that Taleb, Solé and Jutten minimise, "Quasi-nonparametric blind
inversion of Wiener systems" (2001). Two things would fool it, and are undone before it is measured. A restoration that
explains the recording only roughly is smoother than the recording: what it leaves unexplained is put back, and counts
as noise on top. A curve that leaves samples an interval lets them be chosen to be predictable: in narrow intervals,
only the middle counts, and the others are reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nldiff.restoration.feasible import Intervals
from nldiff.restoration.measures import (
    DEFAULTS,
    EvidenceSettings,
    as_array,
    frame_spread,
    plateau_share,
    predictability,
    varying,
)


@dataclass(frozen=True)
class Binding:
    """How tightly a curve binds a signal.

    Attributes:
        signal: the signal, in the middle of every narrow interval, [batch, time].
        exact, interval, unknown: share of samples in a narrow, a wide, and an unbounded interval; their sum is 1.
        guessed: power of what the curve does not tell of the signal, as a fraction of the signal's power: of samples in
            a wide interval the variance of its values, of those in an unbounded one how far they are from its end.
    """

    signal: Tensor
    exact: float
    interval: float
    unknown: float
    guessed: float


def binding(x: Tensor, intervals: Intervals | None = None, settings: EvidenceSettings = DEFAULTS) -> Binding:
    """What a curve leaves open of a signal.

    Args:
        x: the signal, [batch, time].
        intervals: of its samples, which the curve and the observation leave; one that is infinite to any side is
            unbounded. None: every sample is exact.
        settings: what counts as narrow.
    """
    if intervals is None:
        return Binding(x.detach(), 1.0, 0.0, 0.0, 0.0)
    signal, width = x.detach(), intervals.high - intervals.low
    # The CPU: not every accelerator has float64.
    deviation = signal.cpu().double().std(correction=0).clamp(min=torch.finfo(torch.float64).tiny)
    narrow = width <= settings.exact_width * deviation.to(signal)
    middle = torch.where(narrow, (intervals.low + intervals.high) / 2, intervals.project(signal))
    exact, unknown = (float(which.cpu().double().mean()) for which in (narrow, torch.isinf(width)))
    # Of a sample without any bound all is guessed.
    beyond = torch.minimum((middle - intervals.low).abs(), (intervals.high - middle).abs()).minimum(middle.abs())
    guess = torch.where(torch.isinf(width), beyond, width / math.sqrt(12))
    guessed = torch.where(narrow, 0, guess).cpu().double().square().mean() / deviation.square()
    return Binding(middle, exact, 1 - exact - unknown, unknown, float(guessed))


def unexplained(observed: Tensor, explained: Tensor) -> Tensor:
    """What a restoration does not explain of the observation, float64 on the CPU, [batch, time].

    Differences up to half the distance between neighbouring observed values do not count: a quantiser has no others.

    Args:
        observed: [batch, time].
        explained: what the operator makes of the restoration, same shape.
    """
    y = as_array(observed)
    values, which = np.unique(y, return_inverse=True)
    halves = np.pad(np.diff(values) / 2, 1, mode="edge") if len(values) > 1 else np.zeros(2)
    slack = np.minimum(halves[:-1], halves[1:])[which].reshape(y.shape)
    difference = y - as_array(explained)
    return torch.from_numpy(difference - np.clip(difference, -slack, slack))


@dataclass(frozen=True)
class Judgement:
    """Whether a restoration is believable; see `judge`.

    Attributes:
        log_odds: natural logarithm of the odds that the restoration is nearer to the clean signal than the recording
            is; "nothing happened" has 0.
        predictability_gain: how much less J is than that of the recording, nats.
        spread_gain: how much less `frame_spread` is, nats.
        plateau: see `plateau_share`.
        exact, interval, unknown, guessed: see `Binding`.
        changed: power of what the restoration takes from the recording or adds to it, as a fraction of its own power;
            levels do not count.
        explained_db: power of the recording over that of what is not explained, dB; infinite if all is.
    """

    log_odds: float
    predictability_gain: float
    spread_gain: float
    plateau: float
    exact: float
    interval: float
    unknown: float
    guessed: float
    changed: float
    explained_db: float

    @property
    def confidence(self) -> float:
        """Probability that the restoration is an improvement, from 0.01 to 0.99: more was not tried."""
        return float(np.clip(1 / (1 + np.exp(-np.clip(self.log_odds, -9, 9))), 0.01, 0.99))


@torch.no_grad()
def judge(
    observed: Tensor,
    restored: Tensor,
    operator: Callable[[Tensor], Tensor],
    sample_rate: int,
    intervals: Intervals | None = None,
    settings: EvidenceSettings = DEFAULTS,
) -> Judgement:
    """Weigh a restoration against "nothing happened", that is, the recording as it is.

    The log-odds are `bias + w_j asinh(gain of J / s_j) + w_s asinh(gain of spread / s_s)`: a logistic regression. What
    is not explained is in the gains; wide intervals and plateaus told nothing more, and are reported only.

    Args:
        observed: [batch, time], the items of one operator.
        restored: what was made of it, same shape, any level.
        operator: maps restored signals to observed ones.
        sample_rate: Hz.
        intervals: what the curve leaves open of the restored samples; None: nothing.
        settings: how evidence is measured and combined.
    """
    bound = binding(restored, intervals, settings)
    explained = operator(bound.signal)
    rest = unexplained(observed, explained)
    share = float(rest.square().sum() / max(np.sum(varying(observed) ** 2), np.finfo(float).tiny))
    whole = bound.signal.cpu().double() + rest * _slope(explained, bound.signal)
    predictable, sparse = (
        measure(observed, sample_rate, settings=settings)
        - measure(whole, sample_rate, observed, share, settings=settings)
        for measure in (predictability, frame_spread)
    )
    return Judgement(
        log_odds=log_odds(predictable, sparse, settings),
        predictability_gain=predictable,
        spread_gain=sparse,
        plateau=plateau_share(observed, settings),
        exact=bound.exact,
        interval=bound.interval,
        unknown=bound.unknown,
        guessed=bound.guessed,
        changed=_changed(bound.signal, observed),
        explained_db=float(-10 * np.log10(share)) if share else np.inf,
    )


def log_odds(predictability_gain: float, spread_gain: float, settings: EvidenceSettings = DEFAULTS) -> float:
    """The calibrated log-odds of the two gains, see `judge`."""
    predictable = np.arcsinh(predictability_gain / settings.predictability_scale)
    sparse = np.arcsinh(spread_gain / settings.spread_scale)
    return float(settings.bias + settings.predictability_weight * predictable + settings.spread_weight * sparse)


def _changed(restored: Tensor, observed: Tensor) -> float:
    """Power of what is not common to two signals, as a fraction of the power of one."""
    x, y = varying(restored), varying(observed)
    product = np.sum(x**2) * np.sum(y**2)
    return float(1 - np.sum(x * y) ** 2 / product) if product else 0.0


def _slope(x: Tensor, y: Tensor) -> float:
    """Of the straight line that gives `y` from `x`; 0 for a constant `x`."""
    inputs, outputs = varying(x), varying(y)
    power = np.sum(inputs**2)
    return float(np.sum(inputs * outputs) / power) if power else 0.0
