"""Audio files: find, check, read and write.

Audio is a float32 numpy array `[channels, time]`, nominal range -1 to 1 (float files may exceed it).
Every problem with a file raises an `NldiffError` of one line that begins with the file's path.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.reading import regular_file
from nldiff.writing import atomic_path

AUDIO_SUFFIXES = frozenset(
    {".wav", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"}
)
MIN_SECONDS = 0.1
MIN_RATE, MAX_RATE = 1000, 1_000_000  # Hz
SILENCE_PEAK = 1e-6  # -120 dBFS
BLOCK_FRAMES = 1 << 18

# libsndfile silently shortens a WAV, AIFF, AU, W64 or RF64 file that is cut off, and only writes both sizes to its
# log. Programs that write to a pipe do not know the size and leave a placeholder of about 2 or 4 GiB.
_SIZE_NOTE = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.M)
_SIZE_PLACEHOLDER = 0x7FFFF000
_OGG_PAGE = 65_307  # bytes, at most


class TruncatedError(NldiffError):
    """An audio file that ends early or is damaged from some place on."""


@dataclass(frozen=True)
class AudioInfo:
    """Contents of a file's header: rate in Hz, number of channels, number of frames (samples per channel)."""

    path: Path
    sample_rate: int
    channels: int
    frames: int


def find_audio(paths: Iterable[str | Path], suffixes: frozenset[str] = AUDIO_SUFFIXES) -> list[Path]:
    """Expand folders into the audio files below them.

    Args:
        paths: files, kept as given, and folders, replaced by their audio files (recursive, by suffix, sorted;
            names that begin with a dot are left out).
        suffixes: of the files that are looked for in folders, in small letters.

    Returns:
        The files in the order given, each once.

    Raises:
        NldiffError: a path does not exist, or a folder holds no audio file or has one below it that cannot be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not os.path.isdir(path):  # names may be longer than the system allows
            if not os.path.exists(path):
                raise NldiffError(f"{path} does not exist")
            files.append(path)
            continue
        found = sorted(
            file
            for file in _below(path)
            if file.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not found:
            raise NldiffError(f"{path} is a folder without audio files")
        files += found
    return list(dict.fromkeys(files))


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder."""

    def refuse(error: OSError) -> None:
        raise NldiffError(f"{error.filename} cannot be read: {error.strerror}") from error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def probe(path: str | Path) -> AudioInfo:
    """Read a file's header and validate that its last sample can be read.

    Raises:
        NldiffError: the file is missing, no regular file, empty, unreadable, not audio, truncated or has no samples.
    """
    with open_sound(path) as file:
        if file.frames == 0:
            raise NldiffError(f"{path} contains no samples")
        try:
            file.seek(file.frames - 1)
            last = file.read(1)
        except sf.SoundFileError as error:
            raise _truncated(path) from error
        if len(last) == 0:
            raise _truncated(path)
        return AudioInfo(Path(path), file.samplerate, file.channels, file.frames)


def read(path: str | Path, start: int = 0, frames: int = -1) -> tuple[NDArray[np.float32], int]:
    """Read a file or a part of it.

    Args:
        path: the file.
        start: first frame, 0 to the number of frames.
        frames: number of frames; -1 reads to the end, a number beyond the end stops there.

    Returns:
        Audio float32 `[channels, time]` and the sample rate in Hz.

    Raises:
        NldiffError: as `probe`; also for NaN, infinite or missing samples in the part read, or a start
            outside the file.
    """
    with open_sound(path) as file:
        if not 0 <= start <= file.frames:
            raise NldiffError(f"{path} has {file.frames} frames: cannot read from frame {start}")
        remaining = file.frames - start
        count = remaining if frames < 0 else min(frames, remaining)
        try:
            file.seek(start)
        except sf.SoundFileError as error:
            raise _truncated(path) from error
        return read_frames(file, path, count), file.samplerate


def check_observation(path: str | Path) -> AudioInfo:
    """Validate that a whole file, which is read in blocks, can be restored.

    Raises:
        NldiffError: as `read`; also for a file that is silent (peak below -120 dBFS), constant or shorter
            than 0.1 s.
    """
    with open_sound(path) as file:
        blocks = (
            read_frames(file, path, min(BLOCK_FRAMES, file.frames - start))
            for start in range(0, file.frames, BLOCK_FRAMES)
        )
        check_blocks(str(path), file.channels, file.samplerate, file.frames, blocks)
        return AudioInfo(Path(path), file.samplerate, file.channels, file.frames)


