import numpy as np
import pytest
from helpers import TINY_RATE, plucked

from nldiff.baselines.clipping import clipping_levels
from nldiff.sound.recording import Recording


def test_clipping_levels_are_those_of_the_whole_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1000)
    x = plucked(1.0, TINY_RATE)
    y = np.stack([x.clip(-0.2, 0.1), x])
    y[0, -1500:] = 0.001  # a block that stays at a value which is no clipping level
    low, high = clipping_levels(Recording.from_array(y, TINY_RATE))
    assert low.tolist() == [np.float32(-0.2), -np.inf]
    assert high.tolist() == [np.float32(0.1), np.inf]
    y[0, 700] = 0.11  # a single sample beyond: it did not stay there
    assert clipping_levels(Recording.from_array(y, TINY_RATE))[1].tolist() == [np.inf, np.inf]
