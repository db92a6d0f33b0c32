"""Operators applied to audio with little aliasing: curves at a higher rate, filters at that of the audio."""

from collections.abc import Callable, Iterator

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from nldiff.curves.antialiasing import FACTOR, Antialiasing, checked_antialiasing, oversampled, pieces_of
from nldiff.curves.curve import Curve
from nldiff.errors import NldiffError
from nldiff.operators import AtRate, Chain, Distortion, Identity, Operator, Rescaled, TabulatedCurve

# Memories are told to 60 dB: in so many of them an operator forgets to 120 dB that a piece began in silence.
_MEMORIES = 2
# Distortions without memory that make no harmonics.
_LINEAR = frozenset({"gain"})


def apply_operator(
    operator: Operator, audio: NDArray[np.floating], sample_rate: int, antialiasing: Antialiasing = "oversampling"
) -> NDArray[np.float32]:
    """Distort audio by an operator.

    Parts without memory are computed at 8 times the rate, filters and overdrives at that of the audio, for which
    they are designed anew if they were told another one. Filters start from rest.

    Args:
        operator: what to apply, in the units of `audio`.
        audio: `[time]` or `[channels, time]`.
        sample_rate: of the audio, Hz.
        antialiasing: of the parts without memory, see `apply_curve`; "adaa" is for tables, others are oversampled.

    Returns:
        float32, same shape: not delayed but by the operator's filters.

    Raises:
        NldiffError: an unknown kind of antialiasing, or filters that were told different rates.
    """
    samples = np.atleast_2d(audio)
    pieces = operator_pieces(
        operator, lambda start, n: samples[:, start : start + n], samples.shape[1], sample_rate, antialiasing
    )
    return np.concatenate([np.zeros((len(samples), 0), np.float32), *pieces], axis=1).reshape(np.shape(audio))


def operator_pieces(
    operator: Operator,
    read: Callable[[int, int], np.ndarray],
    frames: int,
    sample_rate: int,
    antialiasing: Antialiasing = "oversampling",
) -> Iterator[NDArray[np.float32]]:
    """Distort a recording piece by piece; see `apply_operator`.

    Args:
        operator: what to apply.
        read: (start, frames) -> samples `[channels, frames]`.
        frames: length of the recording.
        sample_rate: Hz.
        antialiasing: a name of `ANTIALIASING`.

    Returns:
        Consecutive pieces, float32 `[channels, n]`.

    Raises:
        NldiffError: an unknown kind of antialiasing, or filters that were told different rates.
    """
    checked_antialiasing(antialiasing)
    device = at_sample_rate(operator, sample_rate)
    return pieces_of(lambda x: _distorted(device, x, antialiasing), read, frames, _MEMORIES * device.context)


def at_sample_rate(operator: Operator, sample_rate: int) -> Operator:
    """The same device for audio at a rate, whatever rate its filters were told.

    Raises:
        NldiffError: they were told different ones.
    """
    rates = _rates(operator)
    if len(set(rates)) > 1:
        told = " and ".join(map(str, sorted(set(rates))))
        raise NldiffError(f"operator: what was told its rate is for {told} Hz: one rate expected")
    operator = operator.for_rate(sample_rate)
    return operator.at_rate(rates[0], sample_rate) if rates else operator


def _rates(operator: Operator) -> list[int]:
    if isinstance(operator, Rescaled):
        return _rates(operator.operator)
    if isinstance(operator, Chain):
        return [rate for part in operator.operators for rate in _rates(part)]
    if isinstance(operator, AtRate):
        return [operator.outer_rate]
    return [round(operator.params["rate"])] if isinstance(operator, Distortion) and "rate" in operator.params else []


def _distorted(operator: Operator, x: np.ndarray, antialiasing: Antialiasing) -> np.ndarray:
    """Distort `[channels, time]`; around parts without memory, the ends are disturbed."""
    if isinstance(operator, Rescaled):
        return _distorted(operator.operator, x / operator.input_level, antialiasing) * operator.output_level
    if isinstance(operator, Chain):
        wet = x
        for part in operator.operators:
            wet = _distorted(part, wet, antialiasing)
        return wet if operator.mix == 1 else x + operator.mix * (wet - x)
    linear = isinstance(operator, Identity) or (isinstance(operator, Distortion) and operator.name in _LINEAR)
    if operator.context or linear or antialiasing == "none":
        return _applied(operator, x)
    if isinstance(operator, TabulatedCurve):
        curve = Curve(operator.inputs.numpy(), operator.outputs.numpy())
        return np.stack([oversampled(curve, row, antialiasing) for row in x])
    fine = soxr.resample(x.T, 1, FACTOR, quality="VHQ")
    coarse = soxr.resample(_applied(operator, fine.T).T, FACTOR, 1, quality="VHQ").T[:, : x.shape[1]]
    return np.pad(coarse, ((0, 0), (0, x.shape[1] - coarse.shape[1])))


@torch.no_grad()
def _applied(operator: Operator, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = operator(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return result
