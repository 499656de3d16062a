"""Untrusted files of arrays, .npy and .npz; `check_file` for files of all kinds."""

import math
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from files.npy import read_npy, read_npz


def check_file(path: str | Path, what: str) -> Path:
    """`path` as a Path; raises `UserError` unless it is a readable file that is not empty."""
    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a zero byte
        raise UserError(f"{what} {path}: no such file; check the name") from error
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be opened ({reason_of(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{what} {path}: is a folder, expected a file")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
        raise UserError(f"{what} {path}: is a pipe or a device, expected a file")
    if status.st_size == 0:
        raise UserError(f"{what} {path}: the file is empty; copy or download it again")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            f"{what} {path}: cannot be opened ({reason_of(error)}); check its permissions"
        ) from error
    return path


class GrowingNpy:
    """An .npy of float32 (T, ...) that grows by a frame at a time; T stands in its header at last.

    frame_shape: of a frame. Use it as a context manager, in which frames are appended. A memory map
    would save the copy, but on a full disk the system ends a process that writes to one. Methods
    raise `OSError` of the disk.
    """

    def __init__(self, path: Path, frame_shape: tuple[int, ...]) -> None:
        self.frame_shape, self.n_values = tuple(frame_shape), 0
        self.file = path.open("wb")
        self._write_header()

    def __enter__(self) -> "GrowingNpy":
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            self.file.seek(0)
            self._write_header()

    @property
    def n_frames(self) -> int:
        """The number of whole frames that were appended."""
        return self.n_values // math.prod(self.frame_shape)

    def append(self, block: NDArray) -> None:
        """Append the values of a frame, or of any part of the array in C order."""
        self.file.write(np.ascontiguousarray(block, dtype="<f4").data)
        self.n_values += block.size

    def appended(self, frames: Iterable[NDArray]) -> Iterator[NDArray]:
        """Yield `frames`, each after it was appended."""
        for frame in frames:
            self.append(frame)
            yield frame

    def _write_header(self) -> None:
        """Write the header, whose length does not depend on the number of frames."""
        shape = (self.n_frames, *self.frame_shape)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)


def stream_npy(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray]) -> None:
    """Write consecutive parts of an array into the .npy `path`, float32 of `shape`.

    blocks: any number of values each, in C order. Raises `OSError` of the disk, `ValueError` where
    the parts do not fill `shape`.
    """
    with GrowingNpy(path, shape[1:]) as npy:
        for block in blocks:
            npy.append(block)
    if npy.n_values != math.prod(shape):
        raise ValueError(f"expected {math.prod(shape)} values, got {npy.n_values}")


def load_npy(path: str | Path, what: str = "array", mapped: bool = False) -> NDArray:
    """The array of numbers in an .npy; memory-mapped and read-only if `mapped`.

    Raises `UserError` if the file is missing, broken, truncated or not an array of numbers.
    """
    path = check_file(path, what)
    try:
        array = read_npy(path, mapped)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{what} {path}: not a complete .npy of numbers: {reason_of(error)}"
        ) from error
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise UserError(f"{what} {path}: not an .npy of numbers")
    return array


def load_npz(path: str | Path, what: str = "archive") -> dict[str, NDArray]:
    """The arrays of numbers and text of an .npz by name; raises `UserError` if it is broken."""
    path = check_file(path, what)
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path}: not a readable .npz: {reason_of(error)}") from error
