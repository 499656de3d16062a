"""Several processes that train one model: torchrun starts them, torch.distributed joins them.

    torchrun --nproc_per_node=8 main.py --dataset vocaset
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        main.py --dataset vocaset                                # the same line on both machines

Without torchrun there is one process, a `Group` of one whose methods return what they are given.
Only the first process (rank 0) writes files and prints. When one fails, it prints why and all
others end: each polls the store that torchrun keeps for them, since a process that waits for a dead
one in a collective operation would wait for half an hour. torch is imported only where there are
several processes.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any

from common.errors import EXIT_BAD_INPUT, UserError, reason_of

if TYPE_CHECKING:
    import torch

FAILED = "failed"  # key in the store: number of processes that have failed
POLL_S = 0.5
GRACE_S = 1.0  # for a process to end by itself when it has met the same failure
LEAVE_S = 5.0  # for the shutdown after a failure; then the process is ended
CUT_OFF = ("closed by peer", "reset by peer", "gloo", "nccl", "broken pipe")


class SharedUserError(UserError):
    """Bad input that every process raises, so that any of them may print it."""


@dataclass(frozen=True)
class Group:
    """The processes of a run: how many, and which one this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on this machine: its GPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def place(self) -> str:
        """This process in words, for messages."""
        return f"process {self.rank} of {self.world} on {socket.gethostname()}"

    def sum(self, values: "torch.Tensor") -> "torch.Tensor":
        """`values` (any shape, the same on every rank) summed over the ranks, in place."""
        if self.world > 1:
            from torch import distributed as dist

            dist.all_reduce(values)
        return values

    def add(self, numbers: Sequence[float], device: "torch.device") -> list[float]:
        """Each number summed over the ranks; with one process there is no wait for a GPU."""
        if self.world == 1:
            return list(numbers)
        import torch

        return self.sum(torch.tensor(numbers, device=device)).tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in their order, on every rank; plain objects."""
        if self.world == 1:
            return [value]
        from torch import distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def from_environment() -> Group:
    """The group that torchrun or a scheduler describes in environment variables.

    WORLD_SIZE alone, as some schedulers export it, means one process; a line says so. Raises
    `UserError` for incomplete or impossible values.
    """
    given = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if not given["RANK"]:
        if given["WORLD_SIZE"] not in ("", "1"):
            print(
                f"WORLD_SIZE is {given['WORLD_SIZE']} but RANK is not set: one process trains; "
                "torchrun --nproc_per_node=N starts several"
            )
        return Group()
    try:
        world, rank = int(given["WORLD_SIZE"] or 1), int(given["RANK"])
        local = int(given["LOCAL_RANK"] or os.environ.get("SLURM_LOCALID", "0"))
    except ValueError as error:
        raise UserError(
            f"{given}: expected integers as torchrun sets them; set all of them or none"
        ) from error
    if world == 1:
        return Group()
    if not 0 <= rank < world:
        raise UserError(f"RANK {rank} with WORLD_SIZE {world}: expected 0 to {world - 1}")
    if lacking := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {world} but {' and '.join(lacking)} not set; start with torchrun "
            f"--nproc_per_node={world}, or unset WORLD_SIZE and RANK"
        )
    return Group(rank, world, local)


@contextmanager
def joined() -> Iterator[Group]:
    """Join the group of the environment for the time of a `with`; only its first process prints.

    Warnings, which go to stderr, may be about one machine: its first process prints them.
    NCCL with a GPU for each process, gloo on CPUs. Raises `UserError` when more processes than
    GPUs were started on this machine. A failure of one process ends all of them, with one message:
    that of the first that failed.
    """
    group = from_environment()
    if group.world == 1:
        yield group
        return
    from torch import distributed as dist

    store = _connect(group)
    over, failed = threading.Event(), False
    threading.Thread(target=_watch, args=(store, over), daemon=True).start()
    try:
        with (
            open(os.devnull, "w") as silence,
            redirect_stdout(sys.stdout if group.is_first else silence),
            redirect_stderr(sys.stderr if group.local_rank == 0 else silence),
        ):
            yield group
    except (Exception, KeyboardInterrupt) as error:
        over.set()
        failed = True
        guard = threading.Timer(LEAVE_S, os._exit, (EXIT_BAD_INPUT,))
        guard.daemon = True
        guard.start()
        to_raise = _first_failure(error, group, store)
        if to_raise is error:
            raise
        raise to_raise from error
    finally:
        over.set()
        if not failed:  # else it could wait for processes that have ended
            dist.destroy_process_group()


def _connect(group: Group) -> Any:
    """Initialise torch.distributed; returns the store that all processes of the group share."""
    import torch
    from torch import distributed as dist

    from common.device import pick_device

    backend = "gloo"
    if pick_device()[0].type == "cuda":
        backend, n_gpus = "nccl", torch.cuda.device_count()
        if group.local_rank >= n_gpus:
            raise UserError(
                f"torchrun --nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '?')}: this "
                f"machine has {n_gpus} GPU(s); start one process per GPU"
            )
        torch.cuda.set_device(group.local_rank)
    store, rank, world = next(dist.rendezvous("env://", group.rank, group.world))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return store


def _first_failure(error: BaseException, group: Group, store: Any) -> BaseException:
    """What this process raises for `error`: a silent exit if another one has failed before."""
    try:
        others = store.add(FAILED, 1) - 1
    except RuntimeError:  # the store is gone: the process that kept it has ended
        others = 1
    if others:
        return SystemExit(EXIT_BAD_INPUT)
    if isinstance(error, RuntimeError) and any(w in str(error).lower() for w in CUT_OFF):
        return UserError(
            f"{group.place}: another process or its machine was killed ({reason_of(error)}); "
            "continue from the last state with --resume"
        )
    if isinstance(error, UserError) and not isinstance(error, SharedUserError):
        return UserError(f"{group.place}: {error}")
    return error


def _watch(store: Any, over: threading.Event) -> None:
    """End this process when another one has failed, for which it may be waiting."""
    while not over.wait(POLL_S):
        try:
            failed = store.check([FAILED])
        except RuntimeError:  # the process that kept it has ended; a collective will raise
            return
        if failed and not over.wait(GRACE_S):
            for worker in active_children():  # they ignore SIGTERM (`dataset.batch_loader`)
                worker.kill()
            os._exit(EXIT_BAD_INPUT)
