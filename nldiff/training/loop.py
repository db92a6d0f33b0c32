"""The training loop that priors and supervised networks share: steps, moving average, logs, checkpoints, exact resume.

What is particular to a kind of training (the network, its loss, its validation, its file) is a `Job`.
"""

import csv
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler

from nldiff.devices import fast_dtype
from nldiff.errors import NldiffError
from nldiff.training.data import Augmentation
from nldiff.writing import atomic_path

if dist.is_available():
    # Imported first by DistributedDataParallel, it would keep the process group in default arguments for ever: the
    # threads of Gloo would go on while the interpreter ends, which aborts the process now and then.
    import torch.distributed.nn.functional

Key: TypeAlias = tuple[int, int, int]
"""(step, item, length): all that the data of an item depends on, besides the seed."""


@dataclass
class LoopConfig:
    """What every training run needs; fields of `configs/train/*.yaml` and `configs/baselines/*.yaml`.

    Attributes:
        run_dir: folder of the checkpoint, the logs and the trained network.
        train_data, val_data: folders of clean audio.
        train_weights: file name patterns and how many times as often such files are drawn for training.
        sample_rate: rate of the network in Hz; files of other rates are resampled.
        network: name and constructor arguments of the network.
        augmentation: random changes of the crops.
        samples_per_step: audio samples in one optimiser step, over all processes.
        segment_lengths: crop lengths in samples, one drawn per step; repeat an entry to draw it more often.
        steps: optimiser steps in all.
        learning_rate, warmup_steps, decay_steps: linear warm-up, constant, linear decay to zero over the last
            `decay_steps`.
        weight_decay, betas, gradient_clip: AdamW and the largest gradient norm.
        ema_decay, ema_ramp: moving average of the weights, d = min(ema_decay, n / (n + ema_ramp)) after n steps;
            an `ema_decay` of 0 takes the weights as they are.
        precision: "auto" (bfloat16 where it is faster), "bfloat16" or "float32".
        val_every, val_items, val_length: steps between validations, number and length of the fixed crops for them.
        checkpoint_every: steps between checkpoints.
        workers: processes that prepare crops; 0 prepares them in the training process.
        seed: seed of weights, crops and everything else that is random.
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
    """What the `on_step` callback of a training gets."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Process:
    """This process among those that `torchrun` started; a lone one without it."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))


@dataclass(frozen=True)
class Job:
    """What is particular to a kind of training.

    Attributes:
        make_network: builds the network; called after seeding, twice: the second one becomes the moving average.
        data: items by `Key`.
        losses: from the network, a collated batch, its step and the numbers of its items to the loss of each
            item `[batch]`, and what of it is to be minimised (the same, or bounded).
        columns: names of the values of a validation.
        validate: from the averaged network to these values.
        save: writes the file of a network that was trained for some steps.
        result: path of that file.
        rate: from the validations so far to a factor of the learning rate; 0 ends the training.
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
    # Four words, like all seeds but those of the crops: shorter ones are filled up with zeros and would repeat them.
    return int(np.random.default_rng([config.seed, step, 0, 2]).choice(config.segment_lengths))


def compute_dtype(config: LoopConfig, device: torch.device) -> torch.dtype:
    """Type of the network's arithmetic according to `config.precision`."""
    return {"auto": fast_dtype(device), "bfloat16": torch.bfloat16, "float32": torch.float32}[config.precision]


