"""Settings of sampling; the defaults are those of the 2025 paper for guitar.

Every class is frozen, validates itself, and serves as a structured configuration of OmegaConf.
"""

from dataclasses import dataclass

from torch import Tensor

from nldiff.errors import NldiffError, require
from nldiff.priors.edm import karras_schedule
from nldiff.sampling.samplers import SAMPLERS

MOST = 1_000_000
"""Counts are below this: more is a mistake, and would take years or all memory."""


@dataclass(frozen=True)
class SamplerSettings:
    """Noise levels, sampler and guidance.

    Attributes:
        name: the sampler, a key of `nldiff.sampling.samplers.SAMPLERS`.
        steps: number of diffusion steps, at least 2.
        sigma_max: first noise level, at the prior's level; greater than `sigma_min`.
        sigma_min: last noise level before 0, at the prior's level; not below what the denoiser was trained on.
        rho: curvature of the noise schedule, see `nldiff.priors.edm.karras_schedule`.
        churn: S_churn, how much noise is added and removed again over the whole run; 0 adds none.
        noise_scale: S_noise, scale of that noise.
        zeta: strength of the guidance, eq. 9.
        through_denoiser: whether the gradient of the cost passes through the network, as in eq. 7. Otherwise it is
            taken at the denoised estimate, which needs no backward pass.

    Raises:
        NldiffError: unknown sampler, or a value out of its range.
    """

    name: str = "euler"
    steps: int = 50
    sigma_max: float = 1.0
    sigma_min: float = 1e-5
    rho: float = 7.0
    churn: float = 20.0
    noise_scale: float = 1.0
    zeta: float = 0.3
    through_denoiser: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        if self.name not in SAMPLERS:
            raise NldiffError(f"sampler.name={self.name}: one of {', '.join(SAMPLERS)} expected")
        require(self, "sampler", ("steps",), least=2, below=MOST)
        require(self, "sampler", ("rho",), least=1e-3)
        require(self, "sampler", ("sigma_min",), above=0)
        require(self, "sampler", ("sigma_max",), least=self.sigma_min * (1 + 1e-6))
        require(self, "sampler", ("churn", "noise_scale", "zeta"), least=0)

    def schedule(self) -> Tensor:
        """Noise levels [steps + 1] from `sigma_max` down to `sigma_min`, then 0."""
        return karras_schedule(self.steps, self.sigma_min, self.sigma_max, self.rho)


@dataclass(frozen=True)
class CostSettings:
    """The distance of compressed spectra, eq. 8.

    Attributes:
        n_fft: length of the Hann window and the transform in samples at the prior's rate, even.
        hop: step between frames in the same samples, a proper divisor of `n_fft`.
        exponent: power of the magnitudes, above 0 and at most 1.

    Raises:
        NldiffError: a value is out of its range.
    """

    n_fft: int = 1024
    hop: int = 256
    exponent: float = 2 / 3

    def __post_init__(self) -> None:
        """Validate."""
        require(self, "cost", ("n_fft", "hop"), least=1, below=MOST)
        if self.n_fft % 2:
            raise NldiffError(f"cost.n_fft={self.n_fft}: an even number expected")
        if self.hop == self.n_fft or self.n_fft % self.hop:
            raise NldiffError(f"cost.hop={self.hop}: a proper divisor of cost.n_fft={self.n_fft} expected")
        if not 0 < self.exponent <= 1:
            raise NldiffError(f"cost.exponent={self.exponent:g}: a number above 0 and at most 1 expected")


@dataclass(frozen=True)
class OperatorFitSettings:
    """How Adam fits the parameters of an operator; its state is kept from step to step.

    Attributes:
        iterations: Adam iterations in every diffusion step.
        learning_rate: step size of Adam.
        betas: decay rates of Adam's two moments, each at least 0 and below 1.
        warmup: Adam iterations before the first diffusion step, with the start of sampling as the clean signal.
        segments: number of random segments of each item that every fit uses; they are drawn anew in every diffusion
            step. 0 uses whole items.
        segment_length: length of a segment in samples at the prior's rate. Items that are no longer are used whole.

    Raises:
        NldiffError: a value is out of its range.
    """

    iterations: int = 20
    learning_rate: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 0
    segments: int = 0
    segment_length: int = 16384

    def __post_init__(self) -> None:
        """Validate."""
        require(self, "operator_fit", ("learning_rate",), least=0)
        require(self, "operator_fit", ("iterations", "warmup", "segments"), least=0, below=MOST)
        require(self, "operator_fit", ("segment_length",), least=1)
        require(self, "operator_fit", ("betas",), least=0, below=1)
        if len(self.betas) != 2:
            raise NldiffError(f"operator_fit.betas={self.betas}: two numbers expected")
