import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, clipped, plucked, rms, tones
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.metrics.rr_mse import rr_mse
from nldiff.operators import (
    DISTORTIONS,
    WAVESHAPERS,
    Chain,
    Distortion,
    Operator,
    Rescaled,
    TabulatedCurve,
    calibrate,
    make_waveshaper,
)
from nldiff.priors.saved import Prior
from nldiff.restoration.feasible import FeasibleSet
from nldiff.restoration.folds import FoldInversion
from nldiff.restoration.increasing import CurveSettings, IncreasingCurve, known_increasing, matched_curve
from nldiff.restoration.job import OnShare
from nldiff.restoration.pipeline import restore
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.strategies import (
    STRATEGIES,
    PosteriorSampling,
    SparseRefinement,
    Strategy,
    allowed_strategies,
    choose_strategy,
    plain_starts,
    polarity,
    refitted,
    split_channels,
    tightened,
)
from nldiff.restoration.workspace import Workspace, make_workspace
from nldiff.sampling import generators
from nldiff.sound.recording import Recording

SETTINGS = CurveSettings()
REFINED: dict[str, Any] = {
    "refinement": {"name": "auto", "iterations": 10, "windows": [512]},
    "operator_fit": {"warmup": 20, "learning_rate": 0.002},
}
# Curves that fall are left to sampling.
SPARSE: dict[str, Any] = {**REFINED, "refinement": REFINED["refinement"] | {"name": "sparse"}}
LONG: dict[str, Any] = {**REFINED, "refinement": {"name": "auto", "iterations": 400, "windows": [1024]}}
SPLIT: dict[str, Any] = {"chunk_seconds": 0.5, "overlap_seconds": 0.1, "joint_items": 2}


def tones_workspace(prior: Prior, y: Tensor) -> tuple[Workspace, Tensor]:
    """A workspace to refine the recording `y` [1, time], and `y` at the prior's level."""
    work = make_workspace(Recording.from_array(y.numpy(), TINY_RATE), prior, RestoreConfig(**LONG), None)
    return work, work.gain * y


def test_refinement_does_not_depend_on_the_batch_size_and_repeats(prior: Prior) -> None:
    y = clipped(1.6, TINY_RATE)[0]
    one, again, two = (
        restore(y, TINY_RATE, prior, config=RestoreConfig(batch_size=size, **REFINED, **SPLIT)) for size in (1, 1, 2)
    )
    plain = restore(y, TINY_RATE, prior, config=RestoreConfig(operator_fit={"warmup": 4}, **SPLIT))
    np.testing.assert_array_equal(one.audio, again.audio)
    np.testing.assert_array_equal(one.curve(y), again.curve(y))
    assert rms(two.audio - one.audio) < 1e-3 * rms(one.audio)
    np.testing.assert_allclose(two.curve(y), one.curve(y), atol=1e-4)
    assert rms(plain.audio - one.audio) > 0.01 * rms(one.audio)


# The first guess is far off for the sine. Resampled, what was clipped would overshoot the level.
@pytest.mark.parametrize("rate", [TINY_RATE, 5513, 22050])
@pytest.mark.parametrize("kind", ["plucked", "sine"])
def test_a_known_increasing_curve_is_refined_without_sampling_and_explains_the_observation_to_the_tolerance(
    prior: Prior, fake: FakeSampler, kind: str, rate: int
) -> None:
    sine = 0.16 * np.sin(np.arange(int(1.6 * rate)) * 0.3).astype(np.float32).clip(-0.15, 0.15)
    y = clipped(1.6, rate, 2) if kind == "plucked" else np.stack([sine, -sine])
    known = Distortion("hard_clip", {"threshold": 0.15})
    steps: list[tuple[float, float, str]] = []
    config = RestoreConfig(**REFINED, **SPLIT)
    result = restore(y, rate, prior, known=known, config=config, on_step=lambda *step: steps.append(step))
    assert fake.calls == []
    assert result.fit.sampling is not None
    assert (result.fit.sampling.cost, result.fit.sampling.evaluations) == ((), 0)
    assert result.fit.restored_band_hz == rate / 2
    assert steps[-1][0] == steps[-1][1]
    phases = [phase for _, _, phase in steps]
    assert phases[0] == "listening"
    assert [phase for phase in phases if phase.startswith("refining")][-1].split()[1].split("/")[0] == "4"
    assert result.explained_db > 20 * math.log10(25)


