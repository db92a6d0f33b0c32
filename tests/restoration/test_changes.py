"""Changes of the distortion within a recording."""

import numpy as np
from helpers import TINY_RATE, plucked

from nldiff.restoration.changes import plateau_changes
from nldiff.sound.recording import Recording

STARTS = [0, TINY_RATE, 2 * TINY_RATE, 3 * TINY_RATE]
X = np.concatenate([plucked(1.0, TINY_RATE, seed) for seed in range(4)])
LEVELS = np.repeat([1, 1, 0.9, 0.9], TINY_RATE).astype(np.float32)


def changes(y: np.ndarray) -> list[str]:
    return plateau_changes(Recording.from_array(y[None].astype(np.float32), TINY_RATE), STARTS, TINY_RATE)


def test_a_level_that_was_changed_after_clipping_is_found() -> None:
    (warning,) = changes(X.clip(-0.1, 0.1) * LEVELS)
    assert "from about 2.0 s on" in warning


def test_a_level_that_was_changed_before_clipping_is_no_change() -> None:
    assert changes((X * LEVELS).clip(-0.1, 0.1)) == []


def test_clean_audio_that_gets_louder_is_no_change() -> None:
    assert changes(X * LEVELS**4) == []


def test_chunks_that_do_not_reach_the_plateau_do_not_count() -> None:
    y = X.copy()
    y[TINY_RATE : 3 * TINY_RATE] *= 0.1
    assert changes(y.clip(-0.1, 0.1)) == []
