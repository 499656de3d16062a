"""The mesh format .ply (http://paulbourke.net/dataformats/ply), ascii and binary.

A header declares elements (vertex, face, ...), each with a count and properties: scalars, or lists
whose length stands before each of them. Counts and lengths are compared with the bytes that are
there before anything is allocated. Every failure is a `ValueError`. V vertices, F triangles.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_HEADER = 65_536  # bytes
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
CORNERS = ("vertex_indices", "vertex_index")  # names of the list in a face
PLACES = ("s", "t"), ("u", "v"), ("texture_u", "texture_v")  # names of coordinates on a picture


@dataclass(frozen=True)
class Property:
    """A scalar, or a list of them where `length` is the type of their number; types of numpy."""

    name: str
    kind: str
    length: str = ""


@dataclass(frozen=True)
class Element:
    """What a file has `count` of."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)


# Of an element: scalars (n,), lists of one length (n, length); else only the corners of faces, as
# an array for each.
Columns = dict[str, NDArray | list[NDArray]]


def parse_ply(content: bytes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(vertices (V, 3), faces (F, 3)) of the bytes of a file; polygons become triangle fans."""
    vertices, faces = None, None
    for element, columns in _elements(content):
        if element.name == "vertex":
            vertices = _vertices(columns)
        elif element.name == "face":
            if not any(p.name in CORNERS and p.length for p in element.properties):
                raise ValueError("its faces have no list vertex_indices")
            faces = _triangles(columns)
    if vertices is None:
        raise ValueError("its header has no element vertex")
    return vertices, np.zeros((0, 3), np.int64) if faces is None else faces


def parse_ply_coordinates(content: bytes) -> tuple[str, NDArray[np.int64], NDArray[np.float64]]:
    """(name of the picture or "", faces (F, 3), coordinates on it (F, 3, 2)) of a file's bytes.

    Coordinates of the corners of faces are read from binary files of triangles only. Where there
    are none, the name is "".
    """
    head = content[: content.find(b"end_header")].decode("latin1")
    name = re.search(r"^comment\s+TextureFile\s+(.+?)\s*$", head, re.MULTILINE)
    faces, of_vertices, of_corners = np.zeros((0, 3), np.int64), None, None
    for element, columns in _elements(content) if name else ():
        if element.name == "vertex":
            pair = next((pair for pair in PLACES if set(pair) <= set(columns)), None)
            if pair is not None:
                of_vertices = np.stack([columns[axis] for axis in pair], axis=1)
        elif element.name == "face":
            faces = _triangles(columns)
            of_corners = columns.get("texcoord")
    if isinstance(of_corners, np.ndarray) and of_corners.shape == (len(faces), 6):
        return name[1], faces, of_corners.reshape(-1, 3, 2).astype(np.float64)
    if name is None or of_vertices is None:
        return "", faces, np.zeros((len(faces), 3, 2))
    return name[1], faces, of_vertices[faces].astype(np.float64)


def _elements(content: bytes) -> Iterator[tuple[Element, Columns]]:
    """The elements of a file with their values, in its order."""
    order, elements, start = _header(content)
    tokens = [] if order else content[start:].split()
    place = start if order else 0
    for element in elements:
        if order:
            columns, place = _binary(element, content, place, order)
        else:
            columns, place = _ascii(element, tokens, place)
        yield element, columns


def _header(content: bytes) -> tuple[str, list[Element], int]:
    """The byte order ("" for ascii), the elements, and the byte at which their values begin."""
    head = content[:MAX_HEADER]
    end = head.find(b"end_header")
    stop = head.find(b"\n", end) + 1
    if not head.startswith(b"ply") or end < 0 or stop == 0:
        raise ValueError("it has no whole header, from ply to end_header")
    order, elements = None, []
    for line in head[:end].decode("latin1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in ORDERS:
            order = ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal():
            elements.append(Element(words[1], int(words[2])))
        elif words[0] == "property" and elements:
            elements[-1].properties.append(_property(words))
        else:
            raise ValueError(f"its header has the line {line[:60]!r}")
    if order is None:
        raise ValueError("its header has no format")
    return order, elements, stop


def _property(words: list[str]) -> Property:
    kinds = [TYPES.get(word, "") for word in words[1:-1]]
    if words[1:2] == ["list"] and len(words) == 5:
        length, kind = kinds[1:]
        if length[:1] in ("i", "u") and kind and not (words[4] in CORNERS and kind[0] == "f"):
            return Property(words[4], kind, length)
    elif len(words) == 3 and kinds[0]:
        return Property(words[2], kinds[0])
    raise ValueError(f"its header has the line {' '.join(words)[:60]!r}")


def _check_count(element: Element, least: int, n_left: int) -> None:
    """Raise `ValueError` where items of at least `least` units cannot be in `n_left` of them."""
    if element.count and (least == 0 or element.count * least > n_left):
        raise ValueError(f"its header claims {element.count} of {element.name}, there are fewer")


def _ascii(element: Element, tokens: list[bytes], start: int) -> tuple[Columns, int]:
    """The columns of an element whose values begin at a token, and where they end."""
    _check_count(element, len(element.properties), len(tokens) - start)
    if not any(p.length for p in element.properties):
        end = start + element.count * len(element.properties)
        values = np.array([float(token) for token in tokens[start:end]])
        table = values.reshape(element.count, len(element.properties))
        return {p.name: table[:, i] for i, p in enumerate(element.properties)}, end
    corners: list[NDArray] = []
    for _ in range(element.count):
        for p in element.properties:
            length = int(tokens[start]) if p.length and start < len(tokens) else 1
            start += bool(p.length)
            if not 0 <= length <= len(tokens) - start:
                raise ValueError(f"a list of {p.name} has {length} values, there are fewer")
            if p.length and p.name in CORNERS:
                corners.append(np.array([int(t) for t in tokens[start : start + length]], int))
            start += length
    return {CORNERS[0]: corners}, start


def _binary(element: Element, content: bytes, start: int, order: str) -> tuple[Columns, int]:
    """The columns of an element whose values begin at a byte, and where they end."""
    least = sum(np.dtype(p.length or p.kind).itemsize for p in element.properties)
    _check_count(element, least, len(content) - start)
    if element.count == 0:
        return {p.name: np.zeros(0) for p in element.properties}, start
    lengths = _first_lengths(element, content, start, order)
    fields = []
    for p, length in zip(element.properties, lengths, strict=True):
        fields += [(f"{p.name} length", order + p.length)] if p.length else []
        fields += [(p.name, order + p.kind, (length,) if p.length else ())]
    kind = np.dtype(fields)
    end = start + element.count * kind.itemsize
    if end <= len(content):
        table = np.frombuffer(content, kind, element.count, start)
        pairs = zip(element.properties, lengths, strict=True)
        if all((table[f"{p.name} length"] == n).all() for p, n in pairs if p.length):
            return {p.name: table[p.name] for p in element.properties}, end
    return _binary_of_any_length(element, content, start, order)


def _first_lengths(element: Element, content: bytes, start: int, order: str) -> list[int]:
    """The length of each list in the first item of an element, 1 for scalars."""
    lengths = []
    for p in element.properties:
        length = 1
        if p.length:
            length = _number(content, start, struct.Struct(order + CODES[p.length]))
            start += np.dtype(p.length).itemsize
        if not 0 <= length * np.dtype(p.kind).itemsize <= len(content) - start:
            raise ValueError(f"a list of {p.name} has {length} values, there are fewer")
        start += length * np.dtype(p.kind).itemsize
        lengths.append(length)
    return lengths


def _binary_of_any_length(
    element: Element, content: bytes, start: int, order: str
) -> tuple[Columns, int]:
    """The corners of faces with different numbers of them, and where the element ends."""
    corners: list[NDArray] = []
    steps = [
        (p, struct.Struct(order + CODES[p.length or "i1"]), np.dtype(p.kind).itemsize)
        for p in element.properties
    ]
    for _ in range(element.count):
        for p, number, size in steps:
            length = 1
            if p.length:
                length, start = _number(content, start, number), start + number.size
            if not 0 <= length * size <= len(content) - start:
                raise ValueError(f"a list of {p.name} has {length} values, there are fewer")
            if p.length and p.name in CORNERS:
                corners.append(np.frombuffer(content, order + p.kind, length, start))
            start += length * size
    return {CORNERS[0]: corners}, start


def _number(content: bytes, start: int, code: struct.Struct) -> int:
    try:
        return code.unpack_from(content, start)[0]
    except struct.error as error:
        raise ValueError("it ends in the middle of its values") from error


def _vertices(columns: Columns) -> NDArray[np.float64]:
    axes = [columns.get(axis) for axis in "xyz"]
    if not all(isinstance(axis, np.ndarray) and axis.ndim == 1 for axis in axes):
        raise ValueError("its vertices have no numbers x, y and z")
    return np.stack(axes, axis=1).astype(np.float64)


def _triangles(columns: Columns) -> NDArray[np.int64]:
    corners = next(columns[name] for name in CORNERS if name in columns)
    if isinstance(corners, np.ndarray) and corners.shape[1:] == (3,):
        return corners.astype(np.int64)
    fans = [(p[0], a, b) for p in corners for a, b in zip(p[1:], p[2:], strict=False)]
    return np.array(fans, dtype=np.int64).reshape(-1, 3)
