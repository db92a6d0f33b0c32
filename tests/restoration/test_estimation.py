"""What is believed of a blind restoration: what was sampled, plain curves, or that nothing happened."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, load_tiny_prior, plucked, save_tiny_prior, use_sampler

from nldiff import sound
from nldiff.cli import main
from nldiff.metrics import si_sdr
from nldiff.operators import AtRate
from nldiff.priors import Prior
from nldiff.restoration.pipeline import restore
from nldiff.restoration.settings import RestoreConfig

JUDGED: dict[str, Any] = {
    "settings": {
        "sampler": {"steps": 3},
        "operator_fit": {"iterations": 2},
        "refinement": {"iterations": 60, "windows": [256, 512, 1024]},
    }
}
CONFIG = RestoreConfig(device="cpu")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_tiny_prior(tmp_path_factory.mktemp("prior"), **JUDGED)


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that gives noise."""
    noise = torch.Generator().manual_seed(0)
    use_sampler(monkeypatch, FakeSampler(lambda y: 0.06 * torch.randn(y.shape, generator=noise)))


@pytest.fixture
def expander(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that invents a saturating curve: its signals are those of an expander."""
    use_sampler(monkeypatch, FakeSampler(lambda y: 0.06 * torch.sinh(y / 0.06)))


@pytest.mark.usefixtures("expander")
@pytest.mark.parametrize("peak", [1.0, 0.02])
def test_a_clean_recording_comes_back_as_it_is(prior: Prior, peak: float) -> None:
    x = plucked(2.5, TINY_RATE, peak=peak)
    result = restore(x, TINY_RATE, prior, config=CONFIG)
    np.testing.assert_allclose(result.audio, x, rtol=0, atol=3e-7 * peak)
    verdict = result.fit.sampling and result.fit.sampling.verdict
    assert verdict
    assert verdict.finding == "nothing happened"
    assert verdict.judgement is None  # nothing was worth judging
    assert verdict.log_odds == {}
    assert verdict.margin is None
    assert len(verdict.warnings) == 1
    assert result.curve(np.array([-0.3, 0.2])) == pytest.approx([-0.3, 0.2], rel=1e-6)


@pytest.mark.usefixtures("expander")
def test_evidence_may_be_left_out(prior: Prior) -> None:
    x = plucked(2.5, TINY_RATE)
    config = RestoreConfig(device="cpu", evidence={"judge": False})
    result = restore(x, TINY_RATE, prior, config=config)
    assert result.fit.sampling
    assert result.fit.sampling.verdict is None
    assert float(np.abs(result.audio - x).max()) > 0.01


@pytest.mark.usefixtures("garbage")
@pytest.mark.parametrize("noise", [0.001, 0.004])
def test_noise_behind_the_clipper_costs_little(prior: Prior, noise: float) -> None:
    x = plucked(2.5, TINY_RATE)
    y = x.clip(-0.12, 0.12)
    rough = (y + noise * np.random.default_rng(0).normal(size=y.shape)).astype(np.float32)
    best, found = (restore(each, TINY_RATE, prior, config=CONFIG) for each in (y, rough))
    verdict = found.fit.sampling and found.fit.sampling.verdict
    assert verdict
    assert verdict.hypothesis == "clipped"
    assert si_sdr(x, found.audio) > si_sdr(x, best.audio) - 2
    assert si_sdr(x, found.audio) > si_sdr(x, rough) + 4


@pytest.mark.usefixtures("garbage")
def test_what_was_clipped_at_a_lower_rate_is_restored_there(prior: Prior) -> None:
    x = plucked(2.5, TINY_RATE)
    y = x.clip(-0.12, 0.12)
    wide_x, wide_y = (sound.resample(each[None], TINY_RATE, 11025)[0] for each in (x, y))
    best = restore(y, TINY_RATE, prior, config=CONFIG)
    found = restore(wide_y, 11025, prior, config=CONFIG)
    assert found.audio.shape == wide_x.shape
    assert si_sdr(wide_x, found.audio) > si_sdr(x, best.audio) - 0.5
    assert si_sdr(x, best.audio) > si_sdr(x, y) + 4
    assert isinstance(found.fit.operator, AtRate)
    assert found.fit.restored_band_hz == TINY_RATE / 2
    assert found.explained_db > 30
    unchanged = restore(wide_x, 11025, prior, config=CONFIG)
    np.testing.assert_allclose(unchanged.audio, wide_x, rtol=0, atol=3e-7)


@pytest.mark.usefixtures("garbage")
def test_plain_curves_are_tried_whatever_was_sampled(prior: Prior) -> None:
    x = plucked(2.5, TINY_RATE)
    y = x.clip(-0.12, 0.12)
    result = restore(y, TINY_RATE, prior, config=CONFIG)
    verdict = result.fit.sampling and result.fit.sampling.verdict
    assert verdict
    assert verdict.finding == "distorted"
    assert verdict.warnings == []
    assert si_sdr(x, result.audio) > si_sdr(x, y) + 3


@pytest.mark.usefixtures("garbage")
def test_piled_up_samples_that_no_curve_explains_are_said(prior: Prior) -> None:
    noise = np.random.default_rng(0).laplace(size=20000).astype(np.float32) * 0.1
    y = noise.clip(-0.1, 0.1)  # white noise is as little predictable with its peaks as without
    result = restore(y, TINY_RATE, prior, config=CONFIG)
    verdict = result.fit.sampling and result.fit.sampling.verdict
    assert verdict
    assert verdict.finding == "unexplained"
    assert "no curve explains the recording" in verdict.warnings[0]
    np.testing.assert_allclose(result.audio, y, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("expander")
def test_the_command_warns_and_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_prior(tmp_path / "tiny.safetensors", **JUDGED)
    source = tmp_path / "clean.wav"
    sound.write_wav(source, plucked(2.5, TINY_RATE)[None], TINY_RATE)
    arguments = ["restore", str(source), "--prior", str(model), "--output", str(tmp_path), "--quiet"]
    assert main([*arguments, "--preview"]) == 0
    page = (tmp_path / "clean.preview.html").read_text()
    assert "no distortion was found" in page
    assert "Signs of a distortion" in page
    assert f"warning: {source}: no distortion was found" in capsys.readouterr().err
    report = json.loads((tmp_path / "clean.json").read_text())
    assert report["verdict"]["finding"] == "nothing happened"
    assert report["verdict"]["judgement"] is None
    assert report["gain"] * prior_gain(report) == pytest.approx(1, rel=1e-6)
    assert main([*arguments, "--force"]) == 0
    assert "the restoration was forced" in capsys.readouterr().err
    forced = json.loads((tmp_path / "clean.json").read_text())["verdict"]
    assert forced["finding"] == "nothing happened"
    assert not forced["unchanged"]


def prior_gain(report: dict[str, Any]) -> float:
    """What the recording was multiplied by for the prior, whose level is 0.06."""
    return 0.06 / sound.rms(plucked(2.5, TINY_RATE)[None])


def test_a_hypothesis_that_leaves_no_doubt_saves_the_sampling(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = FakeSampler()
    use_sampler(monkeypatch, sampler)
    y = plucked(2.5, TINY_RATE).clip(-0.12, 0.12)
    result = restore(y, TINY_RATE, prior, config=CONFIG)
    verdict = result.fit.sampling and result.fit.sampling.verdict
    assert verdict
    assert verdict.hypothesis == "clipped"
    assert verdict.judgement
    assert verdict.margin == verdict.judgement.log_odds > 4
    assert sampler.calls == []
    doubtful = RestoreConfig(device="cpu", evidence={"certain": 1000.0})
    verdict = restore(y, TINY_RATE, prior, config=doubtful).fit.sampling.verdict  # type: ignore[union-attr]
    assert len(sampler.calls) == 1
    assert verdict
    assert set(verdict.log_odds) == {"clipped", "bent", "sampled"}
