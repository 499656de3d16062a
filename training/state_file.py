"""The state that a stopped training run goes on from: written whole or not at all.

`last.pt` holds weights, optimizer, schedule, generators, epoch and position, best value:
tensors and plain containers only, so that it loads with `weights_only=True` and runs no code.
"""

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError

STATE_FILE, LOCK_FILE = "last.pt", ".lock"
PATIENCE_S = 20.0  # for which a process waits for one before it that is still saving


def save_state(path: Path, state: dict[str, Any]) -> str:
    """Write `state`; returns "" or, when the disk refused, why in words.

    The file is written under another name, flushed to the disk and renamed, so that whatever
    happens in between the old state is whole. A full disk must not end a run: the old state stays.
    A folder that somebody has removed is made again.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        refusal = _refusal(error)
        if refusal is None:
            raise
        what_stays = "the one before it stays" if path.exists() else "there is none before it"
        return f"{path}: the state could not be written ({refusal.strerror}); {what_stays}"
    return ""


def low_disk_warning(folder: Path, n_bytes: int) -> str:
    """What to say where a disk will not hold a state and the next one beside it; "" if it will."""
    free = shutil.disk_usage(folder).free
    if free >= 2 * n_bytes:
        return ""
    return (
        f"{folder}: {free / 1e9:.2g} GB free, a state takes {n_bytes / 1e9:.2g} GB and twice that "
        "while it is written: make room, or nothing will be there to --resume from"
    )


def _refusal(error: BaseException | None) -> OSError | None:
    """The disk's own error: torch's writer stumbles over it and raises a RuntimeError on top."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk's refusal of what a run cannot do without into a `UserError`; leave no halves."""
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        for half in (*folder.glob("*.tmp"), *folder.glob(".*.partial")):
            half.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{folder}: cannot be written ({reason}); make room, then --resume goes on from the "
            "last state"
        ) from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep a run's folder to one process, which two would spoil; the system frees it in any case.

    Waits a little, as a run that was told to stop may still save. Raises `UserError` when another
    one trains there. Where locks are unknown (Windows, some network disks) nothing is kept.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf  # of a process: workers that it leaves have none
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


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut; systems that cannot open folders do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU. Raises `UserError` when it is no such file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch errors have no common class but this
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"--resume {path}: not a state of a run ({reason}); "
            "start anew without --resume, or from its best model with --init"
        ) from error
    if not isinstance(state, dict) or "generators" not in state:
        raise UserError(f"--resume {path}: not a state of a run; start anew without --resume")
    return state


def generators() -> dict[str, Any]:
    """The state of every random generator of this process."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), gauss_next],
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def set_generators(state: dict[str, Any]) -> None:
    """Put every random generator where `generators` found it."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
