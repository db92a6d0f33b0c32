"""Experiments on synthetic clips with a tiny prior: plans, methods, scores, resuming, sharing, tables."""

import csv
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from helpers import FakeSampler, plucked, save_tiny_baseline, save_tiny_prior
from numpy.typing import NDArray

from nldiff import sound
from nldiff.baselines.aspade import PRESETS, aspade
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import load_baseline
from nldiff.cli import main
from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.evaluation import METHODS, EvaluationConfig, Run, evaluate, load_experiment
from nldiff.evaluation.clips import find_clips, read_clip
from nldiff.evaluation.methods import has_cells, signal_only
from nldiff.evaluation.scoring import distance, score
from nldiff.evaluation.tables import summary
from nldiff.metrics import frechet_distance, lsd, rr_mse, sdr, si_sdr
from nldiff.operators.cases import make_case, parse_task
from nldiff.operators.distortions import Distortion
from nldiff.operators.overdrive import sox_overdrive
from nldiff.priors.saved import load_prior
from nldiff.restoration.restore import Restoration
from nldiff.restoration.settings import RestoreConfig

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "eval").glob("*.yaml"))
RATE = 16000
Row = dict[str, str]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 1.1 s, one of them stereo in a subfolder."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    sf.write(folder / "a.wav", plucked(1.1, RATE, 1), RATE, subtype="FLOAT")
    sf.write(folder / "more" / "b.wav", np.stack([plucked(1.1, RATE, n) for n in (2, 3)], 1), RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders whose figures were asked for; none is drawn, which has tests of its own."""
    folders: list[Path] = []
    monkeypatch.setattr("nldiff.figures.draw", folders.append)
    return folders


def quick(clips: Path, prior: Path, *changes: str) -> EvaluationConfig:
    """An experiment of 8 cells that takes a second."""
    base = [
        f"data={json.dumps(str(clips))}", "seconds=1", f"rate={RATE}", "distortions=[hard_clip:sdr=3, half_wave]",
        "methods=[observed, ccr]", "metrics=[si_sdr, rr_mse]", f"restore.prior={json.dumps(str(prior))}",
        "restore.device=cpu", "restore.sampler.steps=2", "compare_to=ccr",
    ]  # fmt: skip
    return load_config(EvaluationConfig, None, [*base, *changes])


def table(folder: Path) -> list[Row]:
    with (folder / "results.csv").open(newline="") as text:
        return list(csv.DictReader(text))


def timeless(folder: Path) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder)]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def reference(clips: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run of `quick`."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nldiff.figures.draw", lambda folder: [])
        evaluate(quick(clips, prior), folder)
    return folder


# ------------------------------------------------------------ the experiments of configs/eval


def smoke(path: Path, clips: Path, prior: Path) -> EvaluationConfig:
    return load_experiment(path, clips, True, [f"restore.prior={json.dumps(str(prior))}", "restore.device=cpu"])


def test_there_is_a_configuration_for_every_experiment() -> None:
    names = {"operators", "guitar", "speech", "overdrive", "declipping_16k", "declipping_survey"}
    assert {path.stem for path in CONFIGS} == names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_smoke_of_an_experiment(path: Path, clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path]) -> None:
    config = smoke(path, clips, prior)
    warnings: list[str] = []
    outcome = evaluate(config, tmp_path / "run", warn=warnings.append)
    assert undrawn == [tmp_path / "run"]
    rows = table(tmp_path / "run")
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (len(rows), 0), [row["error"] for row in rows]
    assert len(rows) == len(config.methods) * len(config.distortions) * config.files
    assert len({line.split(":")[0] for line in warnings}) == len(warnings)
    for name in config.metrics:
        judged = [row for row in rows if not (name == "rr_mse" and row["method"] in ("observed", "informed"))]
        if any(line.startswith(f"{name}:") for line in warnings):
            assert all(row[name] == "" and f"{name}: " in row["error"] for row in rows)
        elif name.startswith(("rr_mse", "redistorted")):
            assert all((row[name] == "") == (row["method"] in ("observed", "informed", "aspade")) for row in judged)
        else:
            assert all(np.isfinite(float(row[name])) for row in rows)
    for row in rows:
        folder = (
            tmp_path
            / "run"
            / "audio"
            / re.sub("[:=,]", "-", f"{row['distortion']}__{row['clip']}__0").replace("/", "-")
        )
        clean, rate = sf.read(folder / "clean.flac")
        observed, _ = sf.read(folder / "observed.flac")
        assert rate == config.rate
        if config.level:
            assert np.sqrt(np.mean(clean**2)) == pytest.approx(config.level, rel=1e-4)
        if row["level_name"] == "input SDR":
            found = 20 * np.log10(np.linalg.norm(clean) / np.linalg.norm(clean - observed))
            assert found == pytest.approx(float(row["level"]), abs=0.01)
        if row["level_name"] == "gain":
            assert np.linalg.norm(observed) == pytest.approx(np.linalg.norm(clean), rel=1e-4)
            assert float(row["level"]) == 35
        assert row["method"] == "observed" or (folder / f"{row['method']}.flac").is_file()
    assert (tmp_path / "run" / "frechet.csv").is_file() == ("log_mel" in config.embeddings)


WEIGHTS = (
    "demucs-hardclip", "demucs-softclip", "demucs-overdrive", "demucs-hardclip-16k", "wave-unet-overdrive",
    "wave-unet-hardclip-16k", "umx-overdrive", "umx-hardclip-16k", "crafx-overdrive", "crafx-hardclip-16k",
)  # fmt: skip
# Distortions for which a method has cells, where that is not all of them: declipping has none for soft clipping.
CELLS: dict[str, dict[str, int]] = {path.stem: {} for path in CONFIGS} | {"speech": {"aspade": 3}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_full_size_of_an_experiment_is_planned(path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.restoration.methods.SHIPPED", WEIGHTS)
    config = load_experiment(path, clips, False, [])
    groups = importlib.import_module("nldiff.evaluation.experiment").plan(config)
    cells = Counter(method for group in groups for method in group.methods)
    assert cells == {method: 2 * CELLS[path.stem].get(method, len(config.distortions)) for method in config.methods}
    assert load_experiment(path, clips, True, []).seconds < config.seconds


# ------------------------------------------------------------ interruption and sharing

# A method that leaves a mark each time it is run and is slow enough to be killed.
SLOW = """
import sys, time
from pathlib import Path
import nldiff.figures
from nldiff.cli import main
from nldiff.evaluation import METHODS
nldiff.figures.draw = lambda folder: []
ccr = METHODS["ccr"]
def slow(run):
    method = ccr(run)
    def marked(y, rate, distortion):
        result = method(y, rate, distortion)
        time.sleep(0.3)
        with Path(sys.argv[1]).open("a") as marks:
            marks.write(f"{distortion.name} {y[:100].std()}\\n")
        return result
    return marked
METHODS["ccr"] = slow
sys.exit(main(sys.argv[2:]))
"""


def command(config: EvaluationConfig, out: Path, tmp_path: Path) -> list[str]:
    """Arguments of `nldiff` that run `config` from a file."""
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config, default=vars))))
    return ["evaluate", str(path), "--out", str(out), "--quiet"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_killed_twice_the_table_is_that_of_an_uninterrupted_run(
    clips: Path, prior: Path, reference: Path, tmp_path: Path
) -> None:
    out, marks = tmp_path / "run", tmp_path / "marks"
    line = [sys.executable, "-c", SLOW, str(marks), *command(quick(clips, prior), out, tmp_path)]
    for finished in (2, 5):
        process = subprocess.Popen(line, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(list((out / "cells").glob("[!.]*.json"))) < finished:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (out / "results.csv").exists()
        for path in (out / "cells").glob("[!.]*.json"):
            assert json.loads(path.read_text())["status"] == "ok"
    done = subprocess.run(line, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert timeless(out) == timeless(reference)
    # a kill loses at most the cell that was at work
    assert 4 <= len(marks.read_text().splitlines()) <= 6


def test_two_processes_of_torchrun_give_the_table_of_one(
    clips: Path, prior: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nldiff"]
    line = [*launcher, *command(quick(clips, prior), out, tmp_path)]
    done = subprocess.run(line, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert timeless(out) == timeless(reference)
    # nothing is drawn twice, and the real figures of a real run can be drawn
    names = {path.name for path in (out / "figures").iterdir()}
    assert {"boxes-hard_clip.png", "boxes-hard_clip.svg", "curves.png"} <= names


def test_a_process_does_its_share_and_the_first_one_writes_the_tables(
    clips: Path, prior: Path, reference: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(clips, prior)
    monkeypatch.setenv("WORLD_SIZE", "3")
    cells = tmp_path / "cells"
    shares = {}
    for rank in ("2", "1", "0"):
        monkeypatch.setenv("RANK", rank)
        before = {path.name for path in cells.glob("*")}
        outcome = evaluate(config, tmp_path)
        shares[rank] = len({path.name for path in cells.glob("*")} - before)
        assert (outcome is None) == (rank != "0")
        assert (tmp_path / "results.csv").exists() == (rank == "0")
    assert shares == {"0": 4, "1": 2, "2": 2}  # 4 distorted clips of 2 methods each
    assert timeless(tmp_path) == timeless(reference)


def test_the_first_process_does_not_wait_for_ever(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(NldiffError, match="2 cells of other processes are missing"):
        evaluate(quick(clips, prior, "patience_minutes=0.005", "methods=[observed]"), tmp_path)
    assert undrawn == []


def test_finished_cells_stay_and_new_ones_are_added(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    evaluate(quick(clips, prior, "methods=[observed]"), tmp_path)
    path = next((tmp_path / "cells").iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip": "kept"}))
    seen: list[tuple[int, int]] = []
    evaluate(quick(clips, prior), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (4, 8)
    assert seen[-1] == (8, 8)
    assert sum(row["clip"] == "kept" for row in table(tmp_path)) == 1


def test_results_of_other_settings_are_not_mixed(clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path]) -> None:
    evaluate(quick(clips, prior, "methods=[observed]"), tmp_path)
    with pytest.raises(NldiffError, match=re.escape("(seconds: 1.0, now 0.5)")):
        evaluate(quick(clips, prior, "methods=[observed]", "seconds=0.5"), tmp_path)
    settings = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert settings["config"]["seconds"] == 1.0
    assert settings["versions"]["torch"] == torch.__version__
    assert settings["threads"] == 1


# ------------------------------------------------------------ failures


def _raises(y: NDArray[np.float32], rate: int, distortion: Distortion) -> Restoration:
    if distortion.name == "half_wave":
        raise NldiffError("did not converge")
    return signal_only(y, rate, 0.0)


def _nan(y: NDArray[np.float32], rate: int, distortion: Distortion) -> Restoration:
    return signal_only(np.where(np.arange(len(y)) == 7, np.nan, y).astype(np.float32), rate, 0.0)


def test_failures_are_counted_and_shown(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "raises", lambda run: _raises)
    monkeypatch.setitem(METHODS, "nan", lambda run: _nan)
    outcome = evaluate(quick(clips, prior, "methods=[observed, raises, nan]", "compare_to=raises"), tmp_path)
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (12, 6)
    failed = Counter((r["method"], r["distortion"], r["error"]) for r in table(tmp_path) if r["status"] == "failed")
    nan = "result contains NaN or infinite samples"
    assert failed == {
        ("raises", "half_wave", "did not converge"): 2,
        ("nan", "half_wave", nan): 2,
        ("nan", "hard_clip:sdr=3", nan): 2,
    }
    assert all(row["si_sdr"] == "" for row in table(tmp_path) if row["status"] == "failed")
    text = (tmp_path / "summary.md").read_text()
    assert "12 cells, 6 failed" in text
    assert "| half_wave | raises | 0 | 2 | – | – |" in text
    assert "| half_wave | raises | more/b | 0 | did not converge |" in text


def test_the_command_tells_of_failures(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(METHODS, "raises", lambda run: _raises)
    out = tmp_path / "run"
    config = quick(clips, prior, "methods=[raises]")
    assert main([a for a in command(config, out, tmp_path) if a != "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'summary.md'}\n"
    assert captured.err.endswith("warning: 2 of 4 cells failed: see summary.md\n")


def test_a_clip_that_cannot_be_used_fails_its_cells_only(prior: Path, tmp_path: Path, undrawn: list[Path]) -> None:
    (tmp_path / "clips").mkdir()
    sf.write(tmp_path / "clips" / "a.wav", np.zeros(RATE), RATE)
    sf.write(tmp_path / "clips" / "b.wav", plucked(1.0, RATE), RATE)
    evaluate(quick(tmp_path / "clips", prior, "distortions=[half_wave]"), tmp_path / "run")
    assert [(r["clip"], r["status"]) for r in table(tmp_path / "run")] == [
        ("a", "failed"), ("a", "failed"), ("b", "ok"), ("b", "ok"),
    ]  # fmt: skip
    assert "a.wav is silent" in table(tmp_path / "run")[0]["error"]


def test_a_metric_without_its_package_leaves_a_column_empty_with_one_warning(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pystoi", "pystoi.stoi"):
        monkeypatch.setitem(sys.modules, module, None)
    warnings: list[str] = []
    outcome = evaluate(
        quick(clips, prior, "methods=[observed]", "metrics=[estoi, si_sdr]", "embeddings={vggish: null}"),
        tmp_path,
        warn=warnings.append,
    )
    assert outcome is not None
    assert outcome.failed == 0
    assert len(warnings) == 2
    assert warnings[0] == "vggish: no weights given (embeddings.vggish=PATH)"
    assert warnings[1].startswith("estoi: ")
    assert warnings[1].endswith('pip install "nldiff[metrics]"')
    assert all(row["estoi"] == "" and row["si_sdr"] for row in table(tmp_path))
    assert warnings[0] in (tmp_path / "summary.md").read_text()
    assert f"| {warnings[1]} | 4 |" in (tmp_path / "summary.md").read_text()


BAD: dict[str, tuple[list[str], list[str]]] = {
    "method": (["methods=[ccr, cccr]"], ["cccr", "aspade"]),
    "reference method": (["compare_to=best"], ["best", "observed"]),
    "metric": (["metrics=[si_srd]"], ["si_srd", "si_sdr"]),
    "embedding": (["embeddings={vgg: null}"], ["vgg", "vggish"]),
    "distortion": (["distortions=[hrad_clip]"], ["hrad_clip", "hard_clip"]),
    "parameter of the overdrive": (['distortions=["overdrive:drive=3"]'], ["drive", "colour"]),
    "key": (["secnds=3"], ["secnds"]),
    "value": (["rate=high"], ["rate", "high"]),
    "range": (["seconds=0.01"], ["seconds=0.01", "0.1"]),
    "seed": (["seeds=[-1]"], ["seeds=-1"]),
    "no methods": (["methods=[]"], ["methods"]),
    "setting of the sampler": (["restore.sampler.stpes=3"], ["stpes", "steps"]),
    "prior": (["restore.prior=violin"], ["violin", "guitar"]),
    "settings of A-SPADE": (["aspade=long", "methods=[aspade]"], ["aspade=long", "survey"]),
    "weights of no network": (["weights={ccr: mine.safetensors}"], ["weights.ccr", "demucs"]),
    "no cells": (["methods=[aspade]", "distortions=[half_wave]"], ["aspade"]),
    "cell twice": (["methods=[observed, observed]"], ["2 cells", "observed"]),
    "data": (["data=/nowhere/at/all"], ["/nowhere/at/all"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_configuration_is_one_line_and_no_result(
    clips: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    changes, named = BAD[kind]
    assert main([*command(quick(clips, prior), tmp_path / "run", tmp_path), *changes]) == 1
    line = one_line(capsys)
    assert all(text in line for text in named)
    assert not (tmp_path / "run").exists()


def test_data_from_nowhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NLDIFF_DATA", raising=False)
    assert main(["evaluate", str(CONFIGS[0]), "--out", str(tmp_path / "run")]) == 1
    assert "NLDIFF_DATA" in one_line(capsys)
    assert main(["evaluate", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]) == 1
    assert "none.yaml" in one_line(capsys)


# ------------------------------------------------------------ clips and distortions


def test_files_are_cut_into_pieces(tmp_path: Path) -> None:
    ramp = np.arange(7 * 800) / 10000
    sf.write(tmp_path / "long.wav", ramp, 800, subtype="FLOAT")
    sf.write(tmp_path / "short.wav", ramp[:1200], 800, subtype="FLOAT")
    assert [(c.name, c.start) for c in find_clips(tmp_path, 0, 1, 2.0)] == [("long", 0), ("short", 0)]
    pieces = find_clips(tmp_path, 0, 0, 2.0)
    assert [(c.name, c.start) for c in pieces] == [("long.1", 0), ("long.2", 2), ("long.3", 4), ("short.1", 0)]
    assert [c.name for c in find_clips(tmp_path, 1, 2, 2.0)] == ["long.1", "long.2"]
    assert read_clip(pieces[1], 2.0, 800, 0) == pytest.approx(ramp[1600:3200], abs=1e-6)
    assert len(read_clip(pieces[3], 2.0, 800, 0)) == 1200
    at_level = read_clip(pieces[0], 2.0, 400, 0.06)
    assert len(at_level) == 800
    assert sound.rms(at_level) == pytest.approx(0.06, rel=1e-6)


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    sf.write(tmp_path / "x.wav", plucked(0.5, RATE), RATE)
    (tmp_path / "x.wav").rename(tmp_path / os.fsdecode(b"caf\xe9 \xc3\xbc.wav"))
    (clip,) = find_clips(tmp_path, 0, 1, 1.0)
    assert clip.name == "caf\\udce9 ü"
    assert len(read_clip(clip, 1.0, RATE, 0.06)) == RATE // 2


def test_channels_are_averaged(clips: Path) -> None:
    clip = find_clips(clips, 0, 1, 1.0)[1]
    stereo, _ = sf.read(clip.path)
    assert clip.name == "more/b"
    assert read_clip(clip, 9.0, RATE, 0) == pytest.approx(stereo.mean(axis=1), abs=1e-6)


def test_levels_are_read_from_the_text() -> None:
    assert parse_task("hard_clip:sdr=3").level == (3.0, "input SDR")
    assert parse_task("amplified_clip:gain_db=27.5").level == (27.5, "gain")
    assert parse_task("quantize:step=0.125").level == (None, "")
    task = parse_task("overdrive:gain_db=35,colour=10")
    assert (task.family, task.level) == ("overdrive", (35.0, "gain"))


def test_overdrive_is_that_of_sox_and_mixes() -> None:
    clean = plucked(0.3, RATE)
    wet = sox_overdrive(torch.from_numpy(clean), 30.0, 10.0).numpy()
    case = make_case(clean, RATE, parse_task("overdrive:gain_db=30,colour=10"))
    assert np.array_equal(case.observed, wet)
    assert case.truth == Distortion("overdrive_static", {"gain_db": 30.0, "colour": 10.0})
    half = make_case(clean, RATE, parse_task("overdrive:gain_db=30,colour=10,mix=0.25"))
    assert half.observed == pytest.approx(0.25 * wet + 0.75 * clean, abs=1e-6)


# ------------------------------------------------------------ methods


def run_of(prior: Path, **changes: Any) -> Run:
    sampler = {"steps": 2, "operator_iterations": 0, "operator_warmup": 0}
    config = RestoreConfig(device="cpu", sampler=sampler, warm_start="observation")
    return Run(config, 0.06, lambda: load_prior(prior), **changes)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny.safetensors", RATE)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_returns_what_its_table_promises(
    method: str, prior: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("voicefixer", "resemble_enhance"):  # their own tests are those of nldiff.baselines.external
        monkeypatch.setattr(f"nldiff.baselines.external.{name}", lambda *_: lambda chunk: 3 * chunk)
    x = plucked(0.2, RATE)
    y = x.clip(-0.15, 0.15)
    run = run_of(prior, aspade="short", weights=dict.fromkeys(NETWORKS, str(baseline)), clean=x)
    result = METHODS[method](run)(y, RATE, Distortion("hard_clip", {"threshold": 0.15}))
    assert result.audio.dtype == np.float32
    assert result.audio.shape == y.shape
    assert np.isfinite(result.audio).all()
    assert result.sample_rate == RATE
    if method == "observed":
        assert np.array_equal(result.audio, y)
    elif method in ("aspade", "sspade"):
        assert np.array_equal(result.audio[np.abs(y) < 0.149], y[np.abs(y) < 0.149])
        assert (np.abs(result.audio[np.abs(y) > 0.1499]) >= 0.1499).all()
    elif method in NETWORKS:
        expected = load_baseline(baseline)(torch.from_numpy(y[None]))[0].numpy()
        assert np.array_equal(result.audio, expected)
    elif method == "irm":
        expected = ideal_ratio_mask(torch.from_numpy(x[None]), torch.from_numpy(y[None]))[0].numpy()
        assert np.array_equal(result.audio, expected)
    elif method in ("voicefixer", "resemble-enhance"):
        assert sound.rms(result.audio) == pytest.approx(0.06, rel=1e-5)
        assert si_sdr(y, result.audio) > 20  # all but what is lost on the way to 44.1 kHz and back
    elif method != "informed":
        assert sound.rms(result.audio) == pytest.approx(0.06, rel=1e-5)
        assert result.curve(np.linspace(-0.2, 0.2, 5)).shape == (5,)
        assert len(result.cost) == 2


FITTING = [
    ("demucs", "hard_clip", 44100, "demucs-hardclip"),
    ("demucs", "soft_clip", 44100, "demucs-softclip"),
    ("demucs", "soft_clip_r", 44100, "demucs-softclip"),
    ("demucs", "hard_clip", 16000, "demucs-hardclip-16k"),
    ("umx", "amplified_clip", 16000, "umx-hardclip-16k"),
    ("crafx", "overdrive", 16000, "crafx-overdrive"),
    ("wave-unet", "overdrive_static", 16000, "wave-unet-overdrive"),
    ("wave-unet", "hard_clip", 44100, None),
    ("demucs", "overdrive", 44100, None),
    ("demucs", "soft_clip", 16000, None),
    ("demucs", "hard_clip", 48000, None),
    ("demucs", "half_wave", 16000, None),
]


@pytest.mark.parametrize(("network", "family", "rate", "weights"), FITTING)
def test_a_network_has_cells_where_weights_were_trained_for_it(
    monkeypatch: pytest.MonkeyPatch, network: str, family: str, rate: int, weights: str | None
) -> None:
    monkeypatch.setattr("nldiff.restoration.methods.SHIPPED", WEIGHTS)
    assert has_cells(network, family, rate, {}) == (weights is not None)
    assert has_cells(network, family, rate, {network: "mine.safetensors"})
    if weights is None:
        return
    asked: list[str] = []

    def load(name: str, device: torch.device) -> NoReturn:
        asked.append(name)
        raise NldiffError("not needed here")

    monkeypatch.setattr("nldiff.restoration.methods._loaded", load)
    run = Run(RestoreConfig(device="cpu"), 0.06, lambda: pytest.fail("no prior is needed"))
    distortion = Distortion("overdrive_static" if family == "overdrive" else family)
    with pytest.raises(NldiffError, match="not needed here"):
        METHODS[network](run)(plucked(0.2, rate), rate, distortion)
    assert asked == [weights]


def test_a_method_that_lacks_its_weights_or_package_does_not_stop_the_others(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "voicefixer", None)
    changes = [
        "methods=[observed, umx, voicefixer]",
        "distortions=[hard_clip:sdr=3]",
        "weights={umx: none.safetensors}",
    ]
    outcome = evaluate(quick(clips, prior, *changes), tmp_path)
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (6, 4)
    errors = {row["method"]: row["error"] for row in table(tmp_path)}
    assert errors["observed"] == ""
    assert "'none.safetensors'" in errors["umx"]
    assert errors["voicefixer"].endswith('pip install "nldiff[voicefixer]"')


def test_the_mask_may_look_at_the_clean_signal(clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path]) -> None:
    changes = ["methods=[observed, irm]", "distortions=[hard_clip:sdr=3]", "compare_to=observed"]
    evaluate(quick(clips, prior, *changes), tmp_path)
    scores = {(row["clip"], row["method"]): float(row["si_sdr"]) for row in table(tmp_path)}
    for clip in ("a", "more/b"):
        assert scores[clip, "irm"] > scores[clip, "observed"] + 1


def test_an_informed_method_keeps_the_scale_that_the_distortion_gives(
    prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sampler that changes nothing returns the observation, whatever level it was brought to in between.
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler())
    y = plucked(0.2, 8000).clip(-0.15, 0.15)
    result = METHODS["informed"](run_of(prior))(y, 8000, Distortion("hard_clip", {"threshold": 0.15}))
    assert result.audio == pytest.approx(y, abs=1e-6)


def test_a_blind_method_returns_the_level_of_the_clip_and_a_curve_for_it(
    prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sampler returns minus the observation: the sign is put right, the level is that of the run.
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(lambda y: -y))
    y = plucked(0.2, 8000)
    result = METHODS["ccr"](run_of(prior))(y, 8000, Distortion("half_wave"))
    gain = 0.06 / sound.rms(y)
    assert result.audio == pytest.approx(gain * y, abs=1e-6)
    # ccr starts as the identity at the prior's level: y_hat = -x at that of the observation
    assert result.curve(np.array([0.01])) == pytest.approx([-0.01 / gain], rel=0.02)


def test_aspade_is_told_the_levels_and_undoes_the_gain() -> None:
    clean = plucked(0.3, RATE)
    method = METHODS["aspade"](Run(RestoreConfig(), 0.06, lambda: pytest.fail("no prior is needed"), "short"))
    expected = aspade(torch.from_numpy(clean.clip(-0.1, 0.1))[None], -0.1, 0.1, PRESETS["short"])[0].numpy()
    plain = method(clean.clip(-0.1, 0.1), RATE, Distortion("hard_clip", {"threshold": 0.1}))
    assert np.array_equal(plain.audio, expected)
    loud = make_case(clean, RATE, parse_task("amplified_clip:gain_db=20"))
    # equal but for rounding, which grows where spectral lines are chosen
    assert si_sdr(expected, method(loud.observed, RATE, loud.truth).audio) > 25
    assert sdr(expected, method(loud.observed, RATE, loud.truth).audio) > 25
    lower = Distortion("asymmetric_clip", {"threshold": 0.2, "ratio": 0.3})
    restored = method(lower(torch.from_numpy(clean)).numpy(), RATE, lower).audio
    kept = (clean > -0.0599) & (clean < 0.1999)
    assert np.array_equal(restored[kept], clean[kept])
    with pytest.raises(NldiffError, match="hard clipping only, not soft_clip"):
        method(clean, RATE, Distortion("soft_clip"))


# ------------------------------------------------------------ scores


def restoration(audio: NDArray[np.float32], curve: Callable[[Any], Any]) -> Restoration:
    result = signal_only(audio, RATE, 0.0)
    return Restoration(**{**vars(result), "curve": curve})


def test_curves_are_scored_at_the_level_of_the_clean_signal() -> None:
    case = make_case(plucked(0.5, RATE), RATE, parse_task("half_wave"))
    scaled = restoration(case.clean, lambda x: 0.9 * np.maximum(x, 0))
    values, problems = score(["rr_mse", "rr_mse_unfitted", "redistorted_lsd"], case, scaled)
    assert problems == {}
    # eq. 16 by hand: (0.1 r)^2 on half of the ramp, whose mean square is 3 sigma^2
    assert values["rr_mse_unfitted"] == pytest.approx(10 * np.log10(0.01 * 1.5 * case.sigma**2), abs=0.02)
    assert values["rr_mse"] < -100
    assert values["redistorted_lsd"] == pytest.approx(lsd(case.observed, 0.9 * case.observed), rel=1e-6)
    # the other sign of signal and curve is as good
    flipped = restoration(-case.clean, lambda x: 0.9 * np.maximum(-x, 0))
    assert score(["rr_mse_unfitted", "redistorted_lsd"], case, flipped)[0] == pytest.approx(
        {name: values[name] for name in ("rr_mse_unfitted", "redistorted_lsd")}, rel=1e-6
    )
    assert values["rr_mse_unfitted"] == pytest.approx(
        rr_mse(case.truth, lambda r: 0.9 * torch.relu(r), case.sigma), rel=1e-6
    )


def test_improvements_are_against_the_observation() -> None:
    case = make_case(plucked(0.5, RATE), RATE, parse_task("hard_clip:sdr=5"))
    halved = restoration(case.clean + 0.5 * (case.observed - case.clean), np.asarray)
    values, _ = score(["sdr", "delta_sdr", "delta_sdr_clipped"], case, halved)
    # half of the error is 6.02 dB less of it, all of it in clipped samples
    assert values == pytest.approx(
        {"sdr": 5 + 20 * np.log10(2), "delta_sdr": 20 * np.log10(2), "delta_sdr_clipped": 20 * np.log10(2)}, abs=1e-2
    )


def test_what_cannot_be_computed_is_told_and_the_rest_is_there() -> None:
    case = make_case(plucked(0.2, RATE), RATE, parse_task("half_wave"))
    values, problems = score(["estoi", "si_sdr"], case, restoration(case.observed, np.asarray))
    assert list(values) == ["si_sdr"]
    assert "too short" in problems["estoi"]


def test_distances_between_sets_of_embeddings() -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((30, 3)).astype(np.float32) for _ in range(2))
    moments = [(x.astype(float).mean(0), np.cov(x.astype(float).T)) for x in (a, b)]
    assert distance([a[:10], a[10:]], [b[:10], b[10:]]) == pytest.approx(frechet_distance(*moments[0], *moments[1]))
    assert distance([a], [a + np.float32(2)]) == pytest.approx(12, rel=1e-5)  # 3 dimensions, 2^2 each
    with pytest.raises(NldiffError, match="at least 2"):
        distance([a[:1]], [b])


# ------------------------------------------------------------ tables


def test_both_tables_hold_the_same(reference: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet").read_table(reference / "results.parquet").to_pylist()
    rows = table(reference)
    columns = ["task", "distortion", "level", "level_name", "method", "clip", "seed", "status", "error", "seconds"]
    columns += ["si_sdr", "rr_mse", "explained_db"]
    assert list(rows[0]) == list(parquet[0]) == columns
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in parquet] == rows
    assert {(r["task"], r["level"], r["level_name"]) for r in rows} == {
        ("hard_clip", "3.0", "input SDR"), ("half_wave", "", ""),
    }  # fmt: skip
    assert all((row["rr_mse"] == "") == (row["method"] == "observed") for row in rows)


def test_curves_and_traces_are_kept(reference: Path) -> None:
    group = reference / "curves" / "half_wave__more-b__0"
    x, y = np.loadtxt(group / "truth.csv", delimiter=",", skiprows=1).T
    assert (group / "truth.csv").read_text().splitlines()[0] == "x,y"
    assert (len(x), x[0], x[-1]) == pytest.approx((1000, -0.18, 0.18), rel=1e-5)
    assert y == pytest.approx(np.maximum(x, 0))
    assert np.loadtxt(group / "ccr.csv", delimiter=",", skiprows=1).shape == (1000, 2)
    assert not (group / "observed.csv").exists()
    shapes = reference / "traces" / "half_wave__more-b__0" / "ccr.curves.csv"
    x, *curves = np.loadtxt(shapes, delimiter=",", skiprows=1).T
    assert np.all(np.diff(x) > 0)
    assert shapes.read_text().splitlines()[0].split(",") == ["x", *map(str, range(len(curves)))]
    trace = reference / "traces" / "half_wave__more-b__0" / "ccr.csv"
    assert len(curves) == len(trace.read_text().splitlines()) - 1
    assert trace.read_text().splitlines()[0] == "step,sigma,cost"
    step, sigma, cost = np.loadtxt(trace, delimiter=",", skiprows=1).T
    assert step.tolist() == [0, 1]
    assert sigma.tolist() == pytest.approx([1.0, 1e-3])
    assert (cost > 0).all()


def _row(method: str, clip: str, seed: int, value: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "task": "hard_clip", "distortion": "hard_clip:sdr=3", "level": 3.0, "level_name": "input SDR",
        "method": method, "clip": clip, "seed": seed, "status": "ok", "error": "", "seconds": 1.0, "sdr": value,
    } | changes  # fmt: skip


def test_the_summary_by_hand() -> None:
    rows = [_row("a", "1", 0, 10.0), _row("a", "1", 1, 20.0), _row("a", "2", 0, 30.0), _row("a", "3", 0, None)]
    rows += [_row("b", "1", 0, 14.0), _row("b", "2", 0, 26.0), _row("b", "4", 0, 7.0)]
    rows += [_row("b", "3", 0, None, status="failed", error="gave | up")]
    text = summary(rows, ["sdr"], [], "a", ["sdr: reference is silent"] * 2)
    # clip 1 of a is 15 on average over its seeds; clip 3 has no value
    assert "| hard_clip:sdr=3 | a | 3 | 0 | 22.50 [15.00, 30.00] (of 2) |" in text
    mean = text.split("### Mean")[1]
    assert re.search(r"\| b \| 3 \| 1 \| 15\.67 \[7\.00, 26\.00\] \|", mean)
    # pairs: 14 - 15 and 26 - 30; clip 4 has no partner
    assert "| hard_clip:sdr=3 | b | -2.50 [-4.00, -1.00], p = 0.500 (of 2) |" in text
    assert "8 cells, 1 failed" in text
    assert "| hard_clip:sdr=3 | b | 3 | 0 | gave \\| up |" in text
    assert "| sdr: reference is silent | 2 |" in text


def test_a_set_that_was_not_changed_has_distance_0(
    clips: Path, prior: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    changes = ["methods=[observed]", "distortions=[hard_clip:threshold=1, half_wave]", "embeddings={log_mel: null}"]
    evaluate(quick(clips, prior, *changes), tmp_path)
    with (tmp_path / "frechet.csv").open(newline="") as text:
        found = {row["distortion"]: row for row in csv.DictReader(text)}
    assert found["hard_clip:threshold=1"]["embedding"] == "log-mel (not FAD)"
    assert float(found["hard_clip:threshold=1"]["distance"]) == pytest.approx(0, abs=1e-6)
    assert float(found["half_wave"]["distance"]) > 0.1
    assert found["half_wave"]["clips"] == "2"


def test_the_report_command_calls_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Path, Path | None, float]] = []

    def build(run_dir: Path, out: Path | None, lufs: float) -> Path:
        calls.append((run_dir, out, lufs))
        return run_dir / "index.html"

    monkeypatch.setitem(sys.modules, "nldiff.report", SimpleNamespace(build_report=build))
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path), "--out", "page", "--lufs", "-19"]) == 0
    assert calls == [(tmp_path, None, -23.0), (tmp_path, Path("page"), -19.0)]
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n" * 2
