"""A clip's frames in metres, a few at a time: an hour of motion does not fit into memory.

T frames, V vertices.
"""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from export.clip import Clip

BLOCK_BYTES = 16 * 2**20  # of float32 vertices


def vertices_at(clip: Clip, frames: Sequence[int] | slice) -> NDArray[np.float32]:
    """(n, V, 3) the vertices of some frames, metres.

    Raises `UserError` where a coordinate is NaN or infinite.
    """
    vertices = np.asarray(clip.vertices[frames], dtype=np.float32) * np.float32(
        clip.metres_per_unit
    )
    finite = np.isfinite(vertices).all(axis=(1, 2))
    if not finite.all():
        place = int(np.argmin(finite))
        frame = range(len(clip.vertices))[frames][place] if isinstance(frames, slice) else (
            frames[place]
        )  # fmt: skip
        raise UserError(
            f"clip {clip.name}: NaN or infinite coordinates in frame {frame}; predict it again"
        )
    return vertices


def blocks(clip: Clip) -> Iterator[NDArray[np.float32]]:
    """Consecutive parts (n, V, 3) of the vertices, metres; see `vertices_at`."""
    n = max(1, BLOCK_BYTES // (12 * len(clip.template)))
    for start in range(0, len(clip.vertices), n):
        yield vertices_at(clip, slice(start, start + n))
        release_pages(clip.vertices)


def release_pages(array: NDArray) -> None:
    """Let the system take back the memory in which a memory-mapped file was read.

    It would count as this process's until memory is short; the vertices of an hour have 8 GB.
    """
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


def template_of(clip: Clip) -> NDArray[np.float32]:
    """(V, 3) the neutral face, metres."""
    return np.asarray(clip.template, np.float32) * np.float32(clip.metres_per_unit)
