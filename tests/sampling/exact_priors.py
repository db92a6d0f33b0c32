"""Priors and operators whose posteriors are known, and recorders, for the tests of sampling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nldiff.operators import Operator, Waveshaper, make_waveshaper
from nldiff.priors.edm import Denoiser
from nldiff.sampling.likelihood import CompressedSTFTCost, Cost
from nldiff.sampling.noise import generators
from nldiff.sampling.settings import CostSettings, SamplerSettings

LEVEL = 0.06
STFT = CompressedSTFTCost(CostSettings(128, 64))
EULER = SamplerSettings(steps=10, churn=0.0)


def noise(items: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(items, length, generator=torch.Generator().manual_seed(seed)).to(dtype)


def schedule(settings: SamplerSettings, dtype: torch.dtype = torch.float32) -> Tensor:
    return settings.schedule().to(dtype)


def gaussian(spread: float | Tensor, mean: float | Tensor = 0.0) -> Denoiser:
    """The exact denoiser of audio whose samples are independent with this mean and standard deviation."""
    return lambda x, sigma: mean + (x - mean) / (1 + (sigma[:, None] / spread).square())


def certain(x: Tensor) -> Denoiser:
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


@dataclass
class Known(Operator):
    """A known operator from a function."""

    function: Callable[[Tensor], Tensor] = field(default=torch.tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Gain(nn.Module, Operator):
    """One factor for each parameter set, 1 at the start."""

    def __init__(self, parameter_sets: int) -> None:
        super().__init__()
        self.parameter_sets = parameter_sets
        self.gain = nn.Parameter(torch.ones(parameter_sets, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * x.reshape(len(self.gain), -1)).reshape(x.shape)


class WaveformCost(Cost):
    """Mean square error of the samples."""

    def prepare(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y_hat: (y_hat - y.detach()).square().mean(-1)


def shaper(name: str, y: Tensor, sets: int = 1, seeds: Sequence[int] = (0,), **options: Any) -> Waveshaper:
    waveshaper = make_waveshaper(name, sets, **options)
    waveshaper.reset(y, generators(seeds))
    return waveshaper


def parameters(waveshaper: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(waveshaper.parameters()).detach().clone()


def curve_error(truth: Operator, waveshaper: Operator, index: int = 0) -> float:
    """Mean square error of a fitted curve in dB of full scale for |x| < 3 times the level."""
    ramp = torch.linspace(-3 * LEVEL, 3 * LEVEL, 1000)
    error = truth(ramp[None])[0] - waveshaper.portrait(ramp).curve[index]
    return 10 * math.log10(error.double().square().mean().item())
