"""Alg. 1 as a whole: blind and informed results, levels, items, seeds, memory and bookkeeping."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from exact_priors import (
    EULER,
    LEVEL,
    STFT,
    Gain,
    Known,
    Recorder,
    WaveformCost,
    certain,
    curve_error,
    gaussian,
    noise,
    parameters,
    schedule,
    shaper,
)
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.metrics import sdr
from nldiff.operators import Distortion, Operator
from nldiff.sampling.likelihood import CompressedSTFTCost
from nldiff.sampling.noise import generators
from nldiff.sampling.posterior import Posterior, Step, sample
from nldiff.sampling.samplers import SAMPLERS
from nldiff.sampling.settings import CostSettings, OperatorFitSettings, SamplerSettings

booleans = partial(pytest.mark.parametrize, argvalues=[False, True])


# --- The curve


@pytest.mark.parametrize(("name", "reached"), [("ccr", -58), ("sumtanh", -48), ("mlp", -40)])
def test_blind_curve_approaches_the_true_one(name: str, reached: float) -> None:
    truth = Distortion("soft_clip", {"gain": 15.0})
    x = noise(1, 1000)
    x *= LEVEL / x.square().mean().sqrt()
    y = truth(x)
    waveshaper = shaper(name, y, seeds=[1])
    assert curve_error(truth, waveshaper) > -26
    settings = SamplerSettings(steps=10, sigma_min=0.01)
    posterior = sample(
        gaussian(1e-4, x), y, waveshaper, schedule(settings), settings, generators([0]),
        level=LEVEL, cost=STFT,
    )  # fmt: skip
    assert curve_error(truth, waveshaper) < reached
    assert posterior.operator is waveshaper
    assert posterior.cost.shape == (10, 1)
    assert posterior.cost[-3:].mean() < 0.5 * posterior.cost[0, 0]
    # all that is left is the last guidance step: eq. 9 gives it the RMS zeta sigma, and churn raises sigma
    error = (posterior.audio - x).square().mean().sqrt().item()
    assert error == pytest.approx(settings.zeta * settings.sigma_min * math.sqrt(2), rel=0.05)


def test_the_cost_of_the_default_settings_is_the_default() -> None:
    x = LEVEL * noise(1, 3000)
    y = torch.tanh(20 * x) / 20
    costs = []
    for cost in (None, CompressedSTFTCost(CostSettings(1024, 256)), STFT):
        trace = sample(certain(x), y, shaper("ccr", y), schedule(EULER), EULER, generators([0]), cost=cost).cost
        costs.append(trace)
    assert torch.equal(costs[0], costs[1])
    assert not torch.allclose(costs[0], costs[2], rtol=0.1)


def test_the_fit_follows_its_settings_in_every_step_and_before_the_first() -> None:
    x = torch.ones(1, 4)
    for fit, expected in (
        (OperatorFitSettings(iterations=2, learning_rate=0.25), 1 + 10 * 2 * 0.25),
        (OperatorFitSettings(iterations=0, warmup=3, learning_rate=0.25), 1 + 3 * 0.25),
    ):
        operator = Gain(1)
        sample(
            certain(x), 100 * x, operator, schedule(EULER), EULER, generators([0]), start=x,
            fit=fit, cost=WaveformCost(),
        )  # fmt: skip
        # far from the goal every step of Adam is about the learning rate
        assert operator.gain.item() == pytest.approx(expected, rel=0.02)


def test_curve_without_trainable_parameters_is_held() -> None:
    y = LEVEL * noise(2, 300)
    waveshaper = shaper("mlp", y).requires_grad_(False)
    before = parameters(waveshaper)
    held, plain = (
        sample(gaussian(LEVEL), y, operator, schedule(EULER), EULER, generators([0, 1]), cost=STFT)
        for operator in (waveshaper, Known(waveshaper))
    )
    assert torch.equal(parameters(waveshaper), before)
    assert torch.equal(held.audio, plain.audio)


@booleans("through")
def test_known_distortion_is_inverted(through: bool) -> None:
    truth = Distortion("soft_clip", {"gain": 8.0})
    x = LEVEL * noise(2, 1000)
    y = truth(x)
    settings = SamplerSettings(steps=30, through_denoiser=through)

    def run(zeta: float) -> Posterior:
        chosen = replace(settings, zeta=zeta)
        return sample(gaussian(LEVEL), y, truth, schedule(settings), chosen, generators([0, 1]), cost=STFT)

    # this prior knows the level alone: the observation has to weigh more than the default 0.3
    guided, free = run(1.0), run(0.0)
    assert guided.operator is truth
    assert (sdr(x, guided.audio) > sdr(x, y) + 1.5).all()
    assert (sdr(y, truth(guided.audio)) > 18).all()
    assert (sdr(y, truth(free.audio)) < 3).all()
    assert (guided.cost[-1] < 0.02 * guided.cost[0]).all()


# --- Levels, items and seeds


@pytest.mark.parametrize("groups", [1, 2])
def test_level_of_each_group_is_held_and_its_balance_kept(groups: int) -> None:
    y = torch.tensor([[0.2], [0.05], [0.1], [0.1]]) * noise(4, 300)
    denoiser = Recorder(gaussian(0.1))
    steps: list[Step] = []
    sample(
        denoiser, y, shaper("ccr", y, sets=groups, seeds=range(groups)), schedule(EULER), EULER,
        generators(range(4)), level=LEVEL, cost=STFT, callback=steps.append,
    )  # fmt: skip
    assert len(steps) == len(denoiser.estimates) == 10
    for step, estimate in zip(steps, denoiser.estimates, strict=True):
        for joint, raw in zip(step.x0.chunk(groups), estimate.chunk(groups), strict=True):
            assert joint.square().mean().sqrt().item() == pytest.approx(LEVEL, rel=1e-5)
            torch.testing.assert_close(joint / joint.norm(), raw / raw.norm())


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that is nonlinear and mixes neighbouring samples, but not items."""
    kernel = torch.tensor([[[0.25, 0.5, 0.25]]])
    smooth = nn.functional.conv1d(x[:, None], kernel.to(x), padding=1)[:, 0]
    return 0.2 * torch.tanh(5 * smooth) / (1 + sigma[:, None])


