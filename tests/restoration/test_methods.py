"""What `METHODS` promises: every entry keeps what it declares, and all ways to call it give the same."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, FakeSampler, clipped, plucked, save_tiny_baseline, save_tiny_prior, use_sampler
from numpy.typing import NDArray

import nldiff
from nldiff.baselines import external
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import SHIPPED
from nldiff.cli import main
from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, WAVESHAPERS, Distortion, Operator
from nldiff.priors.saved import Prior
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Job
from nldiff.restoration.methods import METHODS, Method, find_method
from nldiff.restoration.output import restore_file
from nldiff.restoration.pipeline import restore_job, run_method
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.signal_methods import Processor, by_chunks
from nldiff.sound.recording import Recording

Audio = NDArray[np.float32]
CONFIG = RestoreConfig(device="cpu", chunk_seconds=0.1, overlap_seconds=0.02)
LEVEL = 0.3
KNOWN = Distortion("hard_clip", {"threshold": LEVEL})
EXTERNAL = {"voicefixer", "resemble-enhance"}


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def _external(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other packages are stood for by a gain, and noise where there is a seed."""

    def noisy(device: torch.device, seed: int) -> Callable[[Audio], Audio]:
        random = np.random.default_rng(seed)
        return lambda chunk: chunk + 0.01 * random.standard_normal(chunk.shape).astype(np.float32)

    monkeypatch.setattr(external, "voicefixer", lambda device: lambda chunk: 5 * chunk)
    monkeypatch.setattr(external, "resemble_enhance", noisy)


@cache
def signals() -> tuple[Audio, Audio]:
    """Clean and clipped, [1, time]."""
    x = plucked(0.15, TINY_RATE)[None]
    return x, x.clip(-LEVEL, LEVEL)


def full_job(name: str, prior: Prior, baseline: Path, config: RestoreConfig = CONFIG) -> Job:
    """A job with all that a method declares, and nothing else."""
    method, (x, y) = METHODS[name], signals()
    return Job(
        Recording.from_array(y, TINY_RATE, "take.wav"),
        config,
        [prior] if method.uses_prior else (),
        str(baseline) if method.takes_weights else None,
        KNOWN if method.operator == "needs" else None,
        x if method.needs_clean else None,
    )


def made(name: str, job: Job) -> tuple[Audio, Fit]:
    blocks: list[Audio] = []
    fit = run_method(find_method(name), job, blocks.append)
    return np.concatenate(blocks, axis=1), fit


# ------------------------------------------------------------ what is declared


@pytest.mark.parametrize("name", METHODS)
def test_what_is_declared_is_all_that_is_needed(prior: Prior, baseline: Path, name: str) -> None:
    job = full_job(name, prior, baseline)
    steps: list[tuple[int, int]] = []
    blocks: list[Audio] = []
    fit = run_method(find_method(name), job, blocks.append, lambda *step: steps.append(step))
    found = np.concatenate(blocks, axis=1)
    assert found.shape == signals()[1].shape
    assert found.dtype == np.dtype(np.float32)
    assert bool(np.isfinite(found).all())
    assert steps[-1][0] == steps[-1][1] > 0
    method = METHODS[name]
    assert (fit.weights == "tiny") == method.takes_weights
    assert (fit.sampling is not None) == method.uses_prior == (fit.operator is not None)
    assert fit.observation_gain == 1 or method.uses_prior
    assert 0 < fit.restored_band_hz <= TINY_RATE / 2
    assert not method.finds_operator or method.operator == "ignores"


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.operator == "needs"])
def test_a_method_that_needs_the_operator_is_not_run_without(prior: Prior, baseline: Path, name: str) -> None:
    job = replace(full_job(name, prior, baseline), known=None)
    with pytest.raises(NldiffError, match=rf"^method {name} needs the known operator \(--known\)$"):
        made(name, job)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.operator == "ignores"])
def test_a_method_that_ignores_the_operator_is_not_told_it(prior: Prior, baseline: Path, name: str) -> None:
    job = replace(full_job(name, prior, baseline), known=KNOWN)
    with pytest.raises(NldiffError, match=rf"^--known {KNOWN}: --method {name} cannot use it$"):
        made(name, job)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.operator == "may"])
