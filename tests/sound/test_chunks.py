import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldiff.sound.chunks import chunk_starts, cross_fade, joined
from nldiff.sound.recording import Recording


@given(
    frames=st.integers(1, 3_000_000),
    rate=st.sampled_from([8000, 11025, 44100, 96000]),
    seconds=st.floats(0.1, 20),
    share=st.floats(0, 0.49),
)
def test_chunks_cover_everything_overlap_enough_and_are_no_more_than_needed(
    frames: int, rate: int, seconds: float, share: float
) -> None:
    recording = Recording("r", rate, 1, frames, lambda start, count: np.zeros((1, count)))
    starts, length = chunk_starts(recording, seconds, share * seconds)
    overlap = round(share * seconds * rate)
    assert starts[0] == 0
    assert starts[-1] + length == frames
    if len(starts) == 1:
        assert frames <= round(seconds * rate)
    else:
        steps = np.diff(starts)
        assert length == round(seconds * rate)
        assert 0 < steps.min() <= steps.max() <= length - overlap
        assert np.ptp(steps) <= 1
        assert (len(starts) - 1) * (length - overlap) + overlap < frames  # one chunk fewer would leave a gap


@given(frames=st.integers(1, 50), overlap=st.integers(0, 50), seed=st.integers(0, 9))
def test_fading_between_equal_signals_changes_nothing(frames: int, overlap: int, seed: int) -> None:
    chunk = np.random.default_rng(seed).standard_normal((2, frames)).astype(np.float32)
    np.testing.assert_array_equal(cross_fade(chunk[:, :overlap], chunk), chunk)


def test_fading_is_linear() -> None:
    faded = cross_fade(np.zeros((1, 4), np.float32), np.ones((1, 6), np.float32))
    np.testing.assert_allclose(faded, [[0.125, 0.375, 0.625, 0.875, 1, 1]])


def test_starts_by_hand() -> None:
    recording = Recording("r", 10, 1, 24, lambda start, count: np.zeros((1, count)))
    assert chunk_starts(recording, 1.0, 0.2) == ([0, 7, 14], 10)
    assert chunk_starts(recording, 2.4, 0.2) == ([0], 24)
    assert chunk_starts(recording, 5.0, 0.2) == ([0], 24)


def test_chunks_that_differ_are_faded_over_and_in_order() -> None:
    chunks = [np.full((1, 4), value, np.float32) for value in (1.0, 3.0, 7.0)]
    blocks = list(joined(chunks, [0, 2, 6], 10))
    assert [block.tolist() for block in blocks] == [[[1, 1]], [[1.5, 2.5, 3, 3]], [[7, 7, 7, 7]]]


@given(frames=st.integers(1, 200), length=st.integers(2, 60), overlap=st.integers(0, 29), seed=st.integers(0, 9))
def test_joining_the_chunks_of_a_signal_gives_the_signal(frames: int, length: int, overlap: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, frames)).astype(np.float32)
    recording = Recording("r", 1, 2, frames, lambda start, count: x[:, start : start + count])
    starts, length = chunk_starts(recording, length, min(overlap, (length - 1) // 2))
    blocks = list(joined((x[:, start : start + length] for start in starts), starts, frames))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), x)


def test_as_many_chunks_as_starts_are_expected() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(joined([np.zeros((1, 4))], [0, 2], 6))
