import importlib
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, TINY_SAMPLER, FakeSampler, clipped, load_tiny_prior, plucked
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators.distortions import DISTORTIONS, Distortion
from nldiff.operators.waveshapers import WAVESHAPERS
from nldiff.priors.saved import Prior
from nldiff.restoration.restore import restore, restore_blocks, settle
from nldiff.restoration.settings import RestoreConfig, sampler_settings
from nldiff.sampling import posterior as sampling
from nldiff.sound.chunks import chunk_starts, cross_fade
from nldiff.sound.recording import Recording

# by name, because the package may offer the function under the name of the module
MODULE = importlib.import_module("nldiff.restoration.restore")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_tiny_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    sampler = FakeSampler()
    monkeypatch.setattr("nldiff.restoration.task.sample", sampler)
    return sampler


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every call of the real sampler."""
    calls: list[dict[str, Any]] = []

    def sample(denoiser: Any, y: Any, curve: Any, schedule: Any, settings: Any, sources: Any, **others: Any) -> Any:
        calls.append({"y": y, "curve": curve, "schedule": schedule, **others})
        return sampling.sample(denoiser, y, curve, schedule, settings, sources, **others)

    monkeypatch.setattr("nldiff.restoration.task.sample", sample)
    return calls


def pieces(recording: Recording, prior: Prior, config: RestoreConfig) -> tuple[list[NDArray[np.float32]], Any]:
    blocks: list[NDArray[np.float32]] = []
    fit = restore_blocks(recording, prior, config, blocks.append)
    return blocks, fit


def rms(x: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


# ------------------------------------------------------------ restore()


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_rate_shape_level_and_polarity_of_the_input_are_kept(prior: Prior, channels: int, rate: int) -> None:
    y = clipped(0.1, rate, max(channels, 1))
    y = y if channels else y[0]
    result = restore(y, rate, prior)
    assert (result.sample_rate, result.audio.shape) == (rate, y.shape)
    assert result.audio.dtype == np.dtype(np.float32)
    assert np.max(np.abs(result.audio)) <= 0.999 + 1e-6
    assert rms(result.audio) == pytest.approx(rms(y), rel=1e-5)
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
    assert first.cost == again.cost
    assert rms(first.audio - other.audio) > 1e-3 * rms(y)


def test_batch_size_does_not_change_the_result(prior: Prior) -> None:
    y = clipped(1.6, TINY_RATE, 2)
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=4, batch_size=1)
    one = restore(y, TINY_RATE, prior, config=config)
    many = restore(y, TINY_RATE, prior, config=replace(config, batch_size=3))
    # Rounding differs and grows from step to step; mixed-up noise would make a difference as large as the signal.
    assert rms(many.audio - one.audio) < 0.01 * rms(one.audio)
    np.testing.assert_allclose(many.curve(y), one.curve(y), atol=1e-3)


def test_channels_and_chunks_share_one_curve(prior: Prior, spied: list[dict[str, Any]]) -> None:
    y = clipped(2.0, TINY_RATE, 2)
    restore(y, TINY_RATE, prior, config=RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=4))
    assert [len(call["y"]) for call in spied] == [4, 2, 2, 2]  # two stereo chunks together, then one at a time
    assert {id(call["curve"]) for call in spied} == {id(spied[0]["curve"])}
    assert spied[0]["curve"].batch == 1
    assert [call["level"] for call in spied] == [prior.sigma_data, None, None, None]


def test_the_curve_stays_as_the_joint_chunks_left_it(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(2.0, TINY_RATE)
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    pieces(Recording.from_array(y, TINY_RATE), prior, config)
    assert all(fake.calls[0]["trainable"])
    assert not any(any(call["trainable"]) for call in fake.calls[1:])
    assert len(fake.calls) == 4


def test_every_chunk_and_channel_has_noise_of_its_own(prior: Prior, fake: FakeSampler) -> None:
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    for seed in (0, 1):
        pieces(Recording.from_array(clipped(2.0, TINY_RATE, 2), TINY_RATE), prior, replace(config, seed=seed))
    seeds = [seed for call in fake.calls for seed in call["seeds"]]
    assert len(seeds) == 2 * 2 * 5
    assert len(set(seeds)) == len(seeds)


def test_a_silent_channel_does_no_harm(prior: Prior) -> None:
    y = clipped(0.2, TINY_RATE, 2)
    y[1] = 0
    result = restore(y, TINY_RATE, prior)
    assert rms(result.audio) == pytest.approx(rms(y), rel=1e-5)
    assert np.isfinite(result.explained_db)


def test_progress_counts_every_step_once(prior: Prior) -> None:
    seen: list[tuple[int, int]] = []
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    restore(clipped(2.0, TINY_RATE), TINY_RATE, prior, config=config, on_step=lambda *step: seen.append(step))
    assert seen == [(i + 1, 12) for i in range(12)]  # 2 chunks together and 3 alone, 3 steps each


def test_the_result_tells_how_it_was_made(prior: Prior) -> None:
    result = restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, prior, config=RestoreConfig(seed=7, sampler={"steps": 4}))
    assert (len(result.cost), result.evaluations, result.settings.steps, result.config["seed"]) == (4, 4, 4, 7)
    assert result.settings.operator_iterations == TINY_SAMPLER["operator_iterations"]
    assert result.versions["torch"] == torch.__version__
    assert result.seconds > 0


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

    monkeypatch.setattr(MODULE, "load_candidates", candidates)
    monkeypatch.setattr("nldiff.priors.choice.denoising_error_db", lambda prior, *_: errors[prior.name])
    chosen, named, given = restore(y, TINY_RATE), restore(y, TINY_RATE, "tiny"), restore(y, TINY_RATE, prior)
    assert asked == ["auto", "tiny"]
    assert (chosen.prior, chosen.prior_scores) == ("other", errors)
    assert [(result.prior, result.prior_scores) for result in (named, given)] == [("tiny", {})] * 2


@pytest.mark.parametrize(("rate", "band"), [(6000, 3000), (8000, 4000), (44100, 4000)])
def test_the_restored_band_ends_at_half_the_lower_rate(prior: Prior, fake: FakeSampler, rate: int, band: float) -> None:
    assert restore(clipped(0.2, rate)[0], rate, prior).restored_band_hz == band


@pytest.mark.parametrize("polarity", [1, -1])
def test_the_band_above_that_of_the_prior_is_dropped_or_kept(prior: Prior, fake: FakeSampler, polarity: int) -> None:
    rate = 44100
    t = np.arange(3 * rate) / rate
    within, above = (0.1 * np.sin(2 * np.pi * f * t).astype(np.float32) for f in (440, 9000))
    # What is restored is the observation, upside down perhaps, so keeping the rest gives the observation again.
    fake.answer = lambda y: polarity * y
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    dropped = restore(within + above, rate, prior, config=config).audio
    kept = restore(within + above, rate, prior, config=replace(config, above_band="keep")).audio
    inside = slice(rate // 20, -rate // 20)  # a tone that is cut off rings at the ends
    np.testing.assert_allclose(dropped[inside], 2**0.5 * within[inside], atol=2e-3)  # at the level of both tones
    np.testing.assert_allclose(kept, within + above, atol=1e-5)


def test_nothing_is_added_where_nothing_is_above_the_band(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(0.3, 6000)[0]
    kept, dropped = (restore(y, 6000, prior, config=RestoreConfig(above_band=b)).audio for b in ("keep", "drop"))
    np.testing.assert_array_equal(kept, dropped)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4000), (2, 0), (1, 2, 4000), (4000, 2), (8, 4000), (1,), (799,)])
def test_arrays_that_are_no_recording_are_refused(prior: Prior, shape: tuple[int, ...]) -> None:
    y = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with pytest.raises(NldiffError, match=r"^audio "):
        restore(y, TINY_RATE, prior)


@pytest.mark.parametrize("value", [0.0, 0.25, np.nan, np.inf])
def test_arrays_with_nothing_to_restore_are_refused(prior: Prior, value: float) -> None:
    with pytest.raises(NldiffError, match=r"silent|constant|NaN or infinite"):
        restore(np.full(4000, value), TINY_RATE, prior)


# ------------------------------------------------------------ known distortion


@pytest.mark.parametrize("name", sorted(DISTORTIONS))
def test_a_known_distortion_is_applied_in_the_units_of_the_recording(
    prior: Prior, fake: FakeSampler, name: str
) -> None:
    known = Distortion(name)
    y = known(torch.from_numpy(plucked(0.5, TINY_RATE))[None]).numpy()
    recording = Recording.from_array(y, TINY_RATE)
    blocks: list[NDArray[np.float32]] = []
    fit = restore_blocks(recording, prior, RestoreConfig(), blocks.append, known)
    assert fake.calls[0]["level"] is None
    np.testing.assert_array_equal(fake.calls[0]["y"].numpy(), y * np.float32(fit.observation_gain))

    # level of the prior = observation_gain * units of the recording = (1 / gain) * units of the result
    raw = np.concatenate(blocks, axis=1)
    gain, curve, _ = settle(fit, recording, lambda start, frames: raw[:, start : start + frames])
    v = torch.linspace(-0.9, 0.9, 201, dtype=torch.float64)
    expected = known(v / (gain * fit.observation_gain)).numpy()
    # a quantiser may round either way at the edge of a step
    assert np.mean(np.abs(curve(v.numpy()) - expected) > 1e-5) < 0.02


def test_the_level_of_the_clean_signal_follows_from_the_known_distortion(prior: Prior, fake: FakeSampler) -> None:
    x = np.random.default_rng(0).laplace(size=20000).astype(np.float32) * 0.1  # RMS 0.1 sqrt(2)
    known = Distortion("hard_clip", {"threshold": 0.05})
    y = known(torch.from_numpy(x)[None]).numpy()
    fit = restore_blocks(Recording.from_array(y, TINY_RATE), prior, RestoreConfig(), lambda block: None, known)
    assert prior.sigma_data / fit.observation_gain == pytest.approx(0.1 * 2**0.5, rel=0.05)


def test_informed_restoration_of_a_clipped_signal_respects_the_clipper(prior: Prior) -> None:
    known = Distortion("hard_clip", {"threshold": 0.15})
    y = clipped(0.5, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior, known=known)
    assert np.max(np.abs(result.curve(np.linspace(-1, 1, 101)))) == pytest.approx(0.15, rel=1e-5)
    assert result.explained_db == pytest.approx(20 * np.log10(rms(y) / rms(y - result.curve(result.audio))), abs=1e-3)


# ------------------------------------------------------------ settings


def test_settings_of_the_user_beat_those_of_the_prior_and_those_the_library(prior: Prior) -> None:
    chosen = sampler_settings(prior, RestoreConfig(sampler={"operator_iterations": 7, "zeta": 0.5}))
    assert (chosen.steps, chosen.operator_iterations, chosen.zeta, chosen.sigma_max) == (3, 7, 0.5, 1.0)


@pytest.mark.parametrize(("wanted", "lowest"), [(1e-9, 1e-3), (0.02, 0.02)])
def test_the_schedule_ends_where_the_training_of_the_prior_ended(
    prior: Prior, spied: list[dict[str, Any]], wanted: float, lowest: float
) -> None:
    config = RestoreConfig(sampler={"sigma_min": wanted, "sigma_max": 0.7})
    result = restore(clipped(0.2, TINY_RATE)[0], TINY_RATE, prior, config=config)
    assert spied[0]["schedule"].tolist()[0] == pytest.approx(0.7)
    assert spied[0]["schedule"].tolist()[-2:] == pytest.approx([lowest, 0.0], rel=1e-5)
    assert result.settings.sigma_min == lowest


@pytest.mark.parametrize(
    ("sampler", "named"),
    [
        ({"stpes": 5}, "'stpes'"),
        ({"steps": 1}, "steps=1"),
        ({"steps": "many"}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"zeta": "strong"}, "zeta"),
        ({"zeta": -0.1}, "zeta=-0.1"),
        ({"zeta": float("nan")}, "zeta=nan"),
        ({"sigma_max": 1e-3}, "sigma_max"),
        ({"sigma_max": float("inf")}, "sigma_max"),
        ({"rho": 0}, "rho"),
        ({"churn": -1}, "churn"),
        ({"operator_learning_rate": -1}, "operator_learning_rate"),
        ({"operator_betas": [0.9]}, "operator_betas|length"),
        ({"operator_betas": [0.9, 1.0]}, "operator_betas"),
        ({"operator_segments": -1}, "operator_segments"),
        ({"cost_n_fft": 0}, "cost_n_fft=0"),
        ({"cost_n_fft": 511}, "cost_n_fft=511"),
        ({"cost_hop": 0}, "cost_hop=0"),
        ({"cost_hop": 1024}, "cost_hop=1024"),
        ({"cost_n_fft": 512, "cost_hop": 100}, "cost_hop=100"),
        ({"operator_segments": 2, "operator_segment_length": 0}, "operator_segment_length"),
    ],
)
def test_sampler_settings_that_make_no_sense_are_refused(prior: Prior, sampler: dict[str, Any], named: str) -> None:
    with pytest.raises(NldiffError, match=named) as caught:
        restore(clipped(0.2, TINY_RATE)[0], TINY_RATE, prior, config=RestoreConfig(sampler=sampler))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"joint_items": 0}, "joint_items=0"),
        ({"chunk_seconds": 0.01}, "chunk_seconds=0.01"),
        ({"chunk_seconds": float("inf")}, "chunk_seconds=inf"),
        ({"chunk_seconds": float("nan")}, "chunk_seconds=nan"),
        ({"overlap_seconds": -0.1}, "overlap_seconds=-0.1"),
        ({"chunk_seconds": 1.0, "overlap_seconds": 0.5}, "overlap_seconds=0.5"),
        ({"above_band": "mix"}, "above_band=mix"),
        ({"waveshaper": "spline"}, "'spline'"),
        ({"waveshaper_options": {"pionts": 3}}, "'pionts'"),
        ({"waveshaper_options": {"points": 4}}, "points=4"),
        ({"waveshaper_options": {"points": "few"}}, "few"),
    ],
)
def test_other_settings_that_make_no_sense_are_refused(prior: Prior, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(NldiffError, match=named) as caught:
        restore(clipped(0.2, TINY_RATE)[0], TINY_RATE, prior, config=RestoreConfig(**settings))
    assert "\n" not in str(caught.value)


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("bogus", "cuda:99"):
        with pytest.raises(NldiffError, match=f"^device '{name}' is not available: .+"):
            choose_device(name)


# ------------------------------------------------------------ chunks


@given(
    frames=st.integers(1, 3_000_000),
    rate=st.sampled_from([8000, 11025, 44100, 96000]),
    seconds=st.floats(0.1, 20),
    share=st.floats(0, 0.49),
)
def test_chunks_cover_everything_overlap_enough_and_are_no_more_than_needed(
    frames: int, rate: int, seconds: float, share: float
) -> None:
    config = RestoreConfig(chunk_seconds=seconds, overlap_seconds=share * seconds)
    starts, length = chunk_starts(
        Recording("r", rate, 1, frames, lambda start, count: np.zeros((1, count))),
        config.chunk_seconds,
        config.overlap_seconds,
    )
    overlap = round(config.overlap_seconds * rate)
    assert starts[0] == 0
    assert starts[-1] + length == frames
    if len(starts) == 1:
        assert frames <= round(seconds * rate)
    else:
        steps = np.diff(starts)
        assert length == round(seconds * rate)
        assert 0 < steps.min() <= steps.max() <= length - overlap
        assert np.ptp(steps) <= 1
        assert (len(starts) - 1) * (length - overlap) + overlap < frames  # one chunk fewer would leave a gap


@given(frames=st.integers(1, 50), overlap=st.integers(0, 50), seed=st.integers(0, 9))
def test_fading_between_equal_signals_changes_nothing(frames: int, overlap: int, seed: int) -> None:
    chunk = np.random.default_rng(seed).standard_normal((2, frames)).astype(np.float32)
    np.testing.assert_array_equal(cross_fade(chunk[:, :overlap], chunk), chunk)


def test_fading_is_linear() -> None:
    faded = cross_fade(np.zeros((1, 4), np.float32), np.ones((1, 6), np.float32))
    np.testing.assert_allclose(faded, [[0.125, 0.375, 0.625, 0.875, 1, 1]])


@settings(max_examples=40)
@example(frames=8000, chunk=1.0, overlap=0.1, channels=2, joint=4)
@example(frames=8001, chunk=1.0, overlap=0.1, channels=1, joint=1)
@given(
    frames=st.integers(800, 30000),
    chunk=st.floats(0.1, 2),
    overlap=st.floats(0, 0.49),
    channels=st.integers(1, 2),
    joint=st.integers(1, 8),
)
def test_nothing_is_lost_or_doubled_at_the_seams(
    prior: Prior, frames: int, chunk: float, overlap: float, channels: int, joint: int
) -> None:
    y = np.random.default_rng(frames).standard_normal((channels, frames)).astype(np.float32)
    config = RestoreConfig(chunk_seconds=chunk, overlap_seconds=overlap * chunk, joint_items=joint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nldiff.restoration.task.sample", FakeSampler())
        blocks, fit = pieces(Recording.from_array(y, TINY_RATE), prior, config)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), y * np.float32(fit.observation_gain))
    assert all(block.shape[1] <= round(chunk * TINY_RATE) for block in blocks)


def test_no_seams_after_changes_of_the_rate(prior: Prior, fake: FakeSampler) -> None:
    rate = 44100
    t = np.arange(3 * rate) / rate
    y = (0.1 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 1234 * t)).astype(np.float32)[None]
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1)
    blocks, fit = pieces(Recording.from_array(y, rate), prior, config)
    error = np.concatenate(blocks, axis=1) - y * fit.observation_gain
    inside = slice(rate // 20, -rate // 20)  # a tone that is cut off rings at the ends
    assert np.max(np.abs(error[:, inside])) < 0.01 * prior.sigma_data
    assert fake.calls[0]["y"].shape[1] == 4000


def test_chunks_that_disagree_are_joined_without_a_jump(prior: Prior, fake: FakeSampler) -> None:
    y = plucked(3.0, TINY_RATE)[None]
    offsets = iter([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    fake.answer = lambda part: part + next(offsets)
    config = RestoreConfig(chunk_seconds=0.7, overlap_seconds=0.2, joint_items=1)
    blocks, fit = pieces(Recording.from_array(y, TINY_RATE), prior, config)
    added = np.concatenate(blocks, axis=1) - y * fit.observation_gain
    assert np.ptp(added) == pytest.approx(2, abs=1e-5)
    assert np.max(np.abs(np.diff(added))) <= 2 / (0.2 * TINY_RATE) + 1e-5


def test_the_curve_is_estimated_on_the_loudest_chunks_at_the_level_of_the_prior(
    prior: Prior, fake: FakeSampler
) -> None:
    levels = [0.1, 0.9, 0.2, 0.3, 0.8, 0.1]
    noise = np.random.default_rng(0).standard_normal((len(levels), TINY_RATE)).astype(np.float32)
    y = (np.array(levels, np.float32)[:, None] * noise).reshape(1, -1)
    config = RestoreConfig(chunk_seconds=1.0, overlap_seconds=0.0, joint_items=2)
    _, fit = pieces(Recording.from_array(y, TINY_RATE), prior, config)
    expected = noise[[1, 4]] * np.array([[0.9], [0.8]]) * fit.observation_gain
    np.testing.assert_allclose(fake.calls[0]["y"].numpy(), expected, rtol=1e-5)
    assert rms(expected) == pytest.approx(prior.sigma_data, rel=1e-5)


def test_memory_does_not_grow_with_the_length(prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.restoration.task.sample", FakeSampler(keep=False))
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1 << 13)
    monkeypatch.setattr("nldiff.sound.files._BLOCK_FRAMES", 1 << 13)
    config = RestoreConfig(chunk_seconds=1.0, overlap_seconds=0.1)

    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.wav"
        y = np.random.default_rng(0).standard_normal((seconds * TINY_RATE, 2)).astype(np.float32)
        sf.write(path, y, TINY_RATE, subtype="FLOAT")
        sizes: list[int] = []
        tracemalloc.start()
        recording = Recording.from_file(path)
        fit = restore_blocks(recording, prior, config, lambda block: sizes.append(block.shape[1]))
        settle(fit, recording, recording.read)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(sizes) == seconds * TINY_RATE
        return most

    short, long = peak(6), peak(60)
    assert long < 1.2 * short + 100_000
    assert long < 0.5 * 60 * TINY_RATE * 2 * 4  # half of the file's samples


# ------------------------------------------------------------ the shipped prior


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
