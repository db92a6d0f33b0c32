from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, TINY_SETTINGS, FakeSampler, clipped, plucked, rms, use_sampler
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.operators import WAVESHAPERS, Distortion
from nldiff.priors.saved import Prior
from nldiff.restoration.fit import Sampling
from nldiff.restoration.pipeline import restore
from nldiff.restoration.result import Restoration
from nldiff.restoration.settings import RestoreConfig


def sampling(result: Restoration) -> Sampling:
    assert result.fit.sampling is not None
    return result.fit.sampling


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_rate_shape_level_and_polarity_of_the_input_are_kept(prior: Prior, channels: int, rate: int) -> None:
    y = clipped(0.1, rate, max(channels, 1))
    y = y if channels else y[0]
    result = restore(y, rate, prior, config=RestoreConfig(level="rms"))
    assert (result.sample_rate, result.audio.shape) == (rate, y.shape)
    assert result.audio.dtype == np.dtype(np.float32)
    assert np.max(np.abs(result.audio)) <= 0.999 + 1e-6
    assert np.std(result.audio) == pytest.approx(np.std(y), rel=1e-4)
    assert np.corrcoef(result.audio.ravel(), y.ravel())[0, 1] > 0
    error = y - result.curve(result.audio)
    assert error.shape == y.shape
    assert result.explained_db == pytest.approx(20 * np.log10(rms(y) / rms(error)), abs=1e-3)


@pytest.mark.parametrize("waveshaper", sorted(WAVESHAPERS))
def test_every_waveshaper_explains_the_observation_by_its_curve(prior: Prior, waveshaper: str) -> None:
    y = clipped(0.5, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior, config=RestoreConfig(waveshaper=waveshaper))
    error = y - result.curve(result.audio)
    assert result.explained_db == pytest.approx(20 * np.log10(rms(y) / rms(error)), abs=1e-3)
    assert result.config["waveshaper"] == waveshaper


def test_a_restored_signal_that_would_clip_is_quieter_than_the_input(prior: Prior) -> None:
    y = np.sign(plucked(0.4, TINY_RATE))
    result = restore(y, TINY_RATE, prior)
    assert np.max(np.abs(result.audio)) == pytest.approx(0.999, rel=1e-5)
    assert rms(result.audio) < rms(y)
    assert result.explained_db == pytest.approx(20 * np.log10(rms(y) / rms(y - result.curve(result.audio))), abs=1e-3)


@pytest.mark.parametrize("amplitude", [1e-5, 3e4, 1e30])
def test_any_amplitude_is_brought_to_the_level_of_the_prior(prior: Prior, amplitude: float) -> None:
    y = clipped(0.3, TINY_RATE)[0]
    usual, scaled = restore(y, TINY_RATE, prior), restore(amplitude * y, TINY_RATE, prior)
    np.testing.assert_allclose(scaled.audio / rms(scaled.audio), usual.audio / rms(usual.audio), atol=1e-3)
    np.testing.assert_allclose(scaled.curve(scaled.audio) / amplitude, usual.curve(usual.audio), atol=1e-3)
    assert scaled.explained_db == pytest.approx(usual.explained_db, abs=0.01)


def test_polarity_of_the_observation_wins_over_that_of_the_sample(prior: Prior, fake: FakeSampler) -> None:
    y = plucked(0.3, TINY_RATE)
    fake.answer = torch.neg
    np.testing.assert_allclose(restore(y, TINY_RATE, prior).audio, y, rtol=1e-5)


def test_a_constant_that_the_curve_added_does_not_decide_the_polarity(prior: Prior, fake: FakeSampler) -> None:
    x = plucked(0.3, TINY_RATE)
    x -= x.mean()
    # upside down, but for means of the same sign the product with the observation would be positive
    fake.answer = lambda y: 0.1 * y.mean() - (y - y.mean())
    audio = restore(x + 3, TINY_RATE, prior).audio
    assert np.corrcoef(audio, x)[0, 1] == pytest.approx(1, abs=1e-4)


def test_one_seed_one_result(prior: Prior) -> None:
    y = clipped(0.3, 22050, 2)
    first, again = (restore(y, 22050, prior, config=RestoreConfig(seed=3)) for _ in range(2))
    other = restore(y, 22050, prior, config=RestoreConfig(seed=4))
    np.testing.assert_array_equal(first.audio, again.audio)
    np.testing.assert_array_equal(first.curve(y), again.curve(y))
    assert sampling(first).cost == sampling(again).cost
    assert rms(first.audio - other.audio) > 1e-3 * rms(y)


def test_batch_size_does_not_change_the_result(prior: Prior) -> None:
    y = clipped(1.6, TINY_RATE, 2)
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=4, batch_size=1)
    one = restore(y, TINY_RATE, prior, config=config)
    many = restore(y, TINY_RATE, prior, config=replace(config, batch_size=3))
    # Rounding differs and grows from step to step; mixed-up noise would make a difference as large as the signal.
    assert rms(many.audio - one.audio) < 0.01 * rms(one.audio)
    np.testing.assert_allclose(many.curve(y), one.curve(y), atol=1e-3)


def test_a_silent_channel_does_no_harm(prior: Prior) -> None:
    y = clipped(0.2, TINY_RATE, 2)
    y[1] = 0
    result = restore(y, TINY_RATE, prior, config=RestoreConfig(level="rms"))
    assert np.std(result.audio[0]) == pytest.approx(np.std(y[0]), rel=1e-4)
    assert not result.audio[1].any()
    assert np.isfinite(result.explained_db)


