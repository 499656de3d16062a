"""A writer of glTF 2.0 in its binary form, .glb: a JSON part and a part of bytes.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. No extension is used, so that every
reader of the format opens the files. V vertices.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.whole_file import write_whole

MAGIC, VERSION, JSON_CHUNK, BIN_CHUNK = b"glTF", 2, b"JSON", b"BIN\0"
COMPONENTS = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125}  # type of numpy -> of OpenGL
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
ATTRIBUTES, INDICES = 34962, 34963  # what a buffer view is for: ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER


class Binary:
    """The bytes of a file, and the buffer views and accessors that describe them."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.n_bytes = 0
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []
        self.rows: dict[bytes, int] = {}  # vertex indices -> their buffer view, which many share

    def add(
        self, values: NDArray, use: int = 0, normalized: bool = False, bounds: bool = False
    ) -> int:
        """The index of a new accessor of values (n,) or (n, width).

        use: `ATTRIBUTES`, `INDICES`, or 0 for anything else. normalized: integers that stand for
        0 to 1. bounds: whether least and largest values are given, as POSITION and key times need.
        """
        accessor = self._description(values) | {"bufferView": self._view(values, use)}
        if normalized:
            accessor["normalized"] = True
        return self._append(accessor | (_bounds(values) if bounds else {}))

    def add_bytes(self, content: bytes) -> int:
        """The index of a new buffer view of the bytes of another file, such as a picture."""
        return self._view(np.frombuffer(content, np.uint8))

    def add_sparse(self, values: NDArray[np.float32], moved: NDArray[np.bool_]) -> int:
        """The index of a new accessor of values (V, 3) that are 0 except where `moved` (V,).

        It is stored in full where that is smaller. Bounds are given.
        """
        rows = np.flatnonzero(moved)
        if len(rows) == 0:
            rows = np.zeros(1, np.int64)  # the format has no accessor without any value
        rows = rows.astype(index_type(len(values)))
        values = np.where(moved[:, None], values, np.float32(0))
        if len(rows) * (rows.itemsize + 12) >= values.nbytes:
            return self.add(values, ATTRIBUTES, bounds=True)
        key = rows.tobytes()
        if key not in self.rows:
            self.rows[key] = self._view(rows)
        indices = {"bufferView": self.rows[key], "componentType": _component(rows)}
        sparse = {
            "count": len(rows),
            "indices": indices,
            "values": {"bufferView": self._view(values[rows])},
        }
        return self._append(self._description(values) | {"sparse": sparse} | _bounds(values))

    def save(self, path: str | Path, document: dict[str, Any]) -> None:
        """Write the file: `document` is the JSON without what this object holds.

        Raises `OSError` of the disk.
        """
        write_glb_file(path, *self.added_to(document, b""))

    def added_to(self, document: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """(document, bytes of its first buffer) with what this object holds at their ends.

        Indices of accessors that `add` has returned count from the first one added: the number of
        accessors of `document`, if any, is added to them by the caller.
        """
        offset = len(content) + -len(content) % 4
        views, accessors = document.get("bufferViews", []), document.get("accessors", [])
        moved = [view | {"byteOffset": view["byteOffset"] + offset} for view in self.views]
        content = b"".join([content.ljust(offset, b"\0"), *self.parts])
        buffers = document.get("buffers", [{}])
        first = buffers[0] | {"byteLength": len(content)}
        return document | {
            "buffers": [first, *buffers[1:]],
            "bufferViews": views + moved,
            "accessors": accessors + [_shifted(item, len(views)) for item in self.accessors],
        }, content

    def _view(self, values: NDArray, use: int = 0) -> int:
        content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": self.n_bytes, "byteLength": len(content)}
        self.views.append(view | ({"target": use} if use else {}))
        content += bytes(-len(content) % 4)
        self.parts.append(content)
        self.n_bytes += len(content)
        return len(self.views) - 1

    def _description(self, values: NDArray) -> dict[str, Any]:
        width = 1 if values.ndim == 1 else values.shape[1]
        return {
            "componentType": _component(values), "count": len(values), "type": SHAPES[width],
        }  # fmt: skip

    def _append(self, accessor: dict[str, Any]) -> int:
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def index_type(n_vertices: int) -> type:
    """The smallest integers for the indices of a mesh; the largest value of a type is reserved."""
    return np.uint16 if n_vertices <= 0xFFFF else np.uint32


def write_glb_file(path: str | Path, document: dict[str, Any], content: bytes) -> None:
    """Write a .glb of its JSON and the bytes of its first buffer, a multiple of 4.

    Raises `OSError` of the disk, `UserError` beyond the 4 GB of the format.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    n_bytes = 28 + len(text) + len(content)
    if n_bytes >= 2**32:
        raise UserError(
            f"{path}: {n_bytes} bytes, expected less than 4 GB; export smaller textures"
        )
    parts = (MAGIC, struct.pack("<II", VERSION, n_bytes), struct.pack("<I", len(text)), JSON_CHUNK,
             text, struct.pack("<I", len(content)), BIN_CHUNK, content)  # fmt: skip
    write_whole(path, b"".join(parts))


def _shifted(accessor: dict[str, Any], n_views: int) -> dict[str, Any]:
    """An accessor whose buffer views have `n_views` before them."""
    shifted = dict(accessor)
    if "bufferView" in shifted:
        shifted["bufferView"] += n_views
    if "sparse" in shifted:
        shifted["sparse"] = shifted["sparse"] | {
            key: shifted["sparse"][key]
            | {"bufferView": shifted["sparse"][key]["bufferView"] + n_views}
            for key in ("indices", "values")
        }
    return shifted


def _component(values: NDArray) -> int:
    return COMPONENTS[f"{values.dtype.kind}{values.dtype.itemsize}"]


def _bounds(values: NDArray) -> dict[str, list[float]]:
    columns = values.reshape(len(values), -1)
    return {"min": columns.min(axis=0).tolist(), "max": columns.max(axis=0).tolist()}
