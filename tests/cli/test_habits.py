"""Habits of the command line: outputs, formats, pipes, folder trees, tags, other containers, logging."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from command_line import ROOT, names, one_line, quick_sampler, report, restore, results, run, write
from helpers import TINY_RATE, FakeSampler, clipped, save_tiny_prior

from nldiff.cli.destinations import find_sources
from nldiff.curves import Curve
from nldiff.errors import NldiffError


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    return quick_sampler(monkeypatch)


def test_results_go_to_restored_unless_told_otherwise(
    prior: Path, tmp_path: Path, quick: FakeSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "take.wav")
    assert restore("take.wav", "--prior", prior, "-d", "cpu", "--quiet") == 0
    assert names(tmp_path / "restored") == results("take")
    assert restore("take.wav", "--prior", prior, "-o", "here", "--quiet") == 0
    assert names(tmp_path / "here") == results("take")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("clean.wav", [], ("WAV", "FLOAT")),
        ("clean.flac", [], ("FLAC", "PCM_24")),
        ("clean.aif", ["--bits", "16"], ("AIFF", "PCM_16")),
    ],
)
def test_an_output_may_be_a_file(
    prior: Path, tmp_path: Path, quick: FakeSampler, name: str, options: list[str], expected: tuple[str, str]
) -> None:
    assert run(prior, tmp_path / "new" / name, write(tmp_path / "take.wav"), *options) == 0
    assert names(tmp_path / "new") == {name, "clean.curve.csv", "clean.curve.png", "clean.json"}
    info = sf.info(tmp_path / "new" / name)
    assert (info.format, info.subtype) == expected
    assert report(tmp_path / "new", "clean")["restored"] == name


def test_one_file_is_not_for_two_inputs(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    inputs = [write(tmp_path / name) for name in ("a.wav", "b.wav")]
    for output in (tmp_path / "c.wav", Path("-")):
        assert run(prior, output, *inputs) == 1
        assert "2 inputs" in one_line(capsys)
    assert run(prior, tmp_path / "a.wav", inputs[0]) == 1
    assert "a.wav is an input" in one_line(capsys)


@pytest.mark.parametrize(("container", "bits", "subtype"), [("flac", "24", "PCM_24"), ("aiff", "16", "PCM_16")])
def test_24_bit_flac_in_and_formats_out(
    prior: Path, tmp_path: Path, quick: FakeSampler, container: str, bits: str, subtype: str
) -> None:
    y = clipped(0.3, TINY_RATE, 2)
    sf.write(tmp_path / "take.flac", y.T, TINY_RATE, subtype="PCM_24")
    assert run(prior, tmp_path / "out", tmp_path / "take.flac", "--format", container, "--bits", bits) == 0
    path = tmp_path / "out" / f"take.restored.{container}"
    info = sf.info(path)
    assert (info.format, info.subtype, info.channels) == (container.upper(), subtype, 2)
    np.testing.assert_allclose(sf.read(path)[0].T, y, atol=2.0 ** (2 - int(bits)))
    assert report(tmp_path / "out")["format"] == {"container": container, "bits": bits}


def test_tags_and_broadcast_metadata_are_kept(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    from nldiff import sound

    chunks = ((b"bext", b"take one".ljust(602, b"\0")), (b"cue ", bytes(28)))
    with sf.SoundFile(tmp_path / "take.wav", "w", TINY_RATE, 1) as file:
        file.title, file.artist = "Ballade", "Ä. Ömer"
        file.write(clipped(0.3, TINY_RATE).T)
    sound.append_chunks(tmp_path / "take.wav", chunks)
    for container in ("wav", "flac"):
        assert run(prior, tmp_path / "out", tmp_path / "take.wav", "--format", container) == 0
        made = sound.read_metadata(tmp_path / "out" / f"take.restored.{container}")
        assert made.tags == {"title": "Ballade", "artist": "Ä. Ömer"}
        assert made.chunks == (chunks if container == "wav" else ())


def test_equal_names_are_told_apart(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    for folder in ("x/deep", "y/deep"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "take.wav")
    inputs = [write(tmp_path / "x" / "b.wav"), write(tmp_path / "x" / "b.flac"), write(tmp_path / "y" / "c.wav")]
    assert run(prior, tmp_path / "two", tmp_path / "x", tmp_path / "y") == 0
    made = {str(p.relative_to(tmp_path / "two")) for p in (tmp_path / "two").rglob("*.json")}
    same = {"deep/deep/take.wav.json", "deep/deep/take.wav (2).json"}
    assert made == {"b.wav.json", "b.flac.json", "c.json"} | same
    assert run(prior, tmp_path / "files", *inputs[:2], tmp_path / "y" / "deep" / "take.wav") == 0
    assert {p.name for p in (tmp_path / "files").glob("*.json")} == {"b.wav.json", "b.flac.json", "take.json"}


def test_results_are_never_taken_for_inputs(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    write(tmp_path / "take.wav")
    for _ in range(2):
        assert run(prior, tmp_path, tmp_path, "--quiet") == 0
        assert run(prior, tmp_path / "restored", tmp_path, "--quiet") == 0
    assert {p.name for p in tmp_path.rglob("*.json")} == {"take.json"}
    # but they may be named
    assert run(prior, tmp_path / "again", tmp_path / "take.restored.wav") == 0


def test_existing_results_are_left_alone_if_that_is_asked_for(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    inputs = [write(tmp_path / name) for name in ("a.wav", "b.wav")]
    assert run(prior, tmp_path / "out", inputs[0]) == 0
    before, calls = (tmp_path / "out" / "a.json").read_bytes(), len(quick.calls)
    assert run(prior, tmp_path / "out", *inputs, "--skip-existing", "seed=5") == 0
    assert names(tmp_path / "out") == results("a", "b")
    assert (tmp_path / "out" / "a.json").read_bytes() == before
    assert len(quick.calls) == 2 * calls
    (tmp_path / "out" / "a.curve.png").unlink()
    assert run(prior, tmp_path / "out", *inputs, "--skip-existing", "seed=5") == 0
    assert (tmp_path / "out" / "a.json").read_bytes() != before


def test_four_channels_are_restored(prior: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "quad.wav", clipped(0.3, TINY_RATE, 4).T, TINY_RATE)
    assert run(prior, tmp_path / "out", tmp_path / "quad.wav") == 0
    assert sf.info(tmp_path / "out" / "quad.restored.wav").channels == 4


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["take.m4a", "clip.mkv"])
def test_other_containers_are_read_through_ffmpeg(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler, name: str
) -> None:
    (tmp_path / "in").mkdir()
    source = write(tmp_path / "take.wav", 1.0)
    codec = [] if name.endswith("m4a") else ["-c:a", "flac"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *codec, tmp_path / "in" / name], check=True)
    assert run(prior, tmp_path / "out", tmp_path / "in", "-v") == 0
    stem = name.split(".")[0]
    assert names(tmp_path / "out") == results(stem)
    assert report(tmp_path / "out", stem)["input"] == name
    err = capsys.readouterr().err
    assert f"{name}: decoded by" in err
    assert "blind" in err


def test_without_ffmpeg_there_is_one_line(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldiff.sound.decoding.shutil.which", lambda name: None)
    (tmp_path / "take.m4a").write_bytes(b"\0" * 100)
    assert run(prior, tmp_path / "out", tmp_path / "take.m4a") == 1
    assert "ffmpeg is needed" in one_line(capsys)


# ------------------------------------------------------------ pipes, through the real command


def piped(*arguments: Any, data: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "nldiff", *map(str, arguments)], input=data, capture_output=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables, cwd=ROOT,
    )  # fmt: skip


def test_from_standard_input_to_standard_output(prior: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "take.wav", 0.5)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = ["restore", "-", "-o", "-", "--prior", prior, "--format", "flac"]
    done = piped(*arguments, data=source.read_bytes(), TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    audio, rate = sf.read(io.BytesIO(done.stdout))
    assert (sf.info(io.BytesIO(done.stdout)).format, rate, len(audio)) == ("FLAC", TINY_RATE, 4000)
    assert b"explains the recording" in done.stderr
    # matplotlib's cache may stay
    assert {path.name for path in temporary.iterdir() if path.name.startswith("nldiff-")} <= {f"nldiff-{os.getuid()}"}
    bad = piped("restore", "-", "-o", tmp_path / "out", "--prior", prior, data=b"no audio" * 100)
    assert bad.returncode == 1
    assert bad.stderr == b"error: standard input is not a readable audio file, or its header is damaged\n"


def test_standard_input_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"sound")))
    (source,) = find_sources(["-", "-"], tmp_path, ".restored")
    assert source.path.read_bytes() == b"sound"


def test_a_curve_goes_from_restore_to_apply_and_export(prior: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "take.wav", 0.5)
    assert piped("restore", source, "-o", tmp_path, "--prior", prior, "--quiet").returncode == 0
    table, restored = tmp_path / "take.curve.csv", tmp_path / "take.restored.wav"
    done = piped("apply", table, restored, "-o", tmp_path / "again.wav", "--antialias", "none")
    assert done.returncode == 0, done.stderr
    x, y, again = (sf.read(path)[0] for path in (restored, source, tmp_path / "again.wav"))
    np.testing.assert_allclose(again, Curve.load(table)(x), atol=1e-6)
    explained = 10 * np.log10(np.sum(y**2) / np.sum((y - again) ** 2))
    assert explained == pytest.approx(report(tmp_path)["explained_db"], abs=0.1)
    done = piped("export", table, "--to", "c")
    assert (done.returncode, done.stdout.decode().strip()) == (0, str(tmp_path / "take.curve.h"))


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    Curve.from_function(lambda x: np.clip(x, -0.25, 0.25), 0.5).save(tmp_path / "c.curve.csv")
    return tmp_path / "c.curve.csv"


Apply = Callable[..., int]


@pytest.fixture
def apply(curve: Path) -> Apply:
    from nldiff.cli import run_command

    return lambda *arguments: run_command("apply", [str(curve), *map(str, arguments)], "nldiff apply")


def test_levels_of_applied_curves(apply: Apply, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = 0.1 * np.sin(2 * np.pi * 100 * np.arange(TINY_RATE) / TINY_RATE)
    sf.write(tmp_path / "x.wav", x, TINY_RATE, subtype="FLOAT")
    for gain, after in ((0, 0), (6, -6), (20, 0), (20, 20)):
        options = ["--gain", gain, "--output-gain", after, "-o", tmp_path, "--antialias", "none"]
        assert apply(tmp_path / "x.wav", *options) == 0
        expected = np.clip(x * 10 ** (gain / 20), -0.25, 0.25) * 10 ** (after / 20)
        np.testing.assert_allclose(sf.read(tmp_path / "x.distorted.wav")[0], expected, atol=2e-3 * 10 ** (after / 20))
        err = capsys.readouterr().err
        assert ("beyond the curve" in err) == (gain == 20)
    assert apply(tmp_path / "x.wav", "--gain", 20, "--output-gain", 20, "-o", tmp_path, "--bits", "16") == 0
    assert "are clipped" in capsys.readouterr().err
    assert apply(tmp_path / "x.wav", "--gain", "nan", "-o", tmp_path) == 1
    assert "--gain nan" in one_line(capsys)


def test_many_channels_folders_and_bad_files_of_apply(
    apply: Apply, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    sf.write(tmp_path / "in" / "quad.wav", clipped(0.3, TINY_RATE, 4).T, TINY_RATE)
    write(tmp_path / "in" / "deep" / "a.flac")
    (tmp_path / "in" / "bad.wav").write_text("no audio")
    assert apply(tmp_path / "in", "-o", tmp_path / "out", "--quiet") == 1
    assert "bad.wav is not a readable" in one_line(capsys)
    assert names(tmp_path / "out") == {"quad.distorted.wav", "deep"}
    assert sf.info(tmp_path / "out" / "quad.distorted.wav").channels == 4
    assert apply(tmp_path / "in" / "quad.wav", "-o", tmp_path / "out", "--skip-existing") == 0
    assert capsys.readouterr().out == ""


def test_a_curve_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nldiff.cli import run_command

    path = write(tmp_path / "take.wav")
    assert run_command("apply", [str(path), str(path)], "nldiff apply") == 1
    assert "take.wav" in one_line(capsys)
    assert run_command("export", [str(tmp_path / "none.csv"), "--to", "c"], "nldiff export") == 1
    assert "none.csv does not exist" in one_line(capsys)


def test_a_preview_is_written_where_it_is_asked_for(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers import use_sampler

    use_sampler(monkeypatch, FakeSampler())
    source = write(tmp_path / "take.wav", 1.0)
    assert run(prior, tmp_path / "out", source, "--preview", "--quiet") == 0
    assert names(tmp_path / "out") == results("take") | {"take.preview.html"}
    assert "take.wav: restored" in (tmp_path / "out" / "take.preview.html").read_text()
    assert run(prior, tmp_path / "out", source, "--preview", "--distort", "half_wave") == 1
    assert "--preview: not with --distort" in one_line(capsys)


@pytest.mark.parametrize("option", ["--quiet", "--same-operator"])
def test_a_preview_goes_with_the_results_that_it_is_of(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    quick = quick_sampler(monkeypatch)
    source, page = write(tmp_path / "take.wav", 1.0), tmp_path / "out" / "take.preview.html"
    page.parent.mkdir()
    page.touch()
    answer = quick.answer

    def fail(y: Any) -> Any:
        raise NldiffError("sampling diverged")

    quick.answer = fail
    assert run(prior, tmp_path / "out", source, "--quiet", option) == 1
    assert page.exists()
    quick.answer = answer
    assert run(prior, tmp_path / "out", source, "--quiet", option) == 0
    assert not page.exists()
