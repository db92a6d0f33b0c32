"""Supervised training of the comparison networks: clean crops, distorted on the fly, and the network's SDR.

As in Imort et al. (2022), section 5.2, and for the baseline of Švento et al. (2025), section 3.2.1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from nldiff.baselines.networks import make_network
from nldiff.baselines.saved import apply_network, save_baseline
from nldiff.errors import NldiffError
from nldiff.metrics.sdr import sdr, si_sdr
from nldiff.operators import Recipe, parse_operator
from nldiff.training.data import Augmentation, Crops
from nldiff.training.loop import Key, LoopConfig, StepReport, Training, compute_dtype, provenance, run

# Energy that keeps the logarithm finite; a crop at level 0.06 has 0.0036 a sample.
_TINY = 1e-8
_WEIGHTS_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class SupervisedConfig(LoopConfig):
    """Everything that defines the training of a comparison network; the fields of `configs/baselines/*.yaml`.

    Unlike `LoopConfig`, the defaults are eight crops of 2 s at 16 kHz a step, Adam without weight decay, and no moving
    average.

    Attributes:
        level: RMS of the clean audio, before the random level of the augmentation.
        distortions: one of them is drawn for every item: `name`, and each parameter either a number or a range
            `[low, high]` from which it is drawn uniformly. Names and parameters are those of
            `nldiff.operators.parse_operator`, `sdr` and `mix` among them. A chain, `hard_clip:sdr=3 > overdrive`, is a
            name too; the parameters are those of its last distortion.
        val_distortions: distortions of the validation, as texts: `hard_clip:sdr=3`.
        patience: divide the learning rate by 10 after this many validations without a new minimum of the loss; 0:
            never.
        stop_patience: end the training after this many validations without a new minimum; 0: only at `steps`.
        input_level: level by which the network's input is divided, see `apply_network`; null: the RMS of every item.
        weights_dtype: type of the numbers in the file: "bfloat16" or "float32".
    """

    sample_rate: int = 16000
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(3.0, 2.5, 2.0, True))
    samples_per_step: int = 8 * 32000
    segment_lengths: list[int] = field(default_factory=lambda: [32000])
    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 5000
    weight_decay: float = 0.0
    gradient_clip: float = 5.0
    ema_decay: float = 0.0
    val_every: int = 250
    val_length: int = 32000
    checkpoint_every: int = 250
    workers: int = 1
    level: float = 0.06
    distortions: list[dict[str, Any]] = field(default_factory=list)
    val_distortions: list[str] = field(default_factory=list)
    patience: int = 0
    stop_patience: int = 0
    input_level: float | None = None
    weights_dtype: str = "bfloat16"


def draw_recipe(distortions: Sequence[Mapping[str, Any]], random: np.random.Generator) -> Recipe:
    """Draw one of `SupervisedConfig.distortions` and its parameters."""
    entry = distortions[int(random.integers(len(distortions)))]
    # Sorted: the order in which a file lists the parameters must not matter.
    keys = sorted(entry.keys() - {"name"})
    return _recipe(str(entry["name"]), {key: float(random.uniform(*_ends(entry[key]))) for key in keys})


class Pairs(Dataset[Tensor]):
    """Clean crops and what the distortions make of them, `[2, length]` (clean, distorted) by (step, item, length).

    Which distortion an item gets, and how strong, depends on seed, step and item alone, as its crop does.

    Raises:
        NldiffError: when indexed, as `Crops`; the input SDR drawn cannot be reached with the crop.
    """

    def __init__(self, crops: Crops, distortions: Sequence[Mapping[str, Any]]) -> None:
        self.crops, self.distortions = crops, distortions

    def __getitem__(self, key: Key) -> Tensor:
        """Pair number `item` of `step`, [2, length] float32."""
        step, item, _ = key
        recipe = draw_recipe(self.distortions, np.random.default_rng([self.crops.seed, step, item, 3]))
        return distorted_pair(self.crops[key], recipe)


def distorted_pair(x: Tensor, recipe: Recipe) -> Tensor:
    """`x` [time] and its distortion as [2, time]."""
    return torch.stack([x, recipe.build(x)(x)])


def negative_sdr(x: Tensor, estimate: Tensor) -> Tensor:
    """Loss of eq. 5 of Imort et al. (2022), `-10 log10(‖x‖² / ‖x - estimate‖²)` in dB; [batch, time] -> [batch]."""
    error = (x - estimate).square().sum(dim=-1)
    return 10 * torch.log10((error + _TINY) / (x.square().sum(dim=-1) + _TINY))


def plateau_rate(losses: Sequence[float], patience: int, stop_patience: int) -> float:
    """Factor of the learning rate after validations with these losses; 0 ends the training.

    The factor is divided by 10 after every `patience` losses in a row without a new minimum, and is 0 after
    `stop_patience` of them; a patience of 0 switches this off.
    """
    best, factor, since_best, since_change = float("inf"), 1.0, 0, 0
    for loss in losses:
        since_best, since_change = since_best + 1, since_change + 1
        if loss < best:
            best, since_best, since_change = loss, 0, 0
        if stop_patience and since_best >= stop_patience:
            return 0.0
        if patience and since_change == patience:
            factor, since_change = factor / 10, 0
    return factor


def train_supervised(
    config: SupervisedConfig, resume: bool = False, on_step: Callable[[StepReport], None] | None = None
) -> Path:
    """Train a comparison network and return the path of its file, `run_dir/baseline.safetensors`.

    The file holds the network of the lowest validation loss. See `nldiff.training.loop.run` for the arguments and the
    other files.

    Raises:
        NldiffError: as `run`; unknown network or distortions.
    """
    return run(config, lambda device: _training(config, device), resume, on_step)


def _training(config: SupervisedConfig, device: torch.device) -> Training:
    recipes = _checked_recipes(config)
    crops = Crops(
        config.train_data, config.sample_rate, config.level, config.augmentation, config.seed, config.train_weights
    )
    validation = validation_pairs(config, recipes)
    path = Path(config.run_dir) / "baseline.safetensors"
    dtype, weights_dtype = compute_dtype(config, device), _WEIGHTS_DTYPES[config.weights_dtype]

    def losses(network: nn.Module, pairs: Tensor, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, y = pairs.unbind(dim=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            estimate = apply_network(network, y, config.input_level)
        losses = negative_sdr(x, estimate.float())
        return losses, losses

    return Training(
        make_network=lambda: make_network(**config.network),
        data=Pairs(crops, config.distortions),
        losses=losses,
        columns=["loss", "si_sdr", *config.val_distortions],
        validate=lambda network: validate(network, validation, device, config.input_level),
        save=lambda network, step: save_baseline(path, network, baseline_config(config, step), weights_dtype),
        result=path,
        rate=lambda history: plateau_rate([row[0] for row in history], config.patience, config.stop_patience),
        keep_best=True,
    )


def validation_pairs(config: SupervisedConfig, recipes: Sequence[Recipe]) -> list[Tensor]:
    """The fixed crops of the validation, distorted by each of `recipes`: tensors [val_items, 2, val_length]."""
    crops = Crops(config.val_data, config.sample_rate, config.level, Augmentation(), config.seed)
    clean = [crops[0, item, config.val_length] for item in range(config.val_items)]
    return [torch.stack([distorted_pair(x, recipe) for x in clean]) for recipe in recipes]


@torch.no_grad()
def validate(
    network: nn.Module, validation: Sequence[Tensor], device: torch.device, input_level: float | None = None
) -> list[float]:
    """Mean loss and SI-SDR over all of `validation_pairs`, then the mean SDR of each distortion; all in dB."""
    by_task, scale_invariant = [], []
    for pairs in validation:
        # In float32 and one by one, as in a restoration.
        estimates = torch.cat([apply_network(network, y[None].to(device), input_level).cpu() for y in pairs[:, 1]])
        by_task.append(float(sdr(pairs[:, 0], estimates).mean()))
        scale_invariant.append(float(si_sdr(pairs[:, 0], estimates).mean()))
    return [-float(np.mean(by_task)), float(np.mean(scale_invariant)), *by_task]


def baseline_config(config: SupervisedConfig, step: int) -> dict[str, Any]:
    """Metadata of the network that `config` gives after `step` steps."""
    return {
        "network": config.network,
        "sample_rate": config.sample_rate,
        "level": config.level,
        "input_level": config.input_level,
        "task": sorted({parse_operator(str(entry["name"])).family for entry in config.distortions}),
        **provenance(config, step, distortions=config.distortions),
    }


def _ends(value: Any) -> tuple[float, float]:
    """Both ends of a parameter's range; a number is both."""
    low, high = value if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    return float(low), float(high)