class _Batches(Sampler[list[Key]]):
    """Keys of the crops of one process, step by step: items rank, rank + world, … of each step."""

    def __init__(self, config: LoopConfig, first_step: int, process: Process) -> None:
        self.config, self.first_step, self.process = config, first_step, process

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.first_step, self.config.steps):
            length = segment_length(self.config, step)
            items = range(self.process.rank, self.config.samples_per_step // length, self.process.world)
            yield [(step, item, length) for item in items]


def run(
    config: LoopConfig,
    prepare: Callable[[torch.device], Job],
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
) -> Path:
    """Train, and return the path of the trained network's file.

    Started by `torchrun`, every process takes its share of each step's items; the result is that of one process.
    `run_dir` gets `checkpoint.pt`, `loss.csv` (every step) and `validation.csv`.

    Args:
        config: the run.
        prepare: makes the job for a device, after the settings common to all trainings were checked.
        resume: continue from `run_dir/checkpoint.pt`; weights, average, optimiser and the position in the data and
            in the random numbers go on exactly. Without it the folder must not hold a checkpoint.
        on_step: called after every step in the first process.

    Raises:
        NldiffError: missing data, settings that contradict each other, missing or unexpected checkpoint, a loss
            that is not finite.
    """
    process = _start_process()
    try:
        _check(config, process.world)
        return _run(config, prepare(process.device), resume, on_step, process)
    finally:
        if process.world > 1:
            dist.destroy_process_group()


def _run(
    config: LoopConfig, job: Job, resume: bool, on_step: Callable[[StepReport], None] | None, process: Process
) -> Path:
    run_dir, device = Path(config.run_dir), process.device
    torch.manual_seed(config.seed)
    network = job.make_network().to(device)
    average = job.make_network().to(device).requires_grad_(False)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    checkpoint = run_dir / "checkpoint.pt"
    step, seconds_before = 0, 0.0
    history: list[list[float]] = []
    if resume:
        step, seconds_before, history = _load_checkpoint(checkpoint, network, average, optimiser)
    elif checkpoint.is_file():
        raise NldiffError(f"{run_dir} already holds a run; resume it or choose another run_dir")

    trained = DistributedDataParallel(network) if process.world > 1 else network
    first = process.rank == 0
    log, val_log = run_dir / "loss.csv", run_dir / "validation.csv"
    if first:
        _start_log(log, ["step", "loss", "gradient_norm", "learning_rate", "seconds"], step)
        _start_log(val_log, ["step", *job.columns], step)
    wandb_run = _start_wandb(config) if first and config.wandb else None

    loader = DataLoader(
        job.data,
        batch_sampler=_Batches(config, step, process),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    started = time.monotonic()
    for batch in loader if job.rate(history) > 0 else ():
        items = range(process.rank, process.rank + len(batch) * process.world, process.world)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step) * job.rate(history)
        losses, minimised = job.losses(trained, batch.to(device), step, items)
        optimiser.zero_grad(set_to_none=True)
        minimised.mean().backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
        loss = _mean_over_processes(losses.detach().mean(), process)
        if not math.isfinite(loss):
            raise NldiffError(f"the loss is {loss} at step {step}: lower the learning rate or gradient_clip")
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
            values = job.validate(average) if first else [0.0] * len(job.columns)
            history.append(_from_first_process(values, process))
            if first:
                _append(val_log, [step, *values])
                if wandb_run:
                    names = [f"val/{name.removeprefix('sigma_')}" for name in job.columns]
                    wandb_run.log(dict(zip(names, values, strict=True)), step=step)
                if job.keep_best and values[0] <= min(row[0] for row in history):
                    job.save(average, step)
        ends = step == config.steps or job.rate(history) == 0
        if first and (step % config.checkpoint_every == 0 or ends):
            # The checkpoint comes last: a run that dies in between writes this network again when it resumes.
            if not job.keep_best:
                job.save(average, step)
            with atomic_path(checkpoint) as temporary:
                torch.save(
                    {
                        "network": network.state_dict(),
                        "average": average.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step,
                        "history": history,
                        "seconds": seconds_before + time.monotonic() - started,
                    },
                    temporary,
                )
        if ends:
            break
    if wandb_run:
        wandb_run.finish()
    return job.result


def _load_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, float, list[list[float]]]:
    """Restore the state of a run; returns its step, its seconds of training and its validations."""
    if not path.is_file():
        raise NldiffError(f"nothing to resume: {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        return state["step"], state["seconds"], state["history"]
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise NldiffError(f"{path} is damaged or belongs to another configuration: {reason}") from error


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


def _start_process() -> Process:
    """Join the process group that `torchrun` describes in the environment."""
    if "RANK" not in os.environ:
        return Process(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return Process(dist.get_rank(), dist.get_world_size(), device)


def _mean_over_processes(value: Tensor, process: Process) -> float:
    if process.world > 1:
        dist.all_reduce(value)
        value = value / process.world
    return value.item()


def _from_first_process(values: list[float], process: Process) -> list[float]:
    if process.world == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=process.device)
    dist.broadcast(shared, 0)
    return shared.tolist()


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


def _start_wandb(config: LoopConfig) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise NldiffError('wandb=true needs wandb: pip install "nldiff[wandb]"') from error
    return wandb.init(project="nldiff", config=asdict(config), dir=config.run_dir)
