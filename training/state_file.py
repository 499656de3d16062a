"""last.pt, the state from which a stopped run resumes: written whole or not at all.

It holds weights, optimizer, schedule, generators, epoch, position and best score, as tensors and
plain containers only, so that it loads with `weights_only=True` and runs no code.
"""

import pickle
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError, reason_of
from common.whole_file import whole_file
from files.models import load_torch_file

OBJECTS = ("recipe", "model", "reader", "moments", "schedule", "batches")  # parts of a state
STATE_FILE, LOCK_FILE = "last.pt", ".lock"
PATIENCE_S = 20.0  # that a process waits for an earlier one that is still saving


def save_state(path: Path, state: dict[str, Any]) -> str:
    """Write `state`; returns "" or, where the disk refused, a message.

    A full disk must not end a run: the state before stays. A folder that was removed is made again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, open(partial, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        refusal = _disk_error(error)
        if refusal is None:
            raise
        remains = "the previous state remains" if path.exists() else "there is no previous state"
        return f"{path}: the state could not be written ({reason_of(refusal)}); {remains}"
    return ""


def low_disk_warning(folder: Path, n_bytes: int) -> str:
    """A message where a disk cannot hold a state of `n_bytes` and the next beside it, else ""."""
    free = shutil.disk_usage(folder).free
    if free >= 2 * n_bytes:
        return ""
    return (
        f"{folder}: {free / 1e9:.2g} GB free, a state takes {n_bytes / 1e9:.2g} GB and twice that "
        "while it is written; free some space, or there will be no state for --resume"
    )


def _disk_error(error: BaseException | None) -> OSError | None:
    """The `OSError` behind an error: torch's writer raises a RuntimeError on top of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a failed write of a file that a run needs into a `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({reason_of(error)}); free some space, "
            "then continue from the last state with --resume"
        ) from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other processes; the system frees it in any case.

    Waits a little, as an earlier run may still be saving. Raises `UserError` when another process
    trains there. Where locks are unknown (Windows, some network disks) there is no lock.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf  # of a process: its workers do not inherit it
    except ImportError:
        yield
        return
    with open(folder / LOCK_FILE, "a") as file:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                lockf(file, LOCK_EX | LOCK_NB)
                break
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"{folder}: another process trains into this folder; wait for it, end it, "
                        "or give another --out"
                    ) from error
            except OSError:  # a disk without locks
                break
            time.sleep(0.1)
        yield


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU. Raises `UserError` for any other file."""
    remedy = "start again without --resume, or from the run's best model with --init"
    try:
        state = load_torch_file(path, mmap=False)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"--resume {path}: not a training state ({reason_of(error)}); {remedy}"
        ) from error
    is_state = isinstance(state, dict) and "generators" in state
    if not is_state or not all(isinstance(state.get(name, {}), dict) for name in OBJECTS):
        raise UserError(f"--resume {path}: not a training state; {remedy}")
    return state


def generators() -> dict[str, Any]:
    """The state of every random generator of this process."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), gauss_next],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: dict[str, Any]) -> None:
    """Restore what `generators` returned; raises `UserError` for states that are damaged."""
    try:
        torch.set_rng_state(states["torch"])
        kind, keys, position, has_gauss, gauss = states["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, numbers, gauss_next = states["python"]
        random.setstate((version, tuple(numbers), gauss_next))
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError,
            RuntimeError) as error:  # fmt: skip
        raise UserError(
            f"{STATE_FILE}: its random generators are damaged ({reason_of(error)}); start again "
            "without --resume, or from the run's best model with --init"
        ) from error
