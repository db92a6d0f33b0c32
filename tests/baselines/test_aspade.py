import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from survey import clipped_excerpt, published
from torch import Tensor

from nldiff.baselines.aspade import PRESETS, SpadeSettings, Variant, aspade
from nldiff.baselines.clipping import detect_clipping
from nldiff.errors import NldiffError
from nldiff.metrics import delta_sdr_clipped, peaq_odg, pemo_q_odg, r_nonlin

SMALL = SpadeSettings(window=64, hop=16, eps=0.05)
# Excerpts of the three signals below: the first 3072 samples and the 2304 restored ones that they determine.
GOLDEN = Path(__file__).parents[1] / "data" / "spade_golden.npz"
VARIANTS: list[Variant] = ["analysis", "synthesis"]
variants = pytest.mark.parametrize("variant", VARIANTS)


def harmonics(length: int, seed: int = 0, items: int = 1) -> Tensor:
    """Three partials and some noise, `[items, length]`, float64, peak 1."""
    random = np.random.default_rng(seed)
    t = np.arange(length)
    x = np.stack(
        [
            sum(a * np.sin(f * t + random.uniform(0, 6)) for a, f in ((1, 0.11), (0.5, 0.23), (0.3, 0.57)))
            + 0.02 * random.standard_normal(length)
            for _ in range(items)
        ]
    )
    return torch.from_numpy(x / np.abs(x).max(1, keepdims=True))


