"""Evidence: is a restoration believable, or did nothing happen to the recording?

A wrong curve betrays itself: what it leaves of the distortion, or adds, makes the signal less predictable. Evidence J
is the log power of the innovations of frame-wise linear prediction in relation to the power of the signal, nats. For
smooth curves it is the entropy of the innovations that Taleb, Solé and Jutten minimise, "Quasi-nonparametric blind
inversion of Wiener systems" (2001). Two things would fool it, and are undone before it is measured. A restoration that
explains the recording only roughly is smoother than the recording: what it leaves unexplained is put back, and counts
as noise on top. A curve that leaves samples an interval lets them be chosen to be predictable: in narrow intervals,
only the middle counts, and the others are reported.

All functions are plain ones of signals, compute in float64 and have no gradient. Levels do not matter, nor does a
constant. Frames count by the power that the observation has there, so that all signals compared use the same frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nldiff.errors import require
from nldiff.restoration.feasible import Intervals

FloatArray = NDArray[np.float64]
# Power of a signal's variation, as a fraction of its squared mean, that is but rounding.
_SILENT = 1e-12


@dataclass(frozen=True)
class EvidenceSettings:
    """How evidence is measured and combined; the group `evidence`.

    Attributes:
        judge: whether a blind restoration is judged; one that is not believable is replaced by the recording as it is.
        frame_seconds: length of the frames.
        order: of the linear prediction.
        noise_db: white noise that every signal is taken to have, dB relative to its power. Below it a curve need not be
            right: of very predictable signals, errors of 1 % would outweigh all of a distortion.
        spread_floor: what counts as no energy in `frame_spread`, as a fraction of a frame's mean.
        exact_width: widest interval of a sample that counts as known exactly, as a fraction of the signal's RMS.
        plateau_edge: what counts as the edge of the range of the samples in `plateau_share`, as a fraction of it.
        largest_clean_plateau: plateau share above which something has happened, whatever the hypotheses are worth.
        bias, predictability_weight, spread_weight: of the log-odds, see `judge`.
        predictability_scale, spread_scale: differences, nats, beyond which log-odds grow by their logarithm only.
    """

    judge: bool = True
    frame_seconds: float = 0.04
    order: int = 24
    noise_db: float = -40.0
    spread_floor: float = 0.01
    exact_width: float = 0.1
    plateau_edge: float = 0.05
    largest_clean_plateau: float = 0.003
    bias: float = -4.2
    predictability_weight: float = 1.2
    spread_weight: float = 3.6
    predictability_scale: float = 0.02
    spread_scale: float = 0.01

    def __post_init__(self) -> None:
        """Validate the values."""
        positive = ("frame_seconds", "spread_floor", "exact_width", "predictability_scale", "spread_scale")
        require(self, "evidence", positive, above=0)
        require(self, "evidence", ("order",), least=1)
        require(self, "evidence", ("noise_db",), below=0)
        require(self, "evidence", ("plateau_edge",), above=0, below=0.25)
        require(self, "evidence", ("largest_clean_plateau",), least=0)
        require(self, "evidence", ("bias", "predictability_weight", "spread_weight"))


DEFAULTS = EvidenceSettings()


def predictability(
    x: Tensor,
    sample_rate: int,
    observed: Tensor | None = None,
    noise: float = 0.0,
    slope: Tensor | None = None,
    settings: EvidenceSettings = DEFAULTS,
) -> float:
    """Evidence J of a signal, nats: the lower, the more predictable.

    `mean_f log e_f - log mean x²`, with the power e_f of the innovations of linear prediction in frame f by the
    autocorrelation method. With `slope` the full form, `mean_f log e_f + 2 mean log |f'(x)|`: up to a constant, twice
    the negative log-likelihood of an observed sample, for a smooth curve f.

    Args:
        x: [batch, time]; items share one level.
        sample_rate: Hz.
        observed: what was observed, same shape, which weights the frames; None: `x`.
        noise: power of more white noise, as a fraction of that of `x`.
        slope: derivatives of the curve at `x`, same shape, not zero.
        settings: how frames are predicted.

    Returns:
        J; without `slope` 0 for silence.
    """
    samples, length = _varying(x), _frame_length(sample_rate, settings)
    power = float(np.mean(samples**2)) or 1.0
    floor = power * (10 ** (settings.noise_db / 10) + noise)
    innovations = _innovations(_frames(samples, length), settings.order, floor)
    weights = _weights(samples if observed is None else _varying(observed), length)
    level = -np.log(power) if slope is None else 2 * np.mean(np.log(np.abs(_array(slope))))
    return float(np.sum(weights * np.log(innovations)) + level) if samples.any() or slope is not None else 0.0


def frame_spread(
    x: Tensor,
    sample_rate: int,
    observed: Tensor | None = None,
    noise: float = 0.0,
    settings: EvidenceSettings = DEFAULTS,
) -> float:
    """How evenly the energy of frames is spread over their spectra, nats; less for sparser signals.

    Mean of `log(floor + |X|^2 / mean |X|^2)` over the bins X of a frame, over frames, and over frames of once and twice
    the length. Normalised in every frame, it does not reward expanders, as `nldiff.restoration.sparse.spread` does.

    Args:
        x: [batch, time].
        sample_rate: Hz.
        observed: what was observed, same shape, which weights the frames; None: `x`.
        noise: power of white noise, as a fraction of that of `x`.
        settings: frames and floor.

    Returns:
        The spread; 0 for silence.
    """
    samples, seen = _varying(x), _varying(x if observed is None else observed)
    if not samples.any():
        return 0.0
    found = []
    for length in (_frame_length(sample_rate, settings) * n for n in (1, 2)):
        energy = np.abs(np.fft.rfft(_frames(samples, length))) ** 2 + noise * length * np.mean(samples**2)
        energy /= np.maximum(energy.mean(-1, keepdims=True), np.finfo(float).tiny)
        evenness = np.log(settings.spread_floor + energy).mean(-1)
        found.append(np.sum(_weights(seen, length) * evenness))
    return float(np.mean(found))


@dataclass(frozen=True)
class Binding:
    """How tightly a curve binds a signal.

    Attributes:
        signal: the signal, in the middle of every narrow interval, [batch, time].
        exact, interval, unknown: share of samples in a narrow, a wide, and an unbounded interval; their sum is 1.
    """

    signal: Tensor
    exact: float
    interval: float
    unknown: float


def binding(x: Tensor, intervals: Intervals | None = None, settings: EvidenceSettings = DEFAULTS) -> Binding:
    """What a curve leaves open of a signal.

    Args:
        x: the signal, [batch, time].
        intervals: of its samples, which the curve and the observation leave; one that is infinite to any side is
            unbounded. None: every sample is exact.
        settings: what counts as narrow.
    """
    if intervals is None:
        return Binding(x.detach(), 1.0, 0.0, 0.0)
    signal, width = x.detach(), intervals.high - intervals.low
    narrow = width <= settings.exact_width * signal.double().std(correction=0).to(signal.dtype)
    middle = torch.where(narrow, (intervals.low + intervals.high) / 2, intervals.project(signal))
    exact, unknown = (float(which.double().mean()) for which in (narrow, torch.isinf(width)))
    return Binding(middle, exact, 1 - exact - unknown, unknown)


def unexplained(observed: Tensor, explained: Tensor) -> Tensor:
    """What a restoration does not explain of the observation, float64 on the CPU, [batch, time].

    Differences up to half the distance between neighbouring observed values do not count: a quantiser has no others.

    Args:
        observed: [batch, time].
        explained: what the operator makes of the restoration, same shape.
    """
    y = _array(observed)
    values, which = np.unique(y, return_inverse=True)
    halves = np.pad(np.diff(values) / 2, 1, mode="edge") if len(values) > 1 else np.zeros(2)
    slack = np.minimum(halves[:-1], halves[1:])[which].reshape(y.shape)
    difference = y - _array(explained)
    return torch.from_numpy(difference - np.clip(difference, -slack, slack))


def plateau_share(observed: Tensor, settings: EvidenceSettings = DEFAULTS) -> float:
    """Share of samples that are piled up at the extremes, as clipping and rectifying leave them, noise or not.

    What the edges of the range hold more than as much beside them. Long steady tones have some of their own.
    """
    y = _array(observed)
    edge = settings.plateau_edge * (y.max() - y.min())
    if not edge > _SILENT**0.5 * np.abs(y).max():
        return 0.0
    excess = [np.mean(d < edge) - np.mean((d >= edge) & (d < 2 * edge)) for d in (y.max() - y, y - y.min())]
    return float(np.maximum(excess, 0).sum())


@dataclass(frozen=True)
class Judgement:
    """Whether a restoration is believable; see `judge`.

    Attributes:
        log_odds: natural logarithm of the odds that the restoration is nearer to the clean signal than the recording
            is; "nothing happened" has 0.
        predictability_gain: how much less J is than that of the recording, nats.
        spread_gain: how much less `frame_spread` is, nats.
        plateau: see `plateau_share`.
        exact, interval, unknown: see `Binding`.
        explained_db: power of the recording over that of what is not explained, dB; infinite if all is.
    """

    log_odds: float
    predictability_gain: float
    spread_gain: float
    plateau: float
    exact: float
    interval: float
    unknown: float
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
    share = float(rest.square().sum() / max(np.sum(_varying(observed) ** 2), np.finfo(float).tiny))
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
        explained_db=float(-10 * np.log10(share)) if share else np.inf,
    )


def nothing_happened(judgements: Iterable[Judgement], settings: EvidenceSettings = DEFAULTS) -> bool:
    """Whether a recording comes back as it is: no restoration of it is believable, and no samples are piled up.

    If this is false and no judgement has positive log-odds, the recording is distorted, but nothing explains it.
    """
    return all(j.log_odds <= 0 and j.plateau <= settings.largest_clean_plateau for j in judgements)


def log_odds(predictability_gain: float, spread_gain: float, settings: EvidenceSettings = DEFAULTS) -> float:
    """The calibrated log-odds of the two gains, see `judge`."""
    predictable = np.arcsinh(predictability_gain / settings.predictability_scale)
    sparse = np.arcsinh(spread_gain / settings.spread_scale)
    return float(settings.bias + settings.predictability_weight * predictable + settings.spread_weight * sparse)


def _array(x: Tensor) -> FloatArray:
    """Samples [batch, time] in float64 on the CPU."""
    return x.detach().cpu().double().numpy()


def _varying(x: Tensor) -> FloatArray:
    """Samples without the mean of their item; zeros for an item that is constant up to rounding."""
    samples = _array(x)
    mean = samples.mean(1, keepdims=True)
    varying = samples - mean
    return np.where(np.mean(varying**2, 1, keepdims=True) > _SILENT * mean**2, varying, 0.0)


def _slope(x: Tensor, y: Tensor) -> float:
    """Of the straight line that gives `y` from `x`; 0 for a constant `x`."""
    inputs, outputs = _varying(x), _varying(y)
    power = np.sum(inputs**2)
    return float(np.sum(inputs * outputs) / power) if power else 0.0


def _frame_length(sample_rate: int, settings: EvidenceSettings) -> int:
    """Even number of samples, enough for the prediction."""
    return max(2 * round(settings.frame_seconds * sample_rate / 2), 4 * (settings.order + 1))


def _frames(x: FloatArray, length: int) -> FloatArray:
    """Half overlapping frames [batch, frames, length] under a Hann window of unit power; short signals get zeros."""
    padded = np.pad(x, ((0, 0), (0, max(0, length - x.shape[1]))))
    window = np.hanning(length + 2)[1:-1]
    window /= np.sqrt(np.mean(window**2))
    return np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, :: length // 2] * window


def _weights(observed: FloatArray, length: int) -> FloatArray:
    """Share of every frame [batch, frames] in the energy of the observation; the same for all if there is none."""
    power = np.mean(_frames(observed, length) ** 2, -1)
    return power / power.sum() if power.any() else np.full_like(power, 1 / power.size)


def _innovations(frames: FloatArray, order: int, noise: float) -> FloatArray:
    """Power of the errors of linear prediction [batch, frames]; Levinson and Durbin's recursion for all at once."""
    length = frames.shape[-1]
    spectrum = np.fft.rfft(frames, 1 << (length + order).bit_length())
    r = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[..., : order + 1] / length
    r[..., 0] += noise
    error = r[..., 0].copy()
    a = np.zeros_like(r)
    a[..., 0] = 1
    for i in range(1, order + 1):
        reflection = -np.sum(a[..., :i] * r[..., i:0:-1], -1) / error
        a[..., 1 : i + 1] += reflection[..., None] * a[..., :i][..., ::-1]
        error *= 1 - reflection**2
    return error
