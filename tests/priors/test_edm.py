import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, truncnorm
from torch import Tensor, nn

from nldiff.priors.edm import (
    NOISE_LEVELS,
    EDMDenoiser,
    denoising_loss,
    karras_levels,
    karras_schedule,
    lognormal_levels,
)

SIGMAS = [1e-5, 1e-3, 0.03, 0.06, 0.5, 10.0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Recorder(nn.Module):
    """Returns ones and remembers what it was given."""

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        self.x, self.c_noise = x, c_noise
        return torch.ones_like(x)


class Zero(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.zeros_like(x)


class GaussianNetwork(nn.Module):
    """The network that makes D exact for independent Gaussian samples of the given variances [time]."""

    def __init__(self, variance: Tensor, sigma_data: float) -> None:
        super().__init__()
        self.variance, self.sigma_data = variance, sigma_data

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        # The posterior mean is v / (v + s^2) times the noisy sample; what c_skip does not give comes from here.
        s2 = (8 * c_noise).exp()[:, None]
        total = s2 + self.sigma_data**2
        wiener, skip = self.variance / (self.variance + s2), self.sigma_data**2 / total
        return x * (wiener - skip) * total / (s2.sqrt() * self.sigma_data)


def test_preconditioning_by_hand() -> None:
    network = Recorder()
    # sigma 0.08 and sigma_data 0.06 have the norm 0.1; the second item has sigma = sigma_data.
    x, sigma = torch.tensor([[1.0, -2.0], [0.5, 0.0]]), torch.tensor([0.08, 0.06])
    y = EDMDenoiser(network, 0.06)(x, sigma)
    root2 = math.sqrt(2)
    torch.testing.assert_close(network.x, torch.tensor([[10.0, -20.0], [0.5 / (0.06 * root2), 0.0]]))
    torch.testing.assert_close(network.c_noise, torch.tensor([math.log(0.08) / 4, math.log(0.06) / 4]))
    expected = torch.tensor(
        [[0.36 + 0.048, -0.72 + 0.048], [0.25 + 0.06 / root2, 0.06 / root2]],
    )
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_network_input_has_unit_variance(sigma: float) -> None:
    network, x0, n = Recorder(), 0.06 * noise(4, 20000), noise(4, 20000, seed=1)
    EDMDenoiser(network, 0.06)(x0 + sigma * n, torch.full((4,), sigma))
    assert float(network.x.square().mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("signal", ["noise", "sine"])
def test_loss_of_a_zero_network_is_one(sigma: float, signal: str) -> None:
    # D = c_skip x. The error (c_skip - 1) x0 + c_skip s n has, for any data of RMS s_d, the mean square
    # (s^4 s_d^2 + s_d^4 s^2) / (s^2 + s_d^2)^2 = s^2 s_d^2 / (s^2 + s_d^2), which is one over the weight.
    sigma_data, shape = 0.06, (8, 20000)
    sine = 2**0.5 * torch.sin(2 * torch.pi / 100 * torch.arange(shape[1])).expand(shape)
    x0 = sigma_data * (noise(*shape) if signal == "noise" else sine)
    loss = denoising_loss(EDMDenoiser(Zero(), sigma_data), x0, torch.full((8,), sigma), noise(*shape, seed=1))
    assert loss.shape == (8,)
    # 160 000 squares of normal numbers: their mean is off by 0.35 % (one standard deviation).
    assert float(loss.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("sigma", [0.003, 0.03, 0.3, 3.0])
def test_loss_of_the_exact_gaussian_denoiser(sigma: float) -> None:
    sigma_data, shape = 0.06, (8, 20000)
    variance = torch.tensor([0.02**2, 0.2**2]).repeat(shape[1] // 2)
    x0, sigmas = variance.sqrt() * noise(*shape), torch.full((8,), sigma)
    denoiser = EDMDenoiser(GaussianNetwork(variance, sigma_data), sigma_data)
    x = x0 + sigma * noise(*shape, seed=1)
    torch.testing.assert_close(denoiser(x, sigmas), x * variance / (variance + sigma**2), rtol=1e-4, atol=1e-6)
    # The posterior variance v s^2 / (v + s^2), averaged over the two kinds of samples, times the weight.
    posterior = np.mean([v * sigma**2 / (v + sigma**2) for v in (0.02**2, 0.2**2)])
    expected = posterior * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    loss = denoising_loss(denoiser, x0, sigmas, noise(*shape, seed=1)).mean()
    assert float(loss) == pytest.approx(expected, rel=0.02)
    # No other gain does better: the exact denoiser minimises the loss.
    worse = EDMDenoiser(GaussianNetwork(variance * 1.5, sigma_data), sigma_data)
    assert float(denoising_loss(worse, x0, sigmas, noise(*shape, seed=1)).mean()) > float(loss)


def test_loss_is_per_item() -> None:
    denoiser, sigma = EDMDenoiser(Zero(), 0.06), torch.tensor([0.01, 0.1, 1.0])
    x0, n = 0.06 * noise(3, 500), noise(3, 500, seed=1)
    together = denoising_loss(denoiser, x0, sigma, n)
    single = [denoising_loss(denoiser, x0[i : i + 1], sigma[i : i + 1], n[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(single))


def test_schedule_by_hand() -> None:
    # rho 2 from 4 to 1: squares of 2, 1.5, 1.
    torch.testing.assert_close(karras_schedule(3, 1.0, 4.0, rho=2.0), torch.tensor([4.0, 2.25, 1.0, 0.0]))
    torch.testing.assert_close(karras_schedule(1, 1.0, 4.0), torch.tensor([4.0, 0.0]))


def test_schedule_of_the_paper() -> None:
    levels = karras_schedule(50, 1e-5, 1.0, rho=7.0).tolist()
    expected = [(1 + i / 49 * ((1e-5) ** (1 / 7) - 1)) ** 7 for i in range(50)] + [0.0]
    assert levels == pytest.approx(expected, rel=1e-5)


@given(
    steps=st.integers(2, 200),
    bounds=st.tuples(st.floats(1e-5, 0.1), st.floats(0.2, 100)),
    rho=st.floats(1, 12),
)
def test_schedule_falls_from_end_to_end(steps: int, bounds: tuple[float, float], rho: float) -> None:
    levels = karras_schedule(steps, *bounds, rho=rho)
    assert levels.shape == (steps + 1,)
    assert levels.dtype == torch.float32
    assert float(levels[0]) == pytest.approx(bounds[1], rel=1e-5)
    assert float(levels[-2]) == pytest.approx(bounds[0], rel=1e-5)
    assert float(levels[-1]) == 0
    assert bool((levels.diff() < 0).all())


def test_karras_levels_by_hand() -> None:
    u = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(karras_levels(u, 1.0, 4.0, rho=2.0), torch.tensor([4.0, 2.25, 1.0]))
    # The paper's: rho 10 between 1e-5 and 10, whose tenth roots are 0.316228 and 1.258925.
    torch.testing.assert_close(karras_levels(u), torch.tensor([10.0, 0.7875767**10, 1e-5]), rtol=1e-4, atol=0)


def test_lognormal_levels_have_the_quantiles_of_scipy() -> None:
    u = torch.linspace(0.001, 0.999, 101)
    median, spread, low, high = 0.04, 1.5, 0.01, 0.5
    a, b = (math.log(low / median) / spread, math.log(high / median) / spread)
    expected = median * np.exp(spread * truncnorm.ppf(u.numpy(), a, b))
    np.testing.assert_allclose(lognormal_levels(u, median, spread, low, high).numpy(), expected, rtol=1e-3)


def test_lognormal_levels_without_bounds_are_lognormal() -> None:
    u = torch.from_numpy(norm.cdf([-2.0, -1.0, 0.0, 1.0, 2.0])).float()
    levels = lognormal_levels(u, median=0.1, spread=0.5, sigma_min=1e-6, sigma_max=1e4)
    torch.testing.assert_close(levels, 0.1 * torch.exp(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NOISE_LEVELS)
@given(u=st.floats(0, 1, width=32), shape=st.sampled_from([(), (3,), (2, 2)]))
def test_every_distribution_stays_within_its_bounds(name: str, u: float, shape: tuple[int, ...]) -> None:
    levels = NOISE_LEVELS[name](torch.full(shape, u), sigma_min=2e-4, sigma_max=3.0)
    assert levels.shape == shape
    assert bool((levels >= 2e-4 * 0.999).all()) and bool((levels <= 3.0 * 1.001).all())
