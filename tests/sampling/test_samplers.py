"""Every sampler against recursions and distributions that are known in closed form."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from exact_priors import EULER, LEVEL, Known, Recorder, gaussian, noise, schedule
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nldiff.sampling.likelihood import Cost
from nldiff.sampling.noise import generators
from nldiff.sampling.posterior import sample
from nldiff.sampling.samplers import SAMPLERS, Guided
from nldiff.sampling.settings import SamplerSettings

every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def rate(sigma: float, spread: float) -> float:
    """Factor of x in the slope of the ODE, (x - D(x)) / sigma, for the prior N(0, spread^2)."""
    return sigma / (sigma**2 + spread**2)


def euler_factor(raised: float, following: float, spread: float) -> float:
    return 1 + (following - raised) * rate(raised, spread)


def heun_factor(raised: float, following: float, spread: float) -> float:
    factor = euler_factor(raised, following, spread)
    if following == 0:
        return factor
    return 1 + (following - raised) * (rate(raised, spread) + factor * rate(following, spread)) / 2


FACTORS = {"euler": euler_factor, "heun": heun_factor}
"""(noise level with churn, next level, spread of the prior) -> number that a step multiplies the signal by."""
ORDERS = {"euler": 1, "heun": 2}
known_factors = pytest.mark.parametrize("name", FACTORS)


def linear_guide(spread: float) -> Callable[..., Guided]:
    return lambda x, sigma, fit=True: Guided(x * rate(sigma, spread), x, x.new_zeros(len(x)))


def no_churn(x: Tensor, sigma: float) -> tuple[Tensor, float]:
    return x, sigma


@known_factors
@given(spread=st.floats(0.01, 1), first=st.floats(0.5, 5), ratios=st.lists(st.floats(0.05, 0.95), max_size=6))
def test_steps_multiply_by_known_factors(name: str, spread: float, first: float, ratios: list[float]) -> None:
    levels = [first]
    for ratio in ratios:
        levels.append(levels[-1] * ratio)
    levels.append(0.0)
    x = torch.tensor([[first]], dtype=torch.float64)
    expected = first
    reached = list(SAMPLERS[name](x, levels, no_churn, linear_guide(spread)))
    assert len(reached) == len(levels) - 1
    for (ahead, guided), (sigma, following) in zip(reached, pairwise(levels), strict=True):
        assert guided.x0.item() == pytest.approx(expected, rel=1e-9)  # what was found at the start of the step
        expected *= FACTORS[name](sigma, following, spread)
        assert ahead.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str) -> None:
    # the exact solution is proportional to sqrt(sigma^2 + spread^2)
    def error(steps: int) -> float:
        settings = SamplerSettings(steps=steps, sigma_min=1e-4)
        levels, spread = settings.schedule().tolist(), 0.3
        *_, (x, _) = SAMPLERS[name](torch.ones(1, 1).double(), levels, no_churn, linear_guide(spread))
        return abs(x.item() - spread / math.hypot(levels[0], spread))

    assert math.log2(error(200) / error(400)) == pytest.approx(ORDERS[name], abs=0.1)


@every_sampler
def test_the_operator_is_fitted_once_in_a_step_where_churn_led(name: str) -> None:
    fits: list[tuple[float, bool]] = []

    def guide(x: Tensor, sigma: float, fit: bool = True) -> Guided:
        fits.append((sigma, fit))
        return linear_guide(1.0)(x, sigma)

    list(SAMPLERS[name](torch.ones(1, 1), [4.0, 2.0, 1.0, 0.0], lambda x, sigma: (x, 1.25 * sigma), guide))
    assert [sigma for sigma, fit in fits if fit] == [5.0, 2.5, 1.25]


# --- The prior alone: the recursion is linear, its variance is known


def gaussian_variance(levels: list[float], spread: float, settings: SamplerSettings) -> tuple[float, float]:
    """Variance after the last step for the prior N(0, spread^2), and the factor of a sample without churn."""
    variance, product = levels[0] ** 2, levels[0]
    gamma = min(settings.churn / (len(levels) - 1), math.sqrt(2) - 1)
    for sigma, following in pairwise(levels):
        raised = sigma + gamma * sigma
        variance += settings.noise_scale**2 * (raised**2 - sigma**2)
        factor = FACTORS[settings.name](raised, following, spread)
        variance *= factor**2
        product *= factor
    return variance, product


@known_factors
def test_deterministic_prior_samples_are_the_noise_times_a_known_factor(name: str) -> None:
    settings = replace(EULER, name=name, steps=7, sigma_max=2.0)
    levels = schedule(settings, torch.float64)
    x = sample(gaussian(LEVEL), None, None, levels, settings, generators([1, 2]), shape=(2, 50)).audio
    _, factor = gaussian_variance(levels.tolist(), LEVEL, settings)
    assert x.dtype == torch.float64
    expected = factor * torch.cat([noise(1, 50, 1), noise(1, 50, 2)]).double()
    torch.testing.assert_close(x, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("churn", "noise_scale"), [(0.0, 1.0), (3.0, 1.0), (3.0, 1.1), (1e6, 1.0)])
@known_factors
def test_prior_samples_have_the_predicted_mean_and_variance(name: str, churn: float, noise_scale: float) -> None:
    settings = replace(EULER, name=name, churn=churn, noise_scale=noise_scale)
    levels = schedule(settings)
    x = sample(gaussian(LEVEL), None, None, levels, settings, generators(range(4)), shape=(4, 50_000)).audio
    variance, _ = gaussian_variance(levels.tolist(), LEVEL, settings)
    # standard errors of 200 000 samples: 0.0022 of the standard deviation, 0.0032 of the variance
    assert x.double().var().item() == pytest.approx(variance, rel=0.012)
    assert abs(x.double().mean().item()) < 0.01 * math.sqrt(variance)


@every_sampler
@pytest.mark.parametrize("churn", [0.0, 4.0])
def test_many_steps_give_the_priors_variance(name: str, churn: float) -> None:
    settings = SamplerSettings(name=name, steps=300, churn=churn)
    levels = schedule(settings)
    x = sample(gaussian(LEVEL), None, None, levels, settings, generators(range(2)), shape=(2, 50_000)).audio
    assert x.double().var().item() == pytest.approx(LEVEL**2, rel=0.03)


# --- An exact posterior


class SquaredError(Cost):
    """|y - y_hat|^2 / 2."""

    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y_hat: (y_hat - y).square().sum(-1) / 2


@pytest.mark.parametrize(
    ("name", "steps", "churn"),
    [("heun", 40, 0.0), ("heun", 60, 4.0), *((name, 300, 2.0) for name in SAMPLERS)],
)
def test_samples_follow_a_posterior_known_in_closed_form(name: str, steps: int, churn: float) -> None:
    # x ~ N(0, s^2), y = a x + N(0, r^2); sizes around 1 keep all terms alive
    s, a, r = 1.0, 0.7, 0.5
    settings = SamplerSettings(name=name, steps=steps, sigma_max=10.0, sigma_min=1e-3, churn=churn)
    y = a * s * noise(15, 2000, 100) + r * noise(15, 2000, 101)

    def errors(scale: float) -> tuple[float, float]:
        """Relative errors of the posterior's mean, as a multiple of y, and of its variance."""

        def likelihood_score(gradient: Tensor, sigma: float, zeta: float) -> Tensor:
            # p(y | x_sigma) = N(a x0, r^2 + a^2 C), C the variance of x given x_sigma
            c = s**2 * sigma**2 / (s**2 + sigma**2)
            return torch.full((len(gradient),), scale / (r**2 + a**2 * c))

        x = sample(
            gaussian(s), y, Known(lambda x: a * x), schedule(settings), settings, generators(range(15)),
            cost=SquaredError(), guidance=likelihood_score,
        ).audio.double()  # fmt: skip
        mean, variance = a * s**2 / (a**2 * s**2 + r**2), s**2 * r**2 / (a**2 * s**2 + r**2)
        slope = (x * y).sum() / y.double().square().sum()
        return abs(slope.item() / mean - 1), abs((x - mean * y).var().item() / variance - 1)

    # standard errors of 30 000 samples: 0.4 % of the mean's slope, 0.8 % of the variance
    assert max(errors(1.0)) < 0.03
    assert min(errors(1.3)) > 0.05
    assert min(errors(1 / 1.3)) > 0.05


@pytest.mark.parametrize(("churn", "gamma"), [(0.0, 0.0), (2.0, 0.2), (1e6, math.sqrt(2) - 1)])
@pytest.mark.parametrize(("name", "evaluations"), [("euler", 10), ("heun", 19)])
def test_evaluations_and_their_noise_levels(name: str, evaluations: int, churn: float, gamma: float) -> None:
    settings = replace(EULER, name=name, churn=churn, sigma_min=1e-3)
    levels = schedule(settings).tolist()
    denoiser = Recorder(gaussian(LEVEL))
    y = LEVEL * noise(1, 100)
    posterior = sample(denoiser, y, Known(), schedule(settings), settings, generators([0]))
    expected = []
    for sigma, following in pairwise(levels):
        expected += [sigma * (1 + gamma)] + ([following] if name == "heun" and following > 0 else [])
    assert posterior.evaluations == len(expected) == evaluations
    assert denoiser.sigmas == pytest.approx(expected, rel=1e-6)
    assert min(denoiser.sigmas) >= levels[-2]
    assert levels[-2] == pytest.approx(1e-3)
