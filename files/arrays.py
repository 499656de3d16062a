"""Untrusted files of arrays, .npy and .npz; `check_file` for files of all kinds."""

import math
import stat
from collections.abc import Iterable
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


def stream_npy(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray]) -> None:
    """Write consecutive parts of an array into the .npy `path`, float32 of `shape`.

    blocks: any number of values each, in C order. A memory map would save the copy, but on a full
    disk the system ends a process that writes to one. Raises `OSError` of the disk, `ValueError`
    where the parts do not fill `shape`.
    """
    n_values = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            n_values += block.size
    if n_values != math.prod(shape):
        raise ValueError(f"expected {math.prod(shape)} values, got {n_values}")


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