def _recipe(name: str, params: Mapping[str, float]) -> Recipe:
    """The distortion or chain of a name; `params` are those of its last distortion."""
    assignments = ",".join(f"{key}={value!r}" for key, value in params.items())
    return parse_operator(f"{name}:{assignments}" if assignments else name)


def _checked_recipes(config: SupervisedConfig) -> list[Recipe]:
    """The distortions of the validation, after checking those of the training and the network's file as well."""
    if config.weights_dtype not in _WEIGHTS_DTYPES:
        raise NldiffError(f"weights_dtype '{config.weights_dtype}': {' or '.join(_WEIGHTS_DTYPES)} expected")
    if config.input_level is not None and config.input_level <= 0:
        raise NldiffError(f"input_level={config.input_level:g}: a positive level or null expected")
    if not config.distortions or not config.val_distortions:
        raise NldiffError("distortions and val_distortions: at least one of each expected")
    for entry in config.distortions:
        try:
            ends = {key: _ends(value) for key, value in entry.items() if key != "name"}
        except (TypeError, ValueError):
            raise NldiffError(f"distortions: {entry}: a number or [low, high] expected for each parameter") from None
        if any(low > high for low, high in ends.values()):
            raise NldiffError(f"distortions: {entry}: low is above high")
        for end in (0, 1):
            _recipe(str(entry.get("name")), {key: value[end] for key, value in ends.items()})
    return [parse_operator(text) for text in config.val_distortions]
