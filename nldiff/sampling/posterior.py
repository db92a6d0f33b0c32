"""Posterior sampling: blind, informed and unconditional, in one loop (Alg. 1 of the 2025 paper)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import Operator
from nldiff.priors.edm import Denoiser
from nldiff.sampling.denoising import PartwiseDenoiser
from nldiff.sampling.guide import PosteriorGuide
from nldiff.sampling.likelihood import CompressedSTFTCost, Cost, Likelihood, guidance_scale
from nldiff.sampling.noise import add_churn, draw_noise
from nldiff.sampling.operator_fit import OperatorFit
from nldiff.sampling.samplers import SAMPLERS
from nldiff.sampling.settings import OperatorFitSettings, SamplerSettings


@dataclass(frozen=True)
class Step:
    """What the callback of `sample` gets after every diffusion step; it does not modify any of it.

    Attributes:
        index, steps: number of the step, from 0, of how many.
        sigma: the schedule's noise level before the step, without what churn added.
        cost: eq. 8 [batch] at `x0`; zeros for unconditional samples.
        x0: denoised estimate [batch, time] at the prior's level.
        operator: that of `sample`, as fitted so far.
    """

    index: int
    steps: int
    sigma: float
    cost: Tensor
    x0: Tensor
    operator: Operator | None


@dataclass(frozen=True)
class Posterior:
    """Result of `sample`.

    Attributes:
        audio: samples of the posterior [batch, time] at the prior's level.
        operator: the fitted or known operator; None for unconditional samples.
        cost: eq. 8 in every diffusion step, [steps, batch]; zeros for unconditional samples.
        evaluations: network evaluations per item. Guidance through the network of more than one batch repeats each of
            them, to bound memory; that is not counted.
        seconds: wall time.
    """

    audio: Tensor
    operator: Operator | None
    cost: Tensor
    evaluations: int
    seconds: float


def sample(
    denoiser: Denoiser,
    y: Tensor | None,
    operator: Operator | None,
    schedule: Tensor,
    settings: SamplerSettings,
    sources: Sequence[torch.Generator],
    *,
    fit: OperatorFitSettings | None = None,
    cost: Cost | None = None,
    shape: tuple[int, int] | None = None,
    start: Tensor | None = None,
    level: float | None = None,
    guidance: Callable[[Tensor, float, float], Tensor] = guidance_scale,
    batch_size: int | None = None,
    callback: Callable[[Step], None] | None = None,
) -> Posterior:
    """Draw from p(x | y) by guided reverse diffusion (Alg. 1), or from p(x) if `y` and `operator` are None.

    Args:
        denoiser: D(x, sigma).
        y: observation [batch, time] at about the prior's level.
        operator: the distortion. Blind: already reset; its trainable parameters are fitted in place.
        schedule: noise levels [steps + 1] ending with 0; they count, not those of `settings`.
        settings: sampler, churn and guidance.
        sources: one CPU generator per item.
        fit: how the operator is fitted; by default `OperatorFitSettings()`.
        cost: by default `CompressedSTFTCost()`, eq. 8.
        shape: [batch, time] of unconditional samples.
        start: estimate of the clean signal [batch, time] that sampling starts from; by default `y`.
        level: RMS that the estimate of each parameter set is held at; None leaves the scale free (informed).
        guidance: (gradient of the cost [batch, time], sigma, zeta) -> factors of that gradient [batch]. A negative
            log-likelihood as the cost with factors of 1 makes the guidance the likelihood score itself.
        batch_size: items in one network call, to bound memory; by default all. The result depends on it
            by rounding alone, which grows from step to step.
        callback: called after every step.

    Raises:
        NldiffError: the arguments do not fit together, or the state stopped being finite.
    """
    started, levels = time.monotonic(), schedule.tolist()
    start = _start(y, operator, shape, start, schedule, sources)
    denoise, likelihood = PartwiseDenoiser(denoiser, batch_size or len(start)), None
    if y is not None and operator is not None:
        cost = cost or CompressedSTFTCost()
        operator_fit = OperatorFit(operator, y, cost, fit or OperatorFitSettings(), sources)
        operator_fit.warm_up(start)
        likelihood = Likelihood(operator, cost.prepare(y), operator_fit, guidance, settings)
    share = settings.churn / (len(levels) - 1)
    churn = partial(add_churn, share=share, noise_scale=settings.noise_scale, sources=sources)
    x = start + levels[0] * draw_noise(start, sources)
    steps = SAMPLERS[settings.name](x, levels, churn, PosteriorGuide(denoise, level, likelihood))
    trace = []
    for index, (x, guided) in enumerate(steps):
        step = Step(index, len(levels) - 1, levels[index], guided.cost, guided.x0, operator)
        _require_finite(x, step, settings.zeta)
        trace.append(guided.cost)
        if callback is not None:
            callback(step)
    return Posterior(x, operator, torch.stack(trace), denoise.evaluations, time.monotonic() - started)


def _start(
    y: Tensor | None,
    operator: Operator | None,
    shape: tuple[int, int] | None,
    start: Tensor | None,
    schedule: Tensor,
    sources: Sequence[torch.Generator],
) -> Tensor:
    """What noise is added to first [batch, time], after checking the arguments of `sample` against each other."""
    if y is not None and operator is not None and shape is None:
        start = y if start is None else start
    elif y is None and operator is None and shape is not None:
        start = schedule.new_zeros(shape)
    else:
        raise NldiffError("sampling needs either an observation and an operator or a shape alone")
    if len(sources) != len(start):
        raise NldiffError(f"sampling: {len(sources)} random generators for {len(start)} items")
    if operator is not None and len(start) % (operator.parameter_sets or 1):
        raise NldiffError(f"sampling: {operator.parameter_sets} parameter sets of the operator for {len(start)} items")
    return start


def _require_finite(x: Tensor, step: Step, zeta: float) -> None:
    if not torch.isfinite(x).all():
        raise NldiffError(
            f"sampling diverged in step {step.index + 1} of {step.steps} (noise level {step.sigma:.2g}): "
            f"try a smaller zeta than {zeta:g} or more steps"
        )
