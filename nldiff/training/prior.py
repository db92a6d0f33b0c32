"""Training of a prior: noise levels, denoising loss, validation by noise level."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.networks.layers import ScoreNetwork
from nldiff.priors import save_prior
from nldiff.priors.edm import NOISE_LEVELS, EDMDenoiser, denoising_loss
from nldiff.priors.old_settings import translate_settings
from nldiff.training.data import Augmentation, Crops
from nldiff.training.loop import LoopConfig, StepReport, Training, compute_dtype, provenance, run


@dataclass
class TrainingConfig(LoopConfig):
    """Everything that defines the training of a prior; the fields of `configs/train/*.yaml`.

    Attributes:
        trains: tells `nldiff train` what the file describes.
        sigma_data: RMS level of the clean audio, the prior's level.
        noise_levels: distribution of the training noise levels: name and arguments.
        loss_cap: upper bound of one item's weighted loss, against spikes at the lowest noise levels.
        val_sigmas: noise levels of the validation.
        settings: settings of a restoration that suit this prior, stored in its file: group (sampler, cost,
            operator_fit, refinement, curve, polish) to field to value.
        sampler: the same in one flat group, as in earlier files; becomes part of `settings`.
    """

    trains: str = "prior"
    sigma_data: float = 0.06
    noise_levels: dict[str, Any] = field(default_factory=lambda: {"name": "karras"})
    loss_cap: float = math.inf
    val_sigmas: list[float] = field(default_factory=lambda: [0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Move the flat settings of earlier files into the groups; what `settings` says itself takes precedence."""
        for group, values in translate_settings(self.sampler).items() if self.sampler else ():
            self.settings[group] = {**values, **self.settings.get(group, {})}
        self.sampler = {}


def item_noise(config: TrainingConfig, step: int, item: int, length: int) -> tuple[Tensor, Tensor]:
    """Noise level (scalar) and unit-variance noise [length] of one item; they depend on seed, step and item alone."""
    seed = int(np.random.default_rng([config.seed, step, item, 1]).integers(2**63))
    generator = torch.Generator().manual_seed(seed)
    arguments = dict(config.noise_levels)
    levels = NOISE_LEVELS[arguments.pop("name")]
    return levels(torch.rand((), generator=generator), **arguments), torch.randn(length, generator=generator)


def train(config: TrainingConfig, resume: bool = False, on_step: Callable[[StepReport], None] | None = None) -> Path:
    """Train a prior and return the path of its file, `run_dir/prior.safetensors` (moving-average weights).

    See `nldiff.training.loop.run` for the arguments and the other files.

    Raises:
        NldiffError: as `run`; unknown network or noise levels.
    """
    return run(config, lambda device: _training(config, device), resume, on_step)


def _training(config: TrainingConfig, device: torch.device) -> Training:
    _check(config)
    crops = Crops(
        config.train_data, config.sample_rate, config.sigma_data, config.augmentation, config.seed, config.train_weights
    )
    validation = Crops(config.val_data, config.sample_rate, config.sigma_data, Augmentation(), config.seed)
    path = Path(config.run_dir) / "prior.safetensors"

    def network() -> ScoreNetwork:
        network = make_network(**config.network)
        network.compute_dtype = compute_dtype(config, device)
        return network

    def losses(network: nn.Module, x0: Tensor, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        noise_items = [item_noise(config, step, item, x0.shape[1]) for item in items]
        sigma = torch.stack([s for s, _ in noise_items]).to(device)
        noise = torch.stack([n for _, n in noise_items]).to(device)
        losses = denoising_loss(EDMDenoiser(network, config.sigma_data), x0, sigma, noise)
        # Rescaling keeps the direction of a spike's gradient; clamping would zero it.
        return losses, losses * (config.loss_cap / losses.detach()).clamp(max=1.0)

    return Training(
        make_network=network,
        data=crops,
        losses=losses,
        columns=[f"sigma_{s:g}" for s in config.val_sigmas],
        validate=lambda average: validate(EDMDenoiser(average, config.sigma_data), validation, config, device),
        save=lambda average, step: save_prior(path, average, prior_config(config, step)),
        result=path,
    )


def prior_config(config: TrainingConfig, step: int) -> dict[str, Any]:
    """Metadata of the prior that `config` gives after `step` steps."""
    levels = NOISE_LEVELS[config.noise_levels["name"]]
    return {
        "network": config.network,
        "sample_rate": config.sample_rate,
        "sigma_data": config.sigma_data,
        "sigma_min": config.noise_levels.get("sigma_min", signature(levels).parameters["sigma_min"].default),
        "settings": config.settings,
        **provenance(config, step, noise_levels=config.noise_levels),
    }


@torch.no_grad()
def validate(denoiser: EDMDenoiser, crops: Crops, config: TrainingConfig, device: torch.device) -> list[float]:
    """Mean weighted loss at each of `config.val_sigmas` on the first `config.val_items` fixed crops."""
    totals = []
    for index, sigma in enumerate(config.val_sigmas):
        losses = []
        for item in range(config.val_items):
            x0 = crops[0, item, config.val_length][None]
            generator = torch.Generator().manual_seed(1_000_003 * index + item)
            noise = torch.randn(x0.shape, generator=generator)
            level = torch.full((1,), sigma, device=device)
            losses.append(denoising_loss(denoiser, x0.to(device), level, noise.to(device)).item())
        totals.append(float(np.mean(losses)))
    return totals


def _check(config: TrainingConfig) -> None:
    if config.noise_levels.get("name") not in NOISE_LEVELS:
        raise NldiffError(f"noise_levels.name '{config.noise_levels.get('name')}' (known: {', '.join(NOISE_LEVELS)})")
    try:
        item_noise(config, step=0, item=0, length=1)
    except TypeError as error:
        raise NldiffError(f"noise_levels: {error}") from error
