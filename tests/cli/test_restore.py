"""`nldiff restore`: bad input and arguments, several inputs, settings, known distortions, methods."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile as sf
import torch
from command_line import (
    names,
    one_line,
    quick_sampler,
    report,
    restore,
    results,
    run,
    samples,
    undrawn,
    write,
)
from helpers import TINY_RATE, FakeSampler, clipped, plucked, save_tiny_baseline, save_tiny_prior

from nldiff.baselines.saved import load_baseline
from nldiff.errors import NldiffError
from nldiff.metrics import si_sdr
from nldiff.operators import parse_operator
from nldiff.priors.saved import Prior, load_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny prior, #1.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "take.wav")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    return quick_sampler(monkeypatch)


# ------------------------------------------------------------ bad input


def _truncated(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:1000])


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.touch(), "empty"),
    "truncated": (_truncated, "truncated"),
    "text": (lambda path: path.write_text("no audio, but long enough to be some" * 100), "not a readable audio file"),
    "bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not a readable audio file"),
    "silent": (samples(np.zeros(4000)), "silent"),
    "nan": (samples(np.r_[plucked(0.2, TINY_RATE), np.nan]), "NaN"),
    "constant": (samples(np.full(4000, 0.5)), "constant"),
    "one sample": (samples([0.5]), "too short"),
    "no samples": (samples([]), "no samples|too short"),
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
    "misspelt key of another group": (["refinement.nmae=none"], ["nmae", "name"]),
    "value of another group": (["cost.hop=fast"], ["cost.hop", "fast"]),
    "refinement": (["refinement.name=sharp"], ["refinement.name=sharp", "auto", "none"]),
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
    "known without its parameter": (["--known", "hard_clip"], ["hard_clip:threshold=VALUE"]),
    "known chain without its parameter": (["--known", "half_wave > soft_clip:mix=0.5"], ["soft_clip:gain=VALUE"]),
    "floats in flac": (["--format", "flac", "--bits", "32f"], ["FLAC", "16 or 24"]),
    "a file that is not written": (["--output", "x.mp3"], ["--output x.mp3", "wav, flac, aiff"]),
    "two formats": (["--output", "x.wav", "--format", "flac"], ["--format flac", "x.wav"]),
    "one file of two samples": (["--output", "x.wav", "--samples", "2"], ["--samples 2", "x.wav"]),
    "known value": (["--known", "hard_clip:threshold=low"], ["threshold=low"]),
    "known without value": (["--known", "hard_clip:threshold"], ["hard_clip:threshold"]),
    "known out of range": (["--known", "carbon_mic:asymmetry=2"], ["asymmetry=2"]),
    "known by sdr": (["--known", "hard_clip:sdr=3"], ["sdr"]),
    "known chain by sdr": (["--known", "hard_clip:sdr=3 > half_wave"], ["sdr"]),
    "known chain": (["--known", "half_wave > hrad_clip"], ["hrad_clip", "hard_clip"]),
    "mix of a known chain": (["--known", "half_wave > hard_clip; mix=2"], ["mix=2"]),
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
    assert restore(source, "--output", tmp_path / "out", "--prior", prior, *arguments) == 1
    line = one_line(capsys)
    for text in named:
        assert text in line
    assert names(tmp_path / "out") == set()


BAD_METHODS: dict[str, tuple[list[str], list[str]]] = {
    "name": (["--method", "demcus"], ["demcus", "blind", "demucs", "aspade"]),
    "file": (["--method", "none.safetensors"], ["none.safetensors"]),
    "weights": (["--method", "umx", "--weights", "none.safetensors"], ["none.safetensors"]),
    "weights elsewhere": (["--method", "aspade", "--weights", "x.safetensors"], ["--weights x.safetensors"]),
    "prior": (["--method", "aspade", "--prior", "guitar"], ["--prior guitar", "aspade"]),
    "waveshaper": (["--method", "aspade", "--waveshaper", "mlp"], ["--waveshaper mlp"]),
    "steps": (["--method", "aspade", "--steps", "5"], ["--steps 5"]),
    "informed of nothing": (["--method", "informed"], ["informed", "--known"]),
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
    assert restore(source, "--output", tmp_path / "out", *arguments) == 1
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


@pytest.mark.parametrize("arguments", [[], ["--output", "out"]])
def test_an_input_is_needed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        restore(*arguments)
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
    assert ("File name too long" if exists else path.name) in one_line(capsys)
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


def test_folders_are_searched_and_kept(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(tmp_path / "in" / "a.wav")
    write(tmp_path / "in" / "deep" / "b.flac")
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    assert run(prior, tmp_path / "out", tmp_path / "in") == 0
    assert names(tmp_path / "out") == results("a") | {"deep"}
    assert names(tmp_path / "out" / "deep") == results("b")


def test_results_do_not_overwrite_inputs(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [write(tmp_path / "take.wav"), write(tmp_path / "take.restored.wav", seed=1)]
    before = inputs[1].read_bytes()
    assert run(prior, tmp_path, *inputs) == 1
    assert "take.restored.wav is an input" in one_line(capsys)
    assert inputs[1].read_bytes() == before
    assert names(tmp_path) == {"take.wav", "take.restored.wav"}


def test_samples_are_those_of_the_following_seeds(
    prior: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undrawn(monkeypatch)
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
    used = made["settings"]["sampler"]
    assert (used["steps"], used["zeta"], used["churn"]) == (7, 0.2, 3.0)
    assert made["settings"]["operator_fit"]["iterations"] == 2
    assert quick.calls[0]["settings"].steps == 7


def test_settings_of_version_0_1_are_those_of_the_groups(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    old = "sampler: {refine_iterations: 0, heun: true, cost_n_fft: 512, operator_betas: [0.5, 0.6]}\n"
    new = "sampler: {name: heun}\nrefinement: {name: none}\ncost: {n_fft: 512}\noperator_fit: {betas: [0.5, 0.6]}\n"
    found = []
    for name, content in (("old", old), ("new", new)):
        (tmp_path / f"{name}.yaml").write_text(content)
        # a prior without a word on the refinement has one by default
        assert run(prior, tmp_path / name, source, "--config", tmp_path / f"{name}.yaml") == 0
        found.append(report(tmp_path / name)["settings"])
    arguments = ["sampler.refine_iterations=0", "sampler.heun=true", "sampler.cost_n_fft=512"]
    assert run(prior, tmp_path / "keys", source, *arguments, "sampler.operator_betas=[0.5,0.6]") == 0
    found.append(report(tmp_path / "keys")["settings"])
    assert found[0] == found[1] == found[2]
    assert (found[0]["sampler"]["name"], found[0]["refinement"]["name"]) == ("heun", "none")
    assert (found[0]["cost"]["n_fft"], found[0]["operator_fit"]["betas"]) == (512, [0.5, 0.6])
    assert [call["settings"].name for call in quick.calls] == 3 * ["heun"]


def test_todays_name_of_a_setting_beats_the_old_one(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    arguments = ["sampler.cost_n_fft=512", "cost.n_fft=256", "cost.hop=64"]
    assert run(prior, tmp_path / "out", source, *arguments) == 0
    assert report(tmp_path / "out")["settings"]["cost"]["n_fft"] == 256


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
    monkeypatch.setattr("nldiff.cli.restore.load_candidates", candidates)
    monkeypatch.setattr("nldiff.priors.choice.denoising_error_db", lambda prior, *_: errors[prior.name])
    assert restore(source, "--output", tmp_path / "auto") == 0
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
        (8000, "keep", ""),  # all of it
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
    samples(plucked(0.3, rate), rate)(path)
    assert run(prior, tmp_path / "out", path, f"above_band={option}") == 0
    assert re.findall(r"restored up to .*\n", capsys.readouterr().out) == [said] * bool(said)
    assert report(tmp_path / "out")["restored_band_hz"] == 4000


@pytest.mark.parametrize("waveshaper", ["ccr", "mlp", "sumtanh"])
def test_the_waveshaper_is_the_one_asked_for(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, waveshaper: str
) -> None:
    assert run(prior, tmp_path / "out", source, "--waveshaper", waveshaper) == 0
    expected = {"ccr": "CatmullRom", "mlp": "MLP", "sumtanh": "SumTanh"}[waveshaper]
    assert type(quick.calls[0]["operator"]).__name__ == expected
    assert run(prior, tmp_path / "method", source, "--method", waveshaper) == 0
    assert type(quick.calls[-1]["operator"]).__name__ == expected
    assert report(tmp_path / "method")["method"] == waveshaper


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


@pytest.mark.parametrize("method", [[], ["--method", "blind"], ["--method", "informed"]])
def test_a_known_distortion_makes_blind_restoration_an_informed_one(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, method: list[str]
) -> None:
    assert run(prior, tmp_path / "out", source, *method, "--known", "hard_clip:threshold=0.15") == 0
    assert report(tmp_path / "out")["method"] == "informed"
    assert [call["trainable"] for call in quick.calls] == len(quick.calls) * [0]


KNOWN = {
    "hard_clip:threshold=0.12 > hard_clip:threshold=0.08": [(-0.14, -0.08), (0.05, 0.05)],
    "hard_clip:threshold=0.12 > hard_clip:threshold=0.08; mix=0.5": [(0.05, 0.05), (0.14, 0.11)],
    # x / 2 + 3/4 w(10 x) with the cubic clipper w
    "overdrive:gain_db=20,colour=0": [(0.05, 0.025 + 0.75 * (0.5 - 0.5**3 / 3)), (0.12, 0.06 + 0.75 * 2 / 3)],
    "overdrive:gain_db=20,colour=0 > hard_clip:threshold=0.3": [(0.02, 0.01 + 0.75 * (0.2 - 0.2**3 / 3)), (0.12, 0.3)],
}


@pytest.mark.parametrize("text", KNOWN)
def test_chains_and_effects_may_be_known(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, text: str
) -> None:
    assert run(prior, tmp_path / "out", source, "--known", text) == 0
    made = report(tmp_path / "out")
    known = parse_operator(made["known"])
    assert (made["method"], known.family) == ("informed", parse_operator(text).family)
    # What was sampled is the observation, so that the table of the static curve is in units of the recording.
    x, y = np.loadtxt(tmp_path / "out" / "take.curve.csv", delimiter=",", skiprows=1).T
    for clean, distorted in KNOWN[text]:
        assert np.interp(clean, x, y) == pytest.approx(distorted, abs=1e-3)


@pytest.mark.parametrize(
    "text", ["hard_clip:sdr=3 > overdrive:gain_db=20; mix=0.5", "overdrive:gain_db=35,colour=20", "hard_clip:sdr=5"]
)
def test_chains_and_effects_distort_a_clean_input(prior: Path, tmp_path: Path, quick: FakeSampler, text: str) -> None:
    path = tmp_path / "clean.wav"
    samples(plucked(0.3, TINY_RATE))(path)
    assert run(prior, tmp_path / "out", path, "--distort", text) == 0
    clean = torch.from_numpy(sf.read(path, dtype="float32")[0])
    truth = parse_operator(text).build(clean)
    made = report(tmp_path / "out", "clean")
    assert made["distortion"] == str(truth)
    assert made["scores"]["before"]["si_sdr_db"] == pytest.approx(float(si_sdr(clean, truth(clean))), abs=1e-4)
    # what was drawn is the observation: nothing was undone, and no signal is told
    assert made["scores"]["after"]["si_sdr_db"] == pytest.approx(made["scores"]["before"]["si_sdr_db"], abs=0.01)
    assert (made["known"], made["method"]) == (None, "blind")


def test_huge_amplitudes_are_restored(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    path = tmp_path / "huge.wav"
    samples(1e30 * plucked(0.2, TINY_RATE))(path)
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
    undrawn(monkeypatch)
    monkeypatch.setattr("nldiff.cli.restore.load_candidates", lambda *_: pytest.fail("no prior is needed"))
    arguments = ["--method", str(baseline)] if named == "method" else ["--method", "umx", "--weights", str(baseline)]
    assert restore(source, "--output", tmp_path / "out", "--device", "cpu", "--level", "rms", *arguments) == 0
    assert names(tmp_path / "out") == results("take")
    out, err = capsys.readouterr()
    assert f"\n  method {arguments[1]}, weights tiny, 0 s\n  curve" in out
    assert "take 100%" in err
    y = clipped(0.2, TINY_RATE)
    x = load_baseline(baseline)(torch.from_numpy(sf.read(source, dtype="float32")[0][None])).numpy()[0]
    restored = sf.read(tmp_path / "out" / "take.restored.wav")[0]
    gain = np.std(y) / np.std(x) * np.sign(np.cov(x, y[0])[0, 1])
    assert restored == pytest.approx(gain * x, abs=1e-4)


def test_declipping_finds_the_level_and_may_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undrawn(monkeypatch)
    samples(clipped(0.5, TINY_RATE)[0])(tmp_path / "take.wav")
    found, told = tmp_path / "found", tmp_path / "told"
    for folder, known in ((found, []), (told, ["--known", "hard_clip:threshold=0.15"])):
        assert restore(tmp_path / "take.wav", "--output", folder, "--method", "aspade", *known) == 0
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
    undrawn(monkeypatch)
    path = tmp_path / "clean.wav"
    samples(plucked(0.5, TINY_RATE))(path)
    arguments = ["--method", "irm", "--distort", "hard_clip:sdr=5", "--quiet"]
    assert restore(path, "--output", tmp_path / "out", *arguments) == 0
    scores = report(tmp_path / "out", "clean")["scores"]
    assert scores["after"]["si_sdr_db"] > scores["before"]["si_sdr_db"] + 2


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
    undrawn(monkeypatch)
    assert run(prior, tmp_path / "out", source) == 0
    out, err = capsys.readouterr()
    assert "take 100%" in err
    assert "sampling" in err
    assert "%" not in out


def test_an_interruption_leaves_nothing_and_is_130(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    def interrupt(y: torch.Tensor) -> NoReturn:
        raise KeyboardInterrupt

    quick.answer = interrupt
    assert run(prior, tmp_path / "out", source, "--quiet") == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert names(tmp_path / "out") == set()
