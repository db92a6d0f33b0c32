"""Experiments on synthetic clips with a tiny prior: plans, resuming, sharing, failures, the one table of methods."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from experiments import CONFIGS, RATE, ROOT, command, emitted, environment, quick, table, timeless, with_list
from helpers import plucked, use_sampler

import nldiff
from nldiff.cli import main
from nldiff.errors import NldiffError
from nldiff.evaluation import EvaluationConfig, evaluate, load_experiment
from nldiff.evaluation.experiment import plan
from nldiff.metrics import si_sdr
from nldiff.operators import parse_operator
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.methods import METHODS, Method

pytest_plugins = ["experiment_fixtures"]
WEIGHTS = (
    "demucs-hardclip", "demucs-softclip", "demucs-overdrive", "demucs-hardclip-16k", "wave-unet-overdrive",
    "wave-unet-hardclip-16k", "umx-overdrive", "umx-hardclip-16k", "crafx-overdrive", "crafx-hardclip-16k",
)  # fmt: skip

# ------------------------------------------------------------ the experiments of configs/eval


def smoke(path: Path, clips: Path, prior: Path) -> EvaluationConfig:
    changes = [f"restore.prior={json.dumps(str(prior))}", "restore.device=cpu", "restore.refinement.name=none"]
    return load_experiment(path, clips, True, changes)


def test_there_is_a_configuration_for_every_experiment() -> None:
    names = {"operators", "guitar", "speech", "overdrive", "declipping_16k", "declipping_survey"}
    assert {path.stem for path in CONFIGS} == names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_smoke_of_an_experiment(
    path: Path, clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    config = smoke(path, clips, prior_file)
    warnings: list[str] = []
    outcome = evaluate(config, tmp_path / "run", warn=warnings.append)
    assert undrawn == [tmp_path / "run"]
    rows = table(tmp_path / "run")
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (len(rows), 0), [row["error"] for row in rows]
    assert len(rows) == len(config.methods) * len(config.distortions) * config.files
    assert len({line.split(":")[0] for line in warnings}) == len(warnings)
    for name in config.metrics:
        if any(line.startswith(f"{name}:") for line in warnings):
            assert all(row[name] == "" and f"{name}: " in row["error"] for row in rows)
        elif name.startswith(("rr_mse", "redistorted")):
            assert all((row[name] == "") == (row["method"] not in ("sumtanh", "mlp", "ccr")) for row in rows)
        else:
            assert all(np.isfinite(float(row[name])) for row in rows)
    for row in rows:
        group = re.sub("[:=,]", "-", f"{row['distortion']}__{row['clip']}__0").replace("/", "-")
        folder = tmp_path / "run" / "audio" / group
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


# Distortions for which a method has cells, where that is not all of them: declipping has none for soft clipping.
CELLS: dict[str, dict[str, int]] = {path.stem: {} for path in CONFIGS} | {"speech": {"aspade": 3}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_full_size_of_an_experiment_is_planned(path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.baselines.choice.SHIPPED", WEIGHTS)
    config = load_experiment(path, clips, False, [])
    cells = Counter(method for group in plan(config) for method in group.methods)
    assert cells == {method: 2 * CELLS[path.stem].get(method, len(config.distortions)) for method in config.methods}
    assert load_experiment(path, clips, True, []).seconds < config.seconds


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
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch, network: str,
    family: str, rate: int, weights: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr("nldiff.baselines.choice.SHIPPED", WEIGHTS)
    asked: list[str] = []

    def load(name: str, device: torch.device) -> None:
        asked.append(name)
        raise NldiffError("not needed here")

    monkeypatch.setattr("nldiff.restoration.signal_methods.loaded", load)
    changes = ["files=1", "seconds=0.2", f"rate={rate}", f"distortions=[{family}]", f"methods=[{network}]"]
    named = quick(clips, prior_file, *changes, f"weights.{network}=mine.safetensors")
    assert [group.methods for group in plan(named)] == [(network,)]
    if weights is None:
        with pytest.raises(NldiffError, match=f"no method of {network} is meant for these distortions"):
            plan(quick(clips, prior_file, *changes))
        return
    evaluate(quick(clips, prior_file, *changes), tmp_path)
    assert [row["error"] for row in table(tmp_path)] == ["not needed here"]
    assert asked == [weights]


# ------------------------------------------------------------ the one table of methods


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method made by one entry of the table: half of the recording."""
    monkeypatch.setitem(METHODS, "halved", Method(partial(emitted, factor=0.5)))


