"""Recordings that end early: how much can be read, that it is the same as of the whole file, and what is said."""

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from damage import damaged
from helpers import plucked

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.sound.recording import Recording

RATE, SECONDS = 22050, 4.0
# Suffix, subtype, rate, whether the file says how long it should be.
KINDS = [
    (".wav", "PCM_16", RATE, True),
    (".wav", "FLOAT", RATE, True),
    (".aiff", "PCM_24", RATE, True),
    (".au", "PCM_16", RATE, True),
    (".w64", "PCM_16", RATE, True),
    (".flac", "PCM_16", RATE, True),
    (".ogg", "VORBIS", RATE, False),
    (".opus", "OPUS", 48000, False),
    (".mp3", "MPEG_LAYER_III", RATE, True),
]
LOSSY = (".ogg", ".opus", ".mp3")


def written(path: Path, subtype: str, rate: int, seconds: float = SECONDS) -> np.ndarray:
    stereo = np.stack([plucked(seconds, rate, seed) for seed in (1, 2)])
    sf.write(path, stereo.T, rate, subtype=subtype, format="OGG" if path.suffix == ".opus" else None)
    return sound.read(path)[0]


@pytest.mark.parametrize(("suffix", "subtype", "rate", "says"), KINDS)
@pytest.mark.parametrize("share", [0.35, 0.8])
def test_what_is_there_is_read(tmp_path: Path, suffix: str, subtype: str, rate: int, says: bool, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    whole = written(path, subtype, rate)
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    with pytest.raises(sound.TruncatedError):
        Recording.from_file(path)
    recording = Recording.from_file(path, strict=False)
    if suffix in (*LOSSY, ".flac"):
        assert 0.1 * SECONDS * rate < recording.frames < SECONDS * rate
    else:
        assert abs(recording.frames - share * SECONDS * rate) <= 32  # the header
    assert (recording.sample_rate, recording.channels) == (rate, 2)
    # The decoders of lossy files need to hear what comes before and after.
    pieces = [(0, recording.frames // 2)]
    if suffix not in LOSSY:
        pieces += [(0, recording.frames), (recording.frames // 2, 5000), (recording.frames - 100, 100)]
    for start, frames in pieces:
        np.testing.assert_allclose(recording.read(start, frames), whole[:, start : start + frames], atol=1e-6)
    there = recording.frames / rate
    found = re.fullmatch(
        r"it ends early: ([\d.]+) s(?: of ([\d.]+) s)? can be read(, and .* how long it was)?", recording.loss
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(there, abs=0.006)
    assert (found[2] is not None) == says != (found[3] is not None)
    if says:
        assert float(found[2]) == pytest.approx(SECONDS, abs=0.1)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    whole = written(path, "PCM_16", RATE)
    content = bytearray(path.read_bytes())
    position = content.index(b"data") + 4
    (size,) = struct.unpack("<I", content[position : position + 4])
    content[position : position + 4] = struct.pack("<I", 3 * size)
    path.write_bytes(content)
    recording = Recording.from_file(path, strict=False)
    np.testing.assert_array_equal(recording.read(0, recording.frames), whole)
    assert recording.loss == "it ends early: 4.00 s of 12.00 s can be read"


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_whole_files_have_lost_nothing(tmp_path: Path, suffix: str) -> None:
    written(tmp_path / f"a{suffix}", {".ogg": "VORBIS"}.get(suffix, "PCM_16"), RATE)
    assert Recording.from_file(tmp_path / f"a{suffix}", strict=False).loss == ""


def test_too_little_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    written(path, "PCM_16", RATE)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(NldiffError, match=r"what can be read of .*a\.wav is too short"):
        Recording.from_file(path, strict=False)


def test_not_a_number_is_refused_in_a_file_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = plucked(SECONDS, RATE)
    samples[5000] = np.nan
    sf.write(path, samples, RATE, subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(NldiffError, match=r"a\.wav contains NaN or infinite samples"):
        Recording.from_file(path, strict=False)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    written(path, "PCM_16", RATE, 1.0)
    recording = Recording.from_file(path)
    recording.read(0, 100)
    written(tmp_path / "b.wav", "PCM_16", RATE, 1.0)
    (tmp_path / "b.wav").replace(path)
    with pytest.raises(NldiffError, match=r"a\.wav was changed while it was read$"):
        recording.read(0, 100)


@pytest.mark.parametrize("reader", [sound.probe, sound.read, sound.check_observation, Recording.from_file])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, reader: object) -> None:
    os.mkfifo(tmp_path / "a.wav")
    for path in (tmp_path / "a.wav", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(NldiffError, match=rf"^{path} is a pipe, device or socket: a file is needed$"):
            reader(path)  # type: ignore[operator]


@pytest.mark.parametrize("rate", [1, 8, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, plucked(1.0, 8000), rate)
    with pytest.raises(NldiffError, match=rf"a\.wav has a rate of {rate} Hz: 1000 to 1000000 Hz expected"):
        Recording.from_file(path)


@pytest.mark.parametrize(("suffix", "subtype"), [kind[:2] for kind in KINDS])
def test_damaged_files_are_read_in_part_or_refused_in_one_line(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"a{suffix}"
    written(path, subtype, 48000 if suffix == ".opus" else RATE, 0.5)
    for version in damaged(path.read_bytes(), 40):
        path.write_bytes(version)
        try:
            recording = Recording.from_file(path, strict=False)
            for start, frames in recording.blocks():
                assert np.isfinite(recording.read(start, frames)).all()
        except NldiffError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
