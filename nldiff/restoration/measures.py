"""Measures of a signal alone that betray a wrong operator: how predictable, how sparse, how piled up it is.

All functions are plain ones of signals, compute in float64 and have no gradient. Levels do not matter, nor does a
constant. Frames count by the power that the observation has there, so that all signals compared use the same frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nldiff.errors import require

FloatArray = NDArray[np.float64]
# Power of a signal's variation, as a fraction of its squared mean, that is but rounding.
_SILENT = 1e-12


@dataclass(frozen=True)
class EvidenceSettings:
    """How evidence is measured and combined; the group `evidence`.

    Attributes:
        judge: whether hypotheses are tried and judged; without, the operator is what was sampled.
        force: whether the best hypothesis is taken even if it is not believable, instead of the recording as it is.
        believable: log-odds that a restoration needs to be preferred to the recording as it is.
        certain: log-odds from which no other hypothesis is tried.
        hopeless: log-odds of a rough first attempt below which a hypothesis is dropped.
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
    force: bool = False
    believable: float = 3.0
    certain: float = 4.0
    hopeless: float = -2.0
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
        require(
            self, "evidence", ("believable", "certain", "hopeless", "bias", "predictability_weight", "spread_weight")
        )


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
    samples, length = varying(x), _frame_length(sample_rate, settings)
    power = float(np.mean(samples**2)) or 1.0
    floor = power * (10 ** (settings.noise_db / 10) + noise)
    innovations = _innovations(_frames(samples, length), settings.order, floor)
    weights = _weights(samples if observed is None else varying(observed), length)
    level = -np.log(power) if slope is None else 2 * np.mean(np.log(np.abs(as_array(slope))))
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
    samples, seen = varying(x), varying(x if observed is None else observed)
    if not samples.any():
        return 0.0
    found = []
    for length in (_frame_length(sample_rate, settings) * n for n in (1, 2)):
        energy = np.abs(np.fft.rfft(_frames(samples, length))) ** 2 + noise * length * np.mean(samples**2)
        energy /= np.maximum(energy.mean(-1, keepdims=True), np.finfo(float).tiny)
        evenness = np.log(settings.spread_floor + energy).mean(-1)
        found.append(np.sum(_weights(seen, length) * evenness))
    return float(np.mean(found))


def plateau_share(observed: Tensor, settings: EvidenceSettings = DEFAULTS) -> float:
    """Share of samples that are piled up at the extremes, as clipping and rectifying leave them, noise or not.

    What the edges of the range hold more than as much beside them. Long steady tones have some of their own.
    """
    y = as_array(observed)
    edge = settings.plateau_edge * (y.max() - y.min())
    if not edge > _SILENT**0.5 * np.abs(y).max():
        return 0.0
    excess = [np.mean(d < edge) - np.mean((d >= edge) & (d < 2 * edge)) for d in (y.max() - y, y - y.min())]
    return float(np.maximum(excess, 0).sum())


def loudest(samples: np.ndarray, length: int) -> np.ndarray:
    """The loudest stretch [..., length] of samples [..., time], on a grid of quarters of it; all of shorter ones."""
    starts = range(0, max(1, samples.shape[-1] - length + 1), max(1, length // 4))
    powers = [np.mean(samples[..., i : i + length].astype(np.float64) ** 2) for i in starts]
    start = starts[int(np.argmax(powers))]
    return samples[..., start : start + length]


def as_array(x: Tensor) -> FloatArray:
    """Samples [batch, time] in float64 on the CPU."""
    return x.detach().cpu().double().numpy()


def varying(x: Tensor) -> FloatArray:
    """Samples without the mean of their item; zeros for an item that is constant up to rounding."""
    samples = as_array(x)
    mean = samples.mean(1, keepdims=True)
    varying = samples - mean
    return np.where(np.mean(varying**2, 1, keepdims=True) > _SILENT * mean**2, varying, 0.0)


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
