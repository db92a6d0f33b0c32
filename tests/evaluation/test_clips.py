"""Clips of files: pieces, names, channels, level."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from experiments import RATE
from helpers import plucked

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.evaluation.clips import find_clips, read_clip

pytest_plugins = ["experiment_fixtures"]


def test_files_are_cut_into_pieces(tmp_path: Path) -> None:
    ramp = np.arange(7 * 800) / 10000
    sf.write(tmp_path / "long.wav", ramp, 800, subtype="FLOAT")
    sf.write(tmp_path / "short.wav", ramp[:1200], 800, subtype="FLOAT")
    assert [(c.name, c.start) for c in find_clips(tmp_path, 0, 1, 2.0)] == [("long", 0), ("short", 0)]
    pieces = find_clips(tmp_path, 0, 0, 2.0)
    assert [(c.name, c.start) for c in pieces] == [("long.1", 0), ("long.2", 2), ("long.3", 4), ("short.1", 0)]
    assert [c.name for c in find_clips(tmp_path, 1, 2, 2.0)] == ["long.1", "long.2"]
    assert read_clip(pieces[1], 2.0, 800, 0) == pytest.approx(ramp[1600:3200], abs=1e-6)
    assert len(read_clip(pieces[3], 2.0, 800, 0)) == 1200
    at_level = read_clip(pieces[0], 2.0, 400, 0.06)
    assert len(at_level) == 800
    assert sound.rms(at_level) == pytest.approx(0.06, rel=1e-6)


def test_a_single_file_is_a_clip(clips: Path) -> None:
    assert [c.name for c in find_clips(clips / "more" / "b.wav", 0, 1, 1.0)] == ["b"]


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    sf.write(tmp_path / "x.wav", plucked(0.5, RATE), RATE)
    (tmp_path / "x.wav").rename(tmp_path / os.fsdecode(b"caf\xe9 \xc3\xbc.wav"))
    (clip,) = find_clips(tmp_path, 0, 1, 1.0)
    assert clip.name == "caf\\udce9 ü"
    assert len(read_clip(clip, 1.0, RATE, 0.06)) == RATE // 2


def test_channels_are_averaged(clips: Path) -> None:
    clip = find_clips(clips, 0, 1, 1.0)[1]
    stereo, _ = sf.read(clip.path)
    assert clip.name == "more/b"
    assert read_clip(clip, 9.0, RATE, 0) == pytest.approx(stereo.mean(axis=1), abs=1e-6)


def test_a_silent_piece_is_refused_with_its_place(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.r_[plucked(1.0, RATE), np.zeros(RATE)], RATE)
    first, second = find_clips(tmp_path, 0, 0, 1.0)
    assert sound.rms(read_clip(first, 1.0, RATE, 0.05)) == pytest.approx(0.05, rel=1e-6)
    with pytest.raises(NldiffError, match=r"a\.wav is silent from 1 s for 1 s"):
        read_clip(second, 1.0, RATE, 0.05)
