"""Untrusted files of arrays: .pkl, .npy, .npz.

Data-set pickles were written by Python 2 and 3 and by numpy 1 and 2. They are read by an unpickler
that knows only numpy arrays and plain containers, so that no file can run code.
"""

import codecs
import collections
import math
import pickle
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from files.npy import read_npy, read_npz

BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,  # a damaged length field
)


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


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Decodes bytes that Python 3 pickled at protocol 2 as `_codecs.encode(text, 'latin1')`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding}")
    return codecs.encode(text, "latin1")


def _known_names() -> dict[tuple[str, str], Any]:
    """(module, name) -> object, for every global that a pickle of arrays may refer to."""
    array = np.zeros(1)
    reconstruct, frombuffer = array.__reduce__()[0], array.__reduce_ex__(5)[0]
    scalar = np.float64(0).__reduce__()[0]
    known: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
        ("collections", "OrderedDict"): collections.OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):  # renamed in numpy 2
        known[f"{core}.multiarray", "_reconstruct"] = reconstruct
        known[f"{core}.multiarray", "scalar"] = scalar
        known[f"{core}.numeric", "_frombuffer"] = frombuffer
    for builtins in ("builtins", "__builtin__"):  # renamed in Python 3
        for kind in (bytes, bytearray, list, tuple, dict, set, frozenset):
            known[builtins, kind.__name__] = kind
    return known


def find_known(module: str, name: str) -> Any:
    """The object `module.name` if pickles may refer to it; raises `UnpicklingError` otherwise."""
    known = _known_names()
    if (module, name) not in known:
        raise pickle.UnpicklingError(
            f"it refers to {module}.{name}; only numpy arrays and plain containers are read"
        )
    return known[module, name]


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that builds only numpy arrays, numbers, strings and plain containers.

    Byte strings of Python 2 become latin-1 text.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """See `find_known`."""
        return find_known(module, name)


def load_pickle(
    path: str | Path,
    what: str = "pickle",
    unpickler: Callable[[BinaryIO], Any] = RestrictedUnpickler,
) -> Any:
    """The content of a data-set pickle.

    Raises `UserError` if it is broken or refers to anything but arrays and plain containers.
    """
    path = check_file(path, what)
    with path.open("rb") as file:
        try:
            return unpickler(file).load()
        except BROKEN_PICKLE as error:
            raise UserError(
                f"{what} {path}: not a readable pickle of arrays: {reason_of(error)}"
            ) from error


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
