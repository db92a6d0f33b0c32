"""The guide: eq. 6, 7 and 9 against a recursion written from the paper, the order of its parts, the level."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from exact_priors import (
    EULER,
    LEVEL,
    Gain,
    Known,
    WaveformCost,
    gaussian,
    noise,
    schedule,
)
from torch import Tensor

from nldiff.sampling.guide import level_scale
from nldiff.sampling.likelihood import guidance_scale
from nldiff.sampling.noise import generators
from nldiff.sampling.posterior import sample
from nldiff.sampling.samplers import SAMPLERS
from nldiff.sampling.settings import OperatorFitSettings, SamplerSettings

booleans = partial(pytest.mark.parametrize, argvalues=[False, True])


# --- Eq. 6, 7 and 9 against a recursion written from the paper


def paper_recursion(
    x: np.ndarray, y: np.ndarray, levels: list[float], spread: np.ndarray, gain: float, zeta: float,
    level: float | None, through: bool,
) -> np.ndarray:  # fmt: skip
    """Alg. 1 in the paper's symbols for y = gain x, mean square error and a Gaussian prior, one item.

    C is proportional to |y - gain x0|^2, so its gradient by x0 points along -(y - gain x0); the Jacobian of
    the denoiser is the diagonal `wiener`.
    """
    for sigma, following in pairwise(levels):
        wiener = spread**2 / (spread**2 + sigma**2)
        x0 = wiener * x
        if level is not None:
            x0 = x0 * level / np.sqrt(np.mean(x0**2))
        downhill = (y - gain * x0) * (wiener if through else 1)
        likelihood_score = zeta * np.sqrt(len(x)) / sigma * downhill / np.linalg.norm(downhill)
        prior_score = (x0 - x) / sigma**2
        x = x - sigma * (following - sigma) * (prior_score + likelihood_score)
    return x


@booleans("through")
@pytest.mark.parametrize("level", [None, LEVEL])
def test_guided_steps_equal_the_papers_recursion(through: bool, level: float | None) -> None:
    settings = replace(EULER, sigma_min=1e-3, zeta=0.3, through_denoiser=through)
    gain, levels = 0.5, schedule(settings, torch.float64)
    spread = torch.linspace(0.02, 0.1, 400, dtype=torch.float64)
    y = gain * spread * noise(2, 400, 5, torch.float64)

    def distance(scale: float) -> float:
        """Relative distance of the samples, with guidance multiplied by `scale`, from the recursion."""
        x = sample(
            gaussian(spread), y, Known(lambda x: gain * x), levels, settings, generators([8, 9]),
            level=level, cost=WaveformCost(), guidance=lambda g, s, z: scale * guidance_scale(g, s, z),
        ).audio  # fmt: skip
        start = (y + levels[0] * torch.cat([noise(1, 400, 8), noise(1, 400, 9)])).numpy()
        expected = [
            paper_recursion(x_i, y_i, levels.tolist(), spread.numpy(), gain, settings.zeta, level, through)
            for x_i, y_i in zip(start, y.numpy(), strict=True)
        ]
        return float(np.linalg.norm(x.numpy() - expected) / np.linalg.norm(expected))

    assert distance(1.0) < 1e-6
    assert distance(2.0) > 0.1
    assert distance(-1.0) > 0.1


def test_eq_9_is_the_default_guidance() -> None:
    y = LEVEL * noise(1, 100)

    def run(**options: Any) -> Tensor:
        levels = schedule(EULER)
        return sample(gaussian(LEVEL), y, Known(), levels, EULER, generators([0]), **options).audio

    assert torch.equal(run(), run(guidance=guidance_scale))
    assert not torch.equal(run(), run(guidance=lambda g, s, z: 2 * guidance_scale(g, s, z)))


# --- Order and level


def test_curve_is_fitted_before_the_guidance_gradient() -> None:
    settings, fit = SamplerSettings(churn=0.0), OperatorFitSettings(iterations=1, learning_rate=0.25)
    y, length = noise(1, 50, 1), 50
    waveshaper = Gain(1)
    posterior = sample(
        lambda x, sigma: x / 2, y, waveshaper, torch.tensor([1.0, 0.0]), settings, generators([2]),
        fit=fit, level=0.8, cost=WaveformCost(), guidance=lambda g, s, z: torch.tensor([float(length)]),
    )  # fmt: skip
    x = y + noise(1, 50, 2)
    scale = 0.8 / (x / 2).square().mean().sqrt()
    x0 = scale * x / 2
    # the first step of Adam is the learning rate against the sign of the gradient
    gain = 1 - 0.25 * torch.sign((x0 * (x0 - y)).mean())
    assert waveshaper.gain.item() == pytest.approx(gain.item(), abs=1e-6)

    def after_step(gain: Tensor | float) -> Tensor:
        # back through the curve, the level (a constant factor) and the denoiser
        gradient = gain * scale * 0.5 * 2 * (gain * x0 - y) / length
        return x - (x - x0) - length * gradient

    torch.testing.assert_close(posterior.audio, after_step(gain), rtol=0, atol=1e-5)
    assert (posterior.audio - after_step(1.0)).abs().max() > 0.1
    torch.testing.assert_close(posterior.cost, (gain * x0 - y).square().mean().reshape(1, 1))


def test_level_factors_by_hand() -> None:
    x0 = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0], [0.0, 0.0]])
    # RMS of the groups: sqrt(25 / 4) and sqrt(2 / 4)
    torch.testing.assert_close(level_scale(x0, 0.5, 2)[:, 0], torch.tensor([0.2, 0.2, 0.5 * 2**0.5, 0.5 * 2**0.5]))
    torch.testing.assert_close(
        level_scale(x0, 0.5, None)[:3, 0], torch.tensor([0.5 * 2**0.5 / 3, 0.5 * 2**0.5 / 4, 0.5])
    )
    assert level_scale(x0, 0.5, None)[3].isfinite()
    assert torch.equal(level_scale(x0, None, 2), torch.ones(4, 1))


def test_a_fitted_operator_leaves_no_gradient_along_the_estimate() -> None:
    # the reason why the Jacobian of the level may be left out: at the best gain the cost is flat along x0
    x0, y = noise(1, 40, 1, torch.float64), noise(1, 40, 2, torch.float64)
    best = (y * x0).sum() / x0.square().sum()
    for gain, flat in ((best, True), (2 * best, False)):
        leaf = x0.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(WaveformCost()(y, gain * leaf).sum(), leaf)
        along = (gradient * x0).sum().abs() / gradient.norm() / x0.norm()
        assert (along < 1e-12) == flat


class _Forward(torch.autograd.Function):
    """x / 2 without a backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise ArithmeticError("backward through the denoiser")


@pytest.mark.parametrize("batch_size", [None, 1])
def test_backward_through_the_denoiser_only_on_request(batch_size: int | None) -> None:
    y = LEVEL * noise(2, 100)
    for name in SAMPLERS:
        settings = replace(EULER, name=name, through_denoiser=False)
        run = partial(
            sample, lambda x, sigma: _Forward.apply(x), y, Known(), schedule(EULER),
            sources=generators([0, 1]), batch_size=batch_size,
        )  # fmt: skip
        run(settings=settings)
        with pytest.raises(ArithmeticError):
            run(settings=replace(settings, through_denoiser=True))
