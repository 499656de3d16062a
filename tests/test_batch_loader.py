"""Loading the batches of a plan: from its position on, with and without workers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BatchPlan, BucketedBatches
from tests.batches import Items


def loader(plan: BatchPlan, n: int, workers: int = 0) -> PlannedLoader:
    return PlannedLoader(Items(n), plan, list, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_in_an_epoch_loads_only_the_rest(lengths: np.ndarray, workers: int) -> None:
    def plan() -> BucketedBatches:
        return BucketedBatches(lengths, 8, 1, rank=1, world=2)

    whole = loader(plan(), 317)
    whole.set_epoch(2)
    expected = list(whole)
    assert len(expected) == 20 and {epoch for batch in expected for epoch, _ in batch} == {2}

    stopped = loader(plan(), 317, workers)
    stopped.set_epoch(2)
    used = []
    for batch in stopped:  # workers are up to four batches ahead of this
        used.append(batch)
        stopped.plan.advance()
        if len(used) == 7:
            break
    state = stopped.plan.state_dict()
    assert state["position"] == 7 and used == expected[:7]

    resumed = loader(plan(), 317, workers)
    resumed.load_state_dict(state)
    for epoch in (2, 3):  # as the training loop does, starting with the current epoch
        resumed.set_epoch(epoch)
        rest = []
        for batch in resumed:
            rest.append(batch)
            resumed.plan.advance()
        whole.set_epoch(epoch)
        assert rest == (expected[7:] if epoch == 2 else list(whole))
    assert len(resumed) == 20  # steps of a whole epoch, wherever it starts


def test_used_batches_are_not_loaded_again(lengths: np.ndarray) -> None:
    batches = loader(BucketedBatches(lengths, 8, 1), 317)
    state = batches.plan.state_dict() | {"epoch": 2, "position": 30}
    batches.load_state_dict(state)
    rest = [index for batch in batches for _, index in batch]
    assert batches.items.loaded == rest and len(rest) < 100


def test_loading_does_not_change_the_global_generator(lengths: np.ndarray) -> None:
    before = torch.get_rng_state()
    list(loader(BucketedBatches(lengths, 64, 1), 317))
    list(loader(BucketedBatches(lengths, 64, 1), 317, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


ABANDONED = """
import sys
sys.path.insert(0, {root!r})
from dataset.batch_plan import BucketedBatches
from dataset.batch_loader import PlannedLoader

class Numbers(list):
    def set_epoch(self, epoch): ...

loader = PlannedLoader(Numbers(range(400)), BucketedBatches([1.0] * 400, 1, 0), list, workers=1)
source = iter(loader)
next(source)
kept = sys.modules["kept"] = source  # as a traceback would keep it
raise RuntimeError("our own bug")
"""


def test_a_run_that_fails_exits_although_its_workers_ignore_sigterm() -> None:
    code = ABANDONED.format(root=str(Path(__file__).resolve().parents[1]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "our own bug" in done.stderr
