"""Writing: kills between any two file operations, scratch folders of the dead, sets, signals, full disks."""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from kills import ended, killed

from nldiff import interrupts, writing
from nldiff.errors import NldiffError
from nldiff.writing import (
    atomic_path,
    new_folders,
    replace_after_report,
    replace_folder,
    replace_together,
    scratch_folder,
)

ROOT = Path(__file__).parents[1]
WAITING = """
import sys, time
from pathlib import Path
from nldiff.writing import scratch_folder
with scratch_folder(Path(sys.argv[1])) as scratch:
    (scratch / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that has a scratch folder in tmp_path/out."""
    command = [sys.executable, "-c", WAITING, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_scratch_folders_of_the_dead_are_swept_and_those_of_the_living_are_not(
    tmp_path: Path, waiting: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    (theirs,) = hidden(out)
    with scratch_folder(out), atomic_path(out / "a.txt") as temporary:
        temporary.write_text("a")
        assert theirs in hidden(out)
    assert hidden(out) == [theirs]
    waiting.kill()
    waiting.wait()
    assert hidden(out) == [theirs]
    with atomic_path(out / "b.txt") as temporary:
        temporary.write_text("b")
    assert sorted(os.listdir(out)) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_folders_that_were_made_for_what_failed_go_away_again(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").mkdir()
    deep = tmp_path / "a" / "b" / "c"
    with pytest.raises(NldiffError, match="bad"):  # noqa: SIM117 (the block raises)
        with atomic_path(deep / "file") if kind == "file" else scratch_folder(deep):
            assert deep.is_dir()
            raise NldiffError("bad")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with atomic_path(deep / "file") as temporary:
        temporary.write_text("good")
    with pytest.raises(NldiffError, match="bad"), atomic_path(deep / "file"):
        raise NldiffError("bad")
    assert (deep / "file").read_text() == "good"


def test_new_folders_go_though_the_process_that_made_them_left_before_another(tmp_path: Path) -> None:
    one, kept = tmp_path / "out" / "one", tmp_path / "out" / "kept"
    with new_folders([one, kept]):
        with ExitStack() as others:
            with scratch_folder(one):
                others.enter_context(scratch_folder(one))
            assert one.is_dir()  # in use
        assert (tmp_path / "out").exists()  # only the first tried, in vain
        with atomic_path(kept / "file") as temporary:
            temporary.write_text("a")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "out", kept, kept / "file"]


def test_what_only_looks_like_a_scratch_folder_stays(tmp_path: Path) -> None:
    (tmp_path / ".nldiff-file").touch()
    (tmp_path / "target").mkdir()
    (tmp_path / ".nldiff-link").symlink_to(tmp_path / "target")
    with scratch_folder(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [".nldiff-file", ".nldiff-link", "target"]


@pytest.mark.parametrize("moment", ["before it is opened", "while another has its lock", "with its folder"])
def test_a_scratch_folder_that_another_program_sweeps_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    make, made, locks = tempfile.mkdtemp, [], []

    def swept(**options: Any) -> str:
        made.append(options["dir"])
        if moment == "with its folder" and len(made) == 1:
            options["dir"].rmdir()
        path = make(**options)
        if moment == "before it is opened" and len(made) == 1:
            os.rmdir(path)
        if moment == "while another has its lock" and len(made) == 1:
            locks.append(os.open(path, os.O_RDONLY))
            fcntl.flock(locks[0], fcntl.LOCK_EX)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    with scratch_folder(tmp_path / "out") as scratch:
        assert scratch.is_dir()
        assert len(made) == 2
        for lock in locks:  # the other one does what it had begun
            (other,) = {tmp_path / "out" / name for name in hidden(tmp_path / "out")} - {scratch}
            other.rmdir()
            os.close(lock)
    assert not (tmp_path / "out").exists()


def test_a_scratch_folder_that_was_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if len(seen) == 1:
            os.rmdir(seen[0])
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    before = len(os.listdir("/proc/self/fd"))
    with scratch_folder(tmp_path) as scratch:
        assert (len(seen), str(scratch)) == (2, seen[1])
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []


def test_a_folder_in_which_nothing_can_be_made_is_no_endless_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(NldiffError, match="No such file"), scratch_folder(Path(".")):
        pass


def test_without_locks_folders_are_made_and_none_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # folders on NFS

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".nldiff-other").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with scratch_folder(tmp_path) as scratch:
        assert hidden(tmp_path) == sorted([".nldiff-other", scratch.name])
    assert hidden(tmp_path) == [".nldiff-other"]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "ending", "step"),
    [
        ("nothing", signal.SIGINT, 5),
        pytest.param("files", signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param("error", signal.SIGTERM, 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_any_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ending: signal.Signals, step: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes long
    out = tmp_path / "out" / "deep"

    def work() -> None:
        with suppress(NldiffError), new_folders([out]), scratch_folder(out) as scratch:
            if kind != "nothing":
                (scratch / "audio").write_text("new")
                (scratch / "report").write_text("new")
                replace_together([scratch / "audio", scratch / "report"], out)
            if kind == "error":
                raise NldiffError("bad")

    number = 0
    while ended(work, number, ending, {writing.__file__, interrupts.__file__, contextlib.__file__}):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        whole = {"out", "out/deep", "out/deep/audio", "out/deep/report"} if kind != "nothing" else set()
        assert found in (set(), whole), number
        if found:
            shutil.rmtree(tmp_path / "out")
        number += step
    assert number > 100


def test_files_and_folder_are_on_the_disk_before_and_after_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        done.append((name, (tmp_path / "b.json").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with scratch_folder(tmp_path) as scratch:
        for name in ("a.wav", "b.json"):
            (scratch / name).write_text("new")
        replace_together([scratch / "a.wav", scratch / "b.json"], tmp_path)
    assert done[:2] == [("a.wav", False), ("b.json", False)]
    assert done[-1] == (tmp_path.name, True)


def write_set(folder: Path, version: str) -> None:
    with scratch_folder(folder) as scratch:
        for name in ("audio", "curve", "report"):
            (scratch / name).write_text(version)
        replace_together([scratch / name for name in ("audio", "curve", "report")], folder)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_report_never_stands_beside_another_version(tmp_path: Path) -> None:
    write_set(tmp_path, "old")
    number, seen = 0, set()
    while killed(lambda: write_set(tmp_path, "new"), number):
        contents = {path.name: path.read_text() for path in tmp_path.iterdir() if not path.name.startswith(".")}
        if "report" in contents:
            assert set(contents.values()) in ({"old"}, {"new"}), number
        seen.add(tuple(sorted(contents.items())))
        write_set(tmp_path, "old")
        assert hidden(tmp_path) == []
        number += 1
    assert number >= 12
    assert len(seen) >= 4  # old, without a report, half, new


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_files_never_stand_without_the_report_of_their_version(tmp_path: Path) -> None:
    suffix = ""

    def write_spread(version: str, earlier: Sequence[str]) -> None:
        with scratch_folder(tmp_path) as scratch:
            written = [scratch / name for name in (f"mean{suffix}", f"spread{suffix}", "report")]
            for path in written:
                path.write_text(version)
            replace_after_report(written[2], written[:2], tmp_path, [tmp_path / name for name in earlier])

    def write_old() -> None:
        for path in tmp_path.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        write_spread("old", [])

    def replace() -> None:
        nonlocal suffix
        suffix = end
        write_spread("new", ["mean", "spread", "report"])

    for end in ("", ".flac"):
        write_old()
        number, seen = 0, set()
        while killed(replace, number):
            contents = {path.name: path.read_text() for path in tmp_path.iterdir() if not path.name.startswith(".")}
            assert not contents or "report" in contents, number
            assert len(set(contents.values())) <= 1, number
            seen.add(tuple(sorted(contents.items())))
            write_old()
            number += 1
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
            (f"mean{end}", f"spread{end}", "report"), "new"
        )
        assert len(seen) >= 6


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_was_made_of_a_set_goes_before_it(tmp_path: Path) -> None:
    def write_page(version: str) -> None:
        write_set(tmp_path, version)
        (tmp_path / "page").write_text(version)

    def replace() -> None:
        with scratch_folder(tmp_path) as scratch:
            for name in ("audio", "report"):
                (scratch / name).write_text("new")
            replace_together([scratch / "audio", scratch / "report"], tmp_path, [tmp_path / "page"])

    write_page("old")
    number = 0
    while killed(replace, number):
        contents = {path.name: path.read_text() for path in tmp_path.iterdir() if not path.name.startswith(".")}
        assert "page" not in contents or set(contents.values()) == {"old"}
        write_page("old")
        number += 1
    assert not (tmp_path / "page").exists()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_atomic_file_is_the_old_or_the_new_one_wherever_the_program_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"

    def write(text: str) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text(text)

    write("old")
    number, seen = 0, set()
    while killed(lambda: write("new"), number):
        seen.add(path.read_text())
        write("old")
        assert hidden(tmp_path) == []
        number += 1
    assert number >= 6
    assert seen == {"old", "new"}


def write_page(folder: Path, text: str) -> None:
    with scratch_folder(folder) as scratch:
        (scratch / "page").mkdir()
        for name in ("index.html", "more.html"):
            (scratch / "page" / name).write_text(text)
        replace_folder(scratch / "page", folder / "page")


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path: Path) -> None:
    (tmp_path / "page" / "old").mkdir(parents=True)
    with scratch_folder(tmp_path) as scratch:
        (scratch / "page").mkdir()
        (scratch / "page" / "new").touch()
        replace_folder(scratch / "page", tmp_path / "page")
    assert os.listdir(tmp_path / "page") == ["new"]
    assert os.listdir(tmp_path) == ["page"]


def test_a_folder_is_replaced_where_folders_cannot_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldiff.writing._exchanged", lambda first, second: False)
    write_page(tmp_path, "old")
    write_page(tmp_path, "new")
    assert [path.read_text() for path in sorted(tmp_path.rglob("*.html"))] == ["new", "new"]
    assert os.listdir(tmp_path) == ["page"]


@pytest.mark.skipif(sys.platform != "linux", reason="folders change places at once on Linux only")
def test_a_folder_is_old_or_new_wherever_its_replacement_is_killed(tmp_path: Path) -> None:
    write_page(tmp_path, "old")
    number, seen = 0, set()
    while killed(lambda: write_page(tmp_path, "new"), number):
        (content,) = {path.read_text() for path in (tmp_path / "page").iterdir()}
        assert len(list((tmp_path / "page").iterdir())) == 2
        seen.add(content)
        write_page(tmp_path, "old")
        assert hidden(tmp_path) == []
        number += 1
    assert number >= 6
    assert seen == {"old", "new"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_wait_for_the_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    real = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(number)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught, interrupts.cleaned_up():
        write_set(tmp_path, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("audio", "curve", "report"), "new"
    )
    if number != signal.SIGINT:
        assert isinstance(caught.value, interrupts.Ended)
        assert caught.value.number == number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class _Ends:
    """Sends a signal while it is freed: Python drops what is raised there."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
        [None for _ in range(100)]  # here the handler is called


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_comes_while_an_object_is_freed_is_not_lost(number: signal.Signals) -> None:
    expected = KeyboardInterrupt if number == signal.SIGINT else interrupts.Ended
    hook = sys.unraisablehook
    with pytest.raises(expected), interrupts.cleaned_up():
        del [_Ends(number)][0]
        for _ in range(500):
            time.sleep(0.01)
    assert sys.unraisablehook is hook


def test_a_signal_whose_exception_another_error_replaces_is_not_lost() -> None:
    with pytest.raises(interrupts.Ended), interrupts.cleaned_up():
        with suppress(interrupts.Ended):
            signal.raise_signal(signal.SIGTERM)
        for _ in range(500):
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, interrupts.Ended)]
)
def test_an_error_of_what_was_interrupted_is_no_error(number: signal.Signals, expected: type[BaseException]) -> None:
    # As in argparse, whose `finally` undoes what was not yet done.
    with pytest.raises(expected) as caught, interrupts.cleaned_up():
        try:
            signal.raise_signal(number)
        finally:
            raise AttributeError("save_nargs")
    assert type(caught.value) is expected
    with pytest.raises(AttributeError), interrupts.cleaned_up():
        try:
            raise ValueError
        finally:
            raise AttributeError("save_nargs")


def test_another_signal_does_not_interrupt_the_cleaning_up(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []
    with pytest.raises(interrupts.Ended) as caught, interrupts.cleaned_up():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(number)
                cleaned.append(number)
            with suppress(OSError):
                try:
                    raise OSError
                finally:
                    time.sleep(0.2)  # meanwhile the first one comes again
    assert caught.value.number == signal.SIGTERM
    assert cleaned == [signal.SIGTERM, signal.SIGHUP]
    assert capsys.readouterr().err == ""


def test_another_signal_at_any_moment_of_the_end_changes_nothing() -> None:
    calls, seen, hook = 0, 1, sys.unraisablehook

    def interrupt(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal seen
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            seen += 1
            if seen == calls:
                signal.raise_signal(signal.SIGTERM)

    while seen >= calls:
        calls, seen = calls + 1, 0
        try:
            with pytest.raises(interrupts.Ended), interrupts.cleaned_up():
                sys.setprofile(interrupt)
                signal.raise_signal(signal.SIGHUP)
        finally:
            sys.setprofile(None)
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        assert sys.unraisablehook is hook
    assert calls > 20


def test_a_signal_that_comes_while_the_block_is_left_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", came.append)
    real = threading.Event.set

    def interrupted(event: threading.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(event)

    with interrupts.cleaned_up():
        monkeypatch.setattr(threading.Event, "set", interrupted)
    assert came == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ignored_signals_stay_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.cleaned_up(), interrupts.held():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_other_threads_are_let_be() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with interrupts.cleaned_up(), interrupts.held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGHUP, -1)])
def test_without_the_command_line_signals_do_what_they_did(
    waiting: subprocess.Popen[str], number: signal.Signals, code: int
) -> None:
    waiting.send_signal(number)
    assert waiting.wait(10) == code


def test_a_full_disk_is_named_with_its_space(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match=rf"folder {tmp_path}: No space left .*\(disk /.*, \d+ MB free\)$"):  # noqa: SIM117
        with scratch_folder(tmp_path):
            raise OSError(28, "No space left on device", str(tmp_path / "x"))
    assert os.listdir(tmp_path) == []
