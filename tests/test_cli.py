import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, FakeSampler, clipped, plucked, save_tiny_baseline, save_tiny_prior

import nldiff
from nldiff.baselines.saved import load_baseline
from nldiff.cli import infer_main, main
from nldiff.errors import NldiffError
from nldiff.priors.saved import Prior, load_prior
from nldiff.training.loop import StepReport
from nldiff.training.prior import TrainingConfig

ROOT = Path(__file__).parents[1]
SUFFIXES = (".restored.wav", ".curve.csv", ".curve.png", ".json")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny prior, #1.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "take.wav")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    """Neither samples nor draws."""
    sampler = FakeSampler()
    monkeypatch.setattr("nldiff.restoration.task.sample", sampler)
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    return sampler


def write(path: Path, seconds: float = 0.2, seed: int = 0) -> Path:
    sf.write(path, clipped(seconds, TINY_RATE, seed=seed).T, TINY_RATE)
    return path


def results(*stems: str) -> set[str]:
    return {f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def run(prior: Path, output: Path, *arguments: str | Path) -> int:
    return infer_main([*map(str, arguments), "--output", str(output), "--prior", str(prior)])


def report(output: Path, stem: str = "take") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / f"{stem}.json").read_text())
    return content


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


# ------------------------------------------------------------ bad input


def _truncated(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:1000])


