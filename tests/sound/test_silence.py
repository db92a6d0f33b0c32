"""Digital silence."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nldiff.sound.recording import Recording
from nldiff.sound.silence import silenced, silent_runs

RATE = 100  # the shortest run has 25 samples


def recording(x: np.ndarray, block: int) -> Recording:
    class Short(Recording):
        def blocks(self):  # type: ignore[no-untyped-def]
            return ((start, min(block, self.frames - start)) for start in range(0, self.frames, block))

    return Short("take", RATE, len(x), x.shape[1], lambda start, frames: x[:, start : start + frames])


@given(pieces=st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=8), block=st.integers(1, 200))
def test_runs_of_zeros_are_found_across_blocks(pieces: list[tuple[int, bool]], block: int) -> None:
    x = np.concatenate([np.full(length, float(loud)) for length, loud in pieces])
    expected, start = [], None
    for i, value in enumerate([*x, 1.0]):
        if value and start is not None:
            if i - start >= 25:
                expected.append((start, i))
            start = None
        elif not value and start is None:
            start = i
    assert silent_runs(recording(np.stack([x, np.ones_like(x)]), block)) == [expected, []]


def test_what_was_silent_stays_silent() -> None:
    block = np.ones((2, 10))
    out = silenced(block, [[(95, 103)], [(109, 200)]], 100)
    np.testing.assert_array_equal(out[0], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(out[1], [1] * 9 + [0])
    assert block.all()
    assert silenced(block, [[(0, 100)], [(110, 200)]], 100) is block
