"""Failures from outside are one line with clip and remedy, and no finished step is lost."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.failures import (
    batch_too_large,
    explained_worker_loss,
    lost_worker,
    out_of_memory,
    step_failure,
)
from config import Recipe
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BucketedBatches
from tests.toy import run_toy, same
from training import step, validation

TOO_MUCH = (  # as torch 2, CUDA, numpy and Linux say it
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    RuntimeError("Caught MemoryError: not enough memory: you tried to allocate 8 bytes."),
    MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000000000,)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
)


@pytest.mark.parametrize("error", TOO_MUCH, ids=lambda error: type(error).__name__)
def test_errors_of_too_little_memory_are_recognised(error: Exception) -> None:
    assert out_of_memory(error)
    batch = {"names": ["a", "b"], "frames": torch.tensor([30, 70])}
    message = step_failure(error, [batch])
    for part in ("2 clips", "b, 70 frames", "train.checkpointing=true"):
        assert part in message


def test_other_errors_get_no_explanation() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError("no")):
        assert not out_of_memory(error) and not step_failure(error, [])


def test_a_killed_worker_is_reported_with_a_remedy() -> None:
    killed = "DataLoader worker (pid 7) is killed by signal: Killed. "
    assert "fewer --workers" in step_failure(RuntimeError(killed), [])
    shared = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."
    assert "--shm-size" in lost_worker(RuntimeError(shared))
    with pytest.raises(UserError, match="fewer --workers"), explained_worker_loss():
        raise RuntimeError(killed)  # torch's handler of SIGCHLD, anywhere
    with pytest.raises(RuntimeError, match="ours"), explained_worker_loss():
        raise RuntimeError("ours")


def test_a_worker_that_dies_while_it_sends_a_batch_is_reported() -> None:
    def collate(_: list[Any]) -> Any:
        raise ConnectionResetError(104, "Connection reset by peer")

    class Numbers(list):
        def set_epoch(self, epoch: int) -> None: ...

    with pytest.raises(UserError, match=r"worker is gone .*reset by peer.*fewer --workers"):
        list(PlannedLoader(Numbers([1]), BucketedBatches([1], 1, 0), collate))


def test_a_batch_too_large_to_put_together_names_its_longest_clip() -> None:
    def collate(items: list[Any]) -> Any:
        raise MemoryError

    class Clips(list):
        def set_epoch(self, epoch: int) -> None: ...

    clips = Clips({"name": f"clip{i}", "frames": 10 + i} for i in range(3))
    loader = PlannedLoader(clips, BucketedBatches([1, 1, 1], 3, 0), collate)
    with pytest.raises(UserError, match=r"a batch of 3 clips .* clip2, 12 frames"):
        list(loader)
    assert "a batch" in batch_too_large([])


def test_a_step_that_needs_too_much_memory_is_undone_and_saved(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "whole") == 0
    real, calls = step.total_loss, []

    def total_loss(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            torch.rand(7)  # half a step has drawn from the generators
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(step, "total_loss", total_loss)
        assert run_toy("--out", "cut") == 2
    error = capsys.readouterr().err
    assert "does not fit into memory (the longest: a_sentence0" in error
    assert "holds the state before this step" in error and error.count("\n") == 1
    assert torch.load("cut/last.pt", weights_only=True)["batches"]["position"] == 0
    assert run_toy("--out", "cut", "--resume", "--set", "train.checkpointing=true") == 0
    same("whole", "cut")


def test_a_clip_that_breaks_during_training_loses_no_step(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--set", "model.vertex_rank=0")  # else the start reads it
    assert run_toy("--out", "whole", *flags) == 0
    path = Path(recipe.dataset.root) / "vertices_npy/a_sentence01.npy"
    whole = path.read_bytes()
    broken = np.load(path)
    broken[8, 3] = np.nan
    np.save(path, broken)
    assert run_toy("--out", "cut", *flags) == 2
    error = capsys.readouterr().err
    assert f"{path}: NaN" in error and "holds the state before this step" in error
    path.write_bytes(whole)
    assert run_toy("--out", "cut", "--resume", *flags) == 0
    same("whole", "cut")


def test_a_worker_killed_during_training_loses_no_step(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "whole") == 0
    real = PlannedLoader.__iter__

    def loading(self: PlannedLoader) -> Any:
        yield next(real(self))
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with monkeypatch.context() as patched:
        patched.setattr(PlannedLoader, "__iter__", loading)
        assert run_toy("--out", "cut") == 2
    error = capsys.readouterr().err
    assert "is killed by signal: Killed: probably too little memory" in error
    assert torch.load("cut/last.pt", weights_only=True)["batches"]["position"] == 1
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_a_validation_clip_too_large_for_memory_is_named(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(validation, "score", score)
    assert run_toy("--out", "cut") == 2
    error = capsys.readouterr().err
    assert "clip b_sentence01, " in error and "remove it from its split" in error
    state = torch.load("cut/last.pt", weights_only=True)
    assert state["batches"]["position"] == 2  # the epoch's steps are not lost
