"""Methods from signal to signal: chunks, rates, levels, the curve that is fitted afterwards, the choice of weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, clipped, plucked, save_tiny_baseline
from numpy.typing import NDArray

from nldiff.baselines.aspade import PRESETS, aspade
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import SHIPPED, load_baseline
from nldiff.errors import NldiffError
from nldiff.operators.distortions import Distortion
from nldiff.restoration.methods import (
    Job,
    Restorer,
    check_method,
    choose_weights,
    clipping_levels,
    explain,
    least_squares_spline,
    make_restorer,
    process_blocks,
    shipped_weights,
)
from nldiff.restoration.restore import Fit, settle
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

Audio = NDArray[np.float32]
CONFIG = RestoreConfig(device="cpu", chunk_seconds=0.5, overlap_seconds=0.1)
WEIGHTS = (
    "demucs-hardclip", "demucs-softclip", "demucs-overdrive", "demucs-hardclip-16k", "umx-overdrive", "umx-hardclip-16k"
)  # fmt: skip


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_baseline(tmp_path_factory.mktemp("baseline") / "tiny.safetensors")


def recording(samples: Audio, rate: int = TINY_RATE) -> Recording:
    return Recording.from_array(samples, rate, "take.wav")


def restored(restorer: Restorer, observed: Audio, rate: int = TINY_RATE, config: RestoreConfig = CONFIG) -> Audio:
    blocks: list[Audio] = []
    process_blocks(recording(observed, rate), restorer, config, blocks.append)
    return np.concatenate(blocks, axis=1)


def explained(observed: Audio, made: Audio, rate: int = TINY_RATE) -> tuple[float, Callable[[Any], Any], float, Fit]:
    """Gain, curve and SDR that `settle` makes of a result, and the fit."""
    source = recording(observed, rate)

    def read(start: int, frames: int) -> Audio:
        return made[:, start : start + frames]

    fit = explain(source, Restorer(lambda chunk, start: chunk, rate), read, time.monotonic())
    return *settle(fit, source, read), fit


# ------------------------------------------------------------ chunks, rates


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.9, 2.33])
def test_a_method_that_changes_nothing_changes_nothing_in_chunks(channels: int, seconds: float) -> None:
    y = clipped(seconds, TINY_RATE, channels)
    starts: list[int] = []

    def process(chunk: Audio, start: int) -> Audio:
        assert np.array_equal(chunk, y[:, start : start + 4000])
        starts.append(start)
        return chunk

    steps: list[tuple[int, int]] = []
    blocks: list[Audio] = []
    process_blocks(recording(y), Restorer(process, TINY_RATE), CONFIG, blocks.append, lambda *done: steps.append(done))
    assert np.concatenate(blocks, axis=1) == pytest.approx(y, abs=1e-7)
    assert steps == [(n + 1, len(starts)) for n in range(len(starts))]
    assert len(starts) == (1 if seconds <= 0.5 else int(np.ceil((seconds - 0.1) / 0.4)))
    assert max(block.shape[1] for block in blocks) <= 4000


def test_neighbouring_chunks_are_cross_faded() -> None:
    y = clipped(0.9, TINY_RATE)
    made = restored(Restorer(lambda chunk, start: np.full_like(chunk, float(start > 0)), TINY_RATE), y)[0]
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

    made = restored(Restorer(process, used), low + high, rate)
    assert made.shape == low.shape
    assert set(shapes) == {(1, used // 2)}
    within = low + high if used / 2 > 15000 or rate < used else low
    assert inner(made) == pytest.approx(0.5 * inner(within), abs=1e-3)
    config = RestoreConfig(device="cpu", chunk_seconds=0.5, overlap_seconds=0.1, above_band="keep")
    above = low + high - within  # kept as it was observed
    assert inner(restored(Restorer(process, used), low + high, rate, config)) == pytest.approx(
        inner(0.5 * within + above), abs=2e-3
    )


def test_a_result_that_is_not_finite_is_refused() -> None:
    restorer = Restorer(lambda chunk, start: chunk / np.float32(0) if start else chunk, TINY_RATE)
    with np.errstate(all="ignore"), pytest.raises(NldiffError, match=r"NaN or infinite samples .*take\.wav"):
        restored(restorer, clipped(0.9, TINY_RATE))


# ------------------------------------------------------------ the curve afterwards


@pytest.mark.parametrize(
    ("name", "least_db"),
    [("hard_clip:threshold=0.1", 35), ("half_wave", 40), ("soft_clip:gain=5", 50), ("wavefold:threshold=0.2", 35)],
)
@pytest.mark.parametrize("gain", [1.0, -0.01, 100.0])
def test_the_curve_of_a_perfect_restoration_is_that_of_the_distortion(name: str, least_db: float, gain: float) -> None:
    family, _, rest = name.partition(":")
    distortion = Distortion(family, {key: float(value) for key, value in [rest.split("=")]} if rest else {})
    x = np.stack([plucked(3.0, TINY_RATE, n) for n in range(2)])
    y = distortion(torch.from_numpy(x)).numpy()
    factor, curve, db, fit = explained(y, (gain * x).astype(np.float32))
    assert db > least_db
    # RMS of the recording, its polarity
    rms = float(np.sqrt(np.mean(y.astype(np.float64) ** 2) / np.mean(x.astype(np.float64) ** 2)))
    peak_limited = min(rms, 0.999 / 0.5)
    assert factor * gain == pytest.approx(peak_limited, rel=1e-4)
    points = np.linspace(-0.3, 0.3, 7)
    expected = distortion(torch.from_numpy(points)).numpy()
    assert curve(points * peak_limited) == pytest.approx(expected, abs=0.01)
    assert (fit.cost, fit.evaluations, len(fit.curves)) == ((), 0, 0)


def test_the_spline_minimises_the_squared_error() -> None:
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(-0.2, 0.2, 400))
    y = np.clip(x, -0.1, 0.1) + 0.01 * random.standard_normal(400)
    weights = random.uniform(0.5, 1.5, 400)
    weights /= weights.sum()
    spline = least_squares_spline(x, y, weights)

    def error(values: torch.Tensor) -> float:
        changed = least_squares_spline(x, y, weights).requires_grad_(False)
        changed.values.copy_(values)
        found = changed.double().curve(torch.from_numpy(x))[0].numpy()
        return float(np.sum(weights * (found - y) ** 2))

    best = error(spline.values)
    assert best < 1.1e-4
    for point in range(43):
        for step in (-0.003, 0.003):
            values = spline.values.clone()
            values[0, point] += step
            assert error(values) > best - 1e-9


def test_where_there_are_no_samples_the_curve_goes_straight_on() -> None:
    x = np.linspace(-0.1, 0.1, 200)
    spline = least_squares_spline(x, 0.5 * x, np.full(200, 1 / 200))
    grid = torch.linspace(-1, 1, 41)
    # not exactly: the control points of a straight line are not on it, see `CatmullRom`
    assert spline.curve(grid)[0].numpy() == pytest.approx(0.5 * grid.numpy(), rel=0.1, abs=1e-3)


def test_a_silent_result_is_refused() -> None:
    y = clipped(0.5, TINY_RATE)
    with pytest.raises(NldiffError, match=r"the result for take\.wav is silent"):
        explained(y, 0 * y)


# ------------------------------------------------------------ clipping levels


def test_clipping_levels_are_those_of_the_whole_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.sound.recording._BLOCK", 1000)
    x = plucked(1.0, TINY_RATE)
    y = np.stack([x.clip(-0.2, 0.1), x])
    y[0, -1500:] = 0.001  # a block that stays at a value which is no clipping level
    low, high = clipping_levels(recording(y))
    assert low.tolist() == [np.float32(-0.2), -np.inf]
    assert high.tolist() == [np.float32(0.1), np.inf]
    y[0, 700] = 0.11  # a single sample beyond: it did not stay there
    assert clipping_levels(recording(y))[1].tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("name", ["aspade", "sspade"])
@pytest.mark.parametrize("level", [0.15, 3.0])
def test_spade_finds_the_levels(name: str, level: float) -> None:
    x = np.stack([plucked(0.4, TINY_RATE), 0.2 * plucked(0.4, TINY_RATE, 1)]) * np.float32(level / 0.15)
    y = x.clip(-level, level)
    made = make_restorer(name, Job(recording(y), CONFIG))
    found = restored(made, y)
    scale = y[1, 1000] / found[1, 1000]
    inside = np.abs(y) < 0.999 * level
    assert found[inside] * scale == pytest.approx(y[inside], rel=1e-6)
    assert (np.abs(found[~inside]) * scale >= 0.999 * level).all()
    assert np.log2(scale) == pytest.approx(np.round(np.log2(scale)))
    direct = aspade(
        torch.from_numpy(y / scale), -level / scale, level / scale, PRESETS["short"],
        "analysis" if name == "aspade" else "synthesis",
    )  # fmt: skip
    assert found == pytest.approx(direct.numpy(), abs=1e-5)


def test_spade_of_what_is_not_clipped() -> None:
    y = plucked(0.4, TINY_RATE)[None]
    with pytest.raises(NldiffError, match=r"take\.wav is not hard clipped: .*--known hard_clip:threshold"):
        make_restorer("aspade", Job(recording(y), CONFIG))
    with pytest.raises(NldiffError, match="hard clipping only, not soft_clip"):
        make_restorer("aspade", Job(recording(y), CONFIG, known=Distortion("soft_clip")))
    told = make_restorer("aspade", Job(recording(y), CONFIG, known=Distortion("hard_clip", {"threshold": 0.6})))
    assert np.array_equal(restored(told, y), y)  # nothing is as loud as that


# ------------------------------------------------------------ networks, masks


def test_a_network_sees_every_chunk_at_its_rate(baseline: Path) -> None:
    y = clipped(0.4, TINY_RATE, 2)
    made = make_restorer(str(baseline), Job(recording(y), CONFIG))
    assert (made.sample_rate, made.weights) == (TINY_RATE, "tiny")
    assert np.array_equal(restored(made, y), load_baseline(baseline)(torch.from_numpy(y)).numpy())
    named = make_restorer("demucs", Job(recording(y), CONFIG, weights=str(baseline)))
    assert np.array_equal(restored(named, y), restored(made, y))


@pytest.mark.parametrize("gain", [0.001, 30.0])
def test_the_gain_of_a_recording_does_not_matter(baseline: Path, gain: float) -> None:
    y = clipped(1.2, TINY_RATE)
    made = make_restorer(str(baseline), Job(recording(y), CONFIG))
    assert restored(made, np.float32(gain) * y) == pytest.approx(gain * restored(made, y), rel=1e-3, abs=1e-4 * gain)


CHOICES = [
    ("demucs", 44100, "clipped", None, "demucs-hardclip"),
    ("demucs", 96000, "clipped", None, "demucs-hardclip"),
    ("demucs", 22050, "soft", None, "demucs-softclip"),
    ("demucs", 16000, "clipped", None, "demucs-hardclip-16k"),
    ("demucs", 8000, "soft", None, "demucs-overdrive"),
    ("umx", 44100, "clipped", None, "umx-hardclip-16k"),
    ("umx", 48000, "soft", None, "umx-overdrive"),
    ("demucs", 44100, "clipped", "soft_clip", "demucs-softclip"),
    ("demucs", 44100, "soft", "overdrive_static", "demucs-overdrive"),
]


@pytest.mark.parametrize(("network", "rate", "kind", "known", "expected"), CHOICES)
def test_weights_are_chosen_for_the_recording(
    monkeypatch: pytest.MonkeyPatch, network: str, rate: int, kind: str, known: str | None, expected: str
) -> None:
    monkeypatch.setattr("nldiff.restoration.methods.SHIPPED", WEIGHTS)
    x = plucked(0.3, rate)[None]
    y = x.clip(-0.2, 0.2) if kind == "clipped" else np.tanh(4 * x)
    assert choose_weights(network, recording(y, rate), Distortion(known) if known else None) == expected


def test_all_shipped_weights_are_used_at_the_rate_that_they_were_trained_at() -> None:
    found = {
        (name, rate)
        for network in NETWORKS
        for rate in (16000, 44100)
        for family in ("hard_clip", "soft_clip", "overdrive")
        if (name := shipped_weights(network, family, rate))
    }
    assert {name for name, _ in found} == set(SHIPPED)
    assert found == {(name, load_baseline(name).sample_rate) for name in SHIPPED}


def test_weights_that_are_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.restoration.methods.SHIPPED", WEIGHTS)
    source = recording(clipped(0.3, TINY_RATE))
    with pytest.raises(NldiffError, match="no weights of crafx for hard_clip are shipped"):
        choose_weights("crafx", source)
    with pytest.raises(NldiffError, match="no weights of umx for half_wave are shipped"):
        choose_weights("umx", source, Distortion("half_wave"))


def test_the_mask_takes_the_clean_signal_of_the_same_time() -> None:
    x = np.stack([plucked(1.3, TINY_RATE, n) for n in (1, 2)])
    y = x.clip(-0.1, 0.1)
    whole = ideal_ratio_mask(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    found = restored(make_restorer("irm", Job(recording(y), CONFIG, clean=x)), y)
    # the same but for the ends of chunks
    assert np.sum((found - whole) ** 2) < 1e-2 * np.sum(whole**2)
    alone = make_restorer("irm", Job(recording(y[:, :4000]), CONFIG, clean=x[:, :4000]))
    assert np.array_equal(
        restored(alone, y[:, :4000]),
        ideal_ratio_mask(torch.from_numpy(x[:, :4000]), torch.from_numpy(y[:, :4000])).numpy(),
    )
    with pytest.raises(NldiffError, match="irm needs the clean signal"):
        make_restorer("irm", Job(recording(y), CONFIG))


# ------------------------------------------------------------ names


def test_names_are_checked_before_the_work(baseline: Path, tmp_path: Path) -> None:
    check_method("blind")
    check_method("aspade")
    check_method("demucs", str(baseline))
    check_method(str(baseline))
    for method, weights, said in (
        ("demcus", None, "unknown method 'demcus' .*demucs, .*aspade"),
        ("aspade", "x.safetensors", "--weights x.safetensors: only with a network"),
        ("umx", "x.safetensors", "unknown baseline 'x.safetensors'"),
    ):
        with pytest.raises(NldiffError, match=said):
            check_method(method, weights)
    (tmp_path / "foreign.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(NldiffError, match=r"foreign\.safetensors"):
        check_method(str(tmp_path / "foreign.safetensors"))
