"""`nldiff restore --samples N --spread`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from command_line import SUFFIXES, names, one_line, quick_sampler, report, restore, run, samples, undrawn, write
from helpers import TINY_RATE, FakeSampler, clipped, plucked, save_tiny_prior

from nldiff.errors import NldiffError

KNOWN = ["--known", "hard_clip:threshold=0.15", "refinement.name=auto", "refinement.iterations=10",
         "refinement.windows=[512]", "drawing.steps=2", "curve.points=256"]  # fmt: skip


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sf.write(tmp_path / "take.wav", clipped(0.3, TINY_RATE, 2).T, TINY_RATE, subtype="FLOAT")
    return tmp_path / "take.wav"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    return quick_sampler(monkeypatch)


def drawn(count: int, stem: str = "take") -> set[str]:
    """Names of the results of draws of one input, with those of their spread."""
    each = {f"{stem}.{k + 1}{suffix}" for k in range(count) for suffix in SUFFIXES}
    return each | {f"{stem}.mean.wav", f"{stem}.spread.wav", f"{stem}.spread.json"}


def audio(path: Path) -> Any:
    """[time, channels]."""
    return sf.read(path, always_2d=True, dtype="float64")[0]


def spread_report(folder: Path, stem: str = "take") -> dict[str, Any]:
    return report(folder, f"{stem}.spread")


def test_mean_and_spread_are_those_of_the_draws(
    prior: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undrawn(monkeypatch)
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1000)  # several pieces
    out = tmp_path / "out"
    assert run(prior, out, source, "--samples", "3", "--spread", "--seed", "4", "--level", "unity", *KNOWN) == 0
    assert names(out) == drawn(3)
    draws = np.stack([audio(out / f"take.{k}.restored.wav") for k in (1, 2, 3)])
    mean, spread = audio(out / "take.mean.wav"), audio(out / "take.spread.wav")
    np.testing.assert_allclose(mean, draws.mean(0), atol=2e-3 * np.abs(mean).max())
    np.testing.assert_allclose(spread, draws.std(0, ddof=1), atol=2e-3 * np.abs(mean).max())
    lost = np.abs(audio(source)) > 0.1499
    assert (spread[lost] > 0).mean() > 0.9
    assert np.sqrt(np.mean(spread[~lost] ** 2)) < 0.3 * np.sqrt(np.mean(spread[lost] ** 2))

    made = spread_report(out)
    assert made["seeds"] == [4, 5, 6]
    assert [report(out, f"take.{k}")["seed"] for k in (1, 2, 3)] == [4, 5, 6]
    assert all(report(out, f"take.{k}")["settings"]["drawing"]["enabled"] for k in (1, 2, 3))
    assert (made["mean"], made["spread"], made["input"]) == ("take.mean.wav", "take.spread.wav", "take.wav")
    assert (made["channels"], made["frames"], made["sample_rate"]) == (2, 2400, TINY_RATE)
    power, power_mean = np.mean(spread**2, axis=0), np.mean(mean**2, axis=0)
    np.testing.assert_allclose(made["spread_rms"], power**0.5, rtol=1e-5)
    np.testing.assert_allclose(made["spread_db"], 10 * np.log10(power / power_mean), atol=1e-3)
    assert made["overall_spread_db"] == pytest.approx(10 * np.log10(power.sum() / power_mean.sum()), abs=1e-3)
    assert made["warnings"] == []
    said = capsys.readouterr().out
    assert f"spread of 3 draws: {made['overall_spread_db']:.1f} dB relative to the mean" in said


def test_a_draw_is_that_of_its_seed_and_one_restoration_is_none(
    prior: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undrawn(monkeypatch)
    assert run(prior, tmp_path / "two", source, "--samples", "2", *KNOWN) == 0
    assert run(prior, tmp_path / "alone", source, "--seed", "1", "drawing.enabled=true", *KNOWN) == 0
    for folder, more in (("one", ["--samples", "1"]), ("other", ["--seed", "7"])):
        assert run(prior, tmp_path / folder, source, *more, *KNOWN) == 0
    two, alone, one, other = (
        tmp_path / folder / f"{stem}.restored.wav"
        for folder, stem in (("two", "take.2"), ("alone", "take"), ("one", "take"), ("other", "take"))
    )
    np.testing.assert_array_equal(audio(two), audio(alone))
    np.testing.assert_array_equal(audio(one), audio(other))  # without a draw nothing is random
    assert np.std(audio(two) - audio(one)) > 1e-3 * np.std(audio(one))
    assert not report(tmp_path / "one")["settings"]["drawing"]["enabled"]


def test_eight_draws_by_default_in_the_format_of_the_results_with_their_tags(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    with sf.SoundFile(source, "r+") as file:
        file.title = "Take three"
    assert run(prior, tmp_path / "out", source, "--spread", "--format", "flac", "--bits", "16") == 0
    assert {f"take.{k}.restored.flac" for k in range(1, 9)} < names(tmp_path / "out")
    with sf.SoundFile(tmp_path / "out" / "take.mean.flac") as file:
        assert (file.subtype, file.title, file.channels) == ("PCM_16", "Take three", 2)
    assert sf.info(tmp_path / "out" / "take.spread.flac").subtype == "PCM_16"
    assert audio(tmp_path / "out" / "take.spread.flac").min() == 0
    assert spread_report(tmp_path / "out")["format"] == {"container": "flac", "bits": "16"}


def test_draws_that_are_the_same_are_warned_of(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--samples", "3", "--spread", "drawing.enabled=false", *KNOWN]
    assert run(prior, tmp_path / "out", source, *arguments) == 0
    said, warned = capsys.readouterr()
    assert "spread of 3 draws: 0 ->" in said
    assert "take.wav: all draws are the same" in warned
    assert not audio(tmp_path / "out" / "take.spread.wav").any()
    made = spread_report(tmp_path / "out")
    assert (made["spread_rms"], made["spread_db"], made["overall_spread_db"]) == ([0.0, 0.0], [None, None], None)


def test_nothing_happened_has_no_spread_and_no_further_warning(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undrawn(monkeypatch)
    samples(plucked(0.5, TINY_RATE))(tmp_path / "take.wav")
    arguments = ["--samples", "2", "--spread", "refinement.name=auto", "evidence.judge=true"]
    assert run(prior, tmp_path / "out", tmp_path / "take.wav", *arguments) == 0
    made = spread_report(tmp_path / "out")
    assert report(tmp_path / "out", "take.1")["verdict"]["finding"] == "nothing happened"
    assert (made["spread_rms"], made["warnings"], made["level_db"]) == ([0.0], [], 0.0)
    np.testing.assert_allclose(audio(tmp_path / "out" / "take.mean.wav"), audio(tmp_path / "take.wav"), atol=1e-7)


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "one draw": (["--samples", "1"], ["--samples 1", "at least 2 expected with --spread"]),
    "no draw": (["--samples", "0"], ["--samples 0"]),
    "deterministic": (["--method", "aspade"], ["--spread", "aspade", "the same every time"]),
    "one file": (["--output", "x.wav"], ["--spread", "x.wav", "one file"]),
    "standard output": (["--output", "-"], ["--spread", "--output - is one file"]),
    "one device": (["--same-operator"], ["--same-operator: not with --spread"]),
    "trust": (["drawing.trust=0"], ["drawing.trust=0"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_spread_is_refused_in_one_line(
    prior: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler, kind: str
) -> None:
    arguments, named = REFUSED[kind]
    by_prior: list[str | Path] = [] if kind == "deterministic" else ["--prior", prior]
    assert restore(source, "--spread", "--output", tmp_path / "out", *by_prior, *arguments) == 1
    line = one_line(capsys)
    assert all(text in line for text in named), line
    assert names(tmp_path / "out") == set()
    assert not quick.calls


@pytest.mark.parametrize("option", ["--spread", "--quiet"])
@pytest.mark.parametrize("failing", [3, 4])
def test_an_earlier_spread_goes_with_the_first_draw_that_is_replaced(
    prior: Path,
    source: Path,
    tmp_path: Path,
    quick: FakeSampler,
    capsys: pytest.CaptureFixture[str],
    failing: int,
    option: str,
) -> None:
    out = tmp_path / "out"
    form = ["--format", "flac"] if failing == 3 else []  # the next is of another one, so that nothing is replaced
    assert run(prior, out, source, "--samples", "2", "--spread", "--quiet", *form) == 0
    before = {name: (out / name).read_bytes() for name in names(out)}

    def fail(y: Any) -> Any:
        if len(quick.calls) == failing:
            raise NldiffError("sampling diverged")
        return 2 * y

    quick.answer = fail
    assert run(prior, out, source, "--samples", "2", "--seed", "3", "--quiet", option) == 1
    assert "take.wav: sampling diverged" in capsys.readouterr().err
    after = {name: (out / name).read_bytes() for name in names(out)}
    if failing == 3:
        assert after == before
    else:
        assert after.keys() == before.keys() - {"take.mean.wav", "take.spread.wav", "take.spread.json"}
        assert after["take.2.json"] == before["take.2.json"]
        assert after["take.1.json"] != before["take.1.json"]


def test_a_spread_of_another_format_is_replaced_and_further_draws_leave_it(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    out = tmp_path / "out"
    arguments: list[str | Path] = [source, "--samples", "2", "--quiet", "--spread"]
    assert run(prior, out, *arguments, "--format", "flac") == 0
    assert {"take.mean.flac", "take.spread.flac"} < names(out)
    assert run(prior, out, source, "--samples", "3", "--quiet", "--skip-existing", "--format", "flac") == 0
    assert {"take.mean.flac", "take.spread.flac", "take.3.json"} < names(out)
    assert run(prior, out, *arguments) == 0
    assert {name for name in names(out) if "mean" in name or "spread" in name} == {
        "take.mean.wav", "take.spread.wav", "take.spread.json",
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "[]", '{"mean": ["x"], "spread": "../kept.wav"}', '{"mean": "kept.wav"}'])
def test_of_a_damaged_report_of_a_spread_nothing_else_is_removed(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, content: str
) -> None:
    out = tmp_path / "out"
    assert run(prior, out, source, "--samples", "2", "--quiet") == 0
    kept = [write(tmp_path / "kept.wav"), write(out / "kept.wav"), write(out / "take.mean.wav")]
    (out / "take.spread.json").write_text(content)
    assert run(prior, out, source, "--samples", "2", "--quiet") == 0
    assert all(path.exists() for path in kept)
    assert not (out / "take.spread.json").exists()


def test_results_are_skipped_as_long_as_all_are_there(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    arguments: list[str | Path] = [source, "--samples", "2", "--spread", "--skip-existing", "--quiet"]
    out = tmp_path / "out"
    assert run(prior, out, *arguments) == 0
    done = len(quick.calls)
    assert run(prior, out, *arguments) == 0
    assert len(quick.calls) == done
    (out / "take.spread.wav").unlink()
    assert run(prior, out, *arguments) == 0  # the spread is that of all draws
    assert len(quick.calls) == 2 * done
    assert names(out) == drawn(2)


def test_spreads_are_no_inputs_of_the_next_run(prior: Path, tmp_path: Path, quick: FakeSampler) -> None:
    write(tmp_path / "in.mean.wav")  # beside no report, a recording like others
    write(tmp_path / "take.wav")
    for _ in range(2):
        assert run(prior, tmp_path, tmp_path, "--samples", "2", "--spread", "--quiet") == 0
        wavs = {name for name in names(tmp_path) if name.endswith(".wav")}
        assert wavs == {"take.wav", "in.mean.wav"} | {
            name for stem in ("take", "in.mean") for name in drawn(2, stem) if name.endswith(".wav")
        }


def test_a_folder_in_the_way_of_a_spread(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "take.spread.json").mkdir(parents=True)
    assert run(prior, tmp_path / "out", source, "--samples", "2", "--spread", "--quiet") == 1
    assert "take.spread.json is a folder: it is in the way of a result" in capsys.readouterr().err


def test_distorted_clean_recordings_have_a_spread(
    prior: Path, source: Path, tmp_path: Path, quick: FakeSampler
) -> None:
    arguments = ["--distort", "hard_clip:threshold=0.1", "--samples", "2", "--spread", "--quiet"]
    assert run(prior, tmp_path / "out", source, *arguments) == 0
    assert names(tmp_path / "out") == drawn(2)
    assert "scores" in report(tmp_path / "out", "take.1")


@pytest.mark.parametrize("option", ["--samples", "--spread"])
def test_what_is_wrong_with_an_input_is_said_once(
    prior: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sf.write(tmp_path / "silent.wav", np.zeros(2000), TINY_RATE)
    given = ["--samples", "3", *(["--spread"] if option == "--spread" else [])]
    assert run(prior, tmp_path / "out", tmp_path / "silent.wav", *given, *KNOWN) == 1
    assert capsys.readouterr().err.count("is silent") == 1
    assert not (tmp_path / "out").exists()