@pytest.mark.parametrize("first", [0.0, 0.1])
def test_a_constant_channel_does_not_stand_for_one_in_which_nothing_was_found(prior: Prior, first: float) -> None:
    x = plucked(0.5, TINY_RATE)
    config = RestoreConfig(evidence={"judge": True}, refinement={"name": "auto", "iterations": 10, "windows": [256]})
    result = restore(np.stack([np.full_like(x, first), x]), TINY_RATE, prior, config=config)
    np.testing.assert_allclose(result.audio, [np.full_like(x, first), x], atol=1e-6)
    assert result.fit.sampling is not None
    assert result.fit.sampling.verdict is not None
    assert result.fit.sampling.verdict.finding == "nothing happened"
    assert result.curve.inputs[-1] == pytest.approx(np.abs(x).max())


def test_a_click_beside_a_silent_channel_comes_back(prior: Prior) -> None:
    y = np.zeros((2, 3 * TINY_RATE), np.float32)
    y[1, TINY_RATE] = 0.3
    result = restore(y, TINY_RATE, prior)
    np.testing.assert_array_equal(result.audio, y)
    assert result.curve(0.2) == pytest.approx(0.2)


def test_a_silent_result_is_refused(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sampler(monkeypatch, FakeSampler(torch.zeros_like))
    with pytest.raises(NldiffError, match="the result for audio is silent"):
        restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, prior)


def test_the_result_tells_how_it_was_made(prior: Prior) -> None:
    result = restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, prior, config=RestoreConfig(seed=7, sampler={"steps": 4}))
    found = sampling(result)
    assert (len(found.cost), found.evaluations, found.settings.sampler.steps, result.config["seed"]) == (4, 4, 4, 7)
    assert found.settings.operator_fit.iterations == TINY_SETTINGS["operator_fit"]["iterations"]
    assert (result.method, found.prior, result.fit.weights) == ("blind", "tiny", None)
    assert result.versions["torch"] == torch.__version__
    assert result.fit.seconds > 0


def test_the_last_curve_of_the_evolution_is_the_result(prior: Prior) -> None:
    y = clipped(1.6, TINY_RATE)[0]
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=1, sampler={"steps": 3})
    result = restore(-y, TINY_RATE, prior, config=config)
    assert result.evolution is not None
    x, curves = result.evolution
    assert curves.shape == (3, len(x))
    np.testing.assert_allclose(curves[-1], result.curve(x), rtol=1e-4, atol=1e-6)
    assert np.abs(curves[0] - curves[-1]).max() > 1e-4 * np.abs(curves[-1]).max()


def test_the_prior_is_chosen_unless_one_is_named(
    prior: Prior, fake: FakeSampler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    y = clipped(0.3, TINY_RATE)[0]
    errors = {"tiny": -1.0, "other": -2.0}
    asked: list[Any] = []

    def candidates(name: str | Path, device: torch.device) -> list[Prior]:
        asked.append(name)
        return [prior, replace(prior, name="other")] if name == "auto" else [prior]

    monkeypatch.setattr("nldiff.restoration.inputs.load_candidates", candidates)
    monkeypatch.setattr("nldiff.priors.choice.denoising_error_db", lambda prior, *_: errors[prior.name])
    chosen, named, given = restore(y, TINY_RATE), restore(y, TINY_RATE, "tiny"), restore(y, TINY_RATE, prior)
    assert asked == ["auto", "tiny"]
    priors = [(sampling(result).prior, sampling(result).prior_scores) for result in (chosen, named, given)]
    assert priors == [("other", errors), ("tiny", {}), ("tiny", {})]


@pytest.mark.parametrize("shape", [(), (0,), (0, 4000), (2, 0), (1, 2, 4000), (4000, 2), (1,), (799,)])
def test_arrays_that_are_no_recording_are_refused(prior: Prior, shape: tuple[int, ...]) -> None:
    y = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with pytest.raises(NldiffError, match=r"^audio "):
        restore(y, TINY_RATE, prior)


@pytest.mark.parametrize("value", [0.0, 0.25, np.nan, np.inf])
def test_arrays_with_nothing_to_restore_are_refused(prior: Prior, value: float) -> None:
    with pytest.raises(NldiffError, match=r"silent|constant|NaN or infinite"):
        restore(np.full(4000, value), TINY_RATE, prior)


def test_informed_restoration_of_a_clipped_signal_respects_the_clipper(prior: Prior) -> None:
    known = Distortion("hard_clip", {"threshold": 0.15})
    y = clipped(0.5, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior, known=known)
    assert np.max(np.abs(result.curve(np.linspace(-1, 1, 101)))) == pytest.approx(0.15, rel=1e-5)
    assert result.explained_db == pytest.approx(20 * np.log10(rms(y) / rms(y - result.curve(result.audio))), abs=1e-3)


@pytest.mark.slow
def test_the_shipped_prior_restores_the_example(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "examples"
    clean, rate = sf.read(folder / "guit_em9.flac", dtype="float32")
    y, _ = sf.read(folder / "guit_em9_distorted.flac", dtype="float32")
    result = restore(y, rate, "guitar")

    def si_sdr(estimate: NDArray[np.float32]) -> float:
        x, z = clean.astype(np.float64), estimate.astype(np.float64)
        projected = x * (x @ z) / (x @ x)
        return float(20 * np.log10(rms(projected) / rms(z - projected)))

    assert si_sdr(result.audio) > si_sdr(y) + 2
    assert result.explained_db > 10
    # y = 0.5 tanh(17.4 x) saturates at 0.5
    assert np.max(np.abs(result.curve(result.audio))) == pytest.approx(0.5, rel=0.2)
