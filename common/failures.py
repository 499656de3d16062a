"""What ends a run from outside, in words: memory that does not suffice, a data worker that died.

torch has no classes for most of these; they are told by what the errors say.
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
    """Whether an error says that memory did not suffice."""
    said = str(error).lower()
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return (
        isinstance(error, MemoryError) or refused or any(words in said for words in OUT_OF_MEMORY)
    )


def in_words(error: BaseException, batches: Sequence[dict[str, Any]]) -> str:
    """What to tell a user about an error in a step on these batches; "" for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if LOST_WORKER in str(error).lower():
        return lost_worker(error)
    return too_large(batches) if out_of_memory(error) else ""


def too_large(batches: Sequence[dict[str, Any]]) -> str:
    """What to say, and to do, about batches that do not fit into memory.

    batches: of `data_loader.collate`, or of the "frames" and "names" alone of one that could not
    be made.
    """
    if not batches:
        return "a batch does not fit into memory; try a smaller --batch_size or fewer --workers"
    clips = [
        (int(n), name) for b in batches for n, name in zip(b["frames"], b["names"], strict=True)
    ]
    frames, longest = max(clips)
    return (
        f"a batch of {len(batches[0]['names'])} clips does not fit into memory (the longest: "
        f"{longest}, {frames} frames): --resume --set train.checkpointing=true goes on with less; "
        "or start anew with a smaller --batch_size and --set train.accumulate=N, or "
        "train.max_clip_s=SECONDS"
    )


def too_long(name: str, frames: int) -> str:
    """What to say about one whole clip that does not fit into memory."""
    return (
        f"clip {name}, {frames} frames, does not fit into memory as a whole: cut it into shorter "
        "ones, or leave it out of its split"
    )


@contextmanager
def workers_told() -> Iterator[None]:
    """Say in words that a data worker was killed: torch raises that wherever the process may be."""
    try:
        yield
    except RuntimeError as error:
        if LOST_WORKER not in str(error).lower():
            raise
        raise UserError(lost_worker(error)) from error


def lost_worker(error: BaseException) -> str:
    """What to say about a data worker that somebody killed, usually for want of memory."""
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    if "bus error" in reason.lower():
        return f"{reason}: shared memory is too small (docker run --shm-size=8g), or --workers 0"
    if LOST_WORKER not in reason.lower():
        reason = f"DataLoader worker is gone ({reason})"
    return f"{reason}: usually for want of memory; fewer --workers, or a smaller --batch_size"
