"""Formats of written audio, metadata, and what ffmpeg decodes."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from nldiff import sound
from nldiff.errors import NldiffError

RATE = 8000


def written(path: Path, samples: NDArray[np.floating], container: str, bits: str) -> int:
    with sound.audio_writer(path, RATE, len(samples), sound.AudioFormat(container, bits)) as writer:
        for start in range(0, samples.shape[1], 1000):
            writer.write(samples[:, start : start + 1000])
    return writer.clipped


@pytest.mark.parametrize(
    ("container", "bits", "subtype"),
    [
        ("wav", "16", "PCM_16"),
        ("wav", "24", "PCM_24"),
        ("wav", "32f", "FLOAT"),
        ("flac", "16", "PCM_16"),
        ("flac", "24", "PCM_24"),
        ("aiff", "24", "PCM_24"),
        ("aiff", "32f", "FLOAT"),
    ],
)
def test_containers_and_bits(tmp_path: Path, container: str, bits: str, subtype: str) -> None:
    x = 0.3 * np.random.default_rng(0).standard_normal((2, 5000)).clip(-3, 3)
    assert written(tmp_path / "x", x, container, bits) == 0
    info = sf.info(tmp_path / "x")
    assert (info.format, info.subtype, info.frames, info.channels) == (container.upper(), subtype, 5000, 2)
    error = sf.read(tmp_path / "x", always_2d=True)[0].T - x
    step = {"16": 2.0**-15, "24": 2.0**-23, "32f": 1e-7}[bits]
    assert np.max(np.abs(error)) <= 1.5 * step


def test_dither_makes_the_error_noise_that_knows_nothing_of_the_signal(tmp_path: Path) -> None:
    t = np.arange(80000) / RATE
    x = 0.4 * 2.0**-15 * np.sin(2 * np.pi * 100 * t)[None]  # less than half a step: rounding alone gives silence
    written(tmp_path / "x.wav", x, "wav", "16")
    y = sf.read(tmp_path / "x.wav")[0][None]
    assert np.sum(x * y) / np.sum(x * x) == pytest.approx(1, abs=0.1)
    # triangular dither of +-1 step and rounding: variance of 1/6 + 1/12 steps
    assert np.var((y - x) * 2**15) == pytest.approx(0.25, rel=0.05)
    written(tmp_path / "again.wav", x, "wav", "16")
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "x.wav").read_bytes()


def test_whole_steps_stay_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-(2**15), 2**15, (1, 3000)) / 2**15
    written(tmp_path / "x.wav", x, "wav", "16")
    np.testing.assert_array_equal(sf.read(tmp_path / "x.wav")[0], x[0])


@pytest.mark.parametrize(("bits", "clipped", "peak"), [("16", 3, 1 - 2**-15), ("24", 3, 1 - 2**-23), ("32f", 0, 1.5)])
def test_beyond_full_scale_is_clipped_counted_or_kept(tmp_path: Path, bits: str, clipped: int, peak: float) -> None:
    x = np.array([[0.5, 1.0, 1.5, -1.0, -1.25]])
    assert written(tmp_path / "x.wav", x, "wav", bits) == clipped
    y = sf.read(tmp_path / "x.wav")[0]
    assert y.max() == pytest.approx(peak, abs=1e-9)
    assert y.min() == (-1.25 if bits == "32f" else -1.0)


@pytest.mark.parametrize("arguments", [("mp3", "16"), ("wav", "8"), ("flac", "32f")])
def test_formats_that_there_are_not(arguments: tuple[str, str]) -> None:
    with pytest.raises(NldiffError, match="expected"):
        sound.AudioFormat(*arguments)


def test_names_tell_containers() -> None:
    names = {"a.WAV": "wav", "a.flac": "flac", "a.aif": "aiff", "a.aiff": "aiff", "a.ogg": None, "wav": None}
    assert {name: sound.named_container(Path(name)) for name in names} == names


# ------------------------------------------------------------ metadata


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


BEXT = b"a description".ljust(256, b"\0") + b"nldiff".ljust(346, b"\0") + b"A=PCM\r\n"
CUE = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 400, b"data", 0, 0, 400)
LABEL = b"adtl" + chunk(b"labl", struct.pack("<I", 1) + b"verse\0")


def broadcast_wave(path: Path) -> Path:
    sf.write(path, np.zeros(801), RATE, subtype="PCM_U8")  # an odd number of bytes
    body = path.read_bytes()[12:]
    body += b"\0" * (len(body) % 2)
    body = chunk(b"bext", BEXT) + body + chunk(b"cue ", CUE) + chunk(b"LIST", LABEL) + chunk(b"junk", b"123")
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body)
    return path


def test_broadcast_and_cue_chunks_are_read_and_written(tmp_path: Path) -> None:
    read = sound.read_metadata(broadcast_wave(tmp_path / "in.wav"))
    assert read.chunks == ((b"bext", BEXT), (b"cue ", CUE), (b"LIST", LABEL))
    written(tmp_path / "out.wav", np.zeros((1, 801)), "wav", "24")
    sound.append_chunks(tmp_path / "out.wav", read.chunks)
    assert sound.read_metadata(tmp_path / "out.wav").chunks == read.chunks
    data = (tmp_path / "out.wav").read_bytes()
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    assert len(sf.read(tmp_path / "out.wav")[0]) == 801


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_another_program_reads_what_was_written(tmp_path: Path) -> None:
    written(tmp_path / "out.wav", np.zeros((1, 801)), "wav", "16")
    sound.append_chunks(tmp_path / "out.wav", sound.read_metadata(broadcast_wave(tmp_path / "in.wav")).chunks)
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format_tags", tmp_path / "out.wav"], capture_output=True, text=True
    )
    assert "comment=a description" in done.stdout
    assert "encoded_by=nldiff" in done.stdout


@pytest.mark.parametrize("cut", [13, 20, 300, 700])
def test_damaged_chunks_are_left_out(tmp_path: Path, cut: int) -> None:
    import io

    from nldiff.sound.metadata import _chunks

    whole = broadcast_wave(tmp_path / "in.wav").read_bytes()
    assert list(_chunks(io.BytesIO(whole[:cut]))) in ([], [(b"bext", BEXT)])


# ------------------------------------------------------------ ffmpeg


def test_what_libsndfile_reads_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    for there in (False, True):
        if there:
            sf.write(path, np.zeros(100), RATE)
        with sound.readable(path) as same:
            assert same == path


def test_without_ffmpeg_the_message_is_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (tmp_path / "x.m4a").touch()
    with (
        pytest.raises(NldiffError, match=r"x\.m4a: ffmpeg is needed to read \.m4a"),
        sound.readable(tmp_path / "x.m4a"),
    ):
        pass


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_audio_of_other_containers_is_decoded(tmp_path: Path) -> None:
    t = np.arange(4 * RATE) / RATE
    x = np.stack([0.3 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 330 * t)])
    sf.write(tmp_path / "x.wav", x.T, RATE)
    path = tmp_path / "- x.m4a"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", tmp_path / "x.wav", "-metadata", "title=Take", f"file:{path}"], check=True
    )
    with sound.readable(path) as decoded:
        y, rate = sound.read(decoded)
        assert sound.read_metadata(decoded).tags["title"] == "Take"
        assert rate == RATE
        assert np.sqrt(np.mean((y[:, 8000:16000] - x[:, 8000:16000]) ** 2)) < 0.02
        inside = decoded
    assert not inside.exists()
    with pytest.raises(NldiffError, match=r"- x\.m4a is silent$") as caught, sound.readable(path) as decoded:
        raise NldiffError(f"{decoded} is silent")
    assert str(caught.value).startswith(str(path))
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(NldiffError, match=r"bad\.mp4 has no audio that ffmpeg can read") as caught:
        sound.readable(tmp_path / "bad.mp4").__enter__()
    assert "\n" not in str(caught.value)
