import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, FakeSampler, clipped, plucked, rms, use_sampler
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, Distortion, Operator
from nldiff.priors.saved import Prior
from nldiff.restoration.diffusion import calls
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Job
from nldiff.restoration.levels import settle
from nldiff.restoration.methods import find_method
from nldiff.restoration.parts import Part
from nldiff.restoration.pipeline import restore, run_method
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.workspace import make_workspace
from nldiff.sampling import Posterior, sample
from nldiff.sound.recording import Recording


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every call of the real sampler."""
    calls: list[dict[str, Any]] = []

    def spy(
        denoiser: Any, y: Any, operator: Any, schedule: Any, settings: Any, sources: Any, **others: Any
    ) -> Posterior:
        calls.append({"y": y, "operator": operator, "schedule": schedule, **others})
        return sample(denoiser, y, operator, schedule, settings, sources, **others)

    use_sampler(monkeypatch, spy)
    return calls


def pieces(
    recording: Recording, prior: Prior, config: RestoreConfig, known: Operator | None = None
) -> tuple[list[NDArray[np.float32]], Fit]:
    blocks: list[NDArray[np.float32]] = []
    method = find_method("informed" if known else "blind")
    fit = run_method(method, Job(recording, config, [prior], known=known), blocks.append)
    return blocks, fit


def test_channels_and_chunks_share_one_curve(prior: Prior, spied: list[dict[str, Any]]) -> None:
    y = clipped(2.0, TINY_RATE, 2)
    restore(y, TINY_RATE, prior, config=RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=4))
    assert [len(call["y"]) for call in spied] == [4, 2, 2, 2]  # two stereo chunks together, then one at a time
    assert {id(call["operator"]) for call in spied} == {id(spied[0]["operator"])}
    assert spied[0]["operator"].parameter_sets == 1
    assert [call["level"] for call in spied] == [prior.sigma_data, None, None, None]


def test_the_curve_stays_as_the_joint_chunks_left_it(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(2.0, TINY_RATE)
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    pieces(Recording.from_array(y, TINY_RATE), prior, config)
    assert [call["trainable"] > 0 for call in fake.calls] == [True, False, False, False]


def test_every_chunk_and_channel_has_noise_of_its_own(prior: Prior, fake: FakeSampler) -> None:
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    for seed in (0, 1):
        pieces(Recording.from_array(clipped(2.0, TINY_RATE, 2), TINY_RATE), prior, replace(config, seed=seed))
    seeds = [seed for call in fake.calls for seed in call["seeds"]]
    assert len(seeds) == 2 * 2 * 5
    assert len(set(seeds)) == len(seeds)


def test_progress_counts_every_step_once(prior: Prior) -> None:
    seen: list[tuple[float, float, str]] = []
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, joint_items=2)
    restore(clipped(2.0, TINY_RATE), TINY_RATE, prior, config=config, on_step=lambda *step: seen.append(step))
    assert all(done <= total for done, total, _ in seen)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    # 2 chunks together and 3 alone, 3 steps each
    alone = [f"sampling with this curve {chunk}/3" for chunk in (1, 2, 3)]
    phases = ["listening", *(f"sampling {step}/3" for step in (1, 2, 3)), *(name for name in alone for _ in range(3))]
    assert [phase for _, _, phase in seen] == [*phases, alone[-1]]


@pytest.mark.parametrize(("rate", "band"), [(6000, 3000), (8000, 4000), (44100, 4000)])
def test_the_restored_band_ends_at_half_the_lower_rate(prior: Prior, fake: FakeSampler, rate: int, band: float) -> None:
    assert restore(clipped(0.2, rate)[0], rate, prior).fit.restored_band_hz == band


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


@pytest.mark.parametrize("name", sorted(DISTORTIONS))
def test_a_known_distortion_is_applied_in_the_units_of_the_recording(
    prior: Prior, fake: FakeSampler, name: str
) -> None:
    known = Distortion(name)
    y = known(torch.from_numpy(plucked(0.5, TINY_RATE))[None]).numpy()
    recording = Recording.from_array(y, TINY_RATE)
    blocks, fit = pieces(recording, prior, RestoreConfig(), known)
    assert fake.calls[0]["level"] is None
    np.testing.assert_array_equal(fake.calls[0]["y"].numpy(), y * np.float32(fit.observation_gain))

    # level of the prior = observation_gain * units of the recording = (1 / gain) * units of the result
    raw = np.concatenate(blocks, axis=1)
    (settled,) = settle([(Part((0,)), fit)], recording, [lambda start, frames: raw[:, start : start + frames]], "rms")
    v = torch.linspace(-0.9, 0.9, 201, dtype=torch.float64)
    expected = known.static((v - settled.shift) / (settled.gain * fit.observation_gain)).numpy()
    # a quantiser may round either way at the edge of a step
    assert np.mean(np.abs(settled.curve(v.numpy()) - expected) > 1e-5) < 0.02


def test_the_level_of_the_clean_signal_follows_from_the_known_distortion(prior: Prior, fake: FakeSampler) -> None:
    x = np.random.default_rng(0).laplace(size=20000).astype(np.float32) * 0.1  # RMS 0.1 sqrt(2)
    known = Distortion("hard_clip", {"threshold": 0.05})
    y = known(torch.from_numpy(x)[None]).numpy()
    _, fit = pieces(Recording.from_array(y, TINY_RATE), prior, RestoreConfig(), known)
    assert prior.sigma_data / fit.observation_gain == pytest.approx(0.1 * 2**0.5, rel=0.05)


@pytest.mark.parametrize(("wanted", "lowest"), [(1e-9, 1e-3), (0.02, 0.02)])
def test_the_schedule_ends_where_the_training_of_the_prior_ended(
    prior: Prior, spied: list[dict[str, Any]], wanted: float, lowest: float
) -> None:
    config = RestoreConfig(sampler={"sigma_min": wanted, "sigma_max": 0.7})
    result = restore(clipped(0.2, TINY_RATE)[0], TINY_RATE, prior, config=config)
    assert spied[0]["schedule"].tolist()[0] == pytest.approx(0.7)
    assert spied[0]["schedule"].tolist()[-2:] == pytest.approx([lowest, 0.0], rel=1e-5)
    assert result.fit.sampling is not None
    assert result.fit.sampling.settings.sampler.sigma_min == lowest


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
        use_sampler(patch, FakeSampler())
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
    use_sampler(monkeypatch, FakeSampler(keep=False))
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1 << 13)
    monkeypatch.setattr("nldiff.sound.files.BLOCK_FRAMES", 1 << 13)
    config = RestoreConfig(chunk_seconds=1.0, overlap_seconds=0.1)

    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.wav"
        y = np.random.default_rng(0).standard_normal((seconds * TINY_RATE, 2)).astype(np.float32)
        sf.write(path, y, TINY_RATE, subtype="FLOAT")
        sizes: list[int] = []
        tracemalloc.start()
        recording = Recording.from_file(path)
        job = Job(recording, config, [prior])
        fit = run_method(find_method("blind"), job, lambda block: sizes.append(block.shape[1]))
        settle([(Part((0, 1)), fit)], recording, [recording.read], "auto")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(sizes) == seconds * TINY_RATE
        return most

    short, long = peak(6), peak(60)
    assert long < 1.2 * short + 100_000
    assert long < 0.5 * 60 * TINY_RATE * 2 * 4  # half of the file's samples


# ------------------------------------------------------------ known operators with memory

OVERDRIVE = {"gain_db": 15.0, "colour": 40.0, "pole": 0.98}  # forgets within 342 samples
BUSY: dict[str, Any] = {"chunk_seconds": 0.25, "overlap_seconds": 0.02, "joint_items": 1}


@pytest.mark.parametrize("sampler", ["real", "fake"])
def test_an_operator_with_memory_is_explained_across_blocks_and_chunks(
    prior: Prior, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    if sampler == "fake":
        use_sampler(monkeypatch, FakeSampler())
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1500)
    known = Distortion("overdrive", OVERDRIVE)
    y = known(torch.from_numpy(np.stack([plucked(1.0, TINY_RATE, n) for n in range(2)]))).numpy()
    result = restore(y, TINY_RATE, prior, known=known, config=RestoreConfig(**BUSY))
    assert (result.method, result.audio.shape) == ("informed", y.shape)
    # As a whole, in the units of the recording.
    clean = result.audio / (result.gain * result.fit.observation_gain)
    explained = known(torch.from_numpy(clean.astype(np.float32))).numpy()
    error_db = 20 * np.log10(rms(y) / rms(y - explained))
    assert result.explained_db == pytest.approx(error_db, abs=0.02)
    # Cold starts every block would be heard: 0.1 of full scale, that of the offset, where they begin.
    at = np.linspace(-0.5, 0.5, 101)
    static = known.static(torch.from_numpy(at / (result.gain * result.fit.observation_gain))).numpy()
    np.testing.assert_allclose(result.curve(at), static, atol=1e-5)


def test_a_block_begins_with_the_memory_of_what_came_before(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Distortion("overdrive", OVERDRIVE)
    x = plucked(1.0, TINY_RATE)[None]
    y = known(torch.from_numpy(x)).numpy()
    # Explained perfectly: the sampler finds the clean signal.
    clean, power = torch.from_numpy(x), float(np.linalg.norm(y))
    use_sampler(monkeypatch, FakeSampler(lambda observed: clean * (observed.norm() / power)))
    config = RestoreConfig(chunk_seconds=2.0)
    result = restore(y, TINY_RATE, prior, known=known, config=config)
    assert result.explained_db > 100
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1000)
    again = restore(y, TINY_RATE, prior, known=known, config=config)
    assert again.explained_db > 60  # 6 dB if every block began in silence


@pytest.mark.parametrize("rate", [TINY_RATE, 4000])
def test_chunks_overlap_by_the_memory_of_a_known_operator(prior: Prior, fake: FakeSampler, rate: int) -> None:
    known = Distortion("overdrive", OVERDRIVE)
    y = known(torch.from_numpy(plucked(2.0, rate)[None])).numpy()
    blocks, _ = pieces(Recording.from_array(y, rate), prior, RestoreConfig(**BUSY), known)
    assert sum(map(len, (block[0] for block in blocks))) == y.shape[1]
    length, starts = rate // 4, np.cumsum([0, *(block.shape[1] for block in blocks[:-1])])
    assert np.diff(starts).max() <= length - known.context
    assert len(blocks) == -(-(y.shape[1] - known.context) // (length - known.context))


def test_chunks_that_are_shorter_than_twice_the_memory_are_refused(prior: Prior, fake: FakeSampler) -> None:
    known = Distortion("overdrive", {"pole": 0.999})  # 6905 samples
    y = known(torch.from_numpy(plucked(2.0, TINY_RATE)[None])).numpy()
    config = RestoreConfig(chunk_seconds=1.7)
    with pytest.raises(NldiffError, match=r"chunk_seconds=1\.7: more than twice the memory of overdrive:.*, 0\.863 s"):
        pieces(Recording.from_array(y, TINY_RATE), prior, config, known)
    # In one chunk there is nothing to overlap.
    blocks, _ = pieces(Recording.from_array(y[:, :12000], TINY_RATE), prior, config, known)
    assert len(blocks) == 1


def test_an_operator_with_memory_is_sampled_at_the_rate_of_the_prior(prior: Prior, fake: FakeSampler) -> None:
    known = Distortion("overdrive", OVERDRIVE)
    y = known(torch.from_numpy(plucked(0.5, 2 * TINY_RATE)[None])).numpy()
    _, fit = pieces(Recording.from_array(y, 2 * TINY_RATE), prior, RestoreConfig(), known)
    slow = Distortion("overdrive", {**OVERDRIVE, "pole": 0.98**2})
    x = torch.randn(1, 500, generator=torch.Generator().manual_seed(0)) * prior.sigma_data
    gain = fit.observation_gain
    torch.testing.assert_close(fake.calls[0]["operator"](x), slow(x / gain) * gain)
    assert fit.operator is not None
    torch.testing.assert_close(fit.operator(x), known(x / gain) * gain)


@pytest.mark.parametrize(
    ("channels", "batch_size", "expected"),
    [(1, 3, [[0, 2, 4]]), (2, 3, [[0], [2], [4]]), (2, 5, [[0, 2], [4]]), (2, 1, [[0], [2], [4]])],
)
def test_chunks_are_left_to_restore_as_many_at_a_time_as_fit_into_a_batch(
    prior: Prior, channels: int, batch_size: int, expected: list[list[int]]
) -> None:
    recording = Recording.from_array(clipped(2.1, TINY_RATE, channels), TINY_RATE)
    config = RestoreConfig(chunk_seconds=0.5, overlap_seconds=0.1, batch_size=batch_size)
    work = make_workspace(recording, prior, config, None)
    assert len(work.starts) == 5
    assert calls(work, [1, 3]) == expected
