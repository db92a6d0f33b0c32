"""Which channels share a curve, and what lies behind it."""

import numpy as np
import pytest
from helpers import TINY_RATE, plucked
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nldiff.restoration.parts import Part, find_parts
from nldiff.sound.recording import Recording

X = [plucked(1.0, TINY_RATE, seed) for seed in range(4)]


def parts(*channels: NDArray[np.float32]) -> list[Part]:
    return find_parts(Recording.from_array(np.stack(channels).astype(np.float32), TINY_RATE))


def test_what_one_device_clipped_is_one_part() -> None:
    assert parts(X[0].clip(-0.1, 0.1), X[1].clip(-0.1, 0.1)) == [Part((0, 1))]


def test_channels_that_end_elsewhere_are_parts_of_their_own() -> None:
    clean, lower, inverted = X[3], X[1].clip(-0.09, 0.09), -X[2].clip(-0.12, 0.1)
    found = parts(X[0].clip(-0.1, 0.1), lower, clean, inverted, X[1].clip(-0.1, 0.1))
    assert [part.channels for part in found] == [(0, 4), (1,), (2,), (3,)]


def test_a_constant_channel_is_left_alone() -> None:
    found = parts(X[0], np.full_like(X[0], 0.25))
    assert [part.constant for part in found] == [False, True]


@given(offset=st.floats(-1, 1), scale=st.sampled_from([0.01, 1.0]))
def test_an_offset_is_found_and_taken_out(offset: float, scale: float) -> None:
    centred = X[0] - X[0].mean()
    y = (scale * (centred + offset)).astype(np.float32)
    (part,) = parts(y)
    edge = min(abs(y.min()), abs(y.max())) / np.ptp(y)
    if abs(offset) > 0.06 * X[0].std() and edge > 0.03:
        assert part.offset == pytest.approx(scale * offset, abs=1e-6)
    recording = part.of(Recording.from_array(y[None], TINY_RATE))
    np.testing.assert_allclose(recording.read(0, recording.frames)[0], y - part.offset, atol=1e-6)


def test_the_mean_of_what_was_rectified_is_no_offset() -> None:
    assert parts(np.maximum(X[0], 0))[0].offset == 0
    assert parts(-np.maximum(X[0], 0))[0].offset == 0


def test_a_part_reads_its_channels_only() -> None:
    y = np.stack(X[:3])
    recording = Part((2, 0), offset=0.5).of(Recording.from_array(y, TINY_RATE))
    np.testing.assert_array_equal(recording.read(10, 20), y[[2, 0], 10:30] - np.float32(0.5))
