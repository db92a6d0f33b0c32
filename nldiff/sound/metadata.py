"""What files tell besides samples: tags, and the broadcast and cue chunks of WAV files."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile as sf

from nldiff.sound.files import sound_path

# Broadcast extension, cue points with their labels (LIST adtl), instrument and loops, and descriptions in XML.
_KEPT = frozenset({b"bext", b"cue ", b"smpl", b"inst", b"plst", b"iXML", b"axml", b"LIST"})
_LARGEST = 1 << 24
_LARGEST_FILE = 0xFFFFFFFF
# libsndfile writes a name of its own.
_NOT_COPIED = frozenset({"software"})


@dataclass(frozen=True)
class Metadata:
    """What a file tells besides samples.

    Attributes:
        tags: title, artist, comment and others, as libsndfile names them.
        chunks: names and contents of the chunks of a WAV file that belong to its recording, in order.
    """

    tags: dict[str, str]
    chunks: tuple[tuple[bytes, bytes], ...]


def read_metadata(path: Path) -> Metadata:
    """Read tags and chunks of an audio file; none where there are none, or they are damaged.

    Raises:
        soundfile.SoundFileError, OSError: the file cannot be read.
    """
    with sf.SoundFile(sound_path(path)) as file:
        tags = {name: text for name, text in file.copy_metadata().items() if name not in _NOT_COPIED}
    with path.open("rb") as raw:
        return Metadata(tags, tuple(_chunks(raw)))


def append_chunks(path: Path, chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    """Add chunks to the end of a WAV file; one that would exceed 4 GiB stays as it is.

    Raises:
        OSError: the file cannot be written.
    """
    if not chunks:
        return
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        added = b"\0" * (size % 2) + b"".join(
            name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
        )
        if size + len(added) - 8 > _LARGEST_FILE:
            return
        file.write(added)
        file.seek(4)
        file.write(struct.pack("<I", size + len(added) - 8))


def _chunks(raw: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Chunks of a RIFF or RF64 file that are kept."""
    head = raw.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return
    long_data = 0
    while len(head := raw.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"ds64" and size >= 16:
            content = raw.read(size)
            long_data = struct.unpack("<Q", content[8:16])[0]
        elif name in _KEPT and size <= _LARGEST:
            content = raw.read(size)
            if len(content) == size and (name != b"LIST" or content[:4] == b"adtl"):
                yield name, content
        else:
            raw.seek(long_data if name == b"data" and size == _LARGEST_FILE else size, 1)
        raw.seek(size % 2, 1)
