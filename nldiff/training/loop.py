"""The training loop that priors and comparison networks share: steps, moving average, validation, exact resume.

A `Training` describes what is particular to a kind of training: the network, its loss, its validation, its file.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from nldiff.devices import fast_dtype
from nldiff.errors import NldiffError
from nldiff.training.data import Augmentation
from nldiff.training.processes import Process, join_processes
from nldiff.training.run_files import Logs, State
from nldiff.version import __version__

Key: TypeAlias = tuple[int, int, int]
"""(step, item, length): an item of the data depends on these and on the seed alone."""


@dataclass
class LoopConfig:
    """What every training run needs; the fields of `configs/train/*.yaml` and `configs/baselines/*.yaml`.

    Attributes:
        run_dir: folder of the checkpoint, the logs and the trained network.
        train_data, val_data: folders of clean audio.
        train_weights: file name pattern to a factor on how often such files are drawn for training.
        sample_rate: rate of the network in Hz; files of other rates are resampled.
        network: name and constructor arguments of the network.
        augmentation: random changes of the crops.
        samples_per_step: audio samples in one optimiser step, over all processes.
        segment_lengths: crop lengths in samples, one of which is drawn for every step; repeat an entry to draw it more
            often.
        steps: optimiser steps in all.
        learning_rate, warmup_steps, decay_steps: linear warm-up, constant rate, linear decay to zero over the last
            `decay_steps`.
        weight_decay, betas, gradient_clip: parameters of AdamW, and the largest gradient norm.
        ema_decay, ema_ramp: moving average of the weights, d = min(ema_decay, n / (n + ema_ramp)) after n steps;
            `ema_decay=0` averages nothing.
        precision: "auto" (bfloat16 where it is faster), "bfloat16" or "float32".
        val_every, val_items, val_length: steps between validations, number and length of their fixed crops.
        checkpoint_every: steps between checkpoints.
        workers: processes that prepare crops; 0 prepares them in the training process.
        seed: seed of everything random.
        description: training data and licence, one line, stored with the network.
        wandb: log to Weights & Biases as well.
    """

    run_dir: str = "out/train"
    train_data: str = ""
    val_data: str = ""
    train_weights: dict[str, float] = field(default_factory=dict)
    sample_rate: int = 44100
    network: dict[str, Any] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)
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
    precision: str = "auto"
    val_every: int = 1000
    val_items: int = 16
    val_length: int = 131072
    checkpoint_every: int = 1000
    workers: int = 0
    seed: int = 0
    description: str = ""
    wandb: bool = False


@dataclass(frozen=True)
class StepReport:
    """Argument of the `on_step` callback, after each step."""

    step: int
    loss: float


@dataclass(frozen=True)
class Training:
    """What is particular to a kind of training.

    Attributes:
        make_network: builds the network; called once, after seeding.
        data: items by `Key`.
        losses: called with the network, a collated batch, its step and the numbers of its items; returns the loss of
            each item `[batch]`, and the values to minimise `[batch]` (the same, or bounded).
        columns: names of the values of a validation.
        validate: called with the averaged network; returns these values.
        save: called with a network and its number of steps; writes the file.
        result: path of that file.
        rate: called with the values of all validations so far; returns a factor of the learning rate, 0 to end the
            training.
        keep_best: save the network of the validation with the lowest first value, not the last one.
    """

    make_network: Callable[[], nn.Module]
    data: Dataset[Tensor]
    losses: Callable[[nn.Module, Tensor, int, Sequence[int]], tuple[Tensor, Tensor]]
    columns: Sequence[str]
    validate: Callable[[nn.Module], list[float]]
    save: Callable[[nn.Module, int], None]
    result: Path
    rate: Callable[[Sequence[Sequence[float]]], float] = lambda history: 1.0
    keep_best: bool = False


def learning_rate(config: LoopConfig, step: int) -> float:
    """Learning rate of `step`: linear warm-up, constant, linear decay to zero at `config.steps`."""
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    fall = min(1.0, (config.steps - step) / config.decay_steps) if config.decay_steps else 1.0
    return config.learning_rate * rise * fall


def segment_length(config: LoopConfig, step: int) -> int:
    """Crop length of `step`, the same in every process."""
    # Four words, unlike the seeds of the crops: shorter seeds are padded with zeros, which would repeat those.
    return int(np.random.default_rng([config.seed, step, 0, 2]).choice(config.segment_lengths))


def compute_dtype(config: LoopConfig, device: torch.device) -> torch.dtype:
    """Type of the network's arithmetic according to `config.precision`."""
    return {"auto": fast_dtype(device), "bfloat16": torch.bfloat16, "float32": torch.float32}[config.precision]


def provenance(config: LoopConfig, step: int, **particular: Any) -> dict[str, Any]:
    """Metadata of a network that `config` gives after `step` steps: what it was trained on, and with what."""
    training = {"description": config.description, "steps": step, "samples_per_step": config.samples_per_step}
    changes = {"augmentation": asdict(config.augmentation), "seed": config.seed}
    versions = {"nldiff": __version__, "torch": torch.__version__}
    return {"training": training | particular | changes, "versions": versions}


