import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.metrics import rr_mse, sdr
from nldiff.operators.distortions import Distortion
from nldiff.operators.waveshapers import Waveshaper, make_waveshaper
from nldiff.priors.edm import Denoiser, karras_schedule
from nldiff.sampling.likelihood import CompressedSTFTCost, Cost, WaveformCost, guidance_scale
from nldiff.sampling.posterior import Posterior, SamplerSettings, Step, draw_noise, fit_operator, generators, sample

LEVEL = 0.06
STFT = CompressedSTFTCost(128, 64)
EULER = SamplerSettings(steps=10, churn=0.0)
booleans = partial(pytest.mark.parametrize, argvalues=[False, True])


def noise(items: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(items, length, generator=torch.Generator().manual_seed(seed)).to(dtype)


def schedule(settings: SamplerSettings, dtype: torch.dtype = torch.float32) -> Tensor:
    levels = karras_schedule(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    return levels.to(dtype)


def gaussian(spread: float | Tensor, mean: float | Tensor = 0.0) -> Denoiser:
    """The exact denoiser of audio whose samples are independent with this mean and standard deviation."""
    return lambda x, sigma: mean + (x - mean) / (1 + (sigma[:, None] / spread).square())


def known(x: Tensor) -> Denoiser:
    """A prior that is sure of the signal; its estimate does not depend on the noisy audio."""
    return lambda noisy, sigma: x + 0 * noisy


class Recorder:
    """Notes what a denoiser is called with and what it returns."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.sigmas: list[float] = []
        self.sizes: list[int] = []
        self.estimates: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),)
        assert sigma.min() == sigma.max()
        estimate = self.denoiser(x, sigma)
        self.sigmas.append(float(sigma[0]))
        self.sizes.append(len(x))
        self.estimates.append(estimate.detach())
        return estimate


class Gain(Waveshaper):
    """One factor for each parameter set, 1 at the start."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch)
        self.gain = nn.Parameter(torch.full((batch, 1), math.nan))

    def _initialise(self, y: Tensor, generators: Sequence[torch.Generator]) -> None:
        self.gain.fill_(1.0)

    def _combine(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.gain * features[0]


def shaper(name: str, y: Tensor, batch: int = 1, seeds: Sequence[int] = (0,), **options: Any) -> Waveshaper:
    waveshaper = make_waveshaper(name, batch, **options)
    waveshaper.reset(y, generators(seeds))
    return waveshaper


def curve_of(waveshaper: Waveshaper, index: int = 0) -> Callable[[Tensor], Tensor]:
    return lambda ramp: waveshaper.curve(ramp)[index]


def parameters(waveshaper: Waveshaper) -> Tensor:
    return nn.utils.parameters_to_vector(waveshaper.parameters()).detach().clone()


# --- The prior alone: the recursion is linear, its variance is known


def gaussian_variance(levels: list[float], spread: float, settings: SamplerSettings) -> tuple[float, float]:
    """Variance after the last step for the prior N(0, spread^2), and the factor of a sample without churn.

    The slope is (x - D(x)) / sigma = x sigma / (sigma^2 + spread^2), so every step multiplies by a number.
    """

    def rate(sigma: float) -> float:
        return sigma / (sigma**2 + spread**2)

    variance, product = levels[0] ** 2, levels[0]
    gamma = min(settings.churn / (len(levels) - 1), math.sqrt(2) - 1)
    for sigma, following in pairwise(levels):
        raised = sigma + gamma * sigma
        variance += settings.noise_scale**2 * (raised**2 - sigma**2)
        h = following - raised
        factor = 1 + h * rate(raised)
        if settings.heun and following > 0:
            factor = 1 + h * (rate(raised) + factor * rate(following)) / 2
        variance *= factor**2
        product *= factor
    return variance, product


@booleans("heun")
def test_deterministic_prior_samples_are_the_noise_times_a_known_factor(heun: bool) -> None:
    settings = replace(EULER, steps=7, sigma_max=2.0, heun=heun)
    levels = schedule(settings, torch.float64)
    x = sample(gaussian(LEVEL), None, None, levels, settings, generators([1, 2]), shape=(2, 50)).audio
    _, factor = gaussian_variance(levels.tolist(), LEVEL, settings)
    assert x.dtype == torch.float64
    expected = factor * torch.cat([noise(1, 50, 1), noise(1, 50, 2)]).double()
    torch.testing.assert_close(x, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("churn", "noise_scale"), [(0.0, 1.0), (3.0, 1.0), (3.0, 1.1), (1e6, 1.0)])
@booleans("heun")
def test_prior_samples_have_the_predicted_mean_and_variance(heun: bool, churn: float, noise_scale: float) -> None:
    settings = replace(EULER, churn=churn, noise_scale=noise_scale, heun=heun)
    levels = schedule(settings)
    x = sample(gaussian(LEVEL), None, None, levels, settings, generators(range(4)), shape=(4, 50_000)).audio
    variance, _ = gaussian_variance(levels.tolist(), LEVEL, settings)
    # standard errors of 200 000 samples: 0.0022 of the standard deviation, 0.0032 of the variance
    assert x.double().var().item() == pytest.approx(variance, rel=0.012)
    assert abs(x.double().mean().item()) < 0.01 * math.sqrt(variance)


@pytest.mark.parametrize(("heun", "steps"), [(False, 300), (True, 50)])
@pytest.mark.parametrize("churn", [0.0, 4.0])
def test_many_steps_give_the_priors_variance(heun: bool, steps: int, churn: float) -> None:
    settings = SamplerSettings(steps=steps, churn=churn, heun=heun)
    levels = schedule(settings)
    x = sample(gaussian(LEVEL), None, None, levels, settings, generators(range(2)), shape=(2, 50_000)).audio
    assert x.double().var().item() == pytest.approx(LEVEL**2, rel=0.03)


# --- Guidance: eq. 7 and 9 against a recursion written from the paper, and against an exact posterior


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
            gaussian(spread), y, lambda x: gain * x, levels, settings, generators([8, 9]),
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
        return sample(gaussian(LEVEL), y, torch.tanh, levels, EULER, generators([0]), **options).audio

    assert torch.equal(run(), run(guidance=guidance_scale))
    assert not torch.equal(run(), run(guidance=lambda g, s, z: 2 * guidance_scale(g, s, z)))


class SquaredError(Cost):
    """|y - y_hat|^2 / 2."""

    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y_hat: (y_hat - y).square().sum(-1) / 2


@pytest.mark.parametrize(("heun", "steps", "churn"), [(True, 40, 0.0), (True, 60, 4.0), (False, 300, 2.0)])
def test_samples_follow_a_posterior_known_in_closed_form(heun: bool, steps: int, churn: float) -> None:
    # x ~ N(0, s^2), y = a x + N(0, r^2); sizes around 1 keep all terms alive
    s, a, r = 1.0, 0.7, 0.5
    settings = SamplerSettings(steps=steps, sigma_max=10.0, sigma_min=1e-3, churn=churn, heun=heun)
    y = a * s * noise(15, 2000, 100) + r * noise(15, 2000, 101)

    def errors(scale: float) -> tuple[float, float]:
        """Relative errors of the posterior's mean, as a multiple of y, and of its variance."""

        def likelihood_score(gradient: Tensor, sigma: float, zeta: float) -> Tensor:
            # p(y | x_sigma) = N(a x0, r^2 + a^2 C), C the variance of x given x_sigma
            c = s**2 * sigma**2 / (s**2 + sigma**2)
            return torch.full((len(gradient),), scale / (r**2 + a**2 * c))

        x = sample(
            gaussian(s), y, lambda x: a * x, schedule(settings), settings, generators(range(15)),
            cost=SquaredError(), guidance=likelihood_score,
        ).audio.double()  # fmt: skip
        mean, variance = a * s**2 / (a**2 * s**2 + r**2), s**2 * r**2 / (a**2 * s**2 + r**2)
        slope = (x * y).sum() / y.double().square().sum()
        return abs(slope.item() / mean - 1), abs((x - mean * y).var().item() / variance - 1)

    # standard errors of 30 000 samples: 0.4 % of the mean's slope, 0.8 % of the variance
    assert max(errors(1.0)) < 0.03
    assert min(errors(1.3)) > 0.05
    assert min(errors(1 / 1.3)) > 0.05


# --- The curve


@pytest.mark.parametrize(("name", "reached"), [("ccr", -58), ("sumtanh", -48), ("mlp", -40)])
def test_blind_curve_approaches_the_true_one(name: str, reached: float) -> None:
    truth = Distortion("soft_clip", {"gain": 15.0})
    x = noise(1, 1000)
    x *= LEVEL / x.square().mean().sqrt()
    y = truth(x)
    waveshaper = shaper(name, y, seeds=[1])
    assert rr_mse(truth, curve_of(waveshaper)) > -26
    settings = SamplerSettings(steps=10, sigma_min=0.01)
    posterior = sample(
        gaussian(1e-4, x), y, waveshaper, schedule(settings), settings, generators([0]),
        level=LEVEL, cost=STFT,
    )  # fmt: skip
    assert rr_mse(truth, curve_of(waveshaper)) < reached
    assert posterior.curve is waveshaper
    assert posterior.cost.shape == (10, 1)
    assert posterior.cost[-3:].mean() < 0.1 * posterior.cost[0, 0]
    # all that is left is the last guidance step: eq. 9 gives it the RMS zeta sigma, and churn raises sigma
    error = (posterior.audio - x).square().mean().sqrt().item()
    assert error == pytest.approx(settings.zeta * settings.sigma_min * math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("name", ["ccr", "mlp", "sumtanh"])
def test_adam_state_is_kept_from_step_to_step(name: str) -> None:
    x = LEVEL * noise(1, 500)
    y = torch.tanh(10 * x) / 10
    settings = replace(EULER, steps=2, operator_iterations=10, operator_learning_rate=0.01)
    waveshaper = shaper(name, y)
    once, restarted = copy.deepcopy(waveshaper), copy.deepcopy(waveshaper)

    def fit(model: Waveshaper, iterations: int) -> None:
        adam, shaped = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99)), model.prepare(x)
        for _ in range(iterations):
            adam.zero_grad()
            STFT(y, shaped()).sum().backward()
            adam.step()

    fit(once, 20)
    fit(restarted, 10)
    fit(restarted, 10)
    sample(known(x), y, waveshaper, schedule(settings), settings, generators([0]), cost=STFT)
    torch.testing.assert_close(parameters(waveshaper), parameters(once), rtol=0, atol=1e-5)
    assert (parameters(restarted) - parameters(once)).abs().max() > 1e-3


def test_curve_is_fitted_before_the_guidance_gradient() -> None:
    settings = SamplerSettings(churn=0.0, operator_iterations=1, operator_learning_rate=0.25)
    y, length = noise(1, 50, 1), 50
    waveshaper = Gain(1)
    waveshaper.reset(y, generators([0]))
    posterior = sample(
        lambda x, sigma: x / 2, y, waveshaper, torch.tensor([1.0, 0.0]), settings, generators([2]),
        level=0.8, cost=WaveformCost(), guidance=lambda g, s, z: torch.tensor([float(length)]),
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


def test_settings_decide_the_stft_of_the_cost() -> None:
    x = LEVEL * noise(1, 1000)
    y = torch.tanh(20 * x) / 20
    settings = replace(EULER, cost_n_fft=128, cost_hop=64)
    costs = []
    for chosen, cost in ((settings, None), (EULER, STFT), (EULER, None), (EULER, CompressedSTFTCost(1024, 256))):
        waveshaper = shaper("ccr", y)
        trace = sample(known(x), y, waveshaper, schedule(chosen), chosen, generators([0]), cost=cost).cost
        costs.append(trace)
    torch.testing.assert_close(costs[0], costs[1], rtol=0, atol=0)
    torch.testing.assert_close(costs[2], costs[3], rtol=0, atol=0)
    assert not torch.allclose(costs[0], costs[2], rtol=0.1)


def test_the_curve_of_known_signals_is_fitted_by_that_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []

    def spy(n_fft: int, hop: int) -> Cost:
        made.append((n_fft, hop))
        return CompressedSTFTCost(n_fft, hop)

    monkeypatch.setattr("nldiff.sampling.posterior.CompressedSTFTCost", spy)
    x = LEVEL * noise(1, 1000)
    y = torch.tanh(20 * x) / 20
    settings = SamplerSettings(cost_n_fft=256, cost_hop=32, operator_warmup=40, operator_iterations=20)
    waveshaper = shaper("ccr", y)
    before = STFT(y, waveshaper(x))
    fit_operator(waveshaper, x, y, settings, generators([0]))
    assert set(made) == {(256, 32)}
    assert STFT(y, waveshaper(x)) < before


def test_items_of_a_group_share_a_curve_and_groups_do_not() -> None:
    gains = (10.0, 30.0)
    half = LEVEL * noise(1, 800).abs()
    x = torch.cat([half, -half, half, -half])
    y = torch.cat([torch.tanh(g * x[i : i + 2]) / g for g, i in zip(gains, (0, 2), strict=True)])
    waveshaper = shaper("ccr", y, batch=2, seeds=(0, 1))
    sample(known(x), y, waveshaper, schedule(EULER), EULER, generators(range(4)), cost=STFT)
    # each item shows one half of the curve only
    for index, gain in enumerate(gains):
        truth = Distortion("soft_clip", {"gain": gain})
        assert rr_mse(truth, curve_of(waveshaper, index)) < -55
        assert rr_mse(truth, curve_of(waveshaper, 1 - index)) > -35


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
        waveshaper = shaper("ccr", y)
        settings = replace(EULER, operator_segments=segments, operator_segment_length=500)
        sample(known(x), y, waveshaper, schedule(EULER), settings, generators([0, 1]), cost=Spy(128, 64))
        return rr_mse(truth, curve_of(waveshaper))

    whole = fitted(0)
    assert all(piece.shape == y.shape for piece in seen)
    seen.clear()
    parts = fitted(3)
    assert whole < -58
    assert parts < -58
    assert seen[0].shape == y.shape  # for the guidance
    assert [piece.shape for piece in seen[1:]] == [(6, 500)] * 10
    for row, piece in enumerate(seen[1]):
        windows = y[row // 3].unfold(0, 500, 1)
        assert (windows == piece).all(1).sum() == 1
    assert not torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[1][0], seen[1][1])


def test_segments_as_long_as_the_item_mean_the_whole_item() -> None:
    x = LEVEL * noise(1, 500)
    y = torch.tanh(10 * x) / 10
    results = []
    for segments in (0, 5):
        waveshaper = shaper("ccr", y)
        settings = replace(EULER, steps=2, operator_segments=segments, operator_segment_length=500)
        sample(known(x), y, waveshaper, schedule(settings), settings, generators([0]), cost=STFT)
        results.append(parameters(waveshaper))
    assert torch.equal(*results)


def test_curve_without_trainable_parameters_is_held() -> None:
    y = LEVEL * noise(2, 300)
    waveshaper = shaper("mlp", y).requires_grad_(False)
    before = parameters(waveshaper)
    held, plain = (
        sample(gaussian(LEVEL), y, curve, schedule(EULER), EULER, generators([0, 1]), cost=STFT)
        for curve in (waveshaper, lambda x: waveshaper(x))
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
    assert guided.curve is truth
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
        denoiser, y, shaper("ccr", y, batch=groups, seeds=range(groups)), schedule(EULER), EULER,
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
    y: Tensor, seeds: Sequence[int], name: str, batch_size: int | None = None, through: bool = True
) -> tuple[Tensor, Tensor]:
    """Samples and curves of items that have a curve each.

    The tests run it in float64: the guidance amplifies the rounding errors of float32.
    """
    ramp = torch.linspace(-0.2, 0.2, 50, dtype=y.dtype)
    settings = SamplerSettings(steps=6, operator_iterations=5, through_denoiser=through)
    waveshaper = shaper(name, y, batch=len(y), seeds=seeds).to(y.dtype)
    posterior = sample(
        blurred, y, waveshaper, schedule(settings, y.dtype), settings, generators(seeds),
        level=LEVEL, cost=STFT, batch_size=batch_size,
    )  # fmt: skip
    return posterior.audio, waveshaper.curve(ramp)


@booleans("through")
@pytest.mark.parametrize("name", ["ccr", "mlp", "sumtanh"])
def test_result_depends_neither_on_the_batch_nor_on_its_size(name: str, through: bool) -> None:
    y = torch.tensor([[0.03], [0.06], [0.1]]) * noise(3, 600, 0, torch.float64)
    together = blind(y, [4, 5, 6], name, through=through)
    for batch_size in (1, 2):
        parts = blind(y, [4, 5, 6], name, batch_size=batch_size, through=through)
        torch.testing.assert_close(parts, together, rtol=0, atol=1e-8)
    for index, seed in enumerate([4, 5, 6]):
        alone = blind(y[[index]], [seed], name, through=through)
        expected = together[0][[index]], together[1][[index]]
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-8)


def test_seeds_decide_the_result() -> None:
    y = LEVEL * noise(1, 600, 0, torch.float64).expand(2, -1)
    first, again, other = (blind(y, seeds, "ccr")[0] for seeds in ([1, 2], [1, 2], [1, 3]))
    assert torch.equal(first, again)
    assert (first[1] - other[1]).abs().max() > 0.01
    assert (first[0] - first[1]).abs().max() > 0.01
    torch.testing.assert_close(first[0], other[0], rtol=0, atol=1e-8)


def test_noise_of_a_seed_is_the_same_in_every_precision() -> None:
    like = torch.zeros(2, 5, dtype=torch.float64)
    assert torch.equal(draw_noise(like, generators([1, 2])), draw_noise(like.float(), generators([1, 2])).double())


# --- Bookkeeping


@pytest.mark.parametrize(("churn", "gamma"), [(0.0, 0.0), (2.0, 0.2), (1e6, math.sqrt(2) - 1)])
@booleans("heun")
def test_evaluations_and_their_noise_levels(heun: bool, churn: float, gamma: float) -> None:
    settings = replace(EULER, heun=heun, churn=churn, sigma_min=1e-3)
    levels = schedule(settings).tolist()
    denoiser = Recorder(gaussian(LEVEL))
    y = LEVEL * noise(1, 100)
    posterior = sample(denoiser, y, torch.tanh, schedule(settings), settings, generators([0]))
    expected = []
    for sigma, following in pairwise(levels):
        expected += [sigma * (1 + gamma)] + ([following] if heun and following > 0 else [])
    assert posterior.evaluations == len(expected) == (19 if heun else 10)
    assert denoiser.sigmas == pytest.approx(expected, rel=1e-6)
    assert min(denoiser.sigmas) >= levels[-2]
    assert levels[-2] == pytest.approx(1e-3)


@pytest.mark.parametrize(("through", "sizes"), [(False, [2, 2, 1]), (True, [2, 2, 1, 2, 2, 1])])
def test_batch_size_bounds_every_call(through: bool, sizes: list[int]) -> None:
    settings = replace(EULER, through_denoiser=through)
    denoiser = Recorder(gaussian(LEVEL))
    y = LEVEL * noise(5, 100)
    posterior = sample(denoiser, y, torch.tanh, schedule(settings), settings, generators(range(5)), batch_size=2)
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
    assert all(step.curve is waveshaper and step.x0.shape == y.shape for step in steps)
    assert torch.equal(torch.stack([step.cost for step in steps]), posterior.cost)
    assert posterior.cost.shape == (10, 3)
    assert (posterior.cost > 0).all()
    assert posterior.settings is settings and posterior.schedule is levels
    assert posterior.seconds > 0
    assert not any(t.requires_grad for t in (posterior.audio, posterior.cost, steps[-1].x0))


def test_prior_samples_have_no_cost_and_no_curve() -> None:
    posterior = sample(gaussian(LEVEL), None, None, schedule(EULER), EULER, generators([0, 1]), shape=(2, 30))
    assert posterior.curve is None
    assert torch.equal(posterior.cost, torch.zeros(10, 2))


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
    for heun in (False, True):
        settings = replace(EULER, through_denoiser=False, heun=heun)
        run = partial(
            sample, lambda x, sigma: _Forward.apply(x), y, torch.tanh, schedule(EULER),
            sources=generators([0, 1]), batch_size=batch_size,
        )  # fmt: skip
        run(settings=settings)
        with pytest.raises(ArithmeticError):
            run(settings=replace(settings, through_denoiser=True))


def test_divergence_stops_at_its_step() -> None:
    calls = 0

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x / 2 if calls < 3 else x * math.nan

    with pytest.raises(NldiffError, match=r"step 3 of 10 .*zeta than 0\.3"):
        sample(broken, LEVEL * noise(1, 100), torch.tanh, schedule(EULER), EULER, generators([0]))
    assert calls == 3


@pytest.mark.parametrize(
    ("y", "curve", "shape"),
    [
        (None, None, None),
        (torch.ones(1, 9), None, None),
        (None, torch.tanh, None),
        (None, torch.tanh, (1, 9)),
        (torch.ones(1, 9), torch.tanh, (1, 9)),
    ],
)
def test_contradictory_arguments_are_refused(
    y: Tensor | None, curve: Callable[[Tensor], Tensor] | None, shape: tuple[int, int] | None
) -> None:
    with pytest.raises(NldiffError, match="observation and a curve or a shape alone"):
        sample(gaussian(LEVEL), y, curve, schedule(EULER), EULER, generators([0]), shape=shape)


def test_every_item_needs_a_generator() -> None:
    with pytest.raises(NldiffError, match="1 random generators for 2 items"):
        sample(gaussian(LEVEL), None, None, schedule(EULER), EULER, generators([0]), shape=(2, 9))
