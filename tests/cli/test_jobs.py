"""`nldiff restore --jobs`: inputs side by side."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
from command_line import names, one_line, results, run, write
from helpers import save_tiny_prior

from nldiff.cli import restore
from nldiff.cli.destinations import Source
from nldiff.cli.jobs import run_in_processes


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


def test_results_and_messages_are_those_of_one_job(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    takes = [write(tmp_path / f"{name}.wav", seed=seed) for seed, name in enumerate("abc")]
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    arguments: list[str | Path] = [takes[0], bad, *takes[1:], "sampler.steps=2", "--seed", "3"]
    printed = []
    for jobs in ("1", "2"):
        assert run(prior, tmp_path / jobs, *arguments, "--jobs", jobs) == 1
        out, err = capsys.readouterr()
        printed.append(re.sub(r"\d+ s, seed", "TIME, seed", out.replace(str(tmp_path / jobs), "OUT")))
        assert f"error: {bad}" in err
    assert printed[0] == printed[1]
    assert names(tmp_path / "2") == results("a", "b", "c")
    for name in "abc":
        one, two = (sf.read(tmp_path / jobs / f"{name}.restored.wav")[0] for jobs in ("1", "2"))
        assert one == pytest.approx(two, abs=1e-4)


def test_processes_keep_to_the_list_that_was_made_first(prior: Path, tmp_path: Path) -> None:
    # A file that comes into the folder meanwhile, here the first by name, shifts no numbers.
    (tmp_path / "takes").mkdir()
    late, wanted = (write(tmp_path / "takes" / f"{name}.wav") for name in "ab")
    parser = argparse.ArgumentParser()
    restore.add_arguments(parser)
    options = parser.parse_args(
        ["--prior", str(prior), "--steps", "2", "--quiet", "-o", str(tmp_path / "out"), "takes"]
    )
    options.inputs = [str(tmp_path / "takes")]
    options.sources, options.only = [Source(wanted, Path("b.wav"), str(wanted))], 0
    assert late.exists()
    assert restore.run(options) == 0
    assert names(tmp_path / "out") == results("b")


def test_a_folder_that_cannot_be_made_is_the_error_of_its_inputs(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "takes" / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        write(tmp_path / "takes" / f"{name}.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").touch()
    assert run(prior, tmp_path / "out", tmp_path / "takes", "--steps", "2", "--quiet", "--jobs", "2") == 1
    assert f"takes/sub/b.wav: results cannot be written to folder {tmp_path / 'out' / 'sub'}" in one_line(capsys)
    assert names(tmp_path / "out") == {"sub", *results("a")}


@pytest.mark.parametrize(
    ("number", "to_all", "code", "line"),
    [
        (signal.SIGTERM, False, 143, "ended by SIGTERM"),
        (signal.SIGINT, False, 130, "interrupted"),
        (signal.SIGHUP, True, 129, "ended by SIGHUP"),  # a terminal that is closed
        (signal.SIGKILL, False, -signal.SIGKILL, ""),
    ],
)
def test_processes_end_with_the_one_that_started_them(
    prior: Path, tmp_path: Path, number: signal.Signals, to_all: bool, code: int, line: str
) -> None:
    takes = [write(tmp_path / f"{name}.wav") for name in "ab"]
    command = [sys.executable, "-m", "nldiff", "restore", *map(str, takes), "--prior", str(prior), "--jobs", "2"]
    out = tmp_path / "out"
    # Steps for hours.
    with subprocess.Popen(
        [*command, "--steps", "900000", "--quiet", "-o", str(out)], stderr=subprocess.PIPE, start_new_session=True
    ) as started:
        try:
            until = time.monotonic() + 240
            while len(list(out.glob(".*"))) < 2 and time.monotonic() < until:
                time.sleep(0.1)
            assert len(list(out.glob(".*"))) == 2  # what both of them write to
            (os.killpg if to_all else os.kill)(started.pid, number)
            _, err = started.communicate(timeout=120)  # until the last of them has closed the stream
        finally:
            if living(started.pid):
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == code
    if number != signal.SIGKILL:  # after which Python says something, and nobody removes the folder
        assert err.decode().splitlines() == [line]
        assert not out.exists()


def test_less_than_one_job_is_refused(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(prior, tmp_path / "out", write(tmp_path / "a.wav"), "--jobs", "0") == 1
    assert "--jobs 0" in one_line(capsys)


def living(group: int) -> bool:
    """Whether a process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_long(options: argparse.Namespace) -> int:
    time.sleep(600)
    return 0


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_while_processes_are_started_ends_them(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    submit, submitted = ProcessPoolExecutor.submit, []

    def interrupted(*arguments: Any) -> Any:
        future = submit(*arguments)
        submitted.append(future)
        if len(submitted) == at:
            signal.raise_signal(signal.SIGINT)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_processes(wait_long, argparse.Namespace(jobs=2, quiet=True), [{}, {}])
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert time.monotonic() - started < 300
    assert active_children() == []


def fail_or_wait(options: argparse.Namespace) -> int:
    time.sleep(options.seconds)
    raise OSError("no space")


def test_an_error_that_ends_the_command_ends_the_other_processes() -> None:
    options = argparse.Namespace(jobs=2, quiet=True)
    started = time.monotonic()
    with pytest.raises(OSError, match="no space"):
        run_in_processes(fail_or_wait, options, [{"seconds": 1}, {"seconds": 600}])
    assert time.monotonic() - started < 300


def blocked(options: argparse.Namespace) -> int:
    return int(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_ctrl_c_does_not_meet_a_process_that_starts() -> None:
    options = argparse.Namespace(jobs=2, quiet=True)
    assert run_in_processes(blocked, options, [{}, {}]) == 1
    assert not blocked(options)