def _samples(value: Any, rate: int = TINY_RATE) -> Callable[[Path], None]:
    return lambda path: sf.write(path, np.asarray(value, dtype=np.float32), rate, subtype="FLOAT")


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.touch(), "empty"),
    "truncated": (_truncated, "truncated"),
    "text": (lambda path: path.write_text("no audio, but long enough to be some" * 100), "not a readable audio file"),
    "bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not a readable audio file"),
    "silent": (_samples(np.zeros(4000)), "silent"),
    "nan": (_samples(np.r_[plucked(0.2, TINY_RATE), np.nan]), "NaN"),
    "constant": (_samples(np.full(4000, 0.5)), "constant"),
    "one sample": (_samples([0.5]), "too short"),
    "no samples": (_samples([]), "no samples|too short"),
    "eight channels": (_samples(np.random.default_rng(0).standard_normal((4000, 8))), "8 channels"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_line_and_no_result(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    make, reason = BAD_FILES[kind]
    path = tmp_path / f"{kind}.wav"
    make(path)
    assert run(prior, tmp_path / "out", path) == 1
    line = one_line(capsys)
    assert str(path) in line
    assert any(part in line for part in reason.split("|"))
    assert names(tmp_path / "out") == set()


BAD_ARGUMENTS: dict[str, tuple[list[str], list[str]]] = {
    "unknown prior": (["--prior", "violin"], ["violin", "guitar"]),
    "misspelt key": (["stesp=3"], ["stesp"]),
    "misspelt sampler key": (["sampler.stesp=3"], ["stesp", "steps"]),
    "value of another type": (["seed=first"], ["seed", "first"]),
    "sampler value of another type": (["sampler.zeta=strong"], ["zeta", "strong"]),
    "band": (["above_band=mix"], ["above_band=mix", "drop"]),
    "waveshaper in a key": (["waveshaper=splne"], ["splne", "ccr"]),
    "waveshaper option": (["waveshaper_options.pionts=41"], ["pionts", "points"]),
    "1 step": (["--steps", "1"], ["steps=1"]),
    "0 samples": (["--samples", "0"], ["--samples 0"]),
    "negative seed": (["--seed", "-1"], ["seed=-1"]),
    "device": (["--device", "bogus"], ["bogus"]),
    "absent device": (["--device", "cuda:99"], ["cuda:99"]),
    "known name": (["--known", "hrad_clip:threshold=0.1"], ["hrad_clip", "hard_clip"]),
    "known parameter": (["--known", "hard_clip:treshold=0.1"], ["treshold", "threshold"]),
    "known value": (["--known", "hard_clip:threshold=low"], ["threshold=low"]),
    "known without value": (["--known", "hard_clip:threshold"], ["hard_clip:threshold"]),
    "known out of range": (["--known", "carbon_mic:asymmetry=2"], ["asymmetry=2"]),
    "known by sdr": (["--known", "hard_clip:sdr=3"], ["sdr"]),
    "distort name": (["--distort", "hard_clp:sdr=3"], ["hard_clp"]),
    "distort parameter": (["--distort", "hard_clip:srd=3"], ["srd"]),
    "distort value": (["--distort", "hard_clip:sdr=three"], ["three"]),
    "distort without calibration": (["--distort", "half_wave:sdr=3"], ["half_wave"]),
    "distort beyond reach": (["--distort", "wavefold:sdr=-60"], ["take.wav", "-60"]),
    "weights of no network": (["--weights", "mine.safetensors"], ["--weights mine.safetensors", "demucs"]),
    "missing config": (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
}


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_a_bad_argument_is_one_line_and_no_result(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    arguments, named = BAD_ARGUMENTS[kind]
    # later options win, and so does the bad prior
    assert infer_main([str(source), "--output", str(tmp_path / "out"), "--prior", str(prior), *arguments]) == 1
    line = one_line(capsys)
    for text in named:
        assert text in line
    assert names(tmp_path / "out") == set()


BAD_METHODS: dict[str, tuple[list[str], list[str]]] = {
    "name": (["--method", "demcus"], ["demcus", "blind", "demucs", "aspade"]),
    "file": (["--method", "none.safetensors"], ["none.safetensors"]),
    "weights": (["--method", "umx", "--weights", "none.safetensors"], ["none.safetensors"]),
    "weights elsewhere": (["--method", "aspade", "--weights", "x.safetensors"], ["--weights x.safetensors"]),
    "prior": (["--method", "aspade", "--prior", "guitar"], ["--prior guitar", "blind"]),
    "waveshaper": (["--method", "aspade", "--waveshaper", "mlp"], ["--waveshaper mlp"]),
    "steps": (["--method", "aspade", "--steps", "5"], ["--steps 5"]),
    "samples": (["--method", "aspade", "--samples", "2"], ["--samples 2", "aspade"]),
    "mask of what is not known": (["--method", "irm"], ["irm", "--distort"]),
    "known": (["--method", "irm", "--known", "half_wave", "--distort", "half_wave"], ["--known half_wave"]),
    "known to others": (["--method", "voicefixer", "--known", "half_wave"], ["--known half_wave", "voicefixer"]),
    "known to declipping": (["--method", "aspade", "--known", "half_wave"], ["take.wav", "half_wave"]),
    "not installed": (["--method", "voicefixer"], ['pip install "nldiff[voicefixer]"']),
    "not installed either": (["--method", "resemble-enhance"], ["pip install --no-deps resemble-enhance==0.0.1"]),
}


@pytest.mark.parametrize("kind", BAD_METHODS)
def test_a_method_that_cannot_be_used_is_one_line_and_no_result(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "voicefixer", None)
    arguments, named = BAD_METHODS[kind]
    assert infer_main([str(source), "--output", str(tmp_path / "out"), *arguments]) == 1
    line = one_line(capsys)
    for text in named:
        assert text in line
    assert names(tmp_path / "out") == set()


@pytest.mark.parametrize(
    "arguments",
    [["--stepz", "3"], ["--step", "3"], ["--waveshaper", "splne"], ["--steps", "many"], ["--samples", "1.5"]],
)
def test_a_misspelt_option_is_refused_with_the_usage(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(prior, tmp_path / "out", source, *arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: ")
    assert arguments[0] in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["take.wav"], ["--output", "out"]])
def test_input_and_output_are_needed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        infer_main(arguments)
    assert caught.value.code == 2


def test_settings_alone_are_no_input(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(prior, tmp_path / "out", "seed=3") == 1
    assert "INPUT" in one_line(capsys)


@pytest.mark.parametrize("damage", ["cut", "text", "foreign"])
def test_a_corrupted_prior(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / "bad.safetensors"
    content = prior.read_bytes()
    path.write_bytes(
        {"cut": content[: len(content) // 2], "text": b"no weights at all", "foreign": b"\2\0\0\0\0\0\0\0{}"}[damage]
    )
    assert run(path, tmp_path / "out", source) == 1
    assert str(path) in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["out", "out/below/it"])
def test_an_output_folder_that_cannot_be_made_is_reported_once(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler, place: str
) -> None:
    (tmp_path / "out").write_text("a file")
    assert run(prior, tmp_path / place, source, write(tmp_path / "another.wav")) == 1
    assert str(tmp_path / place) in one_line(capsys)
    assert not quick.calls
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("content", ["- a list", "seed: [1", "sed: 3", "seed: first", "\0\1\2"])
def test_a_bad_config_file(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    assert run(prior, tmp_path / "out", source, "--config", path) == 1
    assert "configuration" in one_line(capsys)


@pytest.mark.parametrize("exists", [True, False])
def test_a_name_that_leaves_no_room_for_a_suffix(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler, exists: bool
) -> None:
    path = tmp_path / ("x" * (245 if exists else 300) + ".wav")
    if exists:
        write(path)
    assert run(prior, tmp_path / "out", path) == 1
    assert "File name too long" in one_line(capsys)
    assert not quick.calls
    assert names(tmp_path / "out") == set()


# ------------------------------------------------------------ several inputs and samples


def test_a_bad_file_among_several_does_not_stop_the_others(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    first, last = write(tmp_path / "a.wav"), write(tmp_path / "c.wav")
    (tmp_path / "b.wav").write_text("no audio")
    assert run(prior, tmp_path / "out", first, tmp_path / "b.wav", last, "--quiet") == 1
    assert "b.wav" in one_line(capsys)
    assert names(tmp_path / "out") == results("a", "c")


def test_an_error_without_a_name_gets_the_name_of_the_file(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    def diverge(y: torch.Tensor) -> NoReturn:
        raise NldiffError("sampling diverged")

    quick.answer = diverge
    assert run(prior, tmp_path / "out", source, "--quiet") == 1
    assert one_line(capsys) == f"error: {source}: sampling diverged\n"
    assert names(tmp_path / "out") == set()


def test_folders_are_searched(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(tmp_path / "in" / "a.wav")
    write(tmp_path / "in" / "deep" / "b.flac")
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    assert run(prior, tmp_path / "out", tmp_path / "in") == 0
    assert names(tmp_path / "out") == results("a", "b")


def test_inputs_of_one_name_would_overwrite_each_other(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [write(tmp_path / "take.wav"), write(tmp_path / "take.flac")]
    assert run(prior, tmp_path / "out", *inputs) == 1
    assert "'take'" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_results_do_not_overwrite_inputs(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "take.wav")
    before = write(tmp_path / "take.restored.wav", seed=1).read_bytes()
    assert run(prior, tmp_path, tmp_path) == 1
    assert "take.restored.wav is an input" in one_line(capsys)
    assert (tmp_path / "take.restored.wav").read_bytes() == before
    assert names(tmp_path) == {"take.wav", "take.restored.wav"}


def test_samples_are_those_of_the_following_seeds(
    prior: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    assert run(prior, tmp_path / "two", source, "--samples", "2", "--seed", "4") == 0
    assert names(tmp_path / "two") == results("take.1", "take.2")
    assert run(prior, tmp_path / "one", source, "--seed", "5") == 0
    first, second, alone = (
        sf.read(path)[0]
        for path in (
            tmp_path / "two" / "take.1.restored.wav",
            tmp_path / "two" / "take.2.restored.wav",
            tmp_path / "one" / "take.restored.wav",
        )
    )
    np.testing.assert_array_equal(second, alone)
    assert np.std(first - second) > 0.01 * np.std(first)
    assert [report(tmp_path / "two", stem)["seed"] for stem in ("take.1", "take.2")] == [4, 5]


# ------------------------------------------------------------ settings


def test_options_beat_arguments_beat_the_config_file_beats_the_prior(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("seed: 1\nchunk_seconds: 2\nwaveshaper: mlp\nsampler: {steps: 5, zeta: 0.1, churn: 3}\n")
    arguments = ["seed=2", "sampler.zeta=0.2", "sampler.steps=6", "--seed", "3", "--steps", "7"]
    assert run(prior, tmp_path / "out", source, "--config", path, *arguments) == 0
    made = report(tmp_path / "out")
    assert (made["seed"], made["config"]["chunk_seconds"], made["config"]["waveshaper"]) == (3, 2.0, "mlp")
    used = made["sampler"]
    assert (used["steps"], used["zeta"], used["churn"], used["operator_iterations"]) == (7, 0.2, 3.0, 2)
    assert quick.calls[0]["settings"].steps == 7


def test_the_prior_is_chosen_unless_one_is_named(
    prior: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quick: FakeSampler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def candidates(name: str | Path, device: torch.device) -> list[Prior]:
        asked.append(str(name))
        loaded = load_prior(prior)
        return [replace(loaded, name="first"), replace(loaded, name="second")]

    errors = {"first": -1.5, "second": -2.25}
    monkeypatch.setattr("nldiff.cli.load_candidates", candidates)
    monkeypatch.setattr("nldiff.priors.choice.denoising_error_db", lambda prior, *_: errors[prior.name])
    assert infer_main([str(source), "--output", str(tmp_path / "auto")]) == 0
    assert asked == ["auto"]
    assert (
        "\n  prior second, the lowest denoising error of: first -1.50 dB, second -2.25 dB\n" in capsys.readouterr().out
    )
    assert (report(tmp_path / "auto")["prior"], report(tmp_path / "auto")["prior_scores"]) == ("second", errors)

    monkeypatch.undo()
    assert run(prior, tmp_path / "named", source, "--steps", "2") == 0
    assert f"\n  prior {prior.stem}, as named\n" in capsys.readouterr().out
    assert (report(tmp_path / "named")["prior"], report(tmp_path / "named")["prior_scores"]) == (prior.stem, {})


@pytest.mark.parametrize(
    ("rate", "option", "said"),
    [
        (8000, "keep", "restored up to 4000 Hz\n"),
        (16000, "keep", "restored up to 4000 Hz; above it, as observed\n"),
        (16000, "drop", "restored up to 4000 Hz; above it, nothing\n"),
    ],
)
def test_the_restored_band_is_said(
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quick: FakeSampler,
    rate: int,
    option: str,
    said: str,
) -> None:
    path = tmp_path / "take.wav"
    _samples(plucked(0.3, rate), rate)(path)
    assert run(prior, tmp_path / "out", path, f"above_band={option}") == 0
    assert said in capsys.readouterr().out
    assert report(tmp_path / "out")["restored_band_hz"] == 4000


@pytest.mark.parametrize("waveshaper", ["ccr", "mlp", "sumtanh"])
def test_the_waveshaper_is_the_one_asked_for(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, waveshaper: str
) -> None:
    assert run(prior, tmp_path / "out", source, "--waveshaper", waveshaper) == 0
    expected = {"ccr": "CatmullRom", "mlp": "MLP", "sumtanh": "SumTanh"}[waveshaper]
    assert type(quick.calls[0]["curve"]).__name__ == expected


def test_options_and_inputs_may_alternate(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    a, b = write(tmp_path / "a.wav"), write(tmp_path / "b=1.wav")
    assert run(prior, tmp_path / "out", a, "--quiet", b, "--seed", "3", "chunk_seconds=2") == 0
    assert names(tmp_path / "out") == results("a", "b=1")
    assert report(tmp_path / "out", "b=1")["config"]["chunk_seconds"] == 2.0


def test_a_known_distortion(prior: Path, source: Path, tmp_path: Path, quick: FakeSampler) -> None:
    assert run(prior, tmp_path / "out", source, "--known", "hard_clip:threshold=0.15") == 0
    assert report(tmp_path / "out")["known"] == "hard_clip:threshold=0.15"
    table = np.loadtxt(tmp_path / "out" / "take.curve.csv", delimiter=",", skiprows=1)
    assert np.max(np.abs(table[:, 1])) == pytest.approx(0.15, rel=1e-5)


def test_huge_amplitudes_are_restored(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    path = tmp_path / "huge.wav"
    _samples(1e30 * plucked(0.2, TINY_RATE))(path)
    assert run(prior, tmp_path / "out", path) == 0
    restored = sf.read(tmp_path / "out" / "huge.restored.wav")[0]
    assert np.max(np.abs(restored)) == pytest.approx(0.999, rel=1e-5)
    table = np.loadtxt(tmp_path / "out" / "huge.curve.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(np.interp(restored, *table.T), 1e30 * plucked(0.2, TINY_RATE), atol=1e28)


# ------------------------------------------------------------ other methods


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny.safetensors")


@pytest.mark.parametrize("named", ["method", "weights"])
def test_a_network_restores(
    baseline: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    monkeypatch.setattr("nldiff.cli.load_candidates", lambda *_: pytest.fail("no prior is needed"))
    arguments = ["--method", str(baseline)] if named == "method" else ["--method", "umx", "--weights", str(baseline)]
    assert infer_main([str(source), "--output", str(tmp_path / "out"), "--device", "cpu", *arguments]) == 0
    assert names(tmp_path / "out") == results("take")
    out, err = capsys.readouterr()
    assert f"\n  method {arguments[1]}, weights tiny, 0 s\n  restored up to 4000 Hz\n  curve" in out
    assert "take: 100%" in err
    y = clipped(0.2, TINY_RATE)
    x = load_baseline(baseline)(torch.from_numpy(sf.read(source, dtype="float32")[0][None])).numpy()[0]
    restored = sf.read(tmp_path / "out" / "take.restored.wav")[0]
    gain = np.sqrt(np.mean(y**2) / np.mean(x**2)) * np.sign(np.cov(x, y[0])[0, 1])
    assert restored == pytest.approx(gain * x, abs=1e-4)


def test_declipping_finds_the_level_and_may_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    _samples(clipped(0.5, TINY_RATE)[0])(tmp_path / "take.wav")
    found, told = tmp_path / "found", tmp_path / "told"
    for folder, known in ((found, []), (told, ["--known", "hard_clip:threshold=0.15"])):
        assert infer_main([str(tmp_path / "take.wav"), "--output", str(folder), "--method", "aspade", *known]) == 0
    # only the absolute stopping rule sees another scale
    one, two = (sf.read(folder / "take.restored.wav")[0] for folder in (found, told))
    assert np.mean((one - two) ** 2) < 0.01 * np.mean(one**2)
    assert (report(found)["known"], report(told)["known"]) == (None, "hard_clip:threshold=0.15")
    # the curve of a clipper: straight, then held at the level
    x, y = np.loadtxt(found / "take.curve.csv", delimiter=",", skiprows=1).T
    slope = np.interp(0.02, x, y) / 0.02
    straight, held = np.abs(x) < 0.12 / slope, np.abs(x) > 0.25 / slope
    assert y[straight] == pytest.approx(slope * x[straight], abs=0.01)
    assert y[held] == pytest.approx(0.15 * np.sign(x[held]), abs=0.02)


def test_the_mask_is_scored(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    path = tmp_path / "clean.wav"
    _samples(plucked(0.5, TINY_RATE))(path)
    arguments = ["--method", "irm", "--distort", "hard_clip:sdr=5", "--quiet"]
    assert infer_main([str(path), "--output", str(tmp_path / "out"), *arguments]) == 0
    scores = report(tmp_path / "out", "clean")["scores"]
    assert scores["after"]["si_sdr_db"] > scores["before"]["si_sdr_db"] + 2


# ------------------------------------------------------------ what is printed


def test_the_summary_says_what_was_found(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    path = tmp_path / "clean.wav"
    _samples(plucked(0.3, TINY_RATE))(path)
    assert run(prior, tmp_path / "out", path, "--distort", "hard_clip:sdr=3") == 0
    out = capsys.readouterr().out
    made = report(tmp_path / "out", "clean")
    assert out.startswith(f"clean.wav -> {tmp_path / 'out' / 'clean.restored.wav'}\n")
    assert "3 steps, 3 network evaluations" in out
    assert f"to {made['explained_db']:.1f} dB" in out
    for when in ("before", "after"):
        assert f"SI-SDR {made['scores'][when]['si_sdr_db']:.2f} dB" in out
    # the curve is still the identity it started as: the last point of the table is the peak
    last = out.split("->")[-1].split()[0]
    assert float(last) == pytest.approx(np.max(np.abs(sf.read(tmp_path / "out" / "clean.restored.wav")[0])), abs=2e-3)


def test_the_curve_is_told_where_the_samples_are(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    x = plucked(3.0, TINY_RATE)
    x[12000] = 0.95  # a single sample far beyond the others
    _samples(x)(tmp_path / "take.wav")
    assert run(prior, tmp_path / "out", tmp_path / "take.wav") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "curve (restored" in line)
    points = [float(pair.split()[0]) for pair in line.split(": ")[1].split("  ")]
    peak = report(tmp_path / "out")["curve_range"]
    assert points == pytest.approx([-peak, -0.5 * peak, -0.1 * peak, 0.1 * peak, 0.5 * peak, peak], abs=1e-3)
    assert 0.4 < peak < 0.6


def test_quiet_prints_nothing(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    assert run(prior, tmp_path / "out", source, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert names(tmp_path / "out") == results("take")


def test_progress_is_shown_on_stderr(
    prior: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    assert run(prior, tmp_path / "out", source) == 0
    out, err = capsys.readouterr()
    assert "take: 100%" in err
    assert "3/3" in err
    assert "%" not in out


def test_the_speed_of_a_resumed_training_is_that_of_its_new_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(config: TrainingConfig, resume: bool, on_step: Callable[[StepReport], None]) -> Path:
        for step in range(8001, 8007):
            time.sleep(0.05)
            on_step(StepReport(step, config.steps, 1.0))
        return tmp_path / "prior.safetensors"

    monkeypatch.setattr("nldiff.cli.train", resumed)
    monkeypatch.setenv("NLDIFF_DATA", str(tmp_path))
    config = str(ROOT / "configs/train/guitar_small.yaml")
    assert main(["train", "--config", config, "steps=10000", "--resume"]) == 0
    err = capsys.readouterr().err
    assert "8006/10000" in err
    speeds = [float(speed) for speed in re.findall("([0-9.]+)step/s", err)]
    assert speeds
    assert max(speeds) < 21


def test_an_interruption_leaves_nothing_and_is_130(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    def interrupt(y: torch.Tensor) -> NoReturn:
        raise KeyboardInterrupt

    quick.answer = interrupt
    assert run(prior, tmp_path / "out", source, "--quiet") == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert names(tmp_path / "out") == set()


# ------------------------------------------------------------ the nldiff command


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


@pytest.mark.parametrize("command", ["restore", "train"])
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: nldiff {command}")
    assert "--config" in out


def test_nldiff_restore_is_infer(prior: Path, source: Path, tmp_path: Path, quick: FakeSampler) -> None:
    arguments = ["restore", "--quiet", str(source), "--output", str(tmp_path / "out"), "--prior", str(prior)]
    assert main([*arguments, "seed=9"]) == 0
    assert report(tmp_path / "out")["seed"] == 9


def test_a_misspelt_training_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\n")
    assert main(["train", "--config", str(path), "stpes=3"]) == 1
    assert "stpes" in one_line(capsys)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------ as programs


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)


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
    program_text = "from nldiff.cli import main; raise SystemExit(main())"
    done = program("-c", program_text, "restore", source, "--output", tmp_path / "out", "--prior", "violin")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: unknown prior 'violin'")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP comes with the Linux build of PyTorch")
@pytest.mark.parametrize(
    ("given", "expected"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_idle_threads_give_way_unless_the_user_says_otherwise(given: dict[str, str], expected: str) -> None:
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= given | {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "import nldiff"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert re.findall("GOMP_SPINCOUNT = '([0-9]+)'", done.stderr) == [expected]
