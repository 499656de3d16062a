"""What tests of .glb files share: a small clip, and a reader that is written from the format alone.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from export.clip import Clip

TYPES = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def small_clip(rng: np.random.Generator, n_frames: int = 23, rank: int = 3, **fields: Any) -> Clip:
    """A clip of 41 vertices, of which 13 move along `rank` directions by up to some millimetres."""
    template = rng.normal(size=(41, 3)).astype(np.float32) * 0.1
    offsets = np.zeros((n_frames, 41, 3), np.float32)
    offsets[:, 5:18] = np.tensordot(
        rng.normal(size=(n_frames, rank)), rng.normal(size=(rank, 13, 3)) * 1e-3, 1
    )
    faces = np.array([rng.permutation(41)[:3] for _ in range(67)], np.int32)
    values = dict(
        vertices=template + offsets, template=template, faces=faces, fps=Fraction(30),
        metres_per_unit=1.0, name="clip",
    )  # fmt: skip
    return Clip(**(values | fields))


class Glb:
    """A file's JSON as `json`, and its numbers by `accessor`."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        magic, version, length, n_text, kind = struct.unpack("<4sIII4s", content[:20])
        assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
        self.json = json.loads(content[20 : 20 + n_text])
        n_bytes, kind = struct.unpack("<I4s", content[20 + n_text : 28 + n_text])
        self.bytes = content[28 + n_text :]
        assert kind == b"BIN\0" and len(self.bytes) == n_bytes

    def _values(self, place: dict, kind: int, count: int, width: int) -> np.ndarray:
        view = self.json["bufferViews"][place["bufferView"]]
        dtype = np.dtype(TYPES[kind])
        assert view["byteOffset"] % dtype.itemsize == 0
        assert view["byteLength"] == count * width * dtype.itemsize
        values = np.frombuffer(self.bytes, dtype, count * width, view["byteOffset"])
        return values.reshape(count, width)

    def accessor(self, index: int) -> np.ndarray:
        """(count, width), sparse values filled in."""
        accessor = self.json["accessors"][index]
        shape = accessor["count"], WIDTHS[accessor["type"]]
        if "bufferView" in accessor:
            return self._values(accessor, accessor["componentType"], *shape)
        values, sparse = np.zeros(shape, np.float32), accessor["sparse"]
        indices = sparse["indices"]
        rows = self._values(indices, indices["componentType"], sparse["count"], 1)[:, 0]
        assert (np.diff(rows.astype(int)) > 0).all()
        values[rows] = self._values(sparse["values"], 5126, sparse["count"], shape[1])
        return values

    @property
    def primitive(self) -> dict[str, Any]:
        return self.json["meshes"][0]["primitives"][0]

    def attribute(self, name: str) -> np.ndarray:
        return self.accessor(self.primitive["attributes"][name])

    def targets(self, name: str) -> np.ndarray:
        """(K, V, 3) of all morph targets."""
        return np.stack([self.accessor(target[name]) for target in self.primitive["targets"]])

    def animation(self) -> tuple[np.ndarray, np.ndarray]:
        """(times (T,), weights (T, K))."""
        sampler = self.json["animations"][0]["samplers"][0]
        times = self.accessor(sampler["input"])[:, 0]
        return times, self.accessor(sampler["output"]).reshape(len(times), -1)

    def vertices_at(self, second: float) -> np.ndarray:
        """(V, 3) with weights interpolated linearly between keys."""
        times, weights = self.animation()
        now = [np.interp(second, times, column) for column in weights.T]
        return self.attribute("POSITION") + np.tensordot(now, self.targets("POSITION"), 1)