class _Batches(Sampler[list[Key]]):
    """Keys of the items of one process, step by step: items rank, rank + world, … of each step."""

    def __init__(self, config: LoopConfig, first_step: int, process: Process) -> None:
        self.config, self.first_step, self.process = config, first_step, process

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.first_step, self.config.steps):
            length = segment_length(self.config, step)
            items = range(self.process.rank, self.config.samples_per_step // length, self.process.world)
            yield [(step, item, length) for item in items]


def run(
    config: LoopConfig,
    prepare: Callable[[torch.device], Training],
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
) -> Path:
    """Train, and return the path of the trained network's file.

    Under `torchrun` every process takes its share of each step's items; the result is that of one process.
    `run_dir` gets `checkpoint.pt`, `loss.csv` (every step) and `validation.csv`.

    Args:
        config: the run.
        prepare: returns the training for a device; called after the common settings were checked.
        resume: continue from `run_dir/checkpoint.pt`, exactly as if the run had never stopped. Without it the folder
            must not hold a checkpoint.
        on_step: called after every step in the first process.

    Raises:
        NldiffError: missing data, settings that contradict each other, missing or unexpected checkpoint, a loss
            that is not finite.
    """
    process = join_processes()
    try:
        _check(config, process.world)
        return _run(config, prepare(process.device), resume, on_step, process)
    finally:
        if process.world > 1:
            dist.destroy_process_group()


def _run(
    config: LoopConfig,
    training: Training,
    resume: bool,
    on_step: Callable[[StepReport], None] | None,
    process: Process,
) -> Path:
    run_dir = Path(config.run_dir)
    checkpoint = run_dir / "checkpoint.pt"
    state = _initial_state(config, training, process.device)
    if resume:
        state.load(checkpoint)
    elif checkpoint.is_file():
        raise NldiffError(f"{run_dir} already holds a run; resume it or choose another run_dir")
    trained = DistributedDataParallel(state.network) if process.world > 1 else state.network
    wandb = asdict(config) if config.wandb else None
    logs = Logs(run_dir, training.columns, state.step, wandb) if process.first else None
    loader = DataLoader(
        training.data,
        batch_sampler=_Batches(config, state.step, process),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )

    started = time.monotonic() - state.seconds
    for batch in loader if training.rate(state.history) > 0 else ():
        loss, norm, rate = _step(config, training, state, trained, batch, process)
        state.seconds = time.monotonic() - started
        if logs:
            logs.add_step(state.step, loss, norm, rate, state.seconds)
            if on_step:
                on_step(StepReport(state.step, loss))
        if state.step % config.val_every == 0 or state.step == config.steps:
            _validate(training, state, process, logs)
        ends = state.step == config.steps or training.rate(state.history) == 0
        if process.first and (state.step % config.checkpoint_every == 0 or ends):
            # The checkpoint comes last: a run that dies in between writes this network again when it resumes.
            if not training.keep_best:
                training.save(state.average, state.step)
            state.seconds = time.monotonic() - started
            state.save(checkpoint)
        if ends:
            break
    if logs:
        logs.finish()
    return training.result


def _initial_state(config: LoopConfig, training: Training, device: torch.device) -> State:
    torch.manual_seed(config.seed)
    network = training.make_network().to(device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    return State(network, deepcopy(network).requires_grad_(False), optimiser)


def _step(
    config: LoopConfig, training: Training, state: State, trained: nn.Module, batch: Tensor, process: Process
) -> tuple[float, float, float]:
    """One optimiser step; returns the loss, the norm of the gradient before clipping, and the learning rate."""
    items = range(process.rank, process.rank + len(batch) * process.world, process.world)
    rate = learning_rate(config, state.step) * training.rate(state.history)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    losses, minimised = training.losses(trained, batch.to(process.device), state.step, items)
    state.optimiser.zero_grad(set_to_none=True)
    minimised.mean().backward()
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)
    loss = process.mean(losses.detach().mean())
    if not math.isfinite(loss):
        raise NldiffError(f"the loss is {loss} at step {state.step}: lower the learning rate or gradient_clip")
    state.optimiser.step()
    state.step += 1
    # The function of `AveragedModel`, without it: its own count of steps is not in the checkpoints.
    decay = min(config.ema_decay, state.step / (state.step + config.ema_ramp))
    get_ema_multi_avg_fn(decay)(list(state.average.parameters()), list(state.network.parameters()), state.step)
    return loss, norm.item(), rate


def _validate(training: Training, state: State, process: Process, logs: Logs | None) -> None:
    """Validate in the first process, append the values to the history of all, and keep the best network."""
    values = training.validate(state.average) if process.first else [0.0] * len(training.columns)
    state.history.append(process.from_first(values))
    if logs:
        logs.add_validation(state.step, values)
        if training.keep_best and values[0] <= min(row[0] for row in state.history):
            training.save(state.average, state.step)


def _check(config: LoopConfig, world: int) -> None:
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
    if config.precision not in ("auto", "bfloat16", "float32"):
        raise NldiffError(f"precision '{config.precision}': auto, bfloat16 or float32 expected")
