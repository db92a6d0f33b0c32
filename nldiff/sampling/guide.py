"""The guide of the samplers: the slope of the probability-flow ODE under the posterior score, one step of Alg. 1.

Equations are those of Švento et al., "Estimation and Restoration of Unknown Nonlinear Distortion using Diffusion"
(2025).
"""

from dataclasses import dataclass

from torch import Tensor

from nldiff.sampling.denoising import PartwiseDenoiser
from nldiff.sampling.likelihood import Likelihood
from nldiff.sampling.samplers import Guided


@dataclass(frozen=True)
class PosteriorGuide:
    """Denoises, fits the operator and follows the observation; a `nldiff.sampling.samplers.Guide`.

    Attributes:
        denoise: the prior.
        level: RMS that the estimate of each group of items is held at; None leaves the scale free.
        likelihood: that of the observation; None samples from the prior alone.
    """

    denoise: PartwiseDenoiser
    level: float | None
    likelihood: Likelihood | None

    def __call__(self, x: Tensor, sigma: float, fit: bool = True) -> Guided:
        """Evaluate at noisy audio `x` [batch, time] of noise level `sigma` > 0; `fit` fits the operator as well."""
        likelihood = self.likelihood
        through = likelihood is not None and likelihood.settings.through_denoiser
        x0, pull_back = self.denoise(x, sigma, differentiable=through)
        scale = level_scale(x0, self.level, likelihood.operator.parameter_sets if likelihood else None)
        x0 = x0 * scale
        slope = (x - x0) / sigma  # eq. 3 and 4: -sigma times the prior score
        if likelihood is None:
            return Guided(slope, x0, x.new_zeros(len(x)))
        if fit:
            likelihood.fit(x0)
        cost, gradient = likelihood.gradient(x0)
        if through:
            gradient = pull_back(gradient * scale)  # the scale as a constant, see `level_scale`
        weight = likelihood.guidance(gradient, sigma, likelihood.settings.zeta)[:, None]  # eq. 9
        likelihood_score = -weight * gradient  # eq. 7
        return Guided(slope - sigma * likelihood_score, x0, cost)  # eq. 6


def level_scale(x0: Tensor, level: float | None, parameter_sets: int | None) -> Tensor:
    """Factors [batch, 1] that bring each group of consecutive items of `x0` [batch, time] to RMS `level`.

    A blind restoration cannot tell the scale of the signal from that of the operator, so that of the estimate is held
    fixed. A parameter set of the operator makes a group; without parameter sets every item is one. A level of None
    gives factors of 1.

    The gradient of eq. 7 takes the factors s for constants. The exact Jacobian of the normalisation, s (I - u u^T) with
    u = x0 / |x0| of the group, would also remove the gradient's component along x0, which asks for a louder or quieter
    estimate. Such a wish vanishes as the fit converges, because the operator absorbs any scale: the component has at
    most 0.2 %, in most steps below 0.01 %, of the gradient's energy in a restoration with the guitar prior. And the
    next normalisation undoes whatever it does to the level.
    """
    if level is None:
        return x0.new_ones(len(x0), 1)
    groups = parameter_sets or len(x0)
    rms = x0.reshape(groups, -1).square().mean(1).sqrt().clamp(min=1e-8)
    return (level / rms).repeat_interleave(len(x0) // groups)[:, None]
