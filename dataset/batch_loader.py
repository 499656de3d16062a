"""Batches in the order of a plan, from its position on, loaded by worker processes.

Workers ignore the signals that stop a run: the run could not save its state if the batch that it
waits for never came. They end with the run. A `UserError` in a worker reaches the run as such,
without the worker's traceback.
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
    """The loaded batches of a plan; a training loop iterates over it.

    dataset: items by the plan's indices, with `set_epoch`; collate: makes a batch of a list of
    items; workers: number of loading processes, 0 to load in this process. Iteration starts at the
    plan's position. It draws nothing from torch's global generator, whose state a resumed run has
    restored.
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
        """Number of steps in a complete epoch."""
        return len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        """Select the order, the crops and the augmentations of an epoch."""
        self.plan.set_epoch(epoch)
        self.items.set_epoch(epoch)

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Restore the plan's `state_dict`, and set the data set to the same epoch."""
        self.plan.load_state_dict(state)
        self.items.set_epoch(self.plan.epoch)

    def sample(self) -> Iterator[Any]:
        """Global batches of the current epoch, equal on every rank; the position is unchanged."""
        for batch in self.plan.global_batches():
            yield self.collate([self.items[index] for index in batch])

    def __iter__(self) -> Iterator[Any]:
        batches = DataLoader(
            _ItemsOrErrors(self.items),
            batch_sampler=self.plan,
            num_workers=self.workers,
            collate_fn=self._collate,
            generator=torch.Generator(),
        )
        others = set(active_children())
        with _signals_blocked():  # workers start here
            source = iter(batches)
        _WORKERS.update(set(active_children()) - others)
        try:
            for batch in source:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except (ConnectionError, EOFError) as error:  # a worker died while it sent a batch
            raise UserError(lost_worker(error)) from error

    def _collate(self, items: list[Any]) -> Any:
        """The batch, or the first `UserError` among its items."""
        if errors := [item for item in items if isinstance(item, UserError)]:
            return errors[0]
        try:
            return self.collate(items)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            names, frames = ([item[key] for item in items] for key in ("name", "frames"))
            return UserError(batch_too_large([{"names": names, "frames": frames}]))


_WORKERS: weakref.WeakSet[BaseProcess] = weakref.WeakSet()  # started by this process, alive or not


@atexit.register
def _kill_workers() -> None:
    """Kill workers that are still loading: as they ignore SIGTERM, the exit would wait forever."""
    for worker in _WORKERS & set(active_children()):
        worker.kill()


class _ItemsOrErrors(Dataset):
    """Items, or the `UserError` of an item as a value: raised, it would carry a traceback."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except UserError as error:
            return error


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the stop signals; processes started inside keep them blocked.

    Schedulers and Ctrl-C signal every process of a run. If a loading process died of it, the run
    could not save its state. Workers exit by themselves when the run has ended.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    stop_signals = [getattr(signal, name) for name in SIGNALS]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
