"""Messages for failures from outside: too little memory, a data worker that was killed.

torch has no exception classes for most of these; they are recognised by their text.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from common.errors import UserError

OUT_OF_MEMORY = (  # CUDA, the CPU's allocators, cuBLAS, cuDNN
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory",
    "alloc_failed", "allocation_failed",
)  # fmt: skip
LOST_WORKER = "dataloader worker"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there was too little memory."""
    text = str(error).lower()
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or refused or any(part in text for part in OUT_OF_MEMORY)


def step_failure(error: BaseException, batches: Sequence[dict[str, Any]]) -> str:
    """The message for an error in a step on these batches; "" for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if LOST_WORKER in str(error).lower():
        return lost_worker(error)
    return batch_too_large(batches) if out_of_memory(error) else ""


def batch_too_large(batches: Sequence[dict[str, Any]]) -> str:
    """The message for batches that do not fit into memory.

    batches: of `data_loader.collate`; of one that could not be made, "frames" and "names" alone.
    """
    if not batches:
        return "a batch does not fit into memory; use a smaller --batch_size or fewer --workers"
    clips = [
        (int(n), name) for b in batches for n, name in zip(b["frames"], b["names"], strict=True)
    ]
    frames, longest = max(clips)
    return (
        f"a batch of {len(batches[0]['names'])} clips does not fit into memory (the longest: "
        f"{longest}, {frames} frames); continue with less memory: --resume "
        "--set train.checkpointing=true; or start again with a smaller --batch_size and "
        "--set train.accumulate=N, or with train.max_clip_s=SECONDS"
    )


def clip_too_large(name: str, frames: int) -> str:
    """The message for one whole clip that does not fit into memory."""
    return (
        f"clip {name}, {frames} frames, does not fit into memory; cut it into shorter clips, "
        "or remove it from its split"
    )


@contextmanager
def explained_worker_loss() -> Iterator[None]:
    """Turn torch's error about a killed data worker, raised anywhere inside, into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        if LOST_WORKER not in str(error).lower():
            raise
        raise UserError(lost_worker(error)) from error


def lost_worker(error: BaseException) -> str:
    """The message for a data worker that was killed, usually by the system for its memory."""
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    if "bus error" in reason.lower():
        return (
            f"{reason}: shared memory is too small; enlarge it (docker run --shm-size=8g), "
            "or use --workers 0"
        )
    if LOST_WORKER not in reason.lower():
        reason = f"DataLoader worker is gone ({reason})"
    return f"{reason}: probably too little memory; use fewer --workers or a smaller --batch_size"
