"""Where results go: names and folders of results, formats, pipes; shared by commands that write audio."""

import argparse
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nldiff import sound
from nldiff.cli.terminal import complain
from nldiff.errors import NldiffError
from nldiff.restoration.spread import SPREAD_REPORT

PIPE = "-"
# How containers that libsndfile does not read begin: (offset, bytes, end of a name for ffmpeg).
_SIGNATURES = ((4, b"ftyp", ".m4a"), (0, b"\x1a\x45\xdf\xa3", ".mkv"))


@dataclass(frozen=True)
class Source:
    """An input: the file to read, its name below the folder that was given, and what messages call it."""

    path: Path
    relative: Path
    shown: str

    def complain(self, error: Exception) -> None:
        """Print what is wrong with it, under the name that the user knows."""
        message = str(error).replace(str(self.path), self.shown)
        complain("error", message if self.shown in message else f"{self.shown}: {message}")


@dataclass(frozen=True)
class Destination:
    """Where the results of a source go: folder, stem, and the name of the audio file if the user gave one."""

    folder: Path
    stem: str
    audio_name: str | None = None


def add_output_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options of commands that write audio; `folder` is the default folder."""
    add = parser.add_argument
    add(
        "-o", "--output", default=folder, metavar="PATH",
        help=f"folder of the results, in which folders are kept; the file of a single one (.wav, .flac, .aiff); or - "
        f"for standard output (default: {folder})",
    )  # fmt: skip
    add("--format", choices=sound.FORMATS, help="of the audio (default: wav, or by the name of the file)")
    add(
        "--bits", choices=sound.BITS,
        help="of the audio (default: 32f, floats that are never clipped; flac: 24). 16 and 24 bits get dither of "
        "±1 step (triangular), and samples beyond full scale are clipped, with a warning",
    )  # fmt: skip
    add("--skip-existing", action="store_true", help="leave out inputs that have all their results already")
    add("-v", "--verbose", action="store_true", help="say on standard error what happens")


def chosen_format(options: argparse.Namespace) -> sound.AudioFormat:
    """The format of the audio.

    Raises:
        NldiffError: bits that the container does not hold, or a file name that tells another format or one that is not
            written.
    """
    named = sound.named_container(Path(options.output)) if _is_file(options.output) else None
    suffix = Path(options.output).suffix.lower()
    if named is None and suffix in sound.AUDIO_SUFFIXES | sound.FFMPEG_SUFFIXES and not Path(options.output).is_dir():
        raise NldiffError(f"--output {options.output}: files of {', '.join(sound.FORMATS)} are written, or a folder")
    if options.format and named and options.format != named:
        raise NldiffError(f"--format {options.format}: --output {options.output} is the name of another format")
    container = options.format or named or "wav"
    return sound.AudioFormat(container, options.bits or ("24" if container == "flac" else "32f"))


def find_sources(inputs: Sequence[str], scratch: Path, mark: str) -> list[Source]:
    """The files of inputs: files, folders and - for standard input, which is kept in `scratch`.

    In folders, results of earlier runs are left out: stems that end with `mark`, and what a report of a spread is of.

    Raises:
        NldiffError: an input does not exist, or a folder holds no audio file.
    """
    suffixes = sound.AUDIO_SUFFIXES | sound.FFMPEG_SUFFIXES
    sources: dict[Path, Source] = {}
    for text in dict.fromkeys(inputs):  # standard input can be read once
        if text == PIPE:
            path = _standard_input(scratch)
            sources[path] = Source(path, Path("stdin"), "standard input")
            continue
        given = Path(text)
        for path in sound.find_audio([given], suffixes):
            inside = path != given
            if not (inside and (path.stem.endswith(mark) or _is_spread(path))):
                sources.setdefault(
                    path, Source(path, path.relative_to(given) if inside else Path(path.name), str(path))
                )
    return list(sources.values())


def plan_destinations(sources: Sequence[Source], output: str, scratch: Path) -> list[Destination]:
    """A destination for every source; folders are kept, and equal names get their suffix, folder or a number.

    Raises:
        NldiffError: several sources and one file or standard output as `output`.
    """
    if output == PIPE or _is_file(output):
        if len(sources) > 1:
            raise NldiffError(f"--output {output}: a folder expected for {len(sources)} inputs")
        file = scratch / "stdout.wav" if output == PIPE else Path(output)
        return [Destination(file.parent, file.stem, file.name)]
    names: list[Path] = [source.relative.parent / source.relative.stem for source in sources]
    longer = [lambda s: s.relative, lambda s: Path(s.path.resolve().parent.name) / s.relative]
    for rename in longer:
        count = Counter(names)
        names = [name if count[name] == 1 else rename(source) for name, source in zip(names, sources, strict=True)]
    taken: set[Path] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index] in taken:
            number += 1
            names[index] = name.with_name(f"{name.name} ({number})")
        taken.add(names[index])
    return [Destination(Path(output) / name.parent, name.name) for name in names]


def refuse_overwriting(results: Sequence[Path], sources: Sequence[Source]) -> None:
    """Validate up front that results overwrite neither an input nor each other.

    Raises:
        NldiffError: they would.
    """
    inputs = {source.path.resolve() for source in sources}
    for path, count in Counter(path.resolve() for path in results).items():
        if path in inputs:
            raise NldiffError(f"{path} is an input and would be overwritten by a result")
        if count > 1:
            raise NldiffError(f"{path} would be the result of {count} inputs: give them one by one")


def send(path: Path) -> None:
    """Copy a file to standard output."""
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


@contextmanager
def scratch_files() -> Iterator[Path]:
    """Temporary folder, for what comes and goes through pipes."""
    with tempfile.TemporaryDirectory(prefix="nldiff-") as folder:
        yield Path(folder)


@contextmanager
def messages(verbose: bool) -> Iterator[None]:
    """Show the library's messages on standard error, if `verbose`."""
    log = logging.getLogger("nldiff")
    handler, level = logging.StreamHandler(sys.stderr), log.level
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    if verbose:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _is_file(output: str) -> bool:
    return sound.named_container(Path(output)) is not None and not Path(output).is_dir()


def _is_spread(path: Path) -> bool:
    base, _, end = path.stem.rpartition(".")
    return end in ("mean", "spread") and path.with_name(base + SPREAD_REPORT).is_file()


def _standard_input(scratch: Path) -> Path:
    path = scratch / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with path.open("rb") as file:
        head = file.read(16)
    for offset, mark, suffix in _SIGNATURES:
        if head[offset : offset + len(mark)] == mark:
            return path.rename(path.with_name(f"stdin{suffix}"))
    return path