def blind(
    y: Tensor, seeds: Sequence[int], name: str, batch_size: int | None = None, through: bool = True,
    sampler: str = "euler",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Samples and curves of items that have a curve each.

    The tests run it in float64: the guidance amplifies the rounding errors of float32.
    """
    ramp = torch.linspace(-0.2, 0.2, 50, dtype=y.dtype)
    settings = SamplerSettings(name=sampler, steps=6, through_denoiser=through)
    waveshaper = shaper(name, y, sets=len(y), seeds=seeds).to(y.dtype)
    posterior = sample(
        blurred, y, waveshaper, schedule(settings, y.dtype), settings, generators(seeds),
        fit=OperatorFitSettings(iterations=5), level=LEVEL, cost=STFT, batch_size=batch_size,
    )  # fmt: skip
    return posterior.audio, waveshaper.portrait(ramp).curve


@booleans("through")
@pytest.mark.parametrize(
    ("name", "sampler"), [("ccr", "euler"), ("mlp", "euler"), ("sumtanh", "euler"), *(("ccr", s) for s in SAMPLERS)]
)
def test_result_depends_neither_on_the_batch_nor_on_its_size(name: str, sampler: str, through: bool) -> None:
    y = torch.tensor([[0.03], [0.06], [0.1]]) * noise(3, 600, 0, torch.float64)
    together = blind(y, [4, 5, 6], name, None, through, sampler)
    for batch_size in (1, 2):
        parts = blind(y, [4, 5, 6], name, batch_size, through, sampler)
        torch.testing.assert_close(parts, together, rtol=0, atol=1e-8)
    for index, seed in enumerate([4, 5, 6]):
        alone = blind(y[[index]], [seed], name, None, through, sampler)
        expected = together[0][[index]], together[1][[index]]
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-8)


def test_seeds_decide_the_result() -> None:
    y = LEVEL * noise(1, 600, 0, torch.float64).expand(2, -1)
    first, again, other = (blind(y, seeds, "ccr")[0] for seeds in ([1, 2], [1, 2], [1, 3]))
    assert torch.equal(first, again)
    assert (first[1] - other[1]).abs().max() > 0.01
    assert (first[0] - first[1]).abs().max() > 0.01
    torch.testing.assert_close(first[0], other[0], rtol=0, atol=1e-8)


# --- Bookkeeping


@pytest.mark.parametrize(("through", "sizes"), [(False, [2, 2, 1]), (True, [2, 2, 1, 2, 2, 1])])
def test_batch_size_bounds_every_call(through: bool, sizes: list[int]) -> None:
    settings = replace(EULER, through_denoiser=through)
    denoiser = Recorder(gaussian(LEVEL))
    y = LEVEL * noise(5, 100)
    posterior = sample(denoiser, y, Known(), schedule(settings), settings, generators(range(5)), batch_size=2)
    assert denoiser.sizes == sizes * 10
    assert posterior.evaluations == 10


def test_callback_and_result_describe_the_run() -> None:
    y = LEVEL * noise(3, 300)
    waveshaper = shaper("ccr", y)
    settings = replace(EULER, churn=5.0)
    levels = schedule(settings)
    steps: list[Step] = []
    posterior = sample(
        gaussian(LEVEL), y, waveshaper, levels, settings, generators(range(3)), cost=STFT,
        callback=steps.append,
    )  # fmt: skip
    assert [step.index for step in steps] == list(range(10))
    assert {step.steps for step in steps} == {10}
    assert [step.sigma for step in steps] == levels[:-1].tolist()
    assert all(step.operator is waveshaper and step.x0.shape == y.shape for step in steps)
    assert torch.equal(torch.stack([step.cost for step in steps]), posterior.cost)
    assert posterior.cost.shape == (10, 3)
    assert (posterior.cost > 0).all()
    assert posterior.seconds > 0
    assert not any(t.requires_grad for t in (posterior.audio, posterior.cost, steps[-1].x0))


def test_prior_samples_have_no_cost_and_no_curve() -> None:
    posterior = sample(gaussian(LEVEL), None, None, schedule(EULER), EULER, generators([0, 1]), shape=(2, 30))
    assert posterior.operator is None
    assert torch.equal(posterior.cost, torch.zeros(10, 2))


def test_divergence_stops_at_its_step() -> None:
    calls = 0

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x / 2 if calls < 3 else x * math.nan

    with pytest.raises(NldiffError, match=r"step 3 of 10 .*zeta than 0\.3"):
        sample(broken, LEVEL * noise(1, 100), Known(), schedule(EULER), EULER, generators([0]))
    assert calls == 3


@pytest.mark.parametrize(
    ("y", "operator", "shape"),
    [
        (None, None, None),
        (torch.ones(1, 9), None, None),
        (None, Known(), None),
        (None, Known(), (1, 9)),
        (torch.ones(1, 9), Known(), (1, 9)),
    ],
)
def test_contradictory_arguments_are_refused(
    y: Tensor | None, operator: Operator | None, shape: tuple[int, int] | None
) -> None:
    with pytest.raises(NldiffError, match="observation and an operator or a shape alone"):
        sample(gaussian(LEVEL), y, operator, schedule(EULER), EULER, generators([0]), shape=shape)


def test_every_item_needs_a_generator() -> None:
    with pytest.raises(NldiffError, match="1 random generators for 2 items"):
        sample(gaussian(LEVEL), None, None, schedule(EULER), EULER, generators([0]), shape=(2, 9))


def test_items_have_to_be_a_multiple_of_the_parameter_sets() -> None:
    with pytest.raises(NldiffError, match="2 parameter sets of the operator for 3 items"):
        sample(gaussian(LEVEL), torch.ones(3, 9), Gain(2), schedule(EULER), EULER, generators(range(3)))
