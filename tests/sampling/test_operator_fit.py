import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exact_priors import LEVEL, STFT, Gain, Known, WaveformCost, curve_error, noise, parameters, shaper
from torch import Tensor

from nldiff.operators import Distortion, Operator
from nldiff.sampling.likelihood import CompressedSTFTCost, Cost
from nldiff.sampling.noise import generators
from nldiff.sampling.operator_fit import OperatorFit
from nldiff.sampling.settings import OperatorFitSettings


def fit(operator: Operator, x: Tensor, y: Tensor, settings: OperatorFitSettings, times: int, cost: Cost = STFT) -> None:
    operator_fit = OperatorFit(operator, y, cost, settings, generators(range(len(y))))
    for _ in range(times):
        operator_fit(x)


@pytest.mark.parametrize("name", ["ccr", "mlp", "sumtanh"])
def test_adam_state_is_kept_from_fit_to_fit(name: str) -> None:
    x = LEVEL * noise(1, 500)
    y = torch.tanh(10 * x) / 10
    operator = shaper(name, y)
    once, restarted = copy.deepcopy(operator), copy.deepcopy(operator)

    def adam(model: Operator, iterations: int) -> None:
        optimiser, shaped = torch.optim.Adam(model.trainable(), lr=0.01, betas=(0.9, 0.99)), model.prepare(x)
        for _ in range(iterations):
            optimiser.zero_grad()
            STFT(y, shaped()).sum().backward()
            optimiser.step()

    adam(once, 20)
    adam(restarted, 10)
    adam(restarted, 10)
    fit(operator, x, y, OperatorFitSettings(iterations=10, learning_rate=0.01), times=2)
    torch.testing.assert_close(parameters(operator), parameters(once), rtol=0, atol=1e-5)
    assert (parameters(restarted) - parameters(once)).abs().max() > 1e-3


def test_learning_rate_and_betas_are_adams() -> None:
    # one sample, cost (g x - y)^2 with x = 1 and y = 3: gradients 2 (g - 3)
    operator = Gain(1)
    settings = OperatorFitSettings(iterations=2, learning_rate=0.5, betas=(0.5, 0.75))
    fit(operator, torch.ones(1, 1), torch.full((1, 1), 3.0), settings, 1, WaveformCost())
    first, second = 2 * (1 - 3), 2 * (1.5 - 3)
    mean = (0.5 * 0.5 * first + 0.5 * second) / (1 - 0.5**2)
    square = (0.75 * 0.25 * first**2 + 0.25 * second**2) / (1 - 0.75**2)
    assert operator.gain.item() == pytest.approx(1.5 - 0.5 * mean / square**0.5, rel=1e-5)


def test_warm_up_has_its_own_number_of_iterations() -> None:
    x = torch.ones(1, 4)
    for warmup, expected in ((0, 1.0), (3, 1.75)):
        operator = Gain(1)
        settings = OperatorFitSettings(iterations=50, warmup=warmup, learning_rate=0.25)
        OperatorFit(operator, 100 * x, WaveformCost(), settings, generators([0])).warm_up(x)
        # far from the goal every step of Adam is the learning rate
        assert operator.gain.item() == pytest.approx(expected, abs=0.01)


def test_items_of_a_group_share_a_curve_and_groups_do_not() -> None:
    truths = [Distortion("soft_clip", {"gain": gain}) for gain in (10.0, 30.0)]
    half = LEVEL * noise(1, 800).abs()
    x = torch.cat([half, -half, half, -half])
    y = torch.cat([truth(x[i : i + 2]) for truth, i in zip(truths, (0, 2), strict=True)])
    operator = shaper("ccr", y, sets=2, seeds=(0, 1))
    fit(operator, x, y, OperatorFitSettings(), times=10)
    # each item shows one half of the curve only
    for index, truth in enumerate(truths):
        assert curve_error(truth, operator, index) < -55
        assert curve_error(truth, operator, 1 - index) > -35


def test_segments_are_aligned_drawn_anew_and_enough_for_the_curve() -> None:
    truth = Distortion("soft_clip", {"gain": 15.0})
    x = LEVEL * noise(2, 3000)
    y = truth(x)
    seen: list[Tensor] = []

    class Spy(CompressedSTFTCost):
        def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
            seen.append(y)
            return super().prepare(y)

    def fitted(segments: int) -> float:
        operator = shaper("ccr", y)
        fit(operator, x, y, OperatorFitSettings(segments=segments, segment_length=500), 10, Spy(STFT.settings))
        return curve_error(truth, operator)

    whole = fitted(0)
    assert all(piece.shape == y.shape for piece in seen)
    seen.clear()
    parts = fitted(3)
    assert whole < -58
    assert parts < -58
    assert [piece.shape for piece in seen] == [(6, 500)] * 10
    for row, piece in enumerate(seen[0]):
        windows = y[row // 3].unfold(0, 500, 1)
        assert (windows == piece).all(1).sum() == 1
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])


def test_segments_come_from_the_generators() -> None:
    x = LEVEL * noise(1, 2000)
    y = torch.tanh(10 * x) / 10
    results = []
    for seed in (1, 1, 2):
        operator = shaper("ccr", y)
        OperatorFit(operator, y, STFT, OperatorFitSettings(segments=1, segment_length=500), generators([seed]))(x)
        results.append(parameters(operator))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_segments_as_long_as_the_item_mean_the_whole_item() -> None:
    x = LEVEL * noise(1, 500)
    y = torch.tanh(10 * x) / 10
    results = []
    for segments in (0, 5):
        operator = shaper("ccr", y)
        fit(operator, x, y, OperatorFitSettings(segments=segments, segment_length=500), times=2)
        results.append(parameters(operator))
    assert torch.equal(*results)


@pytest.mark.parametrize("make", [lambda y: Known(), lambda y: shaper("ccr", y).requires_grad_(False)])
def test_operators_without_trainable_parameters_are_held_and_draw_nothing(make: Callable[[Tensor], Operator]) -> None:
    y = LEVEL * noise(1, 300)
    operator, sources = make(y), generators([0])
    before = operator(y)
    settings = replace(OperatorFitSettings(), warmup=5, segments=2, segment_length=100)
    operator_fit = OperatorFit(operator, y, STFT, settings, sources)
    operator_fit.warm_up(2 * y)
    operator_fit(2 * y)
    assert torch.equal(operator(y), before)
    assert torch.equal(torch.randn(3, generator=sources[0]), torch.randn(3, generator=generators([0])[0]))
