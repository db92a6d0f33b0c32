import csv
import json
import math
import resource
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, FakeSampler, clipped, plucked, save_tiny_baseline
from numpy.typing import NDArray

from nldiff import sound
from nldiff.baselines.networks import NETWORKS
from nldiff.errors import NldiffError
from nldiff.figures import plots as plotting
from nldiff.metrics import lsd, rr_mse, si_sdr
from nldiff.operators import Distortion, input_sdr, parse_operator
from nldiff.priors.choice import Choice
from nldiff.priors.saved import Prior
from nldiff.restoration.methods import METHODS
from nldiff.restoration.output import restore_file
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

SIGNAL_METHODS = [name for name, method in METHODS.items() if not method.uses_prior]
SUFFIXES = (".restored.wav", ".curve.csv", ".curve.png", ".json")
KEYS = {
    "input", "sample_rate", "channels", "frames", "prior", "known", "config", "settings", "seed", "versions", "cost",
    "network_evaluations", "seconds", "restored", "explained_db", "gain", "level_db", "parts", "prior_scores",
    "restored_band_hz", "verdict", "method", "weights", "curve_range", "format", "clipped_samples",
    "warnings", "threads", "number_type",
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "take.wav", clipped(0.3, TINY_RATE))


def write(path: Path, samples: NDArray[np.float32], rate: int = TINY_RATE) -> Path:
    sf.write(path, samples.T, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    return {path.name: path.read_bytes() if path.is_file() else b"folder" for path in folder.iterdir()}


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return report


def sdr(reference: NDArray[Any], estimate: NDArray[Any]) -> float:
    return float(10 * np.log10(np.sum(reference**2.0) / np.sum((reference - estimate) ** 2.0)))


# ------------------------------------------------------------ the four results


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("take.wav", 44100, 1),
        ("take two.flac", 22050, 2),
        ("Gitarre, fünf 音.v2.wav", 8000, 2),
        ("$5_{$.wav", 96000, 1),
    ],
)
def test_a_file_gives_four_results(prior: Prior, tmp_path: Path, name: str, rate: int, channels: int) -> None:
    source = write(tmp_path / name, clipped(0.2, rate, channels), rate)
    folder = tmp_path / "some" / "where"
    outputs = restore_file(source, folder, prior, RestoreConfig(level="rms"))

    stem = name.rsplit(".", 1)[0]
    paths = [outputs.audio, outputs.curve_table, outputs.curve_picture, outputs.report_path]
    assert paths == [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
    assert set(contents(folder)) == {path.name for path in paths}

    header = sf.info(outputs.audio)
    assert (header.format, header.subtype, header.samplerate, header.channels) == ("WAV", "FLOAT", rate, channels)
    restored, observed = sf.read(outputs.audio, always_2d=True)[0], sf.read(source, always_2d=True)[0]
    assert restored.shape == observed.shape
    assert np.max(np.abs(restored)) < 1
    assert np.std(restored) == pytest.approx(np.std(observed), rel=1e-5)
    assert outputs.curve_picture.read_bytes().startswith(b"\x89PNG")

    with outputs.curve_table.open(newline="") as file:
        header_row, *rows = list(csv.reader(file))
    assert header_row == ["input", "output"]
    inputs, values = np.array(rows, dtype=np.float64).T
    assert len(rows) == 1001
    assert np.all(np.diff(inputs) > 0)
    assert inputs[[0, -1]] == pytest.approx(np.array([-1, 1]) * np.max(np.abs(restored)), rel=1e-5)

    report = strict_json(outputs.report_path)
    assert set(report) == KEYS
    # the table alone turns the restored file into the observed one as well as the report says
    assert sdr(observed, np.interp(restored, inputs, values)) == pytest.approx(report["explained_db"], abs=0.05)


def test_the_report_repeats_the_run(prior: Prior, source: Path, tmp_path: Path) -> None:
    config = RestoreConfig(waveshaper="sumtanh", waveshaper_options={"order": 4}, seed=5, sampler={"steps": 4})
    outputs = restore_file(source, tmp_path / "out", prior, config)
    report = strict_json(outputs.report_path)
    assert report == json.loads(json.dumps(outputs.report))
    assert report["input"] == "take.wav"
    assert report["restored"] == "take.restored.wav"
    assert (report["sample_rate"], report["channels"], report["frames"]) == (TINY_RATE, 1, 2400)
    assert (report["seed"], report["prior"], report["known"]) == (5, "tiny", None)
    assert (report["method"], report["weights"]) == ("blind", None)
    assert len(report["cost"]) == report["settings"]["sampler"]["steps"] == report["network_evaluations"] == 4
    assert report["versions"]["torch"] == torch.__version__
    again = restore_file(source, tmp_path / "again", prior, RestoreConfig(**report["config"]))
    np.testing.assert_array_equal(sf.read(again.audio)[0], sf.read(outputs.audio)[0])


def test_the_picture_shows_the_curve_of_the_table(
    prior: Prior, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def keep(figure: Any, path: Path) -> None:
        drawn.append(figure)
        path.touch()

    monkeypatch.setattr(plotting, "save_figure", keep)
    outputs = restore_file(source, tmp_path / "out", prior, RestoreConfig())
    table = np.loadtxt(outputs.curve_table, delimiter=",", skiprows=1)
    (curve, histogram) = drawn[0].axes
    shown = next(line for line in curve.lines if line.get_label() == "estimate").get_xydata()
    np.testing.assert_allclose(shown, table, rtol=1e-5, atol=1e-7)
    assert sum(bar.get_height() for bar in histogram.patches) >= 0.999 * 2400


def test_a_known_distortion_is_noted(prior: Prior, source: Path, tmp_path: Path) -> None:
    known = Distortion("hard_clip", {"threshold": 0.15})
    outputs = restore_file(source, tmp_path / "out", prior, RestoreConfig(), known=known)
    assert strict_json(outputs.report_path)["known"] == "hard_clip:threshold=0.15"
    table = np.loadtxt(outputs.curve_table, delimiter=",", skiprows=1)
    assert np.max(np.abs(table[:, 1])) == pytest.approx(0.15, rel=1e-5)


@pytest.mark.parametrize(("threshold", "warned"), [(0.15, False), (0.05, True)])
def test_a_known_distortion_that_cannot_have_made_the_recording_is_warned_of(
    prior: Prior, tmp_path: Path, threshold: float, warned: bool
) -> None:
    source, known = tmp_path / "take.wav", Distortion("hard_clip", {"threshold": threshold})
    sf.write(source, clipped(0.3, TINY_RATE).T, TINY_RATE, subtype="FLOAT")
    config = RestoreConfig(refinement={"name": "sparse", "iterations": 5})
    warnings = restore_file(source, tmp_path / "out", prior, config, known=known).report["warnings"]
    assert [f"{known} explains the recording to" in line for line in warnings] == [True] * warned


def test_of_several_priors_one_is_chosen_for_what_was_distorted(
    prior: Prior, fake: FakeSampler, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks: list[float] = []

    def choose(recording: Recording, candidates: Sequence[Prior]) -> Choice:
        peaks.append(float(np.max(np.abs(recording.read(0, recording.frames)))))
        return Choice(candidates[1], {candidates[0].name: -3.0, candidates[1].name: -4.0})

    monkeypatch.setattr("nldiff.restoration.diffusion.choose_prior", choose)
    priors = [prior, replace(prior, name="other", sigma_data=0.1)]
    distort = parse_operator("hard_clip:threshold=0.07")
    outputs = restore_file(source, tmp_path / "out", priors, RestoreConfig(), distort=distort)
    report = strict_json(outputs.report_path)
    assert peaks == pytest.approx([0.07])
    assert (report["prior"], report["prior_scores"]) == ("other", {"tiny": -3.0, "other": -4.0})


def test_another_stem(prior: Prior, source: Path, tmp_path: Path) -> None:
    outputs = restore_file(source, tmp_path / "out", prior, RestoreConfig(), stem="take.2")
    assert outputs.audio == tmp_path / "out" / "take.2.restored.wav"
    assert set(contents(tmp_path / "out")) == {f"take.2{suffix}" for suffix in SUFFIXES}


# ------------------------------------------------------------ other methods


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny net.safetensors")


@pytest.mark.parametrize(("rate", "channels"), [(TINY_RATE, 1), (44100, 2)])
@pytest.mark.parametrize("method", [*SIGNAL_METHODS, "weights"])
def test_every_method_gives_four_results(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, rate: int, channels: int
) -> None:
    for name in ("voicefixer", "resemble_enhance"):
        monkeypatch.setattr(f"nldiff.baselines.external.{name}", lambda *_: lambda chunk: -5 * chunk)
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    source = write(tmp_path / "take.wav", np.stack([plucked(0.8, rate, n) for n in range(channels)]), rate)
    config = RestoreConfig(device="cpu", chunk_seconds=0.5, overlap_seconds=0.1, level="rms")
    network = method in NETWORKS
    outputs = restore_file(
        source, tmp_path / "out", (), config, distort=parse_operator("hard_clip:threshold=0.15"),
        method=str(baseline) if method == "weights" else method, weights=str(baseline) if network else None,
    )  # fmt: skip
    assert set(contents(tmp_path / "out")) == {f"take{suffix}" for suffix in SUFFIXES}
    report = strict_json(outputs.report_path)
    assert set(report) == KEYS | {"distortion", "scores"}
    assert report["method"] == (str(baseline) if method == "weights" else method)
    assert report["weights"] == ("tiny net" if network or method == "weights" else None)
    assert (report["prior"], report["settings"], report["cost"], report["network_evaluations"]) == (None, None, [], 0)
    works_at = TINY_RATE if network or method == "weights" else rate
    assert report["restored_band_hz"] == min(rate, works_at) / 2

    restored = sf.read(outputs.audio, always_2d=True)[0].T
    observed = sf.read(source, always_2d=True)[0].T.clip(-0.15, 0.15)
    assert restored.shape == observed.shape
    assert np.std(restored) == pytest.approx(np.std(observed), rel=1e-5)
    assert np.sum(restored * observed) > 0
    table = np.loadtxt(outputs.curve_table, delimiter=",", skiprows=1)
    assert sdr(observed, np.interp(restored, *table.T)) == pytest.approx(report["explained_db"], abs=0.05)
    assert report["scores"]["before"]["si_sdr_db"] == pytest.approx(
        float(np.mean(si_sdr(sf.read(source, always_2d=True)[0].T, observed))), abs=1e-3
    )
    if method in ("aspade", "sspade", "irm"):
        assert report["scores"]["after"]["si_sdr_db"] > report["scores"]["before"]["si_sdr_db"] + 1
        assert report["scores"]["after"]["rr_mse_db"] < -40


def test_a_long_file_is_read_and_written_in_pieces(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 3000)
    source = write(tmp_path / "take.wav", clipped(3.0, TINY_RATE))
    asked: list[int] = []
    read = sound.read

    def counted(path: Path, start: int = 0, frames: int = -1) -> tuple[NDArray[np.float32], int]:
        asked.append(frames)
        return read(path, start, frames)

    monkeypatch.setattr(sound, "read", counted)
    config = RestoreConfig(device="cpu", chunk_seconds=0.5, overlap_seconds=0.1)
    restore_file(source, tmp_path / "out", (), config, method=str(baseline))
    assert max(asked) == 4000
    assert min(asked) > 0


@pytest.mark.parametrize(
    ("method", "said"), [("irm", "needs the clean signal"), ("aspade", r"take\.wav is not hard clipped")]
)
def test_a_method_that_cannot_be_used_leaves_not_even_a_folder(tmp_path: Path, method: str, said: str) -> None:
    source = write(tmp_path / "take.wav", plucked(0.3, TINY_RATE)[None])
    with pytest.raises(NldiffError, match=said):
        restore_file(source, tmp_path / "out", (), RestoreConfig(), method=method)
    assert not (tmp_path / "out").exists()


def test_what_is_shown_of_the_curve_is_where_the_samples_are(prior: Prior, tmp_path: Path, fake: FakeSampler) -> None:
    x = plucked(3.0, TINY_RATE)[None]
    x[0, 12000] = 0.95  # a single sample far beyond the others
    outputs = restore_file(write(tmp_path / "take.wav", x), tmp_path / "out", prior, RestoreConfig())
    table = np.loadtxt(outputs.curve_table, delimiter=",", skiprows=1)
    assert table[-1, 0] == pytest.approx(0.95, rel=1e-4)
    assert outputs.report["curve_range"] == pytest.approx(np.sort(np.abs(x[0]))[-3:-1].mean(), rel=0.05)


# ------------------------------------------------------------ scores


def test_a_distorted_clean_file_is_scored_against_the_truth(prior: Prior, tmp_path: Path) -> None:
    clean = np.stack([plucked(0.5, TINY_RATE, seed) for seed in (1, 2)])
    source = write(tmp_path / "clean.wav", clean)
    outputs = restore_file(
        source, tmp_path / "out", prior, RestoreConfig(), distort=parse_operator("hard_clip:sdr=3.0")
    )
    report = strict_json(outputs.report_path)
    assert set(report) == KEYS | {"distortion", "scores"}

    truth = parse_operator(report["distortion"]).build(None)
    x = torch.from_numpy(clean)
    y = truth(x)
    assert input_sdr(x, y) == pytest.approx(3, abs=1e-3)
    restored = sf.read(outputs.audio, always_2d=True)[0].T
    table = np.loadtxt(outputs.curve_table, delimiter=",", skiprows=1).T

    # the ramp of the papers runs over three times an RMS of 0.06; the clean file's RMS takes that place here
    size = np.sqrt(np.mean(clean.astype(np.float64) ** 2)) / 0.06
    size_restored = np.sqrt(np.mean(restored**2)) / 0.06

    def estimated(r: torch.Tensor) -> NDArray[np.float64]:
        outside = np.abs(r.numpy() * size_restored) > table[0, -1]
        assert not outside.any()
        return np.interp(r.numpy() * size_restored, *table) / size

    before, after = report["scores"]["before"], report["scores"]["after"]
    for row, signal in ((before, y.numpy()), (after, restored)):
        assert row["si_sdr_db"] == pytest.approx(float(np.mean(si_sdr(clean, signal))), abs=1e-3)
        assert row["lsd"] == pytest.approx(float(np.mean(lsd(clean, signal))), rel=1e-3)

    def true(r: torch.Tensor) -> torch.Tensor:
        return truth(r * size) / size

    scale = np.sqrt(np.mean(y.numpy().astype(np.float64) ** 2)) / 0.06

    def identity(r: torch.Tensor) -> torch.Tensor:
        return r * scale / size

    assert before["rr_mse_db"] == pytest.approx(rr_mse(true, identity, fit_scale=True), abs=1e-2)
    assert before["rr_mse_unfitted_db"] == pytest.approx(rr_mse(true, identity), abs=1e-2)
    assert after["rr_mse_unfitted_db"] == pytest.approx(rr_mse(true, estimated), abs=0.05)
    assert after["rr_mse_db"] <= after["rr_mse_unfitted_db"]


def test_scores_that_are_infinite_are_null_in_the_report(prior: Prior, tmp_path: Path, fake: FakeSampler) -> None:
    source = write(tmp_path / "clean.wav", plucked(0.3, TINY_RATE)[None])
    outputs = restore_file(
        source, tmp_path, prior, RestoreConfig(), distort=parse_operator("hard_clip:threshold=100.0")
    )
    found = outputs.report["scores"]["before"]
    assert (found["si_sdr_db"], found["lsd"], found["rr_mse_db"]) == (math.inf, 0.0, -math.inf)
    written = strict_json(outputs.report_path)["scores"]["before"]
    assert (written["si_sdr_db"], written["lsd"], written["rr_mse_db"]) == (None, 0.0, None)


@pytest.mark.parametrize("kind", ["short", "silent channel"])
def test_what_cannot_be_scored_is_refused_before_the_work(
    prior: Prior, tmp_path: Path, fake: FakeSampler, kind: str
) -> None:
    clean = clipped(0.1 if kind == "short" else 0.3, TINY_RATE, 2)
    clean[1] *= kind == "short"
    source = write(tmp_path / "clean.wav", clean)
    with pytest.raises(NldiffError, match=r"clean\.wav cannot be scored: .+"):
        restore_file(
            source, tmp_path / "out", prior, RestoreConfig(), distort=parse_operator("hard_clip:threshold=0.1")
        )
    assert not fake.calls
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------ all or nothing


@pytest.fixture(scope="module")
def earlier_run(prior: Prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    source = write(folder / "take.wav", clipped(0.3, TINY_RATE))
    return restore_file(source, folder / "out", prior, RestoreConfig(seed=1)).audio.parent


@pytest.fixture
def earlier(earlier_run: Path, tmp_path: Path) -> dict[str, bytes]:
    """Results of an earlier run in "out"."""
    shutil.copytree(earlier_run, tmp_path / "out")
    return contents(tmp_path / "out")


def test_a_second_run_replaces_all_results(
    prior: Prior, source: Path, tmp_path: Path, earlier: dict[str, bytes]
) -> None:
    restore_file(source, tmp_path / "out", prior, RestoreConfig(seed=2))
    later = contents(tmp_path / "out")
    assert later.keys() == earlier.keys()
    assert all(later[name] != earlier[name] for name in later)


@pytest.mark.parametrize("error", [NldiffError("sampling diverged"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "place",
    [
        "nldiff.restoration.output.run_parts",
        "nldiff.restoration.output.settle",
        "nldiff.figures.plots.save_figure",
        "nldiff.restoration.output.write_json",
    ],
)
def test_results_of_an_earlier_run_survive_a_failure_anywhere(
    prior: Prior,
    source: Path,
    tmp_path: Path,
    earlier: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: BaseException,
) -> None:
    class Failing:
        def __call__(self, *arguments: Any, **options: Any) -> NoReturn:
            raise error

        dumps = __call__

    monkeypatch.setattr(place, Failing())
    with pytest.raises(type(error)):
        restore_file(source, tmp_path / "out", prior, RestoreConfig(seed=2))
    assert contents(tmp_path / "out") == earlier


@pytest.mark.parametrize("error", [NldiffError("sampling diverged"), KeyboardInterrupt()])
def test_nothing_is_left_when_sampling_fails_half_way(
    prior: Prior, tmp_path: Path, fake: FakeSampler, error: BaseException
) -> None:
    source = write(tmp_path / "long.wav", clipped(3.0, TINY_RATE))

    def answer(y: torch.Tensor) -> torch.Tensor:
        if len(fake.calls) == 3:
            raise error
        return y

    fake.answer = answer
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=1)
    with pytest.raises(type(error)):
        restore_file(source, tmp_path / "out", prior, config)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_an_error_that_names_the_folder(prior: Prior, source: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # of the 9.6 kB that the samples need
        with pytest.raises(NldiffError, match=r"results cannot be written to folder .*out"):
            restore_file(source, tmp_path / "out", prior, RestoreConfig())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder(prior: Prior, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(NldiffError, match=r"out: .*File exists") as caught:
        restore_file(source, tmp_path / "out", prior, RestoreConfig())
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_in_the_place_of_a_result(prior: Prior, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "take.json").mkdir(parents=True)
    with pytest.raises(NldiffError, match=r"take\.json is a folder"):
        restore_file(source, tmp_path / "out", prior, RestoreConfig())
    assert set(contents(tmp_path / "out")) == {"take.json"}


def test_a_bad_file_leaves_not_even_a_folder(prior: Prior, tmp_path: Path) -> None:
    source = write(tmp_path / "silent.wav", np.zeros((1, 4000), np.float32))
    with pytest.raises(NldiffError, match=r"silent\.wav is silent"):
        restore_file(source, tmp_path / "out", prior, RestoreConfig())
    assert not (tmp_path / "out").exists()
