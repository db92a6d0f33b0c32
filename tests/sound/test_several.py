"""Several recordings taken for one."""

import numpy as np
import pytest

from nldiff.errors import NldiffError
from nldiff.sound import recording as module
from nldiff.sound.recording import Recording


def recordings(*lengths: int, channels: int = 2, rate: int = 8000) -> list[Recording]:
    random = np.random.default_rng(0)
    made = [random.standard_normal((channels, n)).astype(np.float32) for n in lengths]
    return [Recording.from_array(samples, rate, f"take{i}") for i, samples in enumerate(made)]


def test_is_their_concatenation() -> None:
    parts = recordings(1000, 2000, 900)
    whole = Recording.of_several(parts)
    samples = np.concatenate([part.read(0, part.frames) for part in parts], axis=1)
    assert whole.joins == (1000, 3000) and whole.frames == 3900
    assert whole.name == "take0, take1, take2"
    for start, frames in ((0, 3900), (0, 10), (999, 2), (1000, 1), (500, 2600), (2999, 901), (3899, 1), (5, 0)):
        np.testing.assert_array_equal(whole.read(start, frames), samples[:, start : start + frames])


def test_blocks_do_not_cross_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 800)
    assert list(Recording.of_several(recordings(1000, 900)).blocks()) == [
        (0, 800),
        (800, 200),
        (1000, 800),
        (1800, 100),
    ]


def test_one_is_itself() -> None:
    (part,) = recordings(1000)
    assert Recording.of_several([part]).joins == ()


def test_every_frame_has_a_file() -> None:
    whole = Recording.of_several(recordings(1000, 2000, 900))
    assert [whole.beginning(frame) for frame in (0, 999, 1000, 2999, 3000, 3899)] == [0, 0, 1000, 1000, 3000, 3000]


def test_different_rates_are_refused() -> None:
    with pytest.raises(
        NldiffError, match="take0: 16000 Hz and 2 channels, take0: 8000 Hz and 2: recordings of one rate"
    ):
        Recording.of_several([*recordings(2000), *recordings(2000, rate=16000)])
