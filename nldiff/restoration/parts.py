"""Parts of a recording: channels that were distorted alike, each restored as a recording of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nldiff.sound.recording import Recording

# Channels share a curve if the ends of their ranges differ by at most this fraction of the range. Rare samples are left
# out, as a fraction of all: of so many bins.
_SAME, _RARE, _BINS = 0.02, 1e-4, 1 << 14
# A constant counts as an offset beyond this fraction of the standard deviation; a range that ends within this fraction
# of it from zero was rectified.
_OFFSET, _RECTIFIED = 0.05, 0.01

Read = Callable[[int, int], np.ndarray]
"""(start, frames) -> samples [channels, frames]."""


@dataclass(frozen=True)
class Part:
    """Channels of a recording that share a curve.

    Attributes:
        channels: their indices, from 0.
        offset: constant that was added behind the curve; taken out before the restoration.
        constant: all samples of a channel are the same: there is nothing to restore.
    """

    channels: tuple[int, ...]
    offset: float = 0.0
    constant: bool = False

    def of(self, recording: Recording) -> Recording:
        """The part as a recording of its own."""
        if len(self.channels) == recording.channels and not self.offset:
            return recording
        offset = np.float32(self.offset)

        def read(start: int, frames: int) -> np.ndarray:
            return recording.read(start, frames)[list(self.channels)] - offset

        return replace(recording, channels=len(self.channels), read=read)


def channel_names(channels: Sequence[int]) -> str:
    """Channels, numbered from 0, in words and numbered from 1."""
    return f"channel{'s' * (len(channels) > 1)} {', '.join(str(channel + 1) for channel in channels)}"


def find_parts(recording: Recording) -> list[Part]:
    """Find the channels that share a curve.

    Those that end at the same values do: what was clipped by one device, or by two alike. Others may, but nothing is
    lost if each is restored as a recording of its own.
    """
    low, high = _ranges(recording)
    groups: list[list[int]] = []
    for channel in range(recording.channels):
        for group in groups:
            first = group[0]
            width = min(high[first] - low[first], high[channel] - low[channel])
            apart = max(abs(high[first] - high[channel]), abs(low[first] - low[channel]))
            if width > 0 and apart <= _SAME * width:
                group.append(channel)
                break
        else:
            groups.append([channel])
    return [_part(recording, group, min(low[group]), max(high[group])) for group in groups]


def _blocks(recording: Recording) -> Iterator[np.ndarray]:
    for start, frames in recording.blocks():
        yield recording.read(start, frames).astype(np.float64)


def _ranges(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest samples of every channel, rare ones left out, [channels] each."""
    ends = [(block.min(1), block.max(1)) for block in _blocks(recording)]
    low, high = np.min([e[0] for e in ends], 0), np.max([e[1] for e in ends], 0)
    width = (high - low) / (_BINS - 1)
    scale = np.divide(1, width, out=np.zeros_like(width), where=width > 0)[:, None]
    counts = np.zeros((recording.channels, _BINS))
    for block in _blocks(recording):
        bins = ((block - low[:, None]) * scale).astype(int)
        counts += np.stack([np.bincount(row, minlength=_BINS) for row in bins])
    shares = np.cumsum(counts, 1) / recording.frames
    first, last = (np.argmax(shares > share, 1) for share in (_RARE, 1 - _RARE))
    return low + first * width, low + last * width


def _part(recording: Recording, channels: list[int], low: float, high: float) -> Part:
    """Channels that lie between `low` and `high`, with their mean if it is more than what asymmetric audio has."""
    part = Part(tuple(channels), constant=bool(low == high))
    if min(abs(low), abs(high)) <= _RECTIFIED * (high - low) or part.constant:
        return part
    total = power = 0.0
    for block in _blocks(recording):
        total, power = total + block[channels].sum(), power + np.sum(block[channels] ** 2)
    samples = len(channels) * recording.frames
    mean = total / samples
    return replace(part, offset=float(mean)) if mean**2 > _OFFSET**2 * (power / samples - mean**2) else part
