"""Several processes that train one model: torchrun starts them, torch.distributed joins them.

    torchrun --nproc_per_node=8 main.py --dataset vocaset
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        main.py --dataset vocaset                                # the same line on both machines

Without torchrun there is one process, and every function here is then a no-op. The first process
(rank 0) alone writes files and talks. When one fails, it says why, and all others end: each looks
twice a second into the store that torchrun keeps for them, since a process that waits for a dead
one in a collective would wait for half an hour. torch is imported when there are several.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any

from common.errors import EXIT_BAD_INPUT, UserError

if TYPE_CHECKING:
    import torch

FAILED = "failed"  # key in the store: how many processes have
POLL_S = 0.5
GRACE_S = 1.0  # for a process to end by itself, when it has met the fault, too
LEAVE_S = 5.0  # to shut down after a failure; then it is cut short
CUT_OFF = ("closed by peer", "reset by peer", "gloo", "nccl", "broken pipe")


class SharedUserError(UserError):
    """Bad input that all processes know of, so that it matters little which one tells."""


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

    @property
    def place(self) -> str:
        """Which process this is, in words."""
        return f"process {self.rank} of {self.world} on {socket.gethostname()}"

    def sum(self, values: "torch.Tensor") -> "torch.Tensor":
        """`values` (any shape, the same on every rank) summed over the ranks, in place."""
        if self.world > 1:
            from torch import distributed as dist

            dist.all_reduce(values)
        return values

    def add(self, numbers: Sequence[float], device: "torch.device") -> list[float]:
        """Each number summed over the ranks; alone it costs nothing, not even a wait for a GPU."""
        if self.world == 1:
            return list(numbers)
        import torch

        return self.sum(torch.tensor(numbers, device=device)).tolist()

    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, in the order of the ranks, on every rank; plain objects."""
        if self.world == 1:
            return [value]
        from torch import distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found


def from_environment() -> Group:
    """The group that torchrun, or a scheduler in its way, describes. `UserError` for half of it.

    WORLD_SIZE alone, as some schedulers export it, makes no group: one process, and a word.
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
        raise UserError(f"{given}: not of torchrun; wanted whole numbers, or none set") from error
    if world == 1:
        return Group()
    if not 0 <= rank < world:
        raise UserError(f"RANK {rank}, WORLD_SIZE {world}: wanted a rank from 0 to {world - 1}")
    if lacking := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {world} but {' and '.join(lacking)} not set: start with torchrun "
            f"--nproc_per_node={world}, or unset WORLD_SIZE and RANK"
        )
    return Group(rank, world, local)


@contextmanager
def joined() -> Iterator[Group]:
    """The group of the environment, left on the way out; others than its first do not print.

    NCCL where there is a GPU for each process, gloo on CPUs. Raises `UserError` when more
    processes than GPUs were started on this machine. What ends one process ends all, with one
    message: that of the first that failed.
    """
    group = from_environment()
    if group.world == 1:
        yield group
        return
    import torch
    from torch import distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        backend, n_gpus = "nccl", torch.cuda.device_count()
        if group.local_rank >= n_gpus:
            raise UserError(
                f"torchrun --nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '?')}: this "
                f"machine has {n_gpus} GPU(s); start one process a GPU"
            )
        torch.cuda.set_device(group.local_rank)
    store, rank, world = next(dist.rendezvous("env://", group.rank, group.world))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    over, whole = threading.Event(), True
    threading.Thread(target=_watch, args=(store, over), daemon=True).start()
    try:
        with (
            open(os.devnull, "w") as silence,
            redirect_stdout(sys.stdout if group.is_first else silence),
        ):
            yield group
    except (Exception, KeyboardInterrupt) as error:
        over.set()
        whole = False
        guard = threading.Timer(LEAVE_S, os._exit, (EXIT_BAD_INPUT,))
        guard.daemon = True
        guard.start()
        told = _first_to_tell(error, group, store)
        if told is error:
            raise
        raise told from error
    finally:
        over.set()
        if whole:  # else it could wait for processes that are gone
            dist.destroy_process_group()


def _first_to_tell(error: BaseException, group: Group, store: Any) -> BaseException:
    """`error` as this process shall raise it: silence, when another one has failed before."""
    try:
        others = store.add(FAILED, 1) - 1
    except RuntimeError:  # the store is gone, and with it the process that kept it
        others = 1
    if others:
        return SystemExit(EXIT_BAD_INPUT)
    if isinstance(error, RuntimeError) and any(w in str(error).lower() for w in CUT_OFF):
        return UserError(
            f"{group.place}: another process is gone ({str(error).splitlines()[0][:120]}): killed, "
            "or its machine is; --resume goes on from the last state"
        )
    if isinstance(error, UserError) and not isinstance(error, SharedUserError):
        return UserError(f"{group.place}: {error}")
    return error


def _watch(store: Any, over: threading.Event) -> None:
    """End this process when another one has failed: it may wait for that one for good."""
    while not over.wait(POLL_S):
        try:
            failed = store.check([FAILED])
        except RuntimeError:  # the store's keeper has ended; a collective will say so
            return
        if failed and not over.wait(GRACE_S):
            for worker in active_children():  # deaf to SIGTERM (`dataset.batch_loader`)
                worker.kill()
            os._exit(EXIT_BAD_INPUT)
