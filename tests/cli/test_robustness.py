"""The command line under odd systems: signals, closed streams, odd names, pipes, and what is written where."""

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
from command_line import ROOT, names, one_line, quick_sampler, report, restore, results, run, write
from helpers import TINY_RATE, FakeSampler, save_tiny_prior
from kills import killed


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    return quick_sampler(monkeypatch)


# ------------------------------------------------------------ recordings that end early


def cut_off(path: Path) -> Path:
    write(path, seconds=1.0)
    path.write_bytes(path.read_bytes()[: -TINY_RATE // 2 * 2])
    return path


def test_a_recording_that_ends_early_is_restored_with_a_warning(
    prior: Path, tmp_path: Path, quick: FakeSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = cut_off(tmp_path / "take.wav"), tmp_path / "out"
    assert run(prior, out, path, "--quiet") == 0
    loss = "it ends early: 0.50 s of 1.00 s can be read"
    assert capsys.readouterr().err == f"warning: {path}: {loss}\n"
    assert report(out)["warnings"] == [loss]
    assert report(out)["frames"] == TINY_RATE // 2
    assert names(out) == results("take")


def test_strict_refuses_a_recording_that_ends_early(
    prior: Path, tmp_path: Path, quick: FakeSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(prior, tmp_path / "out", cut_off(tmp_path / "take.wav"), "--quiet", "--strict") == 1
    assert "take.wav is truncated or damaged" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_whole_recording_has_no_warnings_and_says_with_what_it_was_made(
    prior: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    assert run(prior, tmp_path / "out", write(tmp_path / "take.wav"), "--quiet", "--strict") == 0
    content = report(tmp_path / "out")
    assert content["warnings"] == []
    assert content["threads"] == 1
    assert content["number_type"] in ("float32", "bfloat16")


# ------------------------------------------------------------ odd names and arguments


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["operator_fit.betas={}"], "operator_fit"),
        (["refinement.windows={a: 3}"], "refinement"),
        (["refinement.name=typo"], "refinement.name=typo: auto or one of"),
        (["--device", "meta"], "device 'meta': auto, cpu, cuda, cuda:N or mps expected"),
        (["--device", ""], "device ''"),
        (["--steps", "1000000000000"], "sampler.steps=1000000000000: a number of at least 2 and below 1e+06 expected"),
        (["refinement.iterations=1000000000000"], "refinement.iterations"),
        (["cost.n_fft=1099511627776"], "cost.n_fft"),
        ([f"waveshaper_options={{a: '{'x' * 300}'}}"], "waveshaper 'ccr' has no option 'a'"),
        ([f"{'x' * 300}=1"], "x" * 300),
        (["seed=1e400"], "seed"),
        (["sampler=null"], "sampler"),
        (["sampler={a: {b: {c: 1}}}"], "sampler"),
        (["=1"], "=1"),
        (["a b=1"], "a b"),
        (["chunk_seconds=nan"], "chunk_seconds"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_make_no_sense_are_one_line_before_the_work(
    arguments: list[str],
    reason: str,
    prior: Path,
    tmp_path: Path,
    quick: FakeSampler,
    capsys: pytest.CaptureFixture[str],
) -> None:
    takes = [write(tmp_path / f"{name}.wav") for name in "ab"]
    assert run(prior, tmp_path / "out", *takes, "--quiet", *arguments) == 1
    assert reason in one_line(capsys)
    assert quick.calls == []
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_too_long_for_the_results_is_refused_before_the_work(
    prior: Path, tmp_path: Path, quick: FakeSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"{'n' * 246}.wav")
    assert run(prior, tmp_path / "out", path, "--quiet") == 1
    assert "File name too long" in one_line(capsys)
    assert quick.calls == []
    assert not (tmp_path / "out").exists()


def test_control_characters_of_a_name_are_shown_escaped(
    prior: Path, tmp_path: Path, quick: FakeSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write(tmp_path / "good\n\x1b[31m.wav"), tmp_path / "bad\n.wav"
    bad.write_text("no audio")
    assert run(prior, tmp_path / "out", good, bad) == 1
    out, err = capsys.readouterr()
    assert "good\\n\\x1b[31m.wav -> " in out
    assert "\x1b[31m" not in out + err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        f"error: {tmp_path}/bad\\n.wav is not a readable audio file, or its header is damaged"
    ]


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def listening(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


@pytest.mark.parametrize("make", [pipe, listening, lambda path: Path("/dev/zero")], ids=["pipe", "socket", "device"])
@pytest.mark.parametrize("place", ["input", "--config", "--prior", "--weights"])
def test_what_is_no_file_is_refused_at_once(
    make: Callable[[Path], Path], place: str, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    odd, take = make(Path("odd.wav")), write(tmp_path / "take.wav")
    arguments: dict[str, list[str | Path]] = {
        "input": [odd, "--prior", prior], "--config": [take, "--prior", prior, "--config", odd],
        "--prior": [take, "--prior", odd], "--weights": [take, "--method", "demucs", "--weights", odd],
    }  # fmt: skip
    assert restore(*arguments[place], "--output", "out", "--quiet") == 1
    assert f"{odd} is a pipe, device or socket: a file is needed" in one_line(capsys)


def test_a_folder_below_that_cannot_be_read_is_named(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "album" / "closed"
    closed.mkdir(parents=True)
    write(tmp_path / "album" / "take.wav")
    scan = os.scandir

    def refuse(path: Any) -> object:  # file modes do not stop an administrator
        if path == closed or path == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run(prior, tmp_path / "out", tmp_path / "album") == 1
    assert f"{closed} cannot be read: Permission denied" in one_line(capsys)


# ------------------------------------------------------------ streams, signals, places

BATCH = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from helpers import FakeSampler
import nldiff.figures.plots
from nldiff.restoration.methods import METHODS
from dataclasses import replace
nldiff.figures.plots.save_figure = lambda figure, path: path.touch()
from functools import partial
pause = float(sys.argv.pop(1))
def answer(y):
    print("working", file=sys.__stderr__, flush=True) if pause else None
    time.sleep(pause)
    return y.clone()
for name, method in METHODS.items():
    if method.uses_prior:
        METHODS[name] = replace(method, run=partial(method.run, sample=FakeSampler(answer, keep=False)))
from nldiff.cli import run_command
sys.exit(run_command("restore", sys.argv[1:], "nldiff restore"))
"""


def batch(pause: float, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", BATCH, str(ROOT / "tests"), str(pause), *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


@pytest.mark.parametrize("closed", ["1>&- 2>&-", "2> >(true) | true"])
def test_a_closed_stream_does_not_stop_the_batch(closed: str, prior: Path, tmp_path: Path) -> None:
    takes = [write(tmp_path / f"{name}.wav", seed=number) for number, name in enumerate("abc")]
    (tmp_path / "batch.py").write_text(BATCH)
    parts = [
        sys.executable,
        tmp_path / "batch.py",
        ROOT / "tests",
        "0",
        *takes,
        "--output",
        tmp_path / "out",
        "--prior",
        prior,
    ]
    line = "set -o pipefail; " + " ".join(f"'{part}'" for part in parts) + f" {closed}"
    done = subprocess.run(
        ["bash", "-c", line], env=environment(), cwd=ROOT, timeout=300, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert names(tmp_path / "out") == results("a", "b", "c"), done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_a_signal_leaves_nothing(number: signal.Signals, code: int, word: str, prior: Path, tmp_path: Path) -> None:
    take = write(tmp_path / "take.wav")
    line = batch(30, take, "--output", tmp_path / "out", "--prior", prior, "--quiet")
    with subprocess.Popen(line, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "working\n"
        assert len(names(tmp_path / "out")) == 1
        process.send_signal(number)
        assert process.wait(60) == code
        assert process.stderr.read() == f"{word}\n"
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_text_is_executed_ends_with_the_same_code(tmp_path: Path) -> None:
    (tmp_path / "executing.py").write_text(
        """
import sys
from nldiff.cli import COMMANDS, Command, main
def add_arguments(parser): pass
def run(options): exec("import signal; signal.raise_signal(signal.SIGINT)")
COMMANDS["restore"] = Command("executing", "")
if __name__ == "__main__": sys.exit(main(["restore"]))
"""
    )
    places = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", "executing"], env=environment() | places, timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_the_next_run_sweeps_what_a_killed_one_left(prior: Path, tmp_path: Path) -> None:
    take = write(tmp_path / "take.wav")
    line = batch(30, take, "--output", tmp_path / "out", "--prior", prior, "--quiet")
    with subprocess.Popen(line, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.kill()
    assert len(names(tmp_path / "out")) == 1
    line = batch(0, take, "--output", tmp_path / "out", "--prior", prior, "--quiet")
    subprocess.run(line, env=environment(), cwd=ROOT, check=True, timeout=120)
    assert names(tmp_path / "out") == results("take")


# ------------------------------------------------------------ kills at any moment


def without_time(name: str, content: bytes) -> bytes:
    """Float WAV files tell when their peak was measured: only the samples count."""
    return sf.read(io.BytesIO(content))[0].tobytes() if name.endswith(".wav") else content


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_restoration_leaves_the_old_set_or_the_new_one(
    prior: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    take, out = tmp_path / "take.wav", tmp_path / "out"

    def restored(seed: int, seconds: float) -> None:
        write(take, seconds, seed)
        assert run(prior, out, take, "--quiet", f"seed={seed}") == 0

    restored(1, 0.2)
    old = {name: (out / name).read_bytes() for name in results("take")}
    restored(2, 0.3)
    new = {name: (out / name).read_bytes() for name in results("take")}
    new_frames = sf.info(out / "take.restored.wav").frames
    restored(1, 0.2)
    write(take, 0.3, 2)
    number = kills = 0
    while killed(lambda: run(prior, out, take, "--quiet", "seed=2"), number):
        kills += 1
        there = {name: (out / name).read_bytes() for name in results("take") if (out / name).exists()}
        if "take.json" in there:
            version = new if report(out)["seed"] == 2 else old
            assert len(there) == 4
            for name in there.keys() - {"take.json"}:
                assert without_time(name, there[name]) == without_time(name, version[name]), (number, name)
            assert report(out)["frames"] == sf.info(out / "take.restored.wav").frames
        number += 1 if kills > 5 else 7
    assert kills > 20
    assert run(prior, out, take, "--quiet", "seed=2") == 0
    assert names(out) == results("take")
    assert sf.info(out / "take.restored.wav").frames == new_frames
