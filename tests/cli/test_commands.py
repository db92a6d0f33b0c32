"""The `nldiff` command and its scripts: names, help, version, exit codes, what is imported when, programs."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from command_line import SUFFIXES, names, one_line, program, quick_sampler, report, results, write
from helpers import save_tiny_prior

import nldiff
from nldiff.cli import COMMANDS, main


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny prior, #1.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "take.wav")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"nldiff {nldiff.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["repair"], ["--output", "out"]])
def test_a_command_is_needed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: nldiff")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.purpose)}$", out, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: nldiff {command}")
    assert COMMANDS[command].purpose in out
    assert {
        "evaluate": "--smoke",
        "report": "--lufs",
        "app": "--port",
        "apply": "--antialias",
        "export": "--to",
        "identify": "--operator",
        "diagnose": "--json",
    }.get(command, "--config") in out


def test_nldiff_restore_is_infer(prior: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_sampler(monkeypatch)
    arguments = ["restore", "--quiet", str(source), "--output", str(tmp_path / "out"), "--prior", str(prior)]
    assert main([*arguments, "seed=9"]) == 0
    assert report(tmp_path / "out")["seed"] == 9


def test_a_file_that_the_system_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    run_dir = tmp_path / "file" / "run"
    assert main(["report", str(run_dir)]) == 1
    assert str(run_dir) in one_line(capsys)


# ------------------------------------------------------------ what is imported when


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["resotre", "take.wav"], 2), ([], 2)]
)
def test_help_version_and_misspelt_commands_need_no_torch(arguments: list[str], code: int) -> None:
    text = (
        f"import sys\nfrom nldiff.cli import main\ntry: main({arguments})\nexcept SystemExit as end: code = end.code\n"
    )
    done = program("-c", text + "print('numpy' in sys.modules, 'torch' in sys.modules, code)")
    assert done.stdout.splitlines()[-1] == f"False False {code}", done.stderr


def test_the_package_alone_imports_no_torch_and_has_its_names_all_the_same() -> None:
    text = "import sys, nldiff; before = 'torch' in sys.modules; print(before, *map(callable, [nldiff.restore, "
    done = program("-c", text + "nldiff.load_prior, nldiff.RestoreConfig, nldiff.Restoration, nldiff.NldiffError]))")
    assert done.stdout.split() == ["False", *5 * ["True"]], done.stderr
    with pytest.raises(AttributeError, match="module 'nldiff' has no attribute 'retsore'"):
        nldiff.retsore  # noqa: B018


def test_the_library_leaves_the_environment_alone() -> None:
    text = "import os; before = dict(os.environ); import nldiff.restoration.pipeline, nldiff.cli.restore"
    done = program("-c", f"{text}; print(dict(os.environ) == before)")
    assert done.stdout == "True\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP comes with the Linux build of PyTorch")
@pytest.mark.parametrize(
    ("given", "expected"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_idle_threads_give_way_unless_the_user_says_otherwise(
    source: Path, tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    arguments = ["restore", str(source), "--output", str(tmp_path / "out"), "--method", "demcus"]
    done = program("-m", "nldiff", *arguments, OMP_DISPLAY_ENV="VERBOSE", **given)
    assert done.returncode == 1
    assert re.findall("GOMP_SPINCOUNT = '([0-9]+)'", done.stderr) == [expected]


# ------------------------------------------------------------ as programs


def test_infer_py_restores_and_reports_what_it_could_not(prior: Path, source: Path, tmp_path: Path) -> None:
    shutil.copy(source, tmp_path / "übung 2.wav")
    (tmp_path / "bad.wav").write_text("no audio")
    inputs = [source, tmp_path / "bad.wav", tmp_path / "übung 2.wav"]
    done = program("infer.py", *inputs, "--output", tmp_path / "out", "--prior", prior, "--device", "cpu", "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path / 'bad.wav'} is not a readable audio file, or its header is damaged\n"
    assert names(tmp_path / "out") == results("take", "übung 2")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere than on Unix all names are text")
def test_names_that_are_no_text(source: Path, tmp_path: Path) -> None:
    inputs, folder = [os.fsencode(tmp_path) + name for name in (b"/caf\xe9.wav", b"/bad\xff.wav")], tmp_path / "out"
    os.replace(source, inputs[0])
    Path(os.fsdecode(inputs[1])).write_text("no audio")
    done = program("infer.py", *map(os.fsdecode, inputs), "--output", folder, "--method", "aspade")
    assert done.returncode == 1
    assert done.stdout.startswith("caf\\udce9.wav -> ")
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/bad\\udcff.wav is not a readable audio file")
    assert "Traceback" not in done.stderr
    written = set(os.listdir(os.fsencode(folder)))
    assert written == {b"caf\xe9" + suffix.encode() for suffix in SUFFIXES}


def test_a_bad_argument_of_the_program_is_one_line_without_a_traceback(source: Path, tmp_path: Path) -> None:
    done = program("-m", "nldiff", "restore", source, "--output", tmp_path / "out", "--prior", "violin")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: unknown prior 'violin'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["infer.py", "train_prior.py", "train_baseline.py"])
def test_a_script_says_its_own_name(script: str) -> None:
    done = program(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script} ")
