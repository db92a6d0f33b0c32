"""Posterior sampling: blind, informed and unconditional, in one loop (Alg. 1 of Svento et al. 2025)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators.waveshapers import Waveshaper
from nldiff.priors.edm import Denoiser
from nldiff.sampling.likelihood import CompressedSTFTCost, Cost, guidance_scale

REFIT_STEPS = 5


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of the posterior sampler; the defaults are the paper's for guitar.

    Attributes:
        steps: diffusion steps.
        sigma_max, sigma_min, rho: noise schedule, see `karras_schedule`.
        churn: S_churn, amount of noise added and removed again over the whole run; 0 is deterministic.
        noise_scale: S_noise, scale of that noise.
        heun: second-order steps, twice the network evaluations.
        zeta: strength of the guidance, eq. 9.
        cost_n_fft, cost_hop: window and step of the STFT in eq. 8, samples at the prior's rate.
        through_denoiser: take the guidance gradient through the network (eq. 7); False takes it at the
            denoised estimate, which needs no backward pass.
        operator_iterations, operator_learning_rate, operator_betas: Adam steps on the curve in every
            diffusion step; Adam's state is kept from step to step.
        operator_warmup: Adam steps on the curve before the first diffusion step, with `start` as the clean signal.
        operator_segments, operator_segment_length: random pieces of each item, drawn anew in every diffusion
            step, that the curve is fitted on; 0 segments, or items that are no longer: the whole item.
        refine_iterations, refine_windows: how `restore` finds the signal once the curve is known to be increasing, see
            `nldiff.restoration.refine`; 0 leaves it to the sampler. The windows are in samples at the prior's rate.
        polish_sigma, polish_steps: noise level, at the prior's level, from which the prior then goes over the refined
            signal, and in how many steps; 0 leaves it out.
    """

    steps: int = 50
    sigma_max: float = 1.0
    sigma_min: float = 1e-5
    rho: float = 7.0
    churn: float = 20.0
    noise_scale: float = 1.0
    heun: bool = False
    zeta: float = 0.3
    cost_n_fft: int = 1024
    cost_hop: int = 256
    through_denoiser: bool = True
    operator_iterations: int = 20
    operator_learning_rate: float = 0.02
    operator_betas: tuple[float, float] = (0.9, 0.99)
    operator_warmup: int = 0
    operator_segments: int = 0
    operator_segment_length: int = 16384
    refine_iterations: int = 0
    refine_windows: tuple[int, ...] = (4096, 8192, 16384)
    polish_sigma: float = 0.0
    polish_steps: int = 6


