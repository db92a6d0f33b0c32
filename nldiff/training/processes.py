"""The processes of a training run: the one process of a plain start, or those that `torchrun` starts."""

import os
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

if dist.is_available():
    # Imported first by DistributedDataParallel, it would keep the process group in default arguments for ever: the
    # threads of Gloo would go on while the interpreter ends, which aborts the process now and then.
    import torch.distributed.nn.functional


@dataclass(frozen=True)
class Process:
    """This process among all `world` processes of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))

    @property
    def first(self) -> bool:
        """Whether this process validates and writes the files."""
        return self.rank == 0

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over all processes; overwrites `value`."""
        if self.world > 1:
            dist.all_reduce(value)
            value = value / self.world
        return value.item()

    def from_first(self, values: list[float]) -> list[float]:
        """The `values` that the first process passes; the number of values must be the same in all processes."""
        if self.world == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.tolist()


def join_processes() -> Process:
    """Join the process group that `torchrun` describes in the environment; without it this process is alone."""
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        return Process(device=torch.device("cuda" if cuda else "cpu"))
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return Process(dist.get_rank(), dist.get_world_size(), device)