def test_a_method_that_may_use_the_operator_works_with_and_without(prior: Prior, baseline: Path, name: str) -> None:
    job = full_job(name, prior, baseline)
    told = made(name, replace(job, known=KNOWN))[0]
    found = made(name, job)[0]
    if METHODS[name].takes_weights:  # they are named: nothing is chosen by the operator
        np.testing.assert_array_equal(told, found)
    else:
        quiet = np.abs(signals()[1]) < 0.99 * LEVEL
        for restored in (told, found):
            np.testing.assert_allclose(restored[quiet], signals()[1][quiet], rtol=1e-5)
            assert np.abs(restored[~quiet]).max() > 1.1 * LEVEL


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs_clean])
def test_a_method_that_looks_at_the_clean_signal_is_not_run_without(prior: Prior, baseline: Path, name: str) -> None:
    job = replace(full_job(name, prior, baseline), clean=None)
    with pytest.raises(NldiffError, match=f"^{name} needs the clean signal: only with --distort"):
        made(name, job)


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_that_say_so_look_at_the_clean_signal(prior: Prior, baseline: Path, name: str) -> None:
    job = full_job(name, prior, baseline)
    first, other = (
        made(name, replace(job, clean=clean))[0] for clean in (signals()[0], 0.5 * signals()[0][:, ::-1].copy())
    )
    assert np.array_equal(first, other) != METHODS[name].needs_clean


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_that_say_so_ask_for_priors_and_weights(
    prior: Prior, baseline: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("nldiff.restoration.diffusion.choose_prior", lambda *_: asked.append("prior"))
    monkeypatch.setattr("nldiff.restoration.signal_methods.loaded", lambda *_: asked.append("weights"))
    if METHODS[name].uses_prior or METHODS[name].takes_weights:
        with pytest.raises(AttributeError, match="NoneType"):
            made(name, full_job(name, prior, baseline))
    else:
        made(name, full_job(name, prior, baseline))
    assert asked == (["prior"] if METHODS[name].uses_prior else ["weights"] if METHODS[name].takes_weights else [])


@pytest.mark.parametrize("name", METHODS)
def test_other_seeds_give_other_results_of_random_methods_only(prior: Prior, baseline: Path, name: str) -> None:
    first, again, other = (
        made(name, full_job(name, prior, baseline, replace(CONFIG, seed=seed)))[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) != METHODS[name].random


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_named_for_networks_only(baseline: Path, name: str) -> None:
    if METHODS[name].takes_weights:
        assert find_method(name, str(baseline)).name == name
        return
    with pytest.raises(
        NldiffError, match=f"^--weights .*tiny.safetensors: only with a network as --method .{'demucs'}"
    ):
        find_method(name, str(baseline))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_suits_the_distortions_that_it_is_made_for(name: str) -> None:
    suited = {family for family in DISTORTIONS if METHODS[name].suits(family, 44100)}
    if name in ("aspade", "sspade"):
        assert suited == {"hard_clip", "asymmetric_clip", "amplified_clip"}
    elif name in NETWORKS:
        ends = {"hard_clip": "hardclip", "soft_clip": "softclip", "soft_clip_r": "softclip"}
        assert suited == {family for family, end in ends.items() if f"{name}-{end}" in SHIPPED}
        assert not any(METHODS[name].suits(family, 22050) for family in DISTORTIONS)
    else:
        assert suited == set(DISTORTIONS)


# ------------------------------------------------------------ the scale of the clean signal


@pytest.mark.parametrize("threshold", [0.3, 0.1])
@pytest.mark.parametrize("name", ["observed", "aspade", "sspade", "irm", "informed"])
def test_what_was_not_distorted_keeps_its_scale_where_a_method_fixes_it(
    prior: Prior, monkeypatch: pytest.MonkeyPatch, name: str, threshold: float
) -> None:
    x = torch.from_numpy(signals()[0])
    known = Distortion("hard_clip", {"threshold": threshold})
    y = known(x)
    # What is sampled is the clean signal at the prior's level; that level is not the recording's, and the RMS of the
    # recording is not the clean signal's.
    use_sampler(monkeypatch, FakeSampler(lambda observed: x * (observed.norm() / y.norm())))
    method = METHODS[name]
    job = Job(
        Recording.from_array(y.numpy(), TINY_RATE), CONFIG if name == "irm" else replace(CONFIG, chunk_seconds=2.0),
        [prior], known=None if method.operator == "ignores" else known, clean=x.numpy() if method.needs_clean else None,
    )  # fmt: skip
    assert method.fixes_scale
    result = restore_job(find_method(name), job, own_scale=True)
    quiet = (y.abs() < 0.9 * threshold).numpy()
    if name == "irm":
        projection = np.sum(result.audio * x.numpy()) / np.sum(x.numpy() ** 2)
        assert projection == pytest.approx(1, abs=0.5)
        assert np.array_equal(result.audio, made(name, job)[0])
    else:
        np.testing.assert_allclose(result.audio[quiet], x.numpy()[quiet], rtol=1e-4, atol=1e-6)
    if name == "informed":
        np.testing.assert_allclose(result.audio, x.numpy(), rtol=1e-5, atol=1e-7)
        assert result.explained_db > 100
        # At the level of the recording it is quieter by as much as clipping cost.
        level = restore_job(find_method(name), replace(job, config=replace(job.config, level="rms")))
        loss = np.std(np.asarray(y, dtype=float)) / np.std(np.asarray(x, dtype=float))
        np.testing.assert_allclose(level.audio, loss * x.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["aspade", "sspade"])
def test_clean_is_what_comes_before_the_gain_of_a_known_operator(name: str) -> None:
    x = signals()[0]
    known = Distortion("amplified_clip", {"gain_db": 20.0, "threshold": 3.0})
    y = known(torch.from_numpy(x)).numpy()
    job = Job(Recording.from_array(y, TINY_RATE), replace(CONFIG, chunk_seconds=2.0), known=known)
    result = restore_job(find_method(name), job, own_scale=True)
    quiet = np.abs(y) < 2.9
    np.testing.assert_allclose(result.audio[quiet], x[quiet], rtol=1e-4)


@pytest.mark.parametrize("gain", [2.0**-6, 8.0])
@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.fixes_scale))
def test_methods_that_fix_the_scale_follow_that_of_recording_and_operator(
    prior: Prior, baseline: Path, monkeypatch: pytest.MonkeyPatch, name: str, gain: float
) -> None:
    use_sampler(monkeypatch, FakeSampler())
    job = full_job(name, prior, baseline)
    x, y = (np.float32(gain) * signal for signal in signals())
    louder = replace(
        job,
        recording=Recording.from_array(y, TINY_RATE),
        known=job.known and Distortion("hard_clip", {"threshold": LEVEL * gain}),
        clean=x if job.clean is not None else None,
    )
    usual, scaled = (restore_job(find_method(name), each, own_scale=True).audio for each in (job, louder))
    np.testing.assert_allclose(scaled, gain * usual, atol=1e-4 * gain)


