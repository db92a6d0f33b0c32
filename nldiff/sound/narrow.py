"""Recordings that were resampled to a higher rate: the rate that they came from, and the way there and back.

What distorted them did so at that rate. Between its samples a clipped signal overshoots, and is no function of the
clean signal any more; at its own rate it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import gcd

import numpy as np
import soxr
from scipy.signal import welch

from nldiff.sound.rates import resample
from nldiff.sound.recording import Recording

# Rates that recordings come from, Hz.
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
# Fractions of such a rate: a band below the edge that resampling leaves, and where plain resamplers leave nothing.
_BELOW, _EMPTY = (0.36, 0.44), 0.6
# The density falls by this much there, and what is left above is this much of the power at most: 16 bits leave less.
_FALL, _LEFT = 1e-3, 1e-6
# Samples of a segment of the spectrum, and of the pieces that are read at once.
_SEGMENT, _PIECE = 4096, 1 << 14
# Beyond so many samples the resampler's filter is forgotten.
_MARGIN = 4096


def original_rate(recording: Recording) -> int:
    """The lowest common rate, Hz, whose band holds all of the recording and ends like that of a resampled one.

    That of the recording itself where it fills its band, or its band ends gently or at no such rate.
    """
    rate, density = recording.sample_rate, _density(recording)
    if not density.any():
        return rate
    frequencies = np.linspace(0, rate / 2, len(density))
    for candidate in _RATES:
        if candidate * _EMPTY >= rate * _BELOW[1]:
            break
        above = density[frequencies >= candidate * _EMPTY]
        below = density[(frequencies >= candidate * _BELOW[0]) & (frequencies <= candidate * _BELOW[1])]
        if above.max() <= _FALL * below.mean() and above.sum() <= _LEFT * density.sum():
            return candidate
    return rate


def narrowed(recording: Recording) -> Recording:
    """The recording at its `original_rate`, read piece by piece; several files in one stay as they are."""
    rate = recording.sample_rate if recording.joins else original_rate(recording)
    if rate == recording.sample_rate:
        return recording
    common = gcd(rate, recording.sample_rate)
    step, own_step = rate // common, recording.sample_rate // common
    margin = -(-_MARGIN // own_step)
    total = round(recording.frames * rate / recording.sample_rate)

    def read(start: int, frames: int) -> np.ndarray:
        end = min(start + frames, total)
        first, last = max(0, start // step - margin), -(-end // step) + margin
        own = recording.read(first * own_step, min(last * own_step, recording.frames) - first * own_step)
        # Silence follows, so that nothing is missing where lengths are rounded.
        own = np.pad(own, ((0, 0), (0, 2 * own_step)))
        return resample(own, recording.sample_rate, rate)[:, start - first * step : end - first * step]

    return replace(recording, sample_rate=rate, frames=total, read=read)


def widened(blocks: Iterable[np.ndarray], narrow: Recording, recording: Recording, gain: float) -> Iterator[np.ndarray]:
    """Bring a restored recording back to the rate that it was given at.

    What the restoration changed is resampled, and added to what was given: nothing else is lost.

    Args:
        blocks: consecutive ones of the restored narrow recording, [channels, n].
        narrow: the recording at its `original_rate`.
        recording: as it was given.
        gain: level of the blocks: that of the recording times this.

    Yields:
        Consecutive blocks [channels, n] with the rate and the length of `recording`, at the level of `blocks`.
    """
    if narrow is recording:
        yield from blocks
        return
    rates = narrow.sample_rate, recording.sample_rate
    stream = soxr.ResampleStream(*rates, recording.channels, dtype="float32", quality="VHQ")
    taken = given = 0

    def added(change: np.ndarray, last: bool) -> np.ndarray:
        nonlocal given
        wide = stream.resample_chunk(np.ascontiguousarray(change.T, np.float32), last=last).T
        observed = recording.read(given, recording.frames - given if last else wide.shape[1]) * np.float32(gain)
        given += observed.shape[1]
        # The last sample may be one too many or missing: there is nothing to change at the very end.
        wide = wide[:, : observed.shape[1]]
        return observed + np.pad(wide, ((0, 0), (0, observed.shape[1] - wide.shape[1])))

    for block in blocks:
        yield added(block - narrow.read(taken, block.shape[1]) * np.float32(gain), last=False)
        taken += block.shape[1]
    yield added(np.zeros((recording.channels, 0)), last=True)


def _density(recording: Recording) -> np.ndarray:
    """Power density of all of the recording, from 0 to half of the rate; the mean over channels."""
    length = min(_PIECE, recording.frames)
    density = np.zeros(min(_SEGMENT, length) // 2 + 1)
    for start in [*range(0, recording.frames - length, length), recording.frames - length]:
        piece = recording.read(start, length).astype(np.float64)
        density += welch(piece, nperseg=min(_SEGMENT, length), window="hann")[1].mean(0)
    return density