@dataclass(frozen=True)
class Step:
    """What the callback of `sample` gets after every diffusion step.

    `sigma` is the schedule's noise level, without what churn added; `cost` is [batch], `x0` the denoised
    estimate [batch, time] at the prior's level; do not modify them.
    """

    index: int
    steps: int
    sigma: float
    cost: Tensor
    x0: Tensor
    curve: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Posterior:
    """Result of `sample`.

    Attributes:
        audio: samples from the posterior, [batch, time], at the prior's level.
        curve: the fitted waveshaper, the known distortion, or None.
        cost: eq. 8 in every diffusion step, [steps, batch]; zeros for unconditional samples.
        evaluations: network evaluations per item. Guidance through the network of more than one batch repeats
            each of them, to bound memory; that is not counted.
        seconds: wall time.
        settings, schedule: what was run.
    """

    audio: Tensor
    curve: Callable[[Tensor], Tensor] | None
    cost: Tensor
    evaluations: int
    seconds: float
    settings: SamplerSettings = field(repr=False)
    schedule: Tensor = field(repr=False)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per item: its noise then depends neither on its neighbours nor on the device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_noise(like: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """Unit-variance noise [batch, time], item i from `sources[i]`."""
    # float32 whatever the audio's type: a seed means the same noise in every precision
    draws = [torch.randn(like.shape[1], generator=source, dtype=torch.float32) for source in sources]
    return torch.stack(draws).to(like)


def level_scale(x0: Tensor, level: float, groups: int) -> Tensor:
    """Factors [batch, 1] that bring each group of consecutive items of `x0` to RMS `level`.

    Blind restoration cannot tell the scale of the signal from that of the curve, so the estimate's is held
    fixed.
    """
    rms = x0.reshape(groups, -1).square().mean(1).sqrt().clamp(min=1e-8)
    return (level / rms).repeat_interleave(len(x0) // groups)[:, None]


def sample(
    denoiser: Denoiser,
    y: Tensor | None,
    curve: Callable[[Tensor], Tensor] | None,
    schedule: Tensor,
    settings: SamplerSettings,
    sources: Sequence[torch.Generator],
    *,
    shape: tuple[int, int] | None = None,
    start: Tensor | None = None,
    level: float | None = None,
    cost: Cost | None = None,
    guidance: Callable[[Tensor, float, float], Tensor] = guidance_scale,
    batch_size: int | None = None,
    callback: Callable[[Step], None] | None = None,
) -> Posterior:
    """Draw from p(x | y) by guided reverse diffusion (Alg. 1), or from p(x) without an observation.

    Blind: `curve` is a `Waveshaper`, already reset; its parameters are fitted on the way. Informed: `curve`
    is any differentiable function, or a `Waveshaper` none of whose parameters requires a gradient.
    Unconditional: `y` and `curve` are None and `shape` says what to draw.

    Args:
        denoiser: D(x, sigma).
        y: observation [batch, time] at about the prior's level.
        curve: the distortion or its model; a `Waveshaper` with P parameter sets serves P groups of
            consecutive items.
        schedule: noise levels [steps + 1], ending with 0; the last but one not below what the denoiser was
            trained on.
        settings: everything else; `steps`, `sigma_max`, `sigma_min` and `rho` are only recorded, the schedule
            counts.
        sources: one CPU generator per item.
        shape: [batch, time] of unconditional samples.
        start: first estimate of the clean signal [batch, time], which sampling starts from; `y` by default.
        level: RMS that the estimate of each group is held at; None leaves the scale free (informed).
        cost: likelihood; eq. 8 with the STFT of `settings` by default.
        guidance: (gradient of the cost [batch, time], sigma, zeta) -> factors of that gradient [batch]; eq. 9
            by default. With a negative log-likelihood as the cost and factors of 1 the guidance is the
            likelihood score itself.
        batch_size: items in one network call, to bound memory; all by default. The result does not depend on
            it.
        callback: called after every step.

    Returns:
        The samples with the fitted curve and the cost trace.

    Raises:
        NldiffError: the arguments do not fit together, or the state stopped being finite.
    """
    started = time.monotonic()
    if y is not None and curve is not None and shape is None:
        start = y if start is None else start
    elif y is None and curve is None and shape is not None:
        start = schedule.new_zeros(shape)
    else:
        raise NldiffError("sampling needs either an observation and a curve or a shape alone")
    items = len(start)
    if len(sources) != items:
        raise NldiffError(f"sampling: {len(sources)} random generators for {items} items")
    batch_size = min(batch_size or items, items)
    cost = cost or _cost(settings)
    waveshaper = curve if isinstance(curve, Waveshaper) else None
    groups = waveshaper.batch if waveshaper is not None else items
    optimiser = None
    if waveshaper is not None and any(parameter.requires_grad for parameter in waveshaper.parameters()):
        optimiser = _adam(waveshaper, settings)
    compare = cost.prepare(start if y is None else y)
    evaluations = 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return denoiser(x, x.new_full((len(x),), sigma))

    def guided(x: Tensor, sigma: float, fit: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Denoised estimate, slope dx/dsigma of the guided ODE and cost at one noise level."""
        nonlocal evaluations
        leaves = [part.detach() for part in x.split(batch_size)]
        through = y is not None and settings.through_denoiser
        # The graph of a single part is kept for the guidance; those of several are made again, one at a time.
        keep = through and len(leaves) == 1
        with torch.set_grad_enabled(keep):
            parts = [denoise(leaf.requires_grad_(keep), sigma) for leaf in leaves]
        evaluations += 1
        x0 = torch.cat([part.detach() for part in parts])
        scale = x.new_ones(items, 1) if level is None else level_scale(x0, level, groups)
        x0 = x0 * scale
        slope = (x - x0) / sigma
        if y is None or curve is None:
            return x0, slope, x.new_zeros(items)
        if waveshaper is not None and optimiser is not None and fit:
            _fit(waveshaper, optimiser, cost, x0, y, settings, sources, settings.operator_iterations)
        estimate = x0.clone().requires_grad_(True)
        value = compare(curve(estimate))
        (gradient,) = torch.autograd.grad(value.sum(), estimate)
        if through:
            seeds = (gradient * scale).split(batch_size)
            pulled = []
            for leaf, part, seed in zip(leaves, parts, seeds, strict=True):
                if not keep:
                    part = denoise(leaf.requires_grad_(True), sigma)
                pulled.append(torch.autograd.grad(part, leaf, seed)[0])
            gradient = torch.cat(pulled)
        score = -guidance(gradient, sigma, settings.zeta)[:, None] * gradient
        return x0, slope - sigma * score, value.detach()

    if waveshaper is not None and optimiser is not None and y is not None and settings.operator_warmup:
        _fit(waveshaper, optimiser, cost, start, y, settings, sources, settings.operator_warmup)
    levels = schedule.tolist()
    steps = len(levels) - 1
    x = start + levels[0] * draw_noise(start, sources)
    gamma = min(settings.churn / steps, 2**0.5 - 1)
    trace = []
    for index, (sigma, following) in enumerate(pairwise(levels)):
        raised = sigma * (1 + gamma)
        if gamma:
            extra = settings.noise_scale * (raised**2 - sigma**2) ** 0.5
            x = x + extra * draw_noise(x, sources)
        x0, slope, costs = guided(x, raised, fit=True)
        change = following - raised
        ahead = x + change * slope
        if settings.heun and following > 0:
            _, second, _ = guided(ahead, following, fit=False)
            ahead = x + change * (slope + second) / 2
        x = ahead
        if not torch.isfinite(x).all():
            raise NldiffError(
                f"sampling diverged in step {index + 1} of {steps} (noise level {sigma:.2g}): "
                f"try a smaller zeta than {settings.zeta:g} or more steps"
            )
        trace.append(costs)
        if callback is not None:
            callback(Step(index, steps, sigma, costs, x0, curve))
    seconds = time.monotonic() - started
    return Posterior(x, curve, torch.stack(trace), evaluations, seconds, settings, schedule)


def fit_operator(
    waveshaper: Waveshaper,
    x: Tensor,
    y: Tensor,
    settings: SamplerSettings,
    sources: Sequence[torch.Generator],
) -> None:
    """Fit the curve to known signals, with as many Adam steps as it gets in `REFIT_STEPS` diffusion steps.

    Args:
        waveshaper: changed in place.
        x: clean signals [batch, time].
        y: observed signals [batch, time].
        settings: those of the operator and of the cost.
        sources: one CPU generator per item.
    """
    optimiser = _adam(waveshaper, settings)
    for _ in range(REFIT_STEPS):
        _fit(waveshaper, optimiser, _cost(settings), x, y, settings, sources, settings.operator_iterations)


def _cost(settings: SamplerSettings) -> Cost:
    return CompressedSTFTCost(settings.cost_n_fft, settings.cost_hop)


def _adam(waveshaper: Waveshaper, settings: SamplerSettings) -> torch.optim.Optimizer:
    return torch.optim.Adam(waveshaper.parameters(), lr=settings.operator_learning_rate, betas=settings.operator_betas)


def _fit(
    waveshaper: Waveshaper,
    optimiser: torch.optim.Optimizer,
    cost: Cost,
    x0: Tensor,
    y: Tensor,
    settings: SamplerSettings,
    sources: Sequence[torch.Generator],
    iterations: int,
) -> None:
    """Adam steps on the curve for a fixed denoised estimate: the inner loop of Alg. 1."""
    count, length = settings.operator_segments, settings.operator_segment_length
    if count and x0.shape[1] > length:
        beyond = x0.shape[1] - length + 1
        starts = torch.stack([torch.randint(beyond, (count,), generator=source) for source in sources])
        where = starts.to(x0.device)[:, :, None] + torch.arange(length, device=x0.device)
        x0 = x0.gather(1, where.flatten(1)).reshape(-1, length)
        y = y.gather(1, where.flatten(1)).reshape(-1, length)
    shaped, compare = waveshaper.prepare(x0), cost.prepare(y)
    for _ in range(iterations):
        optimiser.zero_grad(set_to_none=True)
        compare(shaped()).sum().backward()
        optimiser.step()