def spade_frame(y: NDArray, lower: NDArray, upper: NDArray, options: SpadeSettings, variant: Variant) -> NDArray:
    """SPADE on one windowed frame as the papers print it, on whole complex spectra."""
    length = options.redundancy * len(y)

    def transform(x: NDArray) -> NDArray:
        return np.fft.fft(x, length) / np.sqrt(length)

    def adjoint(z: NDArray) -> NDArray:
        return (np.fft.ifft(z) * np.sqrt(length)).real[: len(y)]

    def threshold(z: NDArray, pairs: int) -> NDArray:
        weight = np.abs(z[: length // 2 + 1])
        weight[0] /= 2
        kept = np.argsort(-weight)[:pairs]
        mask = np.zeros(length, bool)
        mask[kept] = mask[-kept] = True
        return np.where(mask, z, 0)

    x, u = y, np.zeros(length if variant == "analysis" else len(y))
    best, smallest, k, i = y, np.inf, options.s, 1
    while i <= math.ceil((length // 2 + 1) * options.r / options.s):
        z_bar = threshold(transform(x) + u if variant == "analysis" else transform(x - u), k)
        distance = float(np.linalg.norm(transform(x) - z_bar if variant == "analysis" else adjoint(z_bar) - x))
        if distance <= smallest:
            best, smallest = x, distance
        if distance <= options.eps:
            break
        if variant == "analysis":
            x = np.clip(adjoint(z_bar - u), lower, upper)
            u = u + transform(x) - z_bar
        else:
            x = np.clip(adjoint(z_bar) + u, lower, upper)
            u = u + adjoint(z_bar) - x
        i += 1
        if i % options.r == 0:
            k += options.s
    return best


def spade(y: NDArray, low: float, high: float, options: SpadeSettings, variant: Variant) -> NDArray:
    """SPADE on a signal `[time]`: a loop over frames."""
    w = options.window
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(w) / w)
    padded = np.pad(y, (w, 2 * w))
    low_mask, high_mask = (np.pad(mask, (w, 2 * w)) for mask in (y <= low, y >= high))
    total, weight = np.zeros_like(padded), np.zeros_like(padded)
    for start in range(0, len(padded) - w + 1, options.hop):
        part = slice(start, start + w)
        frame = padded[part] * window
        lower = np.where(low_mask[part], -np.inf, frame)
        upper = np.where(high_mask[part], np.inf, frame)
        total[part] += spade_frame(frame, lower, upper, options, variant) * window
        weight[part] += window**2
    return (total[w:-w][: len(y)]) / weight[w:-w][: len(y)]


@pytest.mark.parametrize("key", ["analysis_3dB", "synthesis_7dB"])
def test_equals_the_published_code(key: str) -> None:
    golden = np.load(GOLDEN)
    variant: Variant = "analysis" if key.startswith("analysis") else "synthesis"
    y = torch.from_numpy(golden[f"{key}_clipped"])[None]
    restored = aspade(y, variant=variant, dtype=torch.float64)
    expected = golden[f"{key}_restored"]
    assert np.abs(expected - y[0, : len(expected)].numpy()).max() > 0.3  # the excerpt has something to restore
    np.testing.assert_allclose(restored[0, : len(expected)].numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aspade_w1024_sdr3", "aspade_w1024_sdr10", "sspade_w1024_sdr7"])
def test_equals_the_published_code_on_whole_signals(name: str) -> None:
    data = os.environ.get("NLDIFF_DATA")
    path = Path(data or "") / ".." / "facts" / "vectors" / f"synth_{name}.npz"
    if data is None or not path.exists():
        pytest.skip(f"needs ../facts/vectors/{path.name} beside the folder NLDIFF_DATA={data}")
    vector = np.load(path)
    variant: Variant = "analysis" if name.startswith("aspade") else "synthesis"
    restored = aspade(torch.from_numpy(vector["clipped"])[None], variant=variant, dtype=torch.float64)
    np.testing.assert_allclose(restored[0].numpy(), vector["restored"], rtol=0, atol=1e-10)


@pytest.mark.survey
@pytest.mark.parametrize(
    ("excerpt", "level", "variant"),
    [(i, j, "analysis") for i, j in ((0, 6), (2, 5), (2, 6), (5, 6), (7, 5), (7, 6), (9, 6))]
    + [(i, j, "synthesis") for i, j in ((2, 6), (5, 6), (7, 6))],
)
def test_equals_the_published_results_of_the_survey(excerpt: int, level: int, variant: Variant) -> None:
    clean, clipped, rate = clipped_excerpt(excerpt, level)
    threshold = np.abs(clipped).max()
    y = torch.from_numpy(clipped)[None]
    restored = aspade(y, -threshold, threshold, PRESETS["survey"], variant, dtype=torch.float64)[0].numpy()
    gain = delta_sdr_clipped(clean, clipped, restored, clipped != clean)
    grades = (gain, peaq_odg(clean, restored, rate), pemo_q_odg(clean, restored, rate), r_nonlin(clean, restored, rate))
    method = "aspade" if variant == "analysis" else "sspade_new"
    for name, grade, tolerance in zip(
        ("dSDR_clipped", "PEAQ", "PEMO-Q", "Rnonlin"), grades, (0.02, 0.03, 0.4, 0.01), strict=True
    ):
        assert grade == pytest.approx(published(name, method)[excerpt, level], abs=tolerance), name


@variants
@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        SpadeSettings(window=64, hop=32, s=2, r=3, eps=0.05),
        SpadeSettings(window=32, hop=8, redundancy=1, r=2, eps=0.05),
        SpadeSettings(window=32, hop=8, redundancy=3, s=3, eps=1e-9),  # never that close: the best iteration counts
    ],
    ids=["plain", "s, r", "not redundant", "best of all"],
)
def test_equals_a_loop_over_frames(options: SpadeSettings, variant: Variant) -> None:
    y = harmonics(333).clamp(-0.3, 0.5)
    restored = aspade(y, settings=options, variant=variant, dtype=torch.float64)
    expected = spade(y[0].numpy(), -0.3, 0.5, options, variant)
    np.testing.assert_allclose(restored[0].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(-0.3, math.inf), (-math.inf, 0.4)])
def test_one_side(low: float, high: float) -> None:
    y = harmonics(200).clamp(low, high)
    expected = spade(y[0].numpy(), low, high, SMALL, "analysis")
    assert np.abs(expected - y[0].numpy()).max() > 0.1
    for given_low, given_high in ((low, high), (None, None)):
        restored = aspade(y, given_low, given_high, SMALL, dtype=torch.float64)
        np.testing.assert_allclose(restored[0].numpy(), expected, rtol=0, atol=1e-9)


@variants
def test_restores_the_peaks_of_a_sum_of_sinusoids(variant: Variant) -> None:
    x = harmonics(4000)
    y = x.clamp(-0.4, 0.4)
    restored = aspade(y, settings=SpadeSettings(256, 64), variant=variant)
    assert restored.dtype == torch.float32
    assert (restored - x).norm() < 0.3 * (y - x).norm()  # more than 10 dB better


@variants
@given(length=st.integers(1, 200), level=st.floats(0.05, 0.9), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_consistent_for_every_length(variant: Variant, length: int, level: float, seed: int) -> None:
    low, high = -level, 0.7 * level
    y = harmonics(length, seed).float().clamp(low, high)
    restored = aspade(y, low, high, SpadeSettings(32, 8), variant)
    at_low, at_high = y == y.new_tensor(low), y == y.new_tensor(high)
    reliable = ~(at_low | at_high)
    assert restored.shape == y.shape
    assert torch.equal(restored[reliable], y[reliable])
    assert (restored[at_high] >= y[at_high]).all()
    assert (restored[at_low] <= y[at_low]).all()


@variants
def test_inconsistent_output_is_sparse(variant: Variant) -> None:
    options = SpadeSettings(window=64, hop=32, eps=0.05)
    y = harmonics(128).clamp(-0.4, 0.4)
    consistent, sparse = (aspade(y, settings=options, variant=variant, consistent=c) for c in (True, False))
    # Both descriptions of a frame are eps apart at most. Here 5 frames are added, two at every sample, and the
    # synthesis window h / (h^2 + (1 - h)^2) is at most (1 + sqrt(2)) / 2.
    bound = options.eps * math.sqrt(5 * 2) * (1 + math.sqrt(2)) / 2
    assert 0 < (consistent - sparse).norm() <= bound
    reliable = y.abs() < 0.4
    assert not torch.equal(sparse[reliable], y[reliable].float())


@variants
def test_items_do_not_depend_on_each_other(variant: Variant) -> None:
    y = harmonics(500, items=4) * torch.tensor([[1.0], [0.5], [2.0], [1.0]], dtype=torch.float64)
    low = torch.tensor([-0.3, -0.2, -0.5, -math.inf], dtype=torch.float64)
    high = torch.tensor([0.4, 0.2, math.inf, math.inf], dtype=torch.float64)
    y = y.clamp(low[:, None], high[:, None])
    together = aspade(y, settings=SMALL, variant=variant, dtype=torch.float64)
    detected = aspade(y.flip(0), settings=SMALL, variant=variant, dtype=torch.float64).flip(0)
    given = aspade(y, low, high, SMALL, variant, dtype=torch.float64)
    for i in range(4):
        alone = aspade(y[i : i + 1], settings=SMALL, variant=variant, dtype=torch.float64)[0]
        for other in (together, detected, given):
            torch.testing.assert_close(other[i], alone, rtol=0, atol=1e-10)


def test_frames_do_not_depend_on_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    y = harmonics(1000).clamp(-0.3, 0.3)
    at_once = aspade(y, settings=SMALL, dtype=torch.float64)
    monkeypatch.setattr("nldiff.baselines.aspade._GROUP", 3 * SMALL.window)
    torch.testing.assert_close(aspade(y, settings=SMALL, dtype=torch.float64), at_once, rtol=0, atol=1e-10)


def test_nothing_clipped_returns_the_signal() -> None:
    y = harmonics(300).float()
    assert torch.equal(aspade(y, settings=SMALL), y)
    assert torch.equal(aspade(y, -2.0, 2.0, SMALL, consistent=False), y)
    silence = torch.zeros(2, 100)
    assert torch.equal(aspade(silence, settings=SMALL), silence)


def test_level_is_compared_in_the_precision_of_the_audio() -> None:
    # 0.7 in float32 is smaller than 0.7: a comparison in double precision would find nothing
    y = harmonics(300).float().clamp(-0.7, 0.7)
    assert torch.equal(aspade(y, -0.7, 0.7, SMALL), aspade(y, settings=SMALL))
    assert not torch.equal(aspade(y, -0.7, 0.7, SMALL), y)


def test_detects_levels_by_plateaus() -> None:
    y = torch.tensor(
        [
            [0.0, 0.5, 0.5, 0.5, 0.1, -0.2, -0.2, -0.2],  # both
            [0.0, 0.5, 0.5, 0.1, 0.5, -0.2, -0.2, -0.2],  # above only two in a row
            [0.3, 0.3, 0.3, 0.5, 0.1, -0.2, 0.0, -0.2],  # a plateau that is not the highest value
            [0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4],  # constant
        ]
    )
    low, high = detect_clipping(y)
    torch.testing.assert_close(low, torch.tensor([-0.2, -0.2, -math.inf, -math.inf]), rtol=0, atol=0)
    torch.testing.assert_close(high, torch.tensor([0.5, math.inf, math.inf, math.inf]), rtol=0, atol=0)
    assert [v.tolist() for v in detect_clipping(torch.tensor([[0.0, 1.0]]))] == [[-math.inf], [math.inf]]


@pytest.mark.parametrize(("low", "high"), [(-0.31, 0.12), (-0.05, 0.8)])
def test_detects_the_levels_of_a_clipped_signal(low: float, high: float) -> None:
    y = harmonics(2000, items=2).clamp(low, high)
    y[1] *= -1
    found_low, found_high = detect_clipping(y)
    assert found_low.tolist() == [low, -high]
    assert found_high.tolist() == [high, -low]


def test_presets_are_those_of_the_literature() -> None:
    assert PRESETS["survey"] == SpadeSettings(window=8192, hop=2048, redundancy=2, s=1, r=2, eps=0.1)
    assert PRESETS["short"] == SpadeSettings(window=1024, hop=256, redundancy=2, s=1, r=1, eps=0.1)
    assert [PRESETS[name].max_iterations for name in ("survey", "short")] == [2 * 8193, 1025]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"window": 63}, "window=63: must be even"),
        ({"hop": 24}, "hop=24: must divide window=64"),
        ({"hop": 64}, "hop=64: must divide"),
        ({"redundancy": 0}, "redundancy=0: a number of at least 1 expected"),
        ({"s": 0}, "s=0: a number of at least 1 expected"),
        ({"r": -1}, "r=-1: a number of at least 1 expected"),
        ({"eps": 0.0}, "eps=0.0: a number above 0 expected"),
        ({"eps": math.nan}, "eps=nan: a number above 0 expected"),
    ],
)
def test_settings_refuse_what_makes_no_sense(values: dict[str, float], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason):
        SpadeSettings(**({"window": 64, "hop": 16} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("y", "options", "reason"),
    [
        (torch.zeros(10), {}, r"shape \[10\]"),
        (torch.zeros(1, 0), {}, r"shape \[1, 0\]"),
        (torch.zeros(1, 5, dtype=torch.int16), {}, "torch.int16"),
        (torch.tensor([[0.0, math.nan]]), {}, "NaN"),
        (torch.zeros(1, 5), {"low": 0.2, "high": 0.1}, "low=0.2, high=0.1: low must be smaller"),
        (torch.zeros(1, 5), {"high": math.nan}, "high=nan"),
        (torch.zeros(1, 5), {"high": torch.ones(3)}, "one for each of 1 items"),
        (torch.zeros(1, 5), {"variant": "both"}, "variant 'both'"),
        (torch.zeros(1, 5), {"dtype": torch.float16}, "dtype torch.float16"),
    ],
)
def test_unusable_input_is_named(y: Tensor, options: dict[str, object], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as error:
        aspade(y, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