@pytest.mark.parametrize("known", [True, False])
def test_samples_that_were_not_clipped_are_kept(prior: Prior, fake: FakeSampler, known: bool) -> None:
    level = 0.1
    clipper = Distortion("hard_clip", {"threshold": level})
    y = clipper(tones(0, TINY_RATE))[0].numpy()
    config = RestoreConfig(**LONG)
    result = restore(y, TINY_RATE, prior, known=clipper if known else None, config=config)
    kept = np.abs(y) < 0.9 * level
    explained = (
        result.audio[kept] / (result.gain * result.fit.observation_gain) if known else result.curve(result.audio)[kept]
    )
    # The tolerance is several times as large; half the distance to the next value, where there is none near, is not.
    np.testing.assert_allclose(explained, y[kept], rtol=0, atol=0.005 * level)


def test_a_blind_curve_is_that_of_the_recording_at_its_own_rate(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(1.0, 22050)[0]
    result = restore(y, 22050, prior, config=RestoreConfig(**REFINED))
    # As long as nothing is resampled, the largest observed sample bounds the curve.
    assert np.abs(result.curve(np.linspace(-1, 1, 1001))).max() <= np.abs(y).max() * (1 + 1e-6)
    assert result.explained_db > 20


def test_the_observed_band_is_not_added_to_one_that_was_refined(prior: Prior) -> None:
    y = clipped(0.3, 22050)[0]
    known = Distortion("hard_clip", {"threshold": 0.15})
    dropped, kept = (
        restore(y, 22050, prior, known=known, config=RestoreConfig(above_band=band, **REFINED)).audio
        for band in ("drop", "keep")
    )
    np.testing.assert_array_equal(kept, dropped)


@pytest.mark.parametrize(("rate", "windows"), [(TINY_RATE, [512]), (22050, [1440]), (6000, [384]), (5513, [352])])
def test_windows_last_as_long_at_every_rate(
    prior: Prior, monkeypatch: pytest.MonkeyPatch, rate: int, windows: list[int]
) -> None:
    used: list[list[int]] = []

    def refine(x: Tensor, feasible: FeasibleSet, windows: list[int], *_: Any) -> Tensor:
        used.append(windows)
        return feasible.project(x)

    monkeypatch.setattr("nldiff.restoration.workspace.sparsest_consistent", refine)
    known = Distortion("hard_clip", {"threshold": 0.15})
    restore(clipped(0.5, rate)[0], rate, prior, known=known, config=RestoreConfig(**REFINED))
    assert used
    assert all(found == windows for found in used)


def test_signals_under_a_curve_that_falls_are_left_as_sampled(prior: Prior, fake: FakeSampler) -> None:
    known = Distortion("wavefold", {"threshold": 0.15})
    x = torch.from_numpy(plucked(0.4, TINY_RATE))[None]
    y = known(x)
    fake.answer = lambda observed: x * (observed.norm() / y.norm())
    refined, plain = (
        restore(y.numpy(), TINY_RATE, prior, known=known, config=RestoreConfig(**settings)).audio
        for settings in (SPARSE, {})
    )
    np.testing.assert_array_equal(refined, plain)


def test_the_curve_is_estimated_on_the_loudest_stretch_and_every_chunk_refined(prior: Prior, fake: FakeSampler) -> None:
    y = 0.1 * clipped(1.0, TINY_RATE)[0]
    loud = slice(3 * TINY_RATE // 5, 7 * TINY_RATE // 10)  # on the grid of quarters
    y[loud] *= 5
    steps: list[tuple[float, float, str]] = []
    config = RestoreConfig(excerpt_seconds=0.1, polish={"sigma": 0.02, "steps": 2}, **REFINED)
    restore(y, TINY_RATE, prior, config=config, on_step=lambda *step: steps.append(step))
    (call,) = fake.calls
    assert call["y"].shape == (1, TINY_RATE // 10)
    assert np.corrcoef(call["y"][0], y[loud])[0, 1] > 0.99
    assert steps[-1][0] == steps[-1][1]


def test_an_excerpt_under_a_curve_that_falls_is_not_the_result(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(1.0, TINY_RATE)[0]
    known = Distortion("wavefold", {"threshold": 0.01})
    config = RestoreConfig(excerpt_seconds=0.2, **SPARSE)
    result = restore(y, TINY_RATE, prior, known=known, config=config)
    assert [call["y"].shape for call in fake.calls] == [(1, TINY_RATE // 5), (1, TINY_RATE)]
    assert result.audio.shape == y.shape


def test_progress_ends_at_the_end_where_sampling_was_all(prior: Prior, fake: FakeSampler) -> None:
    steps: list[tuple[float, float, str]] = []
    known = Distortion("wavefold", {"threshold": 0.01})
    config = RestoreConfig(**SPARSE, sampler={"steps": 3})
    restore(
        clipped(1.0, TINY_RATE)[0], TINY_RATE, prior, known=known, config=config, on_step=lambda *s: steps.append(s)
    )
    assert steps[-1][0] == steps[-1][1]
    assert steps[-1][2] == "sampling 3/3"


def test_the_curve_goes_on_sensibly_beyond_the_samples_that_it_was_estimated_on(
    prior: Prior, fake: FakeSampler
) -> None:
    y = clipped(1.0, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior, config=RestoreConfig(**REFINED))
    values = result.curve(np.linspace(-100, 100, 1001) * rms(y))
    assert bool((np.diff(values) >= 0).all())
    assert np.abs(values).max() <= np.abs(y).max() * (1 + 1e-6)


@pytest.mark.parametrize("true", [Distortion("hard_clip", {"threshold": 0.1}), Distortion("quantize", {"step": 0.08})])
def test_a_plain_curve_wins_over_a_wrong_one(prior: Prior, true: Distortion) -> None:
    y = true(tones(0, TINY_RATE))
    work, observed = tones_workspace(prior, y)
    # What was sampled and its curve agree, and are wrong. The same from this start only: -43 and -31 dB.
    sampled = observed + 300 * observed**3
    start = (matched_curve(sampled, observed, SETTINGS), sampled, SETTINGS.loosening)
    x, curve = refitted(work, observed, start, *plain_starts(observed, SETTINGS))
    error = rr_mse(true, lambda ramp: curve.table(ramp) / work.gain, 0.06, fit_scale=True)
    assert error < -70
    assert rms(x) == pytest.approx(prior.sigma_data)


def test_a_rough_curve_becomes_the_true_one(prior: Prior, fake: FakeSampler) -> None:
    x = tones(1, TINY_RATE)
    true = calibrate("soft_clip", x, sdr=8)
    y = true(x)[0].numpy()
    result = restore(y, TINY_RATE, prior, config=RestoreConfig(**LONG))
    error = rr_mse(true, lambda ramp: torch.from_numpy(result.curve(ramp.numpy())), 0.06, fit_scale=True)
    assert error < -70  # -82 dB; the fit of the waveshaper to the same signal: -52 dB


@pytest.mark.parametrize(("noise", "halvings"), [(0.0, 5), (0.02, 0)])
def test_the_tolerance_is_halved_unless_noise_would_be_amplified(prior: Prior, noise: float, halvings: int) -> None:
    clipper = Distortion("hard_clip", {"threshold": 0.1})
    y = clipper(tones(0, TINY_RATE))
    y = y + noise * y.square().mean().sqrt() * torch.randn(y.shape, generator=generators([0])[0])
    work, observed = tones_workspace(prior, y)
    curve = known_increasing(clipper.at_level(work.gain), 2.0, observed, SETTINGS)
    assert curve is not None
    refined = work.refined(observed, curve, observed)
    tight = tightened(work, curve, refined, observed, refit=False)
    assert tight.tolerance == curve.tolerance / 2**halvings
    assert tight.exact_where_steep == (halvings > 0)
    assert tight.table is curve.table


def test_a_curve_that_is_a_little_off_is_corrected_while_the_tolerance_is_halved(prior: Prior) -> None:
    x = tones(0, TINY_RATE)
    clipper = Distortion("soft_clip", {"gain": 10.0})
    y = clipper(x)
    work, observed = tones_workspace(prior, y)
    # The signal is brought to the prior's level, so that is where a curve can be right.
    gain = work.prior.sigma_data / float(x.square().mean().sqrt())

    def error(curve: IncreasingCurve) -> float:
        return float((curve.table(gain * x) - observed).square().mean().sqrt())

    true = known_increasing(Rescaled(clipper, gain, work.gain), 2.0, observed, SETTINGS)
    assert true is not None
    # Too high at the peaks by 2 %.
    outputs = true.table.outputs
    wrong = replace(
        true, table=TabulatedCurve(true.table.inputs, outputs * (1 + 0.02 * (outputs / outputs[-1]).square()))
    )
    refined = work.refined(observed, wrong, observed)
    left, corrected = (tightened(work, wrong, refined, observed, refit) for refit in (False, True))
    assert error(left) == pytest.approx(error(wrong))
    assert error(corrected) < error(left) / 5


# ------------------------------------------------------------ the contract of strategies

QUICK: dict[str, Any] = {
    "sampler": {"steps": 2},
    "refinement": {"name": "auto", "iterations": 2, "windows": [64]},
    "curve": {"loosening": [1], "halvings": 1, "points": 64},
    "polish": {"sigma": 0.01, "steps": 2},
}
OPERATORS: dict[str, Callable[[], Operator]] = {
    **{name: lambda name=name: Distortion(name) for name in DISTORTIONS},  # type: ignore[misc]
    **{name: lambda name=name: make_waveshaper(name, 1) for name in WAVESHAPERS},  # type: ignore[misc]
    "chain": lambda: Chain([Distortion("hard_clip"), Distortion("wavefold", {"threshold": 0.05})], mix=0.7),
    "chain with memory": lambda: Chain([Distortion("half_wave"), Distortion("overdrive", {"pole": 0.9})]),
    "rescaled": lambda: Rescaled(Distortion("soft_clip"), 0.5, -2.0),
    "table": lambda: TabulatedCurve(torch.tensor([-1.0, 1.0]), torch.tensor([-0.1, 0.1])),
}
# The random start of the MLP falls somewhere.
FALLING = {"wavefold", "full_wave", "triangle_fold", "sine_fold", "chain", "rescaled", "mlp"}
MEMORY = {"chain with memory", *(name for name in DISTORTIONS if Distortion(name).context)}


def quick_workspace(
    prior: Prior, operator: Operator, answer: Callable[[Tensor], Tensor] = torch.clone, **settings: Any
) -> tuple[Workspace, Operator, Tensor, Tensor]:
    """A workspace for what `operator` makes of tones; at the prior's level the operator, observed and clean excerpt."""
    x = tones(0)[:, :2666]
    operator.reset(x, generators([0]))
    with torch.no_grad():
        y = operator(x)
    recording = Recording.from_array(y.numpy(), TINY_RATE)
    config = RestoreConfig(**QUICK | settings)
    work = make_workspace(recording, prior, config, None, FakeSampler(answer))
    return work, operator.at_level(work.gain), work.observed(work.excerpts), work.gain * x


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_for_an_operator_and_restores_or_is_not(
    prior: Prior, name: str, sampled: bool, operator: str
) -> None:
    if operator in WAVESHAPERS and not sampled:
        return  # what is learned is sampled
    work, at_level, y, x = quick_workspace(prior, OPERATORS[operator]())
    strategy = STRATEGIES[name].of(work, at_level, y, x if sampled else None)
    if strategy is None:
        falls = operator in FALLING | MEMORY
        expected = {
            "none": not sampled,
            "sparse": falls,
            "branches": sampled or operator not in FALLING,
        }
        assert expected[name]
        return
    assert type(strategy) is STRATEGIES[name]
    assert strategy.operator.trainable() == []
    if not OPERATORS[operator]().trainable():
        assert strategy.operator is at_level
    shares: list[float] = []
    restored = strategy.restore(work, [0], y, shares.append)
    assert restored.shape == (1, work.length)
    assert bool(restored.isfinite().all())
    assert not shares or sum(shares) == pytest.approx(1)
    assert strategy.seconds(work) > 0
    assert strategy.evaluations(work, 5) == (7 if name == "sparse" else 5)
    assert strategy.ready(work) == ([0] if name == "none" else [])
    # What is refined explains what was observed.
    if name != "none" and operator != "quantize":  # at the edge of a step it may be the next one
        assert rms(strategy.operator(restored) - y) < 0.3 * rms(y)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["auto", *STRATEGIES])
def test_every_sampled_operator_has_a_strategy(prior: Prior, name: str, operator: str) -> None:
    work, at_level, y, x = quick_workspace(
        prior, OPERATORS[operator](), refinement=QUICK["refinement"] | {"name": name}
    )
    found = choose_strategy(work, at_level, y, x)
    folds = operator in FALLING - {"sine_fold"}  # which does not fold at the level of the tones
    sparse = name in ("auto", "sparse") and not folds and operator not in MEMORY
    assert type(found) is (SparseRefinement if sparse else PosteriorSampling)


def test_a_known_operator_that_is_not_sampled_yet_is_left_to_sampling_only_with_memory(prior: Prior) -> None:
    for operator, kind in (("hard_clip", SparseRefinement), ("wavefold", FoldInversion), ("overdrive", type(None))):
        work, at_level, y, _ = quick_workspace(prior, OPERATORS[operator]())
        assert type(choose_strategy(work, at_level, y, None)) is kind
    work, at_level, y, _ = quick_workspace(prior, Distortion("hard_clip"), refinement={"name": "none"})
    assert choose_strategy(work, at_level, y, None) is None


def test_posterior_sampling_costs_as_much_again_unless_whole_chunks_were_sampled(prior: Prior) -> None:
    work, operator, *_ = quick_workspace(prior, Distortion("wavefold"))
    whole, excerpt = work, replace(work, whole=False)
    sampling = PosteriorSampling(operator)
    assert (sampling.evaluations(whole, 5), sampling.evaluations(excerpt, 5)) == (5, 10)
    assert (sampling.ready(whole), sampling.ready(excerpt)) == ([0], [])


def test_a_refinement_without_a_polish_asks_the_network_nothing(prior: Prior) -> None:
    work, operator, y, x = quick_workspace(prior, Distortion("hard_clip"), polish={"sigma": 0.0})
    strategy = SparseRefinement.of(work, operator, y, x)
    assert strategy is not None
    assert strategy.evaluations(work, 5) == 5


def test_allowed_strategies_end_with_posterior_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_strategies("auto") == [SparseRefinement, FoldInversion, PosteriorSampling]
    assert allowed_strategies("sparse") == [SparseRefinement, PosteriorSampling]
    assert allowed_strategies("none") == [PosteriorSampling]
    monkeypatch.setitem(STRATEGIES, "delayed", Delayed)
    assert allowed_strategies("auto") == [SparseRefinement, FoldInversion, Delayed, PosteriorSampling]
    assert allowed_strategies("delayed") == [Delayed, PosteriorSampling]
    with pytest.raises(
        NldiffError, match=r"refinement\.name=dense: auto or one of sparse, branches, none, delayed expected"
    ):
        allowed_strategies("dense")


@dataclass(frozen=True)
class Delayed(Strategy):
    """For everything that was sampled and has no memory: the observation, seven samples later."""

    full_band = True

    @classmethod
    def of(cls, work: Workspace, operator: Operator, y: Tensor, x: Tensor | None) -> Strategy | None:
        return None if x is None or operator.context else cls(operator)

    def restore(self, work: Workspace, chunks: list[int], y: Tensor, on_share: OnShare) -> Tensor:
        return torch.roll(y, 7, dims=1)

    def evaluations(self, work: Workspace, spent: int) -> int:
        return spent


@pytest.mark.parametrize(
    ("name", "known", "used"),
    [
        ("delayed", "hard_clip", True),
        ("delayed", "wavefold", True),
        ("auto", "hard_clip", False),
        ("auto", "wavefold", False),
        ("auto", "overdrive", False),
        ("sparse", "wavefold", False),
        ("none", "wavefold", False),
    ],
)
def test_a_new_strategy_is_one_class_and_one_entry(
    prior: Prior, fake: FakeSampler, monkeypatch: pytest.MonkeyPatch, name: str, known: str, used: bool
) -> None:
    monkeypatch.setitem(STRATEGIES, "delayed", Delayed)
    operator = Distortion(known)
    x = torch.from_numpy(plucked(0.5, TINY_RATE))[None]
    fake.answer = lambda observed: x * (observed.norm() / operator(x).norm())
    y = operator(torch.from_numpy(plucked(0.5, 2 * TINY_RATE))[None])[0].numpy()
    config = RestoreConfig(**QUICK | {"refinement": QUICK["refinement"] | {"name": name}})
    steps: list[tuple[float, float, str]] = []
    result = restore(y, 2 * TINY_RATE, prior, known=operator, config=config, on_step=lambda *s: steps.append(s))
    delayed = np.roll(y, 7) * rms(result.audio) / rms(y)
    assert np.allclose(np.abs(result.audio), np.abs(delayed), atol=1e-6) == used
    assert result.fit.restored_band_hz == (TINY_RATE if used or name == "auto" else TINY_RATE / 2)
    assert steps[-1][0] == steps[-1][1]


def test_a_blind_recording_uses_a_new_strategy_too(
    prior: Prior, fake: FakeSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "delayed", Delayed)
    y = clipped(0.5, TINY_RATE)[0]
    config = RestoreConfig(**QUICK | {"refinement": {"name": "delayed"}}, level="rms")
    result = restore(y, TINY_RATE, prior, config=config)
    expected = np.roll(y - y.mean(), 7)  # the mean counts as an offset of the curve
    np.testing.assert_allclose(result.audio, expected, atol=1e-5)


# ------------------------------------------------------------ parts


def test_polarity_is_that_of_the_variations() -> None:
    x = torch.tensor([[0.0, 1.0, 0.0, -1.0]])
    assert polarity(x, 0.1 * x) == 1
    assert polarity(-x, 0.1 * x) == -1
    assert polarity(3 - x, 3 + 0.1 * x) == -1  # with their means the product is positive


def test_channels_are_split_in_order() -> None:
    pieces = split_channels(torch.arange(12.0).reshape(4, 3), [5, 2], 2)
    assert {chunk: piece.tolist() for chunk, piece in pieces.items()} == {
        5: [[0, 1, 2], [3, 4, 5]],
        2: [[6, 7, 8], [9, 10, 11]],
    }
