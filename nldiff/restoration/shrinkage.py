"""The iterations of the refinement for one signal on a CPU, see `nldiff.restoration.sparse`.

In a chain of PyTorch's operations the transforms are a sixth of the time: the rest goes into moving intermediate
results to and from memory. Here, all that happens between two transforms is one compiled pass over the memory. The
passes are plain loops in float32 and release Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

from nldiff.transforms.stft import overlap_add, stft

_Function = TypeVar("_Function", bound=Callable[..., Any])

_TINY = np.float32(np.finfo(np.float32).tiny)


def _compiled(function: _Function) -> _Function:
    """Compile at the first call; kept on disk between runs where some folder can be written."""
    # Infinite bounds are allowed, and so are infinite sums: no other liberties.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"nnan", "nsz", "contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no such folder
        return njit(**options)(function)


def shrunk(
    x: Tensor, low: Tensor, high: Tensor, window: int, largest: float, schedule: Sequence[tuple[float, float]]
) -> Tensor:
    """Shrink and project in turn.

    Args:
        x: signal [time] between the bounds, float32.
        low: smallest value of every sample [time]; may be -infinite.
        high: largest value, same shape; may be infinite.
        window: length of the Hann window in samples, a multiple of 4.
        largest: magnitude of the coefficients, of which the thresholds are fractions.
        schedule: threshold, as such a fraction, and momentum of every iteration.

    Returns:
        The signal after the last shrinkage [time].
    """
    hann, hop, half = torch.hann_window(window), window // 4, window // 2
    spectrum = stft(x[None], window, hop)[0]
    count = len(spectrum)
    weight = overlap_add(hann.square().expand(1, count, -1), hop)[0, half : half + len(x)].reciprocal()
    signal, energies = x.clone(), np.empty((3, spectrum.shape[1]), np.float32)
    given = hann.numpy(), weight.numpy(), low.numpy(), high.numpy(), signal.numpy()
    for index, (threshold, momentum) in enumerate(schedule, 1):
        shrink(torch.view_as_real(spectrum).view(count, -1).numpy(), threshold * largest, energies)
        frames = torch.fft.irfft(spectrum, n=window)
        advance(frames.numpy(), momentum, *given)
        if index < len(schedule):
            spectrum = torch.fft.rfft(frames)
    return signal


@_compiled
def shrink(spectrum: np.ndarray, threshold: float, energies: np.ndarray) -> None:
    """Multiply the bins by the gain of the persistent empirical Wiener shrinkage, in place.

    The gain is `max(0, 1 - threshold^2 / mean)` with the mean energy of the bin in its frame and those beside it.

    Args:
        spectrum: real and imaginary parts in turn [frames, 2 * bins].
        threshold: of the magnitudes.
        energies: [3, bins], overwritten.
    """
    count = spectrum.shape[0]
    gain = np.empty(energies.shape[1], np.float32)
    energies[2] = 0
    _energy(spectrum[0], energies[0])
    for frame in range(count):
        before, here, after = energies[(frame + 2) % 3], energies[frame % 3], energies[(frame + 1) % 3]
        if frame + 1 < count:
            _energy(spectrum[frame + 1], after)
        else:
            after[:] = 0
        share = np.float32(threshold * threshold * (1 + (frame > 0) + (frame + 1 < count)))
        _gain(before, here, after, share, gain)
        _scale(spectrum[frame], gain)


@_compiled
def advance(
    frames: np.ndarray,
    momentum: float,
    window: np.ndarray,
    weight: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    previous: np.ndarray,
) -> None:
    """From the shrunk frames of one iteration to the windowed frames of the next, in place.

    A frame is read for the last time where the last of its samples is complete: it is overwritten at once.

    Args:
        frames: [frames, window], a quarter of a window apart; the first is centred on the first sample.
        momentum: of this iteration.
        window: Hann window.
        weight: of the sum of overlapping frames [time].
        low: smallest value of every sample [time].
        high: largest value, same shape.
        previous: signal after the iteration before [time]; on return after this one.
    """
    count, length = frames.shape
    hop, samples, speed = length // 4, previous.shape[0], np.float32(momentum)
    total, ahead = np.empty(hop, np.float32), np.zeros((4, hop), np.float32)
    for block in range(count + 3):
        total[:] = 0
        for part in range(max(0, block - count + 1), min(4, block + 1)):
            here = slice(part * hop, (part + 1) * hop)
            _add_product(frames[block - part, here], window[here], total)
        start, following = (block - 2) * hop, ahead[block % 4]
        first = min(hop, max(0, -start))
        end = max(first, min(hop, samples - start))
        following[:first] = 0
        inside = slice(start + first, start + end)
        given = weight[inside], low[inside], high[inside]
        _step(total[first:end], speed, given[0], given[1], given[2], previous[inside], following[first:end])
        following[end:] = 0
        if block >= 3:
            for part in range(4):
                here = slice(part * hop, (part + 1) * hop)
                _product(ahead[(block - 3 + part) % 4], window[here], frames[block - 3, here])


# Loops over contiguous samples with few arrays each: others are not compiled to vector instructions.


@_compiled
def _energy(row: np.ndarray, energy: np.ndarray) -> None:
    for k in range(len(energy)):
        energy[k] = row[2 * k] * row[2 * k] + row[2 * k + 1] * row[2 * k + 1]


@_compiled
def _gain(before: np.ndarray, here: np.ndarray, after: np.ndarray, share: np.float32, gain: np.ndarray) -> None:
    for k in range(len(gain)):
        gain[k] = max(np.float32(0), np.float32(1) - share / max(before[k] + here[k] + after[k], _TINY))


@_compiled
def _scale(row: np.ndarray, gain: np.ndarray) -> None:
    for k in range(len(gain)):
        row[2 * k] *= gain[k]
        row[2 * k + 1] *= gain[k]


@_compiled
def _add_product(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> None:
    for i in range(len(total)):
        total[i] += a[i] * b[i]


@_compiled
def _product(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> None:
    for i in range(len(product)):
        product[i] = a[i] * b[i]


@_compiled
def _step(
    total: np.ndarray,
    speed: np.float32,
    weight: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    previous: np.ndarray,
    following: np.ndarray,
) -> None:
    for i in range(len(total)):
        current = total[i] * weight[i]
        following[i] = min(max(current + speed * (current - previous[i]), low[i]), high[i])
        previous[i] = current
