"""Several processes that train one model: torchrun starts them, torch.distributed joins them.

    torchrun --nproc_per_node=8 main.py --dataset vocaset
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        main.py --dataset vocaset                                # the same line on both machines

Without torchrun there is one process, and every function here is then a no-op. The first process
(rank 0) alone writes files and talks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from errors import UserError


@dataclass(frozen=True)
class Group:
    """The processes of a run: how many, and which one this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on this machine: its GPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` (any shape, the same on every rank) summed over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, in the order of the ranks, on every rank; plain objects."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined(device_type: str) -> Iterator[Group]:
    """The group that torchrun's environment describes, left on the way out.

    device_type: "cuda" (NCCL, one GPU a process) or "cpu" (gloo). Raises `UserError` when more
    processes than GPUs were started on this machine.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Group()
        return
    group = Group(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]))
    if device_type == "cuda":
        n_gpus = torch.cuda.device_count()
        if group.local_rank >= n_gpus:
            raise UserError(
                f"torchrun --nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '?')}: this "
                f"machine has {n_gpus} GPU(s); start one process a GPU"
            )
        torch.cuda.set_device(group.local_rank)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group()
