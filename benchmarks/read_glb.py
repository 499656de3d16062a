"""A reader of .glb files, written from the format alone, to check what `export.glb` writes.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. It knows files of one mesh with one
primitive, whose morph weights have one animation. T keys, V vertices, K targets.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class Glb:
    """A file's JSON as `json`, and its numbers by `accessor`."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        magic, version, length, n_text, kind = struct.unpack("<4sIII4s", content[:20])
        if (magic, version, length, kind) != (b"glTF", 2, len(content), b"JSON"):
            raise ValueError(f"{path}: not the header of a .glb of {len(content)} bytes")
        self.json = json.loads(content[20 : 20 + n_text])
        n_bytes, kind = struct.unpack("<I4s", content[20 + n_text : 28 + n_text])
        self.bytes = content[28 + n_text :]
        if kind != b"BIN\0" or len(self.bytes) != n_bytes:
            raise ValueError(f"{path}: no part of {n_bytes} bytes")

    def _values(self, place: dict, kind: int, count: int, width: int) -> NDArray:
        view = self.json["bufferViews"][place["bufferView"]]
        dtype = np.dtype(TYPES[kind])
        n_bytes = count * width * dtype.itemsize
        if view["byteOffset"] % dtype.itemsize or view["byteLength"] != n_bytes:
            raise ValueError(f"buffer view {place['bufferView']} is not {n_bytes} aligned bytes")
        values = np.frombuffer(self.bytes, dtype, count * width, view["byteOffset"])
        return values.reshape(count, width)

    def accessor(self, index: int) -> NDArray:
        """(count, width), sparse values filled in."""
        accessor = self.json["accessors"][index]
        shape = accessor["count"], WIDTHS[accessor["type"]]
        if "bufferView" in accessor:
            return self._values(accessor, accessor["componentType"], *shape)
        values, sparse = np.zeros(shape, np.float32), accessor["sparse"]
        indices = sparse["indices"]
        rows = self._values(indices, indices["componentType"], sparse["count"], 1)[:, 0]
        if (np.diff(rows.astype(int)) <= 0).any():
            raise ValueError(f"accessor {index}: the indices do not increase")
        values[rows] = self._values(sparse["values"], 5126, sparse["count"], shape[1])
        return values

    @property
    def primitive(self) -> dict[str, Any]:
        """The description of the mesh's only primitive."""
        return self.json["meshes"][0]["primitives"][0]

    def attribute(self, name: str) -> NDArray:
        """(V, width) an attribute of the primitive, such as POSITION."""
        return self.accessor(self.primitive["attributes"][name])

    def targets(self, name: str) -> NDArray:
        """(K, V, 3) of all morph targets."""
        return np.stack([self.accessor(target[name]) for target in self.primitive["targets"]])

    def animation(self) -> tuple[NDArray, NDArray]:
        """(times (T,), weights (T, K))."""
        sampler = self.json["animations"][0]["samplers"][0]
        times = self.accessor(sampler["input"])[:, 0]
        return times, self.accessor(sampler["output"]).reshape(len(times), -1)

    def vertices_at(self, second: float) -> NDArray:
        """(V, 3) with weights interpolated linearly between keys."""
        times, weights = self.animation()
        now = [np.interp(second, times, column) for column in weights.T]
        return self.attribute("POSITION") + np.tensordot(now, self.targets("POSITION"), 1)
