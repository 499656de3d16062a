"""Matrices of numbers in .mat files of MATLAB 5 to 7, as other projects keep their regions.

A file is a header of 128 bytes, then elements: a tag of type and size, and the content, padded to 8
bytes. A matrix is an element of elements: flags, dimensions, name, values. It may be compressed by
itself. See https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf ("MAT-File Level 5").
"""

import math
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from files.arrays import check_file

HEADER_BYTES = 128
LARGEST = 16 * 2**20  # bytes, of a file and of what it decompresses to; a region has far fewer
MOST_MATRICES = 1000
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
           13: "u8"}  # types of elements with values -> dtype  # fmt: skip
NUMERIC_CLASSES = range(6, 16)  # of matrices: double, single, 8 to 64 bit integers
COMPLEX = 0x08  # flag of a matrix
REMEDY = "save the indices in MATLAB with -v7, or in Python with numpy.save (counted from 0)"


def load_mat(path: str | Path, what: str = "matrices") -> dict[str, NDArray]:
    """The matrices of real numbers in a .mat, by name, in the type in which they are stored.

    Text, cells, structures and sparse or complex matrices are left out. Raises `UserError` for a
    broken file, another version of the format, or more than 16 MB.
    """
    path = check_file(path, what)
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    try:
        return _matrices(content)
    except (ValueError, zlib.error) as error:
        raise UserError(
            f"{what} {path}: not a readable .mat: {reason_of(error)}; {REMEDY}"
        ) from error


def _matrices(content: bytes) -> dict[str, NDArray]:
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER_BYTES])
    version = content[125:126] if order == "<" else content[124:125]
    if order is None or version != b"\x01":
        raise ValueError("expected one of MATLAB 5 to 7")
    matrices = {}
    left = LARGEST  # bytes that may be decompressed
    for number, (kind, element) in enumerate(_elements(content[HEADER_BYTES:], order)):
        if number >= MOST_MATRICES:
            raise ValueError(f"more than {MOST_MATRICES} matrices")
        if kind == COMPRESSED:
            element = _decompressed(element, left)
            left -= len(element)
            kind, element = next(_elements(element, order), (0, b""))
        if kind == MATRIX:
            matrices |= _matrix(element, order)
    if not matrices:
        raise ValueError("no matrix of numbers in it")
    return matrices


def _decompressed(content: bytes, largest: int) -> bytes:
    stream = zlib.decompressobj()
    decompressed = stream.decompress(content, largest + 1)
    if len(decompressed) > largest:
        raise ValueError(f"more than {LARGEST} bytes when decompressed")
    if not stream.eof:
        raise ValueError("it ends early")
    return decompressed


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of consecutive elements.

    Content of up to 4 bytes may stand in the tag, whose first number then has the size in its upper
    half. Compressed elements are not padded.
    """
    place = 0
    while place < len(content):
        tag = content[place : place + 8]
        kind, size = np.frombuffer(tag.ljust(8, b"\0"), f"{order}u4").tolist()
        start, padding = place + 8, -size % 8 if kind != COMPRESSED else 0
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, padding = place + 4, 4 - size
        if padding < 0 or start + size > len(content):
            raise ValueError(f"an element of {size} bytes at byte {place} is cut short")
        yield kind, content[start : start + size]
        place = start + size + padding


def _matrix(content: bytes, order: str) -> dict[str, NDArray]:
    """{name: matrix}, or {} for content that is not of real numbers."""
    parts = list(islice(_elements(content, order), 4))
    if len(parts) < 4:
        return {}
    (_, flags), (_, dimensions), (_, name), (kind, values) = parts
    if len(flags) != 8 or len(dimensions) % 4:
        raise ValueError("a matrix without flags or dimensions")
    flag_bits = int(np.frombuffer(flags, f"{order}u4")[0])
    if flag_bits & 0xFF not in NUMERIC_CLASSES or flag_bits >> 8 & COMPLEX:
        return {}
    shape = np.frombuffer(dimensions, f"{order}i4").tolist()
    dtype = np.dtype(NUMBERS.get(kind, "V1")).newbyteorder(order)
    if dtype.kind == "V" or len(shape) > 32 or min(shape, default=-1) < 0:
        raise ValueError("a matrix of unknown type or dimensions")
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"a matrix of shape {tuple(shape)} has {len(values)} bytes of values")
    matrix = np.frombuffer(values, dtype).reshape(shape, order="F")
    return {name.decode("latin1"): matrix} if name else {}  # a workspace of functions has none