# ------------------------------------------------------------ one pipeline


@pytest.mark.parametrize("name", [name for name in METHODS if name not in EXTERNAL])
def test_arrays_files_and_jobs_are_restored_alike(
    prior: Prior, baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    method, y = METHODS[name], signals()[1]
    job = full_job(name, prior, baseline)
    by_job = restore_job(find_method(name, job.weights), job)
    options: dict[str, Any] = {"method": name, "weights": job.weights, "known": job.known}
    sf.write(tmp_path / "take.wav", y.T, TINY_RATE, subtype="FLOAT")
    if method.needs_clean:
        for call in (
            lambda: nldiff.restore(y, TINY_RATE, prior, config=CONFIG, **options),
            lambda: restore_file(tmp_path / "take.wav", tmp_path / "out", prior, CONFIG, **options),
        ):
            with pytest.raises(NldiffError, match="needs the clean signal"):
                call()
        return
    by_array = nldiff.restore(y[0], TINY_RATE, prior, config=CONFIG, **options)
    np.testing.assert_array_equal(by_array.audio[None], by_job.audio)
    outputs = restore_file(tmp_path / "take.wav", tmp_path / "out", prior, CONFIG, **options)
    np.testing.assert_array_equal(sf.read(outputs.audio, dtype="float32")[0], by_array.audio)
    inputs, curve = np.loadtxt(outputs.curve_table, delimiter=",", skiprows=1).T
    for result in (by_array, by_job):
        np.testing.assert_allclose(result.curve(inputs), curve, rtol=1e-5, atol=1e-6)
        assert result.explained_db == pytest.approx(outputs.report["explained_db"], abs=1e-6)
        assert result.method == outputs.report["method"] == name
        assert result.gain == pytest.approx(outputs.report["gain"], rel=1e-12)


def test_blind_is_the_default_and_informed_that_of_a_known_operator(prior: Prior, tmp_path: Path) -> None:
    y = signals()[1]
    sf.write(tmp_path / "take.wav", y.T, TINY_RATE, subtype="FLOAT")
    for known, expected in ((None, "blind"), (KNOWN, "informed")):
        assert nldiff.restore(y, TINY_RATE, prior, known=known, config=CONFIG).method == expected
        outputs = restore_file(tmp_path / "take.wav", tmp_path / "out", prior, CONFIG, known=known)
        assert outputs.report["method"] == expected


@pytest.mark.parametrize("name", WAVESHAPERS)
def test_a_waveshapers_name_is_blind_restoration_with_it(prior: Prior, name: str) -> None:
    y = signals()[1]
    by_name = nldiff.restore(y, TINY_RATE, prior, method=name, config=CONFIG)
    by_setting = nldiff.restore(y, TINY_RATE, prior, method="blind", config=replace(CONFIG, waveshaper=name))
    np.testing.assert_array_equal(by_name.audio, by_setting.audio)
    assert (by_name.method, by_setting.method) == (name, "blind")


@pytest.mark.parametrize("known", [None, KNOWN], ids=str)
def test_an_array_without_a_prior_needs_none_for_other_methods(
    monkeypatch: pytest.MonkeyPatch, known: Operator | None
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a prior was loaded")

    monkeypatch.setattr("nldiff.restoration.inputs.load_candidates", refuse)
    result = nldiff.restore(signals()[1], TINY_RATE, method="aspade", known=known, config=CONFIG)
    assert result.fit.sampling is None


# ------------------------------------------------------------ a new method


def test_a_new_method_is_one_function_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def backwards(job: Job) -> Processor:
        return Processor(lambda chunk, start: chunk[:, ::-1].copy(), job.recording.sample_rate)

    monkeypatch.setitem(METHODS, "backwards", Method(partial(by_chunks, backwards)))
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    y = clipped(0.3, TINY_RATE)
    # Upside down if that is nearer to what was observed.
    expected = y[:, ::-1] * (np.sign(np.sum(y * y[:, ::-1])))
    found = nldiff.restore(y, TINY_RATE, method="backwards")
    np.testing.assert_allclose(found.audio, expected, rtol=1e-6)
    assert found.method == "backwards"

    source = tmp_path / "take.wav"
    sf.write(source, y.T, TINY_RATE, subtype="FLOAT")
    outputs = restore_file(source, tmp_path / "file", (), RestoreConfig(), method="backwards")
    np.testing.assert_array_equal(sf.read(outputs.audio, dtype="float32")[0], found.audio[0])

    command = ["restore", str(source), "--output", str(tmp_path / "cli"), "--method", "backwards", "--quiet"]
    assert main(command) == 0
    np.testing.assert_array_equal(sf.read(tmp_path / "cli" / "take.restored.wav", dtype="float32")[0], found.audio[0])
    assert capsys.readouterr().err == ""
    assert main([*command, "--known", str(KNOWN)]) == 1
    assert "cannot use it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["restore", "--help"])
    assert "backwards" in capsys.readouterr().out


def test_settings_of_the_command_line_beat_those_of_the_file_and_the_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sampler(monkeypatch, sampler := FakeSampler())
    monkeypatch.setattr("nldiff.figures.plots.save_figure", lambda figure, path: path.touch())
    source = tmp_path / "take.wav"
    sf.write(source, signals()[1].T, TINY_RATE, subtype="FLOAT")
    settings = tmp_path / "settings.yaml"
    settings.write_text("sampler: {steps: 5, zeta: 0.1, churn: 3}\noperator_fit: {warmup: 8, iterations: 9}\n")
    command = ["restore", str(source), "--output", str(tmp_path / "out"), "--quiet", "--config", str(settings)]
    weights = save_tiny_prior(tmp_path / "tiny.safetensors")
    assert main([*command, "--prior", str(weights), "--steps", "7", "sampler.zeta=0.2", "operator_fit.warmup=6"]) == 0
    used, fit = sampler.calls[0]["settings"], sampler.calls[0]["fit"]
    assert (used.steps, used.zeta, used.churn, used.sigma_min) == (7, 0.2, 3.0, 1e-3)
    assert (fit.warmup, fit.iterations, fit.segments) == (6, 9, 0)


# ------------------------------------------------------------ checks


def test_a_result_that_is_not_finite_is_refused() -> None:
    processor = Processor(lambda chunk, start: chunk / np.float32(0) if start else chunk, TINY_RATE)
    method = Method(partial(by_chunks, lambda job: processor))
    with np.errstate(all="ignore"), pytest.raises(NldiffError, match=r"NaN or infinite samples .*take\.wav"):
        run_method(method, Job(Recording.from_array(clipped(0.9, TINY_RATE), TINY_RATE, "take.wav"), CONFIG), len)


def test_names_are_checked_before_the_work(baseline: Path, tmp_path: Path) -> None:
    find_method("blind")
    find_method("aspade")
    find_method("demucs", str(baseline))
    find_method(str(baseline))
    for method, weights, said in (
        ("demcus", None, "unknown method 'demcus' .*demucs, .*aspade"),
        ("aspade", "x.safetensors", "--weights x.safetensors: only with a network"),
        ("umx", "x.safetensors", "unknown baseline 'x.safetensors'"),
        (str(baseline), "x.safetensors", "--weights x.safetensors: only with a network"),
    ):
        with pytest.raises(NldiffError, match=said):
            find_method(method, weights)
    (tmp_path / "foreign.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(NldiffError, match=r"foreign\.safetensors"):
        find_method(str(tmp_path / "foreign.safetensors"))