def test_a_method_of_the_table_is_one_of_experiments_command_line_and_library(
    halved: None, clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    changes = ["methods=[observed, halved]", "metrics=[si_sdr, sdr]", "compare_to=halved"]
    evaluate(quick(clips, prior_file, *changes), tmp_path)
    rows = {(r["clip"], r["distortion"], r["method"]): r for r in table(tmp_path)}
    for (clip, distortion, method), row in rows.items():
        other = rows[clip, distortion, "observed"]
        assert float(row["si_sdr"]) == pytest.approx(float(other["si_sdr"]), abs=1e-4)
        assert method == "observed" or float(row["sdr"]) != pytest.approx(float(other["sdr"]), abs=0.1)
    # outside of experiments, the result gets the level of the recording
    source, folder = clips / "a.wav", tmp_path / "restored"
    assert main(["restore", str(source), "--output", str(folder), "--method", "halved", "--quiet"]) == 0
    audio, rate = sf.read(source, dtype="float32")
    assert sf.read(folder / "a.restored.wav")[0] == pytest.approx(audio, abs=1e-6)
    assert json.loads((folder / "a.json").read_text())["method"] == "halved"
    result = nldiff.restore(audio, rate, method="halved")
    assert result.method == "halved"
    assert result.gain == pytest.approx(2.0, rel=1e-5)


def test_all_names_of_the_experiments_are_methods() -> None:
    named = {name for path in CONFIGS for name in yaml.safe_load(path.read_text())["methods"]}
    assert named <= set(METHODS)
    assert {"observed", "ccr", "mlp", "sumtanh", "informed", "aspade", "demucs", "irm"} <= named


TEXTS = [
    "hard_clip:sdr=3 > overdrive:gain_db=20; mix=0.5",
    "overdrive:gain_db=35,colour=20",
    "hard_clip:threshold=0.1 > hard_clip:threshold=0.05",
]


@pytest.mark.parametrize("text", TEXTS)
def test_chains_and_effects_are_distortions_of_an_experiment(
    text: str, clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    changes = ["files=1", with_list("distortions", [text]), "methods=[observed, irm, ccr, informed]", "save_audio=true"]
    outcome = evaluate(quick(clips, prior_file, *changes), tmp_path)
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (4, 0), [row["error"] for row in table(tmp_path)]
    rows = {row["method"]: row for row in table(tmp_path)}
    assert {row["distortion"] for row in rows.values()} == {text}
    assert {row["task"] for row in rows.values()} == {" > ".join(part.split(":")[0] for part in text.split(" > "))}
    (folder,) = (tmp_path / "audio").iterdir()
    clean, observed = (sf.read(folder / f"{name}.flac", dtype="float32")[0] for name in ("clean", "observed"))
    expected = parse_operator(text).build(torch.from_numpy(clean))(torch.from_numpy(clean)).numpy()
    # the level of a loud effect is put right in the files
    assert si_sdr(expected, observed) > 60
    assert float(rows["irm"]["si_sdr"]) > float(rows["observed"]["si_sdr"])
    assert rows["ccr"]["rr_mse"] != rows["informed"]["rr_mse"] == ""


# ------------------------------------------------------------ interruption and sharing

# A method that leaves a mark each time it is run and is slow enough to be killed.
SLOW = """
import sys, time
from dataclasses import replace
from pathlib import Path
import nldiff.figures
from nldiff.cli import main
from nldiff.restoration.methods import METHODS
nldiff.figures.draw = lambda folder: []
ccr = METHODS["ccr"]
def slow(job, emit, on_step):
    fit = ccr.run(job, emit, on_step)
    time.sleep(0.3)
    with Path(sys.argv[1]).open("a") as marks:
        marks.write(f"{job.recording.read(0, 100).std()}\\n")
    return fit
METHODS["ccr"] = replace(ccr, run=slow)
sys.exit(main(sys.argv[2:]))
"""


def test_killed_twice_the_table_is_that_of_an_uninterrupted_run(
    clips: Path, prior_file: Path, reference: Path, tmp_path: Path
) -> None:
    out, marks = tmp_path / "run", tmp_path / "marks"
    line = [sys.executable, "-c", SLOW, str(marks), *command(quick(clips, prior_file), out, tmp_path)]
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
    clips: Path, prior_file: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nldiff"]
    line = [*launcher, *command(quick(clips, prior_file), out, tmp_path)]
    done = subprocess.run(line, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert timeless(out) == timeless(reference)
    # nothing is drawn twice, and the real figures of a real run can be drawn
    names = {path.name for path in (out / "figures").iterdir()}
    assert {"boxes-hard_clip.png", "boxes-hard_clip.svg", "curves.png"} <= names


def test_a_process_does_its_share_and_the_first_one_writes_the_tables(
    clips: Path, prior_file: Path, reference: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(clips, prior_file)
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
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(NldiffError, match="2 cells of other processes are missing"):
        evaluate(quick(clips, prior_file, "patience_minutes=0.005", "methods=[observed]"), tmp_path)
    assert undrawn == []


def test_finished_cells_stay_and_new_ones_are_added(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    evaluate(quick(clips, prior_file, "methods=[observed]"), tmp_path)
    path = next((tmp_path / "cells").iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 123.0}))
    seen: list[tuple[int, int]] = []
    evaluate(quick(clips, prior_file), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (4, 8)
    assert seen[-1] == (8, 8)
    assert sum(float(row["seconds"]) == 123 for row in table(tmp_path)) == 1


def test_results_of_other_settings_are_not_mixed(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    evaluate(quick(clips, prior_file, "methods=[observed]"), tmp_path)
    with pytest.raises(NldiffError, match=re.escape("(seconds: 1.0, now 0.5)")):
        evaluate(quick(clips, prior_file, "methods=[observed]", "seconds=0.5"), tmp_path)
    settings = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert settings["config"]["seconds"] == 1.0
    assert settings["config"]["restore"]["refinement"] == {"name": "none"}
    assert settings["versions"]["torch"] == torch.__version__
    assert settings["threads"] == 1


# ------------------------------------------------------------ failures


def _raises(job: Job, emit: Emit, on_step: OnStep) -> Fit:
    if job.recording.read(0, job.recording.frames).min() >= 0:  # that is half_wave
        raise NldiffError("did not converge")
    return emitted(job, emit, on_step)


def _nan(job: Job, emit: Emit, on_step: OnStep) -> Fit:
    def spoiled(block: np.ndarray) -> object:
        return emit(np.where(np.arange(block.shape[1]) == 7, np.nan, block).astype(np.float32))

    return emitted(job, spoiled, on_step)


def test_failures_are_counted_and_shown(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "raises", Method(_raises))
    monkeypatch.setitem(METHODS, "nan", Method(_nan))
    outcome = evaluate(quick(clips, prior_file, "methods=[observed, raises, nan]", "compare_to=raises"), tmp_path)
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (12, 6)
    failed = Counter((r["method"], r["distortion"], r["error"]) for r in table(tmp_path) if r["status"] == "failed")
    nan = "NaN or infinite samples in the result for audio"
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
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(METHODS, "raises", Method(_raises))
    out = tmp_path / "run"
    config = quick(clips, prior_file, "methods=[raises]")
    assert main([a for a in command(config, out, tmp_path) if a != "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'summary.md'}\n"
    assert captured.err.endswith("warning: 2 of 4 cells failed: see summary.md\n")


def test_a_clip_that_cannot_be_used_fails_its_cells_only(prior_file: Path, tmp_path: Path, undrawn: list[Path]) -> None:
    (tmp_path / "clips").mkdir()
    sf.write(tmp_path / "clips" / "a.wav", np.zeros(RATE), RATE)
    sf.write(tmp_path / "clips" / "b.wav", plucked(1.0, RATE), RATE)
    evaluate(quick(tmp_path / "clips", prior_file, "distortions=[half_wave]"), tmp_path / "run")
    assert [(r["clip"], r["status"]) for r in table(tmp_path / "run")] == [
        ("a", "failed"), ("a", "failed"), ("b", "ok"), ("b", "ok"),
    ]  # fmt: skip
    assert "a.wav is silent" in table(tmp_path / "run")[0]["error"]


def test_a_metric_without_its_package_leaves_a_column_empty_with_one_warning(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pystoi", "pystoi.stoi"):
        monkeypatch.setitem(sys.modules, module, None)
    warnings: list[str] = []
    changes = ["methods=[observed]", "metrics=[estoi, si_sdr]", "embeddings={vggish: null}"]
    outcome = evaluate(quick(clips, prior_file, *changes), tmp_path, warn=warnings.append)
    assert outcome is not None
    assert outcome.failed == 0
    assert len(warnings) == 2
    assert warnings[0] == "vggish: no weights given (embeddings.vggish=PATH)"
    assert warnings[1].startswith("estoi: ")
    assert warnings[1].endswith('pip install "nldiff[metrics]"')
    assert all(row["estoi"] == "" and row["si_sdr"] for row in table(tmp_path))
    assert warnings[0] in (tmp_path / "summary.md").read_text()
    assert f"| {warnings[1]} | 4 |" in (tmp_path / "summary.md").read_text()


def test_a_method_that_lacks_its_weights_or_package_does_not_stop_the_others(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "voicefixer", None)
    changes = ["methods=[observed, umx, voicefixer]", "distortions=[hard_clip:sdr=3]", "weights.umx=none.safetensors"]
    outcome = evaluate(quick(clips, prior_file, *changes), tmp_path)
    assert outcome is not None
    assert (outcome.cells, outcome.failed) == (6, 4)
    errors = {row["method"]: row["error"] for row in table(tmp_path)}
    assert errors["observed"] == ""
    assert "'none.safetensors'" in errors["umx"]
    assert errors["voicefixer"].endswith('pip install "nldiff[voicefixer]"')


def test_sampling_that_fails_is_told(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise NldiffError("sampling diverged")

    use_sampler(monkeypatch, diverge)  # type: ignore[arg-type]
    evaluate(quick(clips, prior_file, "files=1"), tmp_path)
    assert [(r["method"], r["error"]) for r in table(tmp_path)] == 2 * [("observed", ""), ("ccr", "sampling diverged")]
