"""The formats .npy and .npz, read without trusting what a header says.

numpy parses the header of an .npy as Python source and allocates what it declares, and it takes
what a member of an .npz expands to. Here a header must be the plain one that numpy writes, of
numbers or text, and must fit the bytes that are there. Nothing is unpickled.
"""

import io
import math
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from files.archives import open_zip, read_member

MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
MAX_HEADER = 65_536  # bytes; numpy writes 118 for most arrays
ENTRY = re.compile(  # one of the three in the dict of a header
    r"'descr' ?: ?'(?P<dtype>[<>|=]?[biufcU]\d{1,5})'"
    r"|'fortran_order' ?: ?(?P<fortran>True|False)"
    r"|'shape' ?: ?\((?P<shape>[\dL, ]*)\)"
)
MAX_VALUES, MAX_DIGITS = 2**40, 18  # of a shape, and of one of its dimensions
MAX_CODE_POINT, SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)


class Header(NamedTuple):
    """dtype, shape and order ("C" or "F") of an array, and the byte at which its values begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    offset: int


def read_header(file: BinaryIO, n_bytes: int) -> Header:
    """The header of an .npy at the start of `file`, which has `n_bytes` in all.

    Raises `ValueError` for one that is not of numbers or text, or that needs more bytes.
    """
    start = file.read(12)
    if start[: len(MAGIC)] != MAGIC:
        is_zip = start[: len(ZIP_MAGIC)] == ZIP_MAGIC
        raise ValueError("it is an .npz; rename it" if is_zip else "it does not begin as an .npy")
    n_length = 2 if start[6:7] == b"\x01" else 4
    offset = 8 + n_length
    length = int.from_bytes(start[8:offset], "little")
    if length > min(n_bytes - offset, MAX_HEADER):
        raise ValueError(f"its header claims {length} bytes")
    file.seek(offset)
    header = Header(*_parsed(file.read(length).decode("latin1")), offset + length)
    needed = math.prod(header.shape) * header.dtype.itemsize
    if needed > n_bytes - header.offset:
        raise ValueError(
            f"its header claims {needed} bytes of values, the file has {n_bytes - header.offset}"
        )
    return header


def _parsed(text: str) -> tuple[np.dtype, tuple[int, ...], str]:
    """dtype, shape and order of the dict of a header; `ValueError` for anything else."""
    text = " ".join(text.split())
    entries = {match.lastgroup: match[match.lastgroup] for match in ENTRY.finditer(text)}
    rest = ENTRY.sub("", text).replace(",", "").replace(" ", "")
    if rest != "{}" or len(entries) < 3:
        raise ValueError("its header does not describe an array of numbers")
    numbers = re.findall(r"\d+", entries["shape"])
    shape = tuple(int(number[:MAX_DIGITS]) for number in numbers)
    if math.prod(max(n, 1) for n in shape) > MAX_VALUES:  # also where another dimension is 0
        raise ValueError("its header has too large a shape")
    try:
        dtype = np.dtype(entries["dtype"])
    except TypeError as error:
        raise ValueError(f"its header has the unknown type {entries['dtype']}") from error
    if dtype.itemsize == 0:
        raise ValueError(f"its header has the empty type {entries['dtype']}")
    return dtype, shape, "F" if entries["fortran"] == "True" else "C"


def read_npy(path: Path, mapped: bool = False) -> NDArray:
    """The array of an .npy; memory-mapped and read-only if `mapped`. What follows it is ignored.

    Raises `ValueError` for a file that `read_header` refuses, `OSError` of the disk.
    """
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size)
        if mapped:
            return np.memmap(
                path, header.dtype, "r", header.offset, header.shape, header.order
            )  # fmt: skip
        file.seek(header.offset)
        values = np.fromfile(file, header.dtype, math.prod(header.shape))
    return _checked_text(values.reshape(header.shape, order=header.order))


def read_npz(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz by name, without what macOS adds to archives.

    Raises `ValueError` for a file that is damaged, that `read_header` refuses, or whose members
    expand to much more than the file; `OSError` of the disk.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise ValueError("it is an .npy; rename it")
    arrays = {}
    with open_zip(path) as archive:
        for member in archive.infolist():
            name = PurePosixPath(member.filename)
            if name.name.startswith("._") or name.parts[:1] == ("__MACOSX",):
                continue
            if name.suffix != ".npy":
                raise ValueError(f"its member {member.filename!r} is not an .npy")
            arrays[member.filename.removesuffix(".npy")] = _member(archive, member)
    return arrays


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    content = read_member(archive, member)
    try:
        header = read_header(io.BytesIO(content), len(content))
        count = math.prod(header.shape)
        values = np.frombuffer(content, header.dtype, count, header.offset).copy()
        return _checked_text(values.reshape(header.shape, order=header.order))
    except ValueError as error:
        raise ValueError(f"{member.filename}: {error}") from error


def _checked_text(array: NDArray) -> NDArray:
    """`array`; raises `ValueError` where it has text that is not Unicode."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.byteorder + "u4")
        low, high = SURROGATES
        if (codes > MAX_CODE_POINT).any() or ((codes >= low) & (codes <= high)).any():
            raise ValueError("its text is not Unicode")
    return array
