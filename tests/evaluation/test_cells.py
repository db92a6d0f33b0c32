"""Cells: what methods are told, at which scale their results are judged, what is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile as sf
import torch
from experiments import RATE, columns, emitted, quick, table, with_list
from helpers import FakeSampler, save_tiny_baseline, use_sampler
from numpy.typing import NDArray

from nldiff import sound
from nldiff.baselines.aspade import PRESETS, aspade
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import load_baseline
from nldiff.evaluation import evaluate
from nldiff.metrics import sdr, si_sdr
from nldiff.operators import WAVESHAPERS, Chain
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.methods import METHODS, Method

pytest_plugins = ["experiment_fixtures"]
Array = NDArray[np.float32]


class Files(NamedTuple):
    """What one cell left: its row, clean, observed and restored signal, and its curve or None."""

    row: dict[str, str]
    clean: Array
    observed: Array
    restored: Array
    curve: NDArray[np.float64] | None
    folder: Path


@pytest.fixture
def cell(clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]) -> Callable[..., Files]:
    """Runs a method on a distortion of the first clip; FLAC rounds the signals to 24 bits."""

    def run(method: str, distortion: str, *changes: str) -> Files:
        folder = tmp_path / f"{method}-{len(list(tmp_path.iterdir()))}"
        base = ["files=1", f"methods=[{method}]", f"compare_to={method}", with_list("distortions", [distortion])]
        evaluate(quick(clips, prior_file, *base, "save_audio=true", *changes), folder)
        (row,) = table(folder)
        assert row["status"] == "ok", row["error"]
        (audio,) = (folder / "audio").iterdir()
        names = ("clean", "observed", method)
        clean, observed, restored = (sf.read(audio / f"{name}.flac", dtype="float32")[0] for name in names)
        curve = folder / "curves" / audio.name / f"{method}.csv"
        return Files(row, clean, observed, restored, columns(curve) if curve.exists() else None, folder)

    return run


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny.safetensors", RATE)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_returns_what_its_table_promises(
    method: str, cell: Callable[..., Files], baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("voicefixer", "resemble_enhance"):  # their own tests are those of nldiff.baselines.external
        monkeypatch.setattr(f"nldiff.baselines.external.{name}", lambda *_: lambda chunk: 3 * chunk)
    weights = json.dumps(dict.fromkeys(NETWORKS, str(baseline)))
    found = cell(method, "hard_clip:sdr=3", "seconds=0.4", f"weights={weights}", "aspade=short", "metrics=[rr_mse]")
    y, level = found.observed, float(np.abs(found.observed).max())
    entry = METHODS[method]
    assert len(found.restored) == len(y) == 0.4 * RATE
    # a curve is judged, and how it explains the observation told, of methods that find or use one
    assert (found.curve is not None) == entry.finds_operator == (found.row["rr_mse"] != "")
    assert (found.row["explained_db"] != "") == (entry.finds_operator or method == "informed")
    assert (found.folder / "traces").exists() == entry.uses_prior
    if method == "observed":
        assert np.array_equal(found.restored, y)
    elif method in ("aspade", "sspade"):
        # the observation is rounded here, not in the run
        assert found.restored[np.abs(y) < 0.999 * level] == pytest.approx(y[np.abs(y) < 0.999 * level], abs=2e-7)
        assert (np.abs(found.restored[np.abs(y) > 0.9999 * level]) >= 0.9999 * level).all()
    elif method in NETWORKS:
        expected = load_baseline(baseline)(torch.from_numpy(y[None]))[0].numpy()
        assert found.restored == pytest.approx(expected, abs=1e-5)
    elif method == "irm":
        expected = ideal_ratio_mask(torch.from_numpy(found.clean[None]), torch.from_numpy(y[None]))[0].numpy()
        assert found.restored == pytest.approx(expected, abs=1e-5)
    elif method in ("voicefixer", "resemble-enhance"):
        assert sound.rms(found.restored) == pytest.approx(0.06, rel=1e-5)
        assert si_sdr(y, found.restored) > 20  # all but what is lost on the way to 44.1 kHz and back
    elif method != "informed":
        assert sound.rms(found.restored) == pytest.approx(0.06, rel=1e-5)
        (trace,) = (found.folder / "traces").glob(f"*/{method}.csv")
        assert columns(trace).shape == (3, 2)


def test_the_mask_may_look_at_the_clean_signal(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    changes = ["methods=[observed, irm]", "distortions=[hard_clip:sdr=3]", "compare_to=observed"]
    evaluate(quick(clips, prior_file, *changes), tmp_path)
    scores = {(row["clip"], row["method"]): float(row["si_sdr"]) for row in table(tmp_path)}
    for clip in ("a", "more/b"):
        assert scores[clip, "irm"] > scores[clip, "observed"] + 1


DECLARED: list[dict[str, Any]] = [
    {"operator": "needs"}, {"operator": "may"}, {"operator": "ignores"}, {"operator": "ignores", "needs_clean": True},
]  # fmt: skip


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: "-".join(map(str, declared.values())))
def test_a_method_is_told_what_it_declares_and_nothing_else(
    declared: dict[str, Any], cell: Callable[..., Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []

    def told(job: Job, emit: Emit, on_step: OnStep) -> Fit:
        jobs.append(job)
        return emitted(job, emit, on_step)

    monkeypatch.setitem(METHODS, "told", Method(told, **declared))
    text = "hard_clip:sdr=3 > overdrive:gain_db=20"
    found = cell("told", text, "seeds=[7]", "aspade=short")
    (job,) = jobs
    assert (job.known is None) == (declared["operator"] == "ignores")
    assert (job.clean is not None) == declared.get("needs_clean", False)
    if job.known:
        assert isinstance(job.known, Chain)
        # the parameters are those of this clip; the files hold the signal at another level
        wet = job.known(torch.from_numpy(found.clean)).numpy()
        assert si_sdr(wet, found.observed) > 60
        assert sdr(wet, job.recording.read(0, len(wet))[0]) > 60
    if job.clean is not None:
        assert job.clean[0] == pytest.approx(found.clean, abs=1e-6)
    assert (job.config.seed, job.spade, job.weights) == (7, "short", None)


def test_an_informed_method_keeps_the_scale_that_the_distortion_gives(
    cell: Callable[..., Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sampler that changes nothing returns the observation, whatever level it was brought to in between.
    use_sampler(monkeypatch, FakeSampler())
    found = cell("informed", "hard_clip:threshold=0.05", "rate=8000")
    assert found.restored == pytest.approx(found.observed, abs=1e-6)
    assert sound.rms(found.restored) < 0.055


def test_where_the_level_says_nothing_every_result_gets_that_of_the_clip(
    cell: Callable[..., Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sampler(monkeypatch, FakeSampler())
    found = cell("informed", "amplified_clip:gain_db=30,threshold=0.5", "rate=8000")
    assert sound.rms(found.restored) == pytest.approx(0.06, rel=1e-5)
    assert sound.rms(found.observed) == pytest.approx(0.06, rel=1e-5)


@pytest.mark.parametrize("method", sorted(WAVESHAPERS))
def test_a_blind_method_returns_the_level_of_the_clip_and_a_curve_for_it(
    method: str, cell: Callable[..., Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sampler returns minus the observation: the sign is put right, the level is that of the clip.
    sampler = FakeSampler(lambda y: -y)
    use_sampler(monkeypatch, sampler)
    changes = ["rate=8000", "restore.warm_start=observation", "restore.operator_fit.iterations=0"]
    found = cell(method, "half_wave", *changes)
    gain = 0.06 / sound.rms(found.observed)
    assert found.restored == pytest.approx(gain * found.observed, abs=1e-6)
    assert type(sampler.calls[0]["operator"]).__name__ == {"ccr": "CatmullRom", "mlp": "MLP"}.get(method, "SumTanh")
    assert found.curve is not None
    if method == "ccr":
        # it starts as the identity at the prior's level: y_hat = -x at that of the observation
        x, y = found.curve
        assert np.interp(0.01, x, y) == pytest.approx(-0.01 / gain, rel=0.02)


def test_aspade_is_told_the_levels_and_undoes_the_gain(cell: Callable[..., Files]) -> None:
    changes = ["level=0", "seconds=0.3", "aspade=short"]
    plain = cell("aspade", "hard_clip:threshold=0.1", *changes)
    expected = aspade(torch.from_numpy(plain.clean.clip(-0.1, 0.1))[None], -0.1, 0.1, PRESETS["short"])[0].numpy()
    # equal but for rounding, which grows where spectral lines are chosen
    assert sdr(expected, plain.restored) > 45
    loud = cell("aspade", "amplified_clip:gain_db=20", *changes)
    assert si_sdr(expected, loud.restored) > 25
    lower = cell("aspade", "asymmetric_clip:threshold=0.2,ratio=0.3", *changes)
    kept = (lower.clean > -0.0599) & (lower.clean < 0.1999)
    assert lower.restored[kept] == pytest.approx(lower.clean[kept], abs=2e-7)


def test_a_cell_has_the_settings_of_the_run(cell: Callable[..., Files], monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = FakeSampler()
    use_sampler(monkeypatch, sampler)
    # names of version 0.1 beside those of today
    old = ["restore.sampler.operator_iterations=5", "restore.sampler.heun=true", "restore.cost.hop=128"]
    cell("ccr", "half_wave", *old, "restore.sampler.cost_n_fft=512", "restore.sampler.steps=3")
    call = sampler.calls[0]
    assert (call["settings"].name, call["settings"].steps, call["fit"].iterations) == ("heun", 3, 5)
    assert (call["cost"].settings.n_fft, call["cost"].settings.hop) == (512, 128)
