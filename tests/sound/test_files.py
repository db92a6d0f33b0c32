import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.writing import atomic_path

READERS: list[Callable[[Path], object]] = [sound.probe, sound.read, sound.check_observation]


def noise(channels: int = 2, frames: int = 5000, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, frames))).astype(np.float32)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", "FLOAT", 0.0),
        (".wav", "PCM_16", 2**-15),
        (".flac", "PCM_24", 2**-23),
        (".aiff", "PCM_24", 2**-23),
        (".au", "FLOAT", 0.0),
    ],
)
@pytest.mark.parametrize("rate", [8000, 22051, 44100, 96000])
def test_lossless_round_trip(tmp_path: Path, suffix: str, subtype: str, tolerance: float, rate: int) -> None:
    path = tmp_path / f"Gitarre, 5 Töne 音{suffix}"
    signal = noise()
    sf.write(path, signal.T, rate, subtype=subtype)
    back, back_rate = sound.read(path)
    assert back_rate == rate
    assert back.dtype == np.float32
    assert back.shape == signal.shape
    np.testing.assert_allclose(back, signal, rtol=0, atol=tolerance)
    assert sound.probe(path) == sound.AudioInfo(path, rate, 2, 5000)


def test_ogg_keeps_length_and_waveform(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    sine = (0.3 * np.sin(2 * np.pi * 440 * np.arange(22051) / 22050)).astype(np.float32)
    sf.write(path, sine, 22050)
    back, rate = sound.read(path)
    assert (rate, back.shape) == (22050, (1, 22051))
    error = np.sqrt(np.mean((back[0] - sine) ** 2))
    assert error < 0.02 * np.sqrt(np.mean(sine**2))  # lossy


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 5000), frames=st.integers(-1, 6000))
def test_read_a_part(tmp_path_factory: pytest.TempPathFactory, suffix: str, start: int, frames: int) -> None:
    path = tmp_path_factory.getbasetemp() / f"part{suffix}"
    signal = noise()
    if not path.exists():
        sf.write(path, signal.T, 44100, subtype="PCM_24")
    part, _ = sound.read(path, start, frames)
    expected = signal[:, start:] if frames < 0 else signal[:, start : start + frames]
    assert part.shape == expected.shape
    np.testing.assert_allclose(part, expected, rtol=0, atol=2**-23)


