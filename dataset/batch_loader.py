"""Batches as a plan says, loaded by processes of their own, from where the plan stands.

The workers are deaf to what asks a run to stop: it could not save without the batch that it waits
for. They end with their run; bad input that they meet comes back as one line, not a traceback.
"""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.failures import batch_too_large, lost_worker, out_of_memory
from common.stop_signals import SIGNALS
from dataset.batch_plan import BatchPlan


class PlannedLoader:
    """The batches of a plan, loaded: what a training loop iterates over.

    dataset: items by the plan's indices, with `set_epoch`; collate: a list of items to a batch;
    workers: processes that load, 0 for this one. Iterating starts at the plan's position and
    draws nothing from torch's global generator, so that a resumed run's stays where it was.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        collate: Callable[[list[Any]], Any],
        workers: int = 0,
    ) -> None:
        self.items, self.plan, self.collate, self.workers = dataset, plan, collate, workers

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, the crops and the augmentations of this epoch."""
        self.plan.set_epoch(epoch)
        self.items.set_epoch(epoch)

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Stand where the plan's `state_dict` says, the data set in the same epoch."""
        self.plan.load_state_dict(state)
        self.items.set_epoch(self.plan.epoch)

    def sample(self) -> Iterator[Any]:
        """Global batches of the epoch at hand, the same on every rank; the position stays."""
        for batch in self.plan.global_batches():
            yield self.collate([self.items[index] for index in batch])

    def __iter__(self) -> Iterator[Any]:
        batches = DataLoader(
            _Told(self.items),
            batch_sampler=self.plan,
            num_workers=self.workers,
            collate_fn=self._collate,
            generator=torch.Generator(),
        )
        others = set(active_children())
        with _signals_held():  # workers start here
            source = iter(batches)
        _WORKERS.update(set(active_children()) - others)
        try:
            for batch in source:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except (ConnectionError, EOFError) as error:  # a worker died while it handed a batch over
            raise UserError(lost_worker(error)) from error

    def _collate(self, items: list[Any]) -> Any:
        """The batch, or the `UserError` that keeps it from being made."""
        if wrong := [item for item in items if isinstance(item, UserError)]:
            return wrong[0]
        try:
            return self.collate(items)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            names, frames = ([item[key] for item in items] for key in ("name", "frames"))
            return UserError(batch_too_large([{"names": names, "frames": frames}]))


_WORKERS: weakref.WeakSet[BaseProcess] = weakref.WeakSet()  # of this process, alive or not


@atexit.register
def _kill_workers() -> None:
    """End the workers that still load: deaf to SIGTERM, they would be waited for without end."""
    for worker in _WORKERS & set(active_children()):
        worker.kill()


class _Told(Dataset):
    """Items, or the `UserError` that one gives: raised in a worker it came with its traceback."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except UserError as error:
            return error


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back what asks a run to stop, from processes that start in here for good.

    A scheduler, like a Ctrl-C, tells every process of a run: were one that loads data to die of
    it, the run could not save. They end by themselves when their run has ended.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no signals to hold
        yield
        return
    held = [getattr(signal, name) for name in SIGNALS]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
