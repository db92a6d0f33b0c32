"""Recordings that came from a lower rate."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import resample_poly

from nldiff.sound import resample
from nldiff.sound.narrow import narrowed, original_rate, widened
from nldiff.sound.recording import Recording

SECONDS = 2


def noise(rate: int, seconds: float = SECONDS, colour: float = 0.9) -> np.ndarray:
    """Two channels of noise whose density falls towards half the rate, [2, time]."""
    white = np.random.default_rng(0).standard_normal((2, round(rate * seconds)))
    x = np.zeros_like(white)
    for n in range(1, white.shape[1]):
        x[:, n] = colour * x[:, n - 1] + white[:, n]
    return (0.05 * x).astype(np.float32)


@pytest.mark.parametrize(("rate", "other"), [(8000, 16000), (8000, 11025), (16000, 22050), (16000, 48000)])
@pytest.mark.parametrize("filtered_by", ["soxr", "scipy"])
def test_the_rate_before_resampling_is_found(rate: int, other: int, filtered_by: str) -> None:
    x = noise(rate)
    common = np.gcd(rate, other)
    wide = (
        resample(x, rate, other)
        if filtered_by == "soxr"
        else resample_poly(x, other // common, rate // common, axis=1).astype(np.float32)  # with images above its edge
    )
    assert original_rate(Recording.from_array(wide, other)) == rate
    # 16 bits leave a floor that is low enough
    assert original_rate(Recording.from_array(np.round(wide * 2**15) / 2**15, other)) == rate


def test_what_fills_its_band_or_ends_gently_stays() -> None:
    x = noise(16000)
    gentle = noise(16000, colour=0.999)
    hissing = resample(noise(8000), 8000, 16000)
    hissing += 1e-3 * np.random.default_rng(1).standard_normal(hissing.shape).astype(np.float32)
    clipped = np.clip(resample(noise(8000), 8000, 16000), -0.1, 0.1)
    for samples in (x, gentle, hissing, clipped):
        recording = Recording.from_array(samples, 16000)
        assert original_rate(recording) == 16000
        assert narrowed(recording) is recording
    both = Recording.of_several([Recording.from_array(resample(noise(8000), 8000, 16000), 16000)] * 2)
    assert narrowed(both) is both  # several files


def test_a_short_or_silent_beginning_does_no_harm() -> None:
    x = noise(16000, 0.1)
    assert original_rate(Recording.from_array(x, 16000)) == 16000
    silent = np.concatenate([np.zeros((2, 32000), np.float32), resample(noise(8000), 8000, 16000)], axis=1)
    assert original_rate(Recording.from_array(silent, 16000)) == 8000


def test_a_short_passage_that_fills_its_band_is_not_missed() -> None:
    x = np.zeros((1, 1_000_000), np.float32)
    assert original_rate(Recording.from_array(x + np.float32(0.1) * (np.arange(1_000_000) == 7), 16000)) == 16000
    narrow = resample(noise(8000, 120)[:1], 8000, 16000)
    assert original_rate(Recording.from_array(narrow, 16000)) == 8000
    for start in (5_000, 555_555, 1_900_000):
        passage = narrow.copy()
        passage[:, start : start + 3000] = noise(16000, 1)[:1, :3000]
        assert original_rate(Recording.from_array(passage, 16000)) == 16000
    silent = Recording("silence", 16000, 1, 50_000, lambda start, frames: np.zeros((1, frames), np.float32))
    assert original_rate(silent) == 16000


@pytest.mark.parametrize(("rate", "other"), [(8000, 11025), (16000, 48000)])
def test_pieces_are_those_of_the_whole(rate: int, other: int) -> None:
    wide = resample(noise(rate), rate, other)[:, :-7]
    recording = narrowed(Recording.from_array(wide, other))
    whole = resample(wide, other, rate)
    assert (recording.sample_rate, recording.frames, recording.channels) == (rate, whole.shape[1], 2)
    for start, frames in [(0, 100), (1, 1), (777, 4000), (recording.frames - 50, 50), (recording.frames - 5, 100)]:
        expected = whole[:, start : start + frames]
        np.testing.assert_allclose(recording.read(start, frames), expected, atol=1e-6)


@pytest.mark.parametrize("sizes", [[16000], [3000, 13000], [1, 7000, 8999]])
@pytest.mark.parametrize("other", [11025, 48000])
def test_what_was_changed_is_brought_back(sizes: list[int], other: int) -> None:
    rate, gain = 8000, 3.0
    wide = resample(noise(rate), rate, other)[:, :-3]
    given = Recording.from_array(wide, other)
    inner = narrowed(given)
    change = 0.01 * np.sin(2 * np.pi * 700 * np.arange(inner.frames) / rate)[None] * [[1.0], [0.0]]
    restored = gain * inner.read(0, inner.frames) + change
    ends = np.minimum(np.cumsum([0, *sizes]), inner.frames)
    blocks = [restored[:, a:b] for a, b in pairwise(ends)]
    back = np.concatenate(list(widened(blocks, inner, given, gain)), axis=1)
    expected = 0.01 * np.sin(2 * np.pi * 700 * np.arange(wide.shape[1]) / other)
    assert back.shape == wide.shape
    np.testing.assert_array_equal(back[1], gain * wide[1])  # untouched
    inside = slice(500, -500)
    np.testing.assert_allclose((back[0] - gain * wide[0])[inside], expected[inside], atol=1e-5)


def test_a_recording_that_stays_is_passed_through() -> None:
    x = noise(16000, 0.1)
    given = Recording.from_array(x, 16000)
    np.testing.assert_array_equal(np.concatenate(list(widened([x[:, :9], x[:, 9:]], given, given, 2.0)), axis=1), x)