@pytest.mark.parametrize("start", [-1, 5001])
def test_read_from_outside_the_file(tmp_path: Path, start: int) -> None:
    path = tmp_path / "a.wav"
    sound.write_wav(path, noise(), 44100)
    with pytest.raises(NldiffError, match=f"a.wav has 5000 frames: cannot read from frame {start}"):
        sound.read(path, start)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (None, "a.wav", "does not exist"),
        (b"", "a.wav", "is empty"),
        (b"no audio, but text\n" * 100, "a.wav", "is not a readable audio file"),
        (b"no audio, but text\n" * 100, "a.flac", "is not a readable audio file"),
        (b"no audio, but text\n" * 100, "a.raw", "is not a readable audio file"),
        (b"RIFF\x00\x01\x00\x00WAVEfm", "a.wav", "is not a readable audio file"),
    ],
)
def test_files_without_audio(
    tmp_path: Path, reader: Callable[[Path], object], content: bytes | None, name: str, reason: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NldiffError) as caught:
        reader(path)
    assert str(caught.value).startswith(f"{path} {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_is_not_a_file(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    folder = tmp_path / "a.wav"
    folder.mkdir()
    with pytest.raises(NldiffError, match=r"a\.wav is a folder"):
        reader(folder)


@pytest.mark.parametrize("reader", READERS)
def test_no_permission_to_read(
    tmp_path: Path, reader: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    sound.write_wav(path, noise(), 44100)

    def refuse(*_: object, **__: object) -> None:  # file modes do not stop an administrator
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NldiffError, match=r"a\.wav cannot be read: Permission denied$"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        (".wav", "PCM_16"),
        (".wav", "FLOAT"),
        (".flac", "PCM_16"),
        (".aiff", "PCM_16"),
        (".au", "PCM_16"),
        (".w64", "PCM_16"),
        (".rf64", "PCM_16"),
        (".mp3", "MPEG_LAYER_III"),
        (".ogg", "VORBIS"),
        (".opus", "OPUS"),
    ],
)
def test_truncated_files(tmp_path: Path, reader: Callable[[Path], object], suffix: str, subtype: str) -> None:
    path = tmp_path / f"a{suffix}"
    rate, container = (48000, "OGG") if suffix == ".opus" else (44100, None)
    sf.write(path, noise(frames=44100).T, rate, subtype=subtype, format=container)
    reader(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NldiffError, match=r"is truncated or damaged"):
        reader(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_placeholder_sizes_of_streamed_wav_are_not_truncation(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    signal = noise()
    sf.write(path, signal.T, 44100, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    position = content.index(b"data") + 4
    content[position : position + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    np.testing.assert_allclose(sound.read(path)[0], signal, rtol=0, atol=2**-15)


def test_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sound.write_wav(path, noise(frames=0), 44100)
    with pytest.raises(NldiffError, match=r"a\.wav contains no samples"):
        sound.probe(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "song.wav"
    signal = noise(frames=10000)
    signal[1, 9999] = value
    sound.write_wav(path, signal, 44100)
    for reader in (sound.read, sound.check_observation):
        with pytest.raises(NldiffError, match=r"song\.wav contains NaN or infinite samples$"):
            reader(path)
    assert sound.read(path, 0, 9999)[0].shape == (2, 9999)


# ------------------------------------------------------------ finding


def test_find_audio_expands_folders(tmp_path: Path) -> None:
    (tmp_path / "album" / "cd 2").mkdir(parents=True)
    (tmp_path / "album" / ".hidden").mkdir()
    (tmp_path / "album" / "folder.wav").mkdir()
    for name in ("b.WAV", "a.flac", "cd 2/c.ogg", "cover.jpg", "._a.flac", ".hidden/d.wav"):
        (tmp_path / "album" / name).touch()
    single = tmp_path / "take.xyz"
    single.touch()
    album = tmp_path / "album"
    expected = [single, album / "a.flac", album / "b.WAV", album / "cd 2" / "c.ogg"]
    assert sound.find_audio([str(single), album]) == expected
    assert sound.find_audio([single, album, album / "a.flac"]) == expected


def test_find_audio_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NldiffError, match=r"is a folder without audio files$"):
        sound.find_audio([tmp_path])
    with pytest.raises(NldiffError, match=r"nowhere\.wav does not exist$"):
        sound.find_audio([tmp_path / "nowhere.wav"])


# ------------------------------------------------------------ checking


@pytest.mark.parametrize("frames", [10000, 300_000])  # one block and more than one
@pytest.mark.parametrize("channels", [1, 2])
def test_a_checked_file_is_described(tmp_path: Path, channels: int, frames: int) -> None:
    path = tmp_path / "a.wav"
    sound.write_wav(path, noise(channels, frames), 44100)
    assert sound.check_observation(path) == sound.AudioInfo(path, 44100, channels, frames)


@pytest.mark.parametrize("place", [3, 299_998])  # in the first and in the last block
def test_one_sound_in_silence_is_found(tmp_path: Path, place: int) -> None:
    signal = np.zeros((2, 300_000), np.float32)
    signal[1, place] = -2e-6
    sound.write_wav(tmp_path / "a.wav", signal, 44100)
    sound.check_observation(tmp_path / "a.wav")


@pytest.mark.parametrize("scale", [1e6, 3e38])
def test_huge_levels_do_not_overflow(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "a.wav"
    square_wave = np.where(np.arange(10000) % 20 < 10, scale, -scale).astype(np.float32)[None]
    sound.write_wav(path, square_wave, 44100)
    sound.check_observation(path)


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (np.zeros((1, 44100)), "is silent"),
        (np.full((2, 44100), 9e-7), "is silent"),
        (np.full((1, 44100), 0.5), "is constant: every sample has the value 0.5: nothing to restore"),
        (np.repeat([[0.5], [-0.25]], 44100, axis=1), "every sample has the value 0.5 and -0.25"),
        (np.ones((1, 1)), "is too short: 1 samples at 44100 Hz"),
        (noise(1, 4409), "is too short: 4409 samples"),
    ],
)
def test_nothing_to_restore(tmp_path: Path, signal: NDArray[np.floating], reason: str) -> None:
    path = tmp_path / "a.wav"
    sound.write_wav(path, signal.astype(np.float32), 44100)
    with pytest.raises(NldiffError) as caught:
        sound.check_observation(path)
    assert reason in str(caught.value)


def test_shortest_and_quietest_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    signal = np.zeros((1, 4410), np.float32)
    signal[0, 100] = 2e-6
    sound.write_wav(path, signal, 44100)
    assert sound.check_observation(path).frames == 4410


def test_check_needs_no_more_memory_for_longer_files(tmp_path: Path) -> None:
    peaks = []
    for frames in (600_000, 2_400_000):
        path = tmp_path / f"{frames}.wav"
        sf.write(path, noise(1, frames)[0], 44100, subtype="PCM_16")
        tracemalloc.start()
        sound.check_observation(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# ------------------------------------------------------------ resampling and levels

RATES = st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000])


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(0, 3000), channels=st.integers(1, 2), from_rate=RATES, to_rate=RATES)
def test_resampled_length(frames: int, channels: int, from_rate: int, to_rate: int) -> None:
    signal = noise(channels, frames)
    resampled = sound.resample(signal, from_rate, to_rate)
    assert resampled.shape == (channels, round(frames * to_rate / from_rate))
    assert resampled.dtype == np.float32
    if from_rate == to_rate:
        np.testing.assert_array_equal(resampled, signal)


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44100, 48000), (48000, 44100), (44100, 16000), (16000, 44100), (96000, 22050)]
)
@pytest.mark.parametrize(
    ("fraction", "limit"),
    [(0.01, -100), (0.2, -100), (0.44, -58.8)],  # near the edge the filter is 0.01 dB flat, -58.8 dB
)
def test_resampled_sine_is_a_sine(from_rate: int, to_rate: int, fraction: float, limit: float) -> None:
    frequency = fraction * min(from_rate, to_rate)

    def tone(rate: int) -> NDArray[np.float64]:
        angle = 2 * np.pi * frequency * np.arange(rate) / rate + 0.4  # one second
        return np.stack([np.sin(angle), 0.5 * np.cos(angle)])

    error = sound.resample(tone(from_rate).astype(np.float32), from_rate, to_rate) - tone(to_rate)
    inside = error[:, to_rate // 10 : -to_rate // 10]
    assert 20 * np.log10(np.abs(inside).max()) < limit


def test_rms() -> None:
    assert sound.rms(np.array([[3.0, -4.0], [0.0, 5.0]], np.float32)) == pytest.approx(12.5**0.5)
    assert sound.rms(np.full((1, 10), 3e38, np.float32)) == pytest.approx(3e38, 1e-6)
    assert sound.rms(np.zeros((2, 0), np.float32)) == 0.0


# ------------------------------------------------------------ writing


def test_write_wav_keeps_samples_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "très long.wav"
    signal = 40 * noise()  # beyond full scale
    sound.write_wav(path, signal, 22051)
    assert sf.info(path).subtype == "FLOAT"
    back, rate = sound.read(path)
    assert rate == 22051
    np.testing.assert_array_equal(back, signal)
    assert names_in(path.parent) == ["très long.wav"]


def test_atomic_path_replaces_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        assert temporary.parent.parent == path.parent  # on the same disk
        assert temporary.name == path.name
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["report.json"]


def test_atomic_path_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.wav"):
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


def test_unwritable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(NldiffError, match=r"a\.wav cannot be written in folder .*file: "):
        sound.write_wav(tmp_path / "file" / "a.wav", noise(), 44100)
    with pytest.raises(NldiffError, match=r"folder\.wav is a folder"):
        sound.write_wav(tmp_path / "folder.wav", noise(), 44100)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(NldiffError, match=r"a\.wav cannot be written in folder .*: Permission denied$"):
        sound.write_wav(tmp_path / "a.wav", noise(), 44100)
    assert names_in(tmp_path) == ["file", "folder.wav"]


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), sf.SoundFileRuntimeError("No space left on device")]
)
def test_full_disk(tmp_path: Path, problem: Exception) -> None:
    with (
        pytest.raises(
            NldiffError, match=r"a\.wav cannot be written: .*No space left on device \(disk .*, \d+ MB free\)$"
        ),
        atomic_path(tmp_path / "a.wav"),
    ):
        raise problem
    assert names_in(tmp_path) == []
