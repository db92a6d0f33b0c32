"""Audio in files that libsndfile does not read, such as M4A and video, decoded by ffmpeg."""

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nldiff.errors import NldiffError

FFMPEG_SUFFIXES = frozenset(
    {".m4a", ".mp4", ".m4v", ".aac", ".ac3", ".mka", ".mkv", ".mov", ".webm", ".avi", ".wma", ".wmv", ".3gp", ".amr"}
)
_log = logging.getLogger(__name__)


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """A path that libsndfile can read: the path itself, or that of a float32 WAV file that is there for the block.

    By the end of its name a file is decoded with ffmpeg: its first audio track, in its own rate and channels.

    Raises:
        NldiffError: ffmpeg is needed and not installed, or cannot read the file. Errors of the block name `path`
            instead of the temporary file.
    """
    if path.suffix.lower() not in FFMPEG_SUFFIXES or not path.is_file():
        yield path
        return
    program = shutil.which("ffmpeg")
    if program is None:
        raise NldiffError(f"{path}: ffmpeg is needed to read {path.suffix} files and is not installed (or convert it)")
    with tempfile.TemporaryDirectory(prefix="nldiff-") as folder:
        decoded = Path(folder) / f"{path.name}.wav"
        options = ["-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto"]
        command = [program, "-nostdin", "-v", "error", "-i", f"file:{path}", *options, f"file:{decoded}"]
        _log.info("%s: decoded by %s", path, program)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise NldiffError(f"{path} has no audio that ffmpeg can read: {reason[-1].replace(f'file:{path}', 'file')}")
        try:
            yield decoded
        except NldiffError as error:
            message = str(error).replace(str(decoded), str(path)).replace(decoded.name, path.name)
            raise NldiffError(message) from error
