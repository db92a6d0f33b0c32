"""Curves applied to audio with little aliasing.

A curve makes harmonics above half the sampling rate. Looked up sample by sample, they come back as tones that were
never there. Two remedies: oversampling, which leaves them room and removes them afterwards; and antiderivative
antialiasing on top of it, which takes means of the curve along the line between neighbouring samples (Parker,
Zavalishin and Le Bivic 2016, eq. 10), exactly, since the integral of a table is known in closed form.
"""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
import soxr
from numpy.typing import NDArray

from nldiff.curves.curve import Curve, Values
from nldiff.errors import NldiffError

Antialiasing = Literal["oversampling", "adaa", "none"]
ANTIALIASING: tuple[str, ...] = get_args(Antialiasing)
FACTOR = 8

# Samples on either side that a resampling filter may look at; samples of a piece without what comes before and after.
_MARGIN, _PIECE = 2048, 1 << 18
# Steps below this fraction of the table's width take the curve in the middle instead of the mean along the way.
_SMALL_STEP = 1e-6


def apply_curve(curve: Curve, audio: NDArray[np.floating], antialiasing: Antialiasing = "oversampling") -> NDArray:
    """Distort audio by the table of a curve.

    Args:
        curve: its table is used: flat beyond its ends, so that louder audio is clipped there.
        audio: `[time]` or `[channels, time]`, in the units of the curve.
        antialiasing: "oversampling" computes at 8 times the rate; "adaa" takes means along the way between samples as
            well, which leaves less aliasing and takes 0.3 dB at 20 kHz of 44.1 kHz; "none" looks samples up.

    Returns:
        float32, same shape: neither delayed nor scaled.

    Raises:
        NldiffError: an unknown kind of antialiasing.

    Examples:
        >>> clipper = Curve([-1, -0.5, 0.5, 1], [-0.5, -0.5, 0.5, 0.5])
        >>> apply_curve(clipper, np.array([0.2, 0.9], np.float32), "none").tolist()
        [0.20000000298023224, 0.5]
    """
    samples = np.atleast_2d(audio)
    pieces = distorted_pieces(curve, lambda start, n: samples[:, start : start + n], samples.shape[1], antialiasing)
    return np.concatenate([np.zeros((len(samples), 0), np.float32), *pieces], axis=1).reshape(np.shape(audio))


def distorted_pieces(
    curve: Curve, read: Callable[[int, int], np.ndarray], frames: int, antialiasing: Antialiasing = "oversampling"
) -> Iterator[NDArray[np.float32]]:
    """Distort a recording piece by piece; see `apply_curve`.

    Args:
        curve: its table is used.
        read: (start, frames) -> samples `[channels, frames]`.
        frames: length of the recording.
        antialiasing: a name of `ANTIALIASING`.

    Returns:
        Consecutive pieces, float32 `[channels, n]`.

    Raises:
        NldiffError: an unknown kind of antialiasing.
    """
    checked_antialiasing(antialiasing)
    if antialiasing == "none":
        return pieces_of(curve.look_up, read, frames)
    return pieces_of(lambda x: np.stack([oversampled(curve, row, antialiasing) for row in x]), read, frames)


def pieces_of(
    distort: Callable[[np.ndarray], np.ndarray], read: Callable[[int, int], np.ndarray], frames: int, memory: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Distort a recording piece by piece, each with what comes before and after it, in silence.

    Args:
        distort: `[channels, n]` float64 -> the same shape; the ends may be disturbed, as by resampling filters.
        read: (start, frames) -> samples `[channels, frames]`.
        frames: length of the recording.
        memory: samples before a piece on which it depends, besides.

    Yields:
        Consecutive pieces, float32 `[channels, n]`.
    """
    for start in range(0, frames, _PIECE):
        length = min(_PIECE, frames - start)
        first, last = max(start - _MARGIN - memory, 0), min(start + length + _MARGIN, frames)
        before = _MARGIN if first == 0 else 0
        after = start + length + _MARGIN - last
        around = np.pad(read(first, last - first).astype(np.float64), ((0, 0), (before, after)))
        place = before + start - first
        yield distort(around)[:, place : place + length].astype(np.float32)


def checked_antialiasing(antialiasing: str) -> None:
    """Validate a name.

    Raises:
        NldiffError: it is none of `ANTIALIASING`.
    """
    if antialiasing not in ANTIALIASING:
        raise NldiffError(f"antialiasing={antialiasing}: {', '.join(ANTIALIASING)} expected")


def oversampled(curve: Curve, samples: np.ndarray, antialiasing: Antialiasing) -> Values:
    """Distort `[time]` at `FACTOR` times the rate; the ends are disturbed."""
    fine = soxr.resample(samples.astype(np.float64), 1, FACTOR, quality="VHQ")
    shaped = curve.look_up(fine) if antialiasing == "oversampling" else _mean_along_the_way(curve, fine)
    coarse = soxr.resample(shaped, FACTOR, 1, quality="VHQ")
    return np.pad(coarse, (0, max(0, len(samples) - len(coarse))))


def _mean_along_the_way(curve: Curve, samples: Values) -> Values:
    """Mean of the table between every sample and its neighbours, `[time]`: half from either side, without delay."""
    inputs, outputs = curve.inputs, curve.outputs
    areas = np.concatenate([[0.0], np.cumsum(np.diff(inputs) * (outputs[1:] + outputs[:-1]) / 2)])
    inside = samples.clip(inputs[0], inputs[-1])
    index = (np.searchsorted(inputs, inside, side="right") - 1).clip(0, len(inputs) - 2)
    values = curve.look_up(samples)
    integral = areas[index] + (inside - inputs[index]) * (outputs[index] + values) / 2 + (samples - inside) * values
    steps = np.diff(samples)
    small = np.abs(steps) < _SMALL_STEP * np.ptp(inputs)
    means = np.diff(integral) / np.where(small, 1.0, steps)
    means[small] = curve.look_up((samples[1:] + samples[:-1])[small] / 2)
    return (np.append(means, values[-1]) + np.append(values[0], means)) / 2
