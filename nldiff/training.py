"""Training of a prior: the loop, moving average, validation by noise level, checkpoints and exact resume."""

import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

import nldiff
from nldiff.audio import atomic_path
from nldiff.data import Augmentation, Crops
from nldiff.diffusion import NOISE_LEVELS, EDMDenoiser, denoising_loss
from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.priors import fast_dtype, save_prior


@dataclass
class TrainingConfig:
    """Everything that defines a training run; the fields of `configs/train/*.yaml`.

    Attributes:
        run_dir: folder of the checkpoint, the logs and the prior.
        train_data, val_data: folders of clean audio.
        train_weights: file name patterns and how many times as often such files are drawn for training.
        sample_rate: rate of the prior in Hz; files of other rates are resampled.
        sigma_data: RMS level of the data.
        network: name and constructor arguments of the score network.
        augmentation: random changes of the crops.
        noise_levels: distribution of the training noise levels: name and arguments.
        samples_per_step: audio samples in one optimiser step, over all processes.
        segment_lengths: crop lengths in samples, one drawn per step; repeat an entry to draw it more often.
        steps: optimiser steps in all.
        learning_rate, warmup_steps, decay_steps: linear warm-up, constant, linear decay to zero over the last
            `decay_steps`.
        weight_decay, betas, gradient_clip: AdamW and the largest gradient norm.
        ema_decay, ema_ramp: moving average of the weights, d = min(ema_decay, n / (n + ema_ramp)) after n steps.
        loss_cap: upper bound of one item's weighted loss, against spikes at the lowest noise levels.
        precision: "auto" (bfloat16 where it is faster), "bfloat16" or "float32".
        val_every, val_items, val_length, val_sigmas: validation on fixed crops at fixed noise levels.
        checkpoint_every: steps between checkpoints.
        workers: processes that prepare crops; 0 prepares them in the training process.
        seed: seed of weights, crops and noise.
        sampler: sampler settings to store in the prior.
        description: training data and licence, one line, stored in the prior.
        wandb: log to Weights & Biases as well.
    """

    run_dir: str = "out/train"
    train_data: str = ""
    val_data: str = ""
    train_weights: dict[str, float] = field(default_factory=dict)
    sample_rate: int = 44100
    sigma_data: float = 0.06
    network: dict[str, Any] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)
    noise_levels: dict[str, Any] = field(default_factory=lambda: {"name": "karras"})
    samples_per_step: int = 4 * 262144
    segment_lengths: list[int] = field(default_factory=lambda: [262144])
    steps: int = 300_000
    learning_rate: float = 2e-5
    warmup_steps: int = 0
    decay_steps: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 1.0
    ema_decay: float = 0.9999
    ema_ramp: float = 10_000
    loss_cap: float = math.inf
    precision: str = "auto"
    val_every: int = 1000
    val_items: int = 16
    val_length: int = 131072
    val_sigmas: list[float] = field(default_factory=lambda: [0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    checkpoint_every: int = 1000
    workers: int = 0
    seed: int = 0
    sampler: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    wandb: bool = False


@dataclass(frozen=True)
class StepReport:
    """What the `on_step` callback of `train` gets."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class _Process:
    """This process among those that `torchrun` started; a lone one without it."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of `step`: linear warm-up, constant, linear decay to zero at `config.steps`."""
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    fall = min(1.0, (config.steps - step) / config.decay_steps) if config.decay_steps else 1.0
    return config.learning_rate * rise * fall


def segment_length(config: TrainingConfig, step: int) -> int:
    """Crop length of `step`, the same in every process."""
    # Four words, like `item_noise`: shorter seeds are filled up with zeros and would repeat those of the crops.
    return int(np.random.default_rng([config.seed, step, 0, 2]).choice(config.segment_lengths))


def item_noise(config: TrainingConfig, step: int, item: int, length: int) -> tuple[Tensor, Tensor]:
    """Noise level (scalar) and unit-variance noise [length] of one item; a function of seed, step and item alone."""
    seed = int(np.random.default_rng([config.seed, step, item, 1]).integers(2**63))
    generator = torch.Generator().manual_seed(seed)
    arguments = dict(config.noise_levels)
    levels = NOISE_LEVELS[arguments.pop("name")]
    return levels(torch.rand((), generator=generator), **arguments), torch.randn(length, generator=generator)


class _Batches(Sampler[list[tuple[int, int, int]]]):
    """Keys of the crops of one process, step by step: items rank, rank + world, … of each step."""

    def __init__(self, config: TrainingConfig, first_step: int, process: _Process) -> None:
        self.config, self.first_step, self.process = config, first_step, process

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.first_step, self.config.steps):
            length = segment_length(self.config, step)
            items = range(self.process.rank, self.config.samples_per_step // length, self.process.world)
            yield [(step, item, length) for item in items]


def train(config: TrainingConfig, resume: bool = False, on_step: Callable[[StepReport], None] | None = None) -> Path:
    """Train a prior and return the path of its file, `run_dir/prior.safetensors` (moving-average weights).

    Started by `torchrun`, every process takes its share of each step's items; the result is that of one process.
    `run_dir` gets `checkpoint.pt`, `loss.csv` (every step) and `validation.csv`.

    Args:
        config: the run.
        resume: continue from `run_dir/checkpoint.pt`; weights, average, optimiser and the position in the data and
            in the random numbers go on exactly. Without it the folder must not hold a checkpoint.
        on_step: called after every step in the first process.

    Raises:
        NldiffError: missing data, settings that contradict each other, missing or unexpected checkpoint, a loss
            that is not finite.
    """
    process = _start_process()
    try:
        return _train(config, resume, on_step, process)
    finally:
        if process.world > 1:
            dist.destroy_process_group()


def _train(
    config: TrainingConfig, resume: bool, on_step: Callable[[StepReport], None] | None, process: _Process
) -> Path:
    run_dir, device = Path(config.run_dir), process.device
    _check(config, process.world)
    crops = Crops(
        config.train_data, config.sample_rate, config.sigma_data, config.augmentation, config.seed, config.train_weights
    )
    validation = Crops(config.val_data, config.sample_rate, config.sigma_data, Augmentation(), config.seed)

    torch.manual_seed(config.seed)
    network = make_network(**config.network).to(device)
    average = make_network(**config.network).to(device).requires_grad_(False)
    average.load_state_dict(network.state_dict())
    dtypes = {"auto": fast_dtype(device), "bfloat16": torch.bfloat16, "float32": torch.float32}
    network.compute_dtype = average.compute_dtype = dtypes[config.precision]
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    checkpoint = run_dir / "checkpoint.pt"
    step, seconds_before = 0, 0.0
    if resume:
        if not checkpoint.is_file():
            raise NldiffError(f"nothing to resume: {checkpoint} does not exist")
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            step, seconds_before = state["step"], state["seconds"]
        except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            reason = str(error).partition("\n")[0] or "it ends too early"
            raise NldiffError(f"{checkpoint} is damaged or belongs to another configuration: {reason}") from error
    elif checkpoint.is_file():
        raise NldiffError(f"{run_dir} already holds a run; resume it or choose another run_dir")

    trained = DistributedDataParallel(network) if process.world > 1 else network
    denoiser = EDMDenoiser(trained, config.sigma_data)
    first = process.rank == 0
    log, val_log = run_dir / "loss.csv", run_dir / "validation.csv"
    if first:
        _start_log(log, ["step", "loss", "gradient_norm", "learning_rate", "seconds"], step)
        _start_log(val_log, ["step", *(f"sigma_{s:g}" for s in config.val_sigmas)], step)
    wandb_run = _start_wandb(config) if first and config.wandb else None

    loader = DataLoader(
        crops,
        batch_sampler=_Batches(config, step, process),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    started = time.monotonic()
    for x0 in loader:
        items = range(process.rank, process.rank + len(x0) * process.world, process.world)
        noise_items = [item_noise(config, step, item, x0.shape[1]) for item in items]
        sigma = torch.stack([s for s, _ in noise_items]).to(device)
        noise = torch.stack([n for _, n in noise_items]).to(device)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        losses = denoising_loss(denoiser, x0.to(device), sigma, noise)
        # Rescaling keeps the direction of a spike's gradient, clamping would drop it.
        capped = losses * (config.loss_cap / losses.detach()).clamp(max=1.0)
        optimiser.zero_grad(set_to_none=True)
        capped.mean().backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
        loss = _mean_over_processes(losses.detach().mean(), process)
        if not math.isfinite(loss):
            raise NldiffError(f"the loss is {loss} at step {step}: lower the learning rate or set loss_cap")
        optimiser.step()
        step += 1
        decay = min(config.ema_decay, step / (step + config.ema_ramp))
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)

        if first:
            seconds = time.monotonic() - started
            row = [step, loss, norm.item(), optimiser.param_groups[0]["lr"], seconds_before + seconds]
            _append(log, row)
            if on_step:
                on_step(StepReport(step, config.steps, loss))
            if wandb_run:
                wandb_run.log({"loss": loss, "gradient_norm": row[2]}, step=step)
            if step % config.val_every == 0 or step == config.steps:
                by_level = validate(EDMDenoiser(average, config.sigma_data), validation, config, device)
                _append(val_log, [step, *by_level])
                if wandb_run:
                    named = {f"val/{s:g}": v for s, v in zip(config.val_sigmas, by_level, strict=True)}
                    wandb_run.log(named, step=step)
            if step % config.checkpoint_every == 0 or step == config.steps:
                # The checkpoint comes last: a run that dies in between writes this prior again when it resumes.
                save_prior(run_dir / "prior.safetensors", average, prior_config(config, step))
                with atomic_path(checkpoint) as temporary:
                    torch.save(
                        {
                            "network": network.state_dict(),
                            "average": average.state_dict(),
                            "optimiser": optimiser.state_dict(),
                            "step": step,
                            "seconds": seconds_before + time.monotonic() - started,
                        },
                        temporary,
                    )
    if wandb_run:
        wandb_run.finish()
    return run_dir / "prior.safetensors"


def prior_config(config: TrainingConfig, step: int) -> dict[str, Any]:
    """Metadata of the prior that `config` gives after `step` steps."""
    levels = NOISE_LEVELS[config.noise_levels["name"]]
    return {
        "network": config.network,
        "sample_rate": config.sample_rate,
        "sigma_data": config.sigma_data,
        "sigma_min": config.noise_levels.get("sigma_min", signature(levels).parameters["sigma_min"].default),
        "sampler": config.sampler,
        "training": {
            "description": config.description,
            "steps": step,
            "samples_per_step": config.samples_per_step,
            "noise_levels": config.noise_levels,
            "augmentation": asdict(config.augmentation),
            "seed": config.seed,
        },
        "versions": {"nldiff": nldiff.__version__, "torch": torch.__version__},
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


def _check(config: TrainingConfig, world: int) -> None:
    for key in ("train_data", "val_data"):
        if not getattr(config, key):
            raise NldiffError(f"{key} is not set: a folder of audio files expected")
    if min(config.segment_lengths, default=0) <= 0:
        raise NldiffError(f"segment_lengths={config.segment_lengths}: one or more positive lengths expected")
    for length in config.segment_lengths:
        items = config.samples_per_step // length
        if items == 0 or items % world:
            raise NldiffError(
                f"samples_per_step={config.samples_per_step} makes {items} items of {length} samples: "
                f"a positive multiple of the {world} process(es) expected"
            )
    if config.noise_levels.get("name") not in NOISE_LEVELS:
        raise NldiffError(f"noise_levels.name '{config.noise_levels.get('name')}' (known: {', '.join(NOISE_LEVELS)})")
    try:
        item_noise(config, step=0, item=0, length=1)
    except TypeError as error:
        raise NldiffError(f"noise_levels: {error}") from error
    if config.precision not in ("auto", "bfloat16", "float32"):
        raise NldiffError(f"precision '{config.precision}': auto, bfloat16 or float32 expected")


def _start_process() -> _Process:
    """Join the process group that `torchrun` describes in the environment."""
    if "RANK" not in os.environ:
        return _Process(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return _Process(dist.get_rank(), dist.get_world_size(), device)


def _mean_over_processes(value: Tensor, process: _Process) -> float:
    if process.world > 1:
        dist.all_reduce(value)
        value = value / process.world
    return value.item()


def _start_log(path: Path, header: list[str], step: int) -> None:
    """Begin a log, or cut an existing one back to the rows up to `step`: those after it will be written again."""
    rows = []
    if step and path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in list(csv.reader(file))[1:] if int(row[0]) <= step]
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _append(path: Path, row: list[Any]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file).writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])


def _start_wandb(config: TrainingConfig) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise NldiffError('wandb=true needs wandb: pip install "nldiff[wandb]"') from error
    return wandb.init(project="nldiff", config=asdict(config), dir=config.run_dir)
