"""Methods from signal to signal: chunks, rates, levels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, clipped, plucked, save_tiny_baseline
from numpy.typing import NDArray

from nldiff.baselines.aspade import PRESETS, aspade
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.saved import load_baseline
from nldiff.errors import NldiffError
from nldiff.operators import Chain, Distortion
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Job
from nldiff.restoration.methods import find_method
from nldiff.restoration.pipeline import run_method
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.signal_methods import Processor, by_chunks
from nldiff.sound.recording import Recording

Audio = NDArray[np.float32]
CONFIG = RestoreConfig(device="cpu", chunk_seconds=0.5, overlap_seconds=0.1)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny.safetensors")


def recording(samples: Audio, rate: int = TINY_RATE) -> Recording:
    return Recording.from_array(samples, rate, "take.wav")


def restored(processor: Processor, observed: Audio, rate: int = TINY_RATE, config: RestoreConfig = CONFIG) -> Audio:
    blocks: list[Audio] = []
    by_chunks(lambda job: processor, Job(recording(observed, rate), config), blocks.append)
    return np.concatenate(blocks, axis=1)


def made(name: str, job: Job) -> tuple[Audio, Fit]:
    """What a method of `METHODS` makes of a job."""
    blocks: list[Audio] = []
    fit = run_method(find_method(name), job, blocks.append)
    return np.concatenate(blocks, axis=1), fit


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.9, 2.33])
def test_a_method_that_changes_nothing_changes_nothing_in_chunks(channels: int, seconds: float) -> None:
    y = clipped(seconds, TINY_RATE, channels)
    starts: list[int] = []

    def process(chunk: Audio, start: int) -> Audio:
        assert np.array_equal(chunk, y[:, start : start + 4000])
        starts.append(start)
        return chunk

    steps: list[tuple[float, float, str]] = []
    blocks: list[Audio] = []
    job = Job(recording(y), CONFIG)
    by_chunks(lambda job: Processor(process, TINY_RATE), job, blocks.append, lambda *done: steps.append(done))
    assert np.concatenate(blocks, axis=1) == pytest.approx(y, abs=1e-7)
    assert len(steps) == len(starts)
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1][0] == steps[-1][1]
    assert len(starts) == (1 if seconds <= 0.5 else int(np.ceil((seconds - 0.1) / 0.4)))
    assert max(block.shape[1] for block in blocks) <= 4000


def test_neighbouring_chunks_are_cross_faded() -> None:
    y = clipped(0.9, TINY_RATE)
    made = restored(Processor(lambda chunk, start: np.full_like(chunk, float(start > 0)), TINY_RATE), y)[0]
    assert made[:3200].max() == 0
    assert made[4000:].min() == 1
    assert np.diff(made[3200:4000]) == pytest.approx(1 / 800, rel=1e-3)


@pytest.mark.parametrize(("rate", "used"), [(TINY_RATE, 16000), (44100, 16000), (44100, 44100)])
def test_a_method_works_at_its_own_rate(rate: int, used: int) -> None:
    pitches = (500, 15000 if rate > 40000 else 900)
    low, high = (np.sin(2 * np.pi * f * np.arange(rate) / rate).astype(np.float32)[None] for f in pitches)
    shapes: list[tuple[int, ...]] = []

    def process(chunk: Audio, start: int) -> Audio:
        shapes.append(chunk.shape)
        return 0.5 * chunk

    def inner(signal: Audio) -> Audio:
        return signal[:, rate // 10 : -rate // 10]

    made = restored(Processor(process, used), low + high, rate)
    assert made.shape == low.shape
    assert set(shapes) == {(1, used // 2)}
    within = low + high if used / 2 > 15000 or rate < used else low
    assert inner(made) == pytest.approx(0.5 * inner(within), abs=1e-3)
    config = RestoreConfig(device="cpu", chunk_seconds=0.5, overlap_seconds=0.1, above_band="keep")
    above = low + high - within  # kept as it was observed
    assert inner(restored(Processor(process, used), low + high, rate, config)) == pytest.approx(
        inner(0.5 * within + above), abs=2e-3
    )


@pytest.mark.parametrize("name", ["aspade", "sspade"])
@pytest.mark.parametrize("level", [0.15, 3.0])
def test_spade_finds_the_levels(name: str, level: float) -> None:
    x = np.stack([plucked(0.4, TINY_RATE), 0.2 * plucked(0.4, TINY_RATE, 1)]) * np.float32(level / 0.15)
    y = x.clip(-level, level)
    found = made(name, Job(recording(y), CONFIG))[0]
    gain = 2 ** np.ceil(np.log2(level))  # the level is between 0.5 and 1 after it
    inside = np.abs(y) < 0.999 * level
    assert found[inside] == pytest.approx(y[inside], rel=1e-6)
    assert (np.abs(found[~inside]) >= 0.999 * level).all()
    direct = aspade(
        torch.from_numpy(y / np.float32(gain)), -level / gain, level / gain, PRESETS["short"],
        "analysis" if name == "aspade" else "synthesis",
    )  # fmt: skip
    assert found == pytest.approx(gain * direct.numpy(), abs=1e-5 * gain)


def test_spade_of_what_is_not_clipped() -> None:
    y = plucked(0.4, TINY_RATE)[None]
    with pytest.raises(NldiffError, match=r"take\.wav is not hard clipped: .*--known hard_clip:threshold"):
        made("aspade", Job(recording(y), CONFIG))
    with pytest.raises(NldiffError, match="hard clipping only, not soft_clip"):
        made("aspade", Job(recording(y), CONFIG, known=Distortion("soft_clip")))
    with pytest.raises(NldiffError, match=r"hard clipping only, not hard_clip:threshold=0\.1 > half_wave"):
        made("aspade", Job(recording(y), CONFIG, known=Chain([Distortion("hard_clip"), Distortion("half_wave")])))
    with pytest.raises(NldiffError, match=r"hard clipping only, not hard_clip:.*mix=0\.5"):
        made("aspade", Job(recording(y), CONFIG, known=Distortion("hard_clip", {"mix": 0.5})))
    told, _ = made("aspade", Job(recording(y), CONFIG, known=Distortion("hard_clip", {"threshold": 0.6})))
    assert np.array_equal(told, y)  # nothing is as loud as that


def test_a_network_sees_every_chunk_at_its_rate(baseline: Path) -> None:
    y = clipped(0.4, TINY_RATE, 2)
    found, fit = made(str(baseline), Job(recording(y), CONFIG))
    assert (fit.restored_band_hz, fit.weights) == (TINY_RATE / 2, "tiny")
    assert np.array_equal(found, load_baseline(baseline)(torch.from_numpy(y)).numpy())
    assert np.array_equal(made("demucs", Job(recording(y), CONFIG, weights=str(baseline)))[0], found)


@pytest.mark.parametrize("gain", [0.001, 30.0])
def test_the_gain_of_a_recording_does_not_matter(baseline: Path, gain: float) -> None:
    y = clipped(1.2, TINY_RATE)
    usual, scaled = (made(str(baseline), Job(recording(np.float32(g) * y), CONFIG))[0] for g in (1.0, gain))
    assert scaled == pytest.approx(gain * usual, rel=1e-3, abs=1e-4 * gain)


def test_the_mask_takes_the_clean_signal_of_the_same_time() -> None:
    x = np.stack([plucked(1.3, TINY_RATE, n) for n in (1, 2)])
    y = x.clip(-0.1, 0.1)
    whole = ideal_ratio_mask(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    found, _ = made("irm", Job(recording(y), CONFIG, clean=x))
    # the same but for the ends of chunks
    assert np.sum((found - whole) ** 2) < 1e-2 * np.sum(whole**2)
    alone, _ = made("irm", Job(recording(y[:, :4000]), CONFIG, clean=x[:, :4000]))
    assert np.array_equal(
        alone,
        ideal_ratio_mask(torch.from_numpy(x[:, :4000]), torch.from_numpy(y[:, :4000])).numpy(),
    )
    with pytest.raises(NldiffError, match="irm needs the clean signal"):
        made("irm", Job(recording(y), CONFIG))