def check_samples(samples: NDArray[np.float32], sample_rate: int, name: str) -> None:
    """Do the checks of `check_observation` for samples `[channels, time]` in memory, called `name` in messages.

    Raises:
        NldiffError: as `check_observation`.
    """
    if not np.isfinite(samples).all():
        raise NldiffError(f"{name} contains NaN or infinite samples")
    check_blocks(name, samples.shape[0], sample_rate, samples.shape[1], [samples])


def check_blocks(name: str, channels: int, rate: int, frames: int, blocks: Iterable[NDArray[np.float32]]) -> None:
    """Raise for a recording in blocks `[channels, n]` that cannot be restored."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise NldiffError(f"{name} has a rate of {rate} Hz: {MIN_RATE} to {MAX_RATE} Hz expected")
    if frames < MIN_SECONDS * rate:
        raise NldiffError(f"{name} is too short: {frames} samples at {rate} Hz, at least {MIN_SECONDS} s expected")
    low = np.full(channels, np.inf)
    high = np.full(channels, -np.inf)
    for block in blocks:
        low = np.minimum(low, block.min(axis=1))
        high = np.maximum(high, block.max(axis=1))
    if max(-low.min(), high.max()) < SILENCE_PEAK:
        raise NldiffError(f"{name} is silent: nothing to restore")
    if np.array_equal(low, high):
        values = " and ".join(dict.fromkeys(f"{value:g}" for value in low))
        raise NldiffError(f"{name} is constant: every sample has the value {values}: nothing to restore")


def write_wav(path: str | Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write a float32 WAV file atomically; amplitudes are not changed, not even beyond full scale.

    Args:
        path: the file; missing folders are created.
        audio: `[channels, time]`.
        sample_rate: in Hz.

    Raises:
        NldiffError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        sf.write(sound_path(temporary), audio.T, sample_rate, format="WAV", subtype="FLOAT")


def sound_path(path: Path) -> bytes | Path:
    """Path as soundfile takes it: bytes on Unix, where names need not be UTF-8 and soundfile cannot encode them."""
    return os.fsencode(path) if os.name == "posix" else path


@contextmanager
def open_sound(path: str | Path, whole: bool = True) -> Iterator[sf.SoundFile]:
    """Open for reading; raises one clear error for every problem that shows in the header.

    Args:
        path: the file.
        whole: refuse a file that shows that it ends early.
    """
    path = Path(path)
    regular_file(path)
    try:
        with path.open("rb") as raw:
            empty = not raw.read(1)
    except OSError as error:
        raise NldiffError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise NldiffError(f"{path} is empty (0 bytes)")
    try:
        file = sf.SoundFile(sound_path(path))
    except (sf.SoundFileError, TypeError) as error:  # TypeError: headerless files, by the suffix .raw
        raise NldiffError(f"{path} is not a readable audio file, or its header is damaged") from error
    with file:
        if whole and (missing_share(file) > 0 or not _has_ogg_end(file, path)):
            raise _truncated(path)
        yield file


def missing_share(file: sf.SoundFile) -> float:
    """Share of the bytes that an open file lacks according to its header; 0 where the header says nothing of it."""
    notes = [(int(promised), int(present)) for promised, present in _SIZE_NOTE.findall(file.extra_info)]
    return max((1 - b / a for a, b in notes if b < a < _SIZE_PLACEHOLDER), default=0.0)


def _has_ogg_end(file: sf.SoundFile, path: Path) -> bool:
    """Whether the last page of an Ogg file is marked as such; it does not say how long it should be."""
    if file.format != "OGG":
        return True
    with path.open("rb") as raw:
        raw.seek(max(0, path.stat().st_size - 2 * _OGG_PAGE))
        end = raw.read()
    page = end.rfind(b"OggS")
    return page >= 0 and len(end) > page + 5 and bool(end[page + 5] & 4)


def read_frames(file: sf.SoundFile, path: str | Path, count: int) -> NDArray[np.float32]:
    """Read exactly `count` finite frames from the current position as `[channels, count]`."""
    try:
        block = file.read(count, dtype="float32", always_2d=True)
    except (sf.SoundFileError, ValueError) as error:  # ValueError: more frames than can be addressed
        raise _truncated(path) from error
    if len(block) < count:
        raise _truncated(path)
    if not np.isfinite(block).all():
        raise NldiffError(f"{path} contains NaN or infinite samples")
    return np.ascontiguousarray(block.T)


def _truncated(path: str | Path) -> TruncatedError:
    return TruncatedError(f"{path} is truncated or damaged: not all of the samples that it promises can be read")
