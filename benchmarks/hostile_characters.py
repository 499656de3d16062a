"""Characters for `bench_hostile`: .glb, .vrm and .gltf files, and what accepted ones must be.

Some mutants of a .glb have a changed JSON and lengths that are right again.
"""

import base64
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile_formats import mutate_json
from benchmarks.hostile_targets import Attempt, Target, require

CORNERS = np.eye(3, dtype="<f4").tobytes()  # of a triangle; also a displacement
VIEW = {"buffer": 0, "byteOffset": 0, "byteLength": len(CORNERS)}
VALUES = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
SPARSE = {"componentType": 5126, "count": 3, "type": "VEC3",
          "sparse": {"count": 1, "indices": {"bufferView": 1, "componentType": 5121},
                     "values": {"bufferView": 0}}}  # fmt: skip


def document(names: list[str], extensions: dict[str, Any] | None = None) -> dict[str, Any]:
    """A head of one triangle with targets of these names."""
    targets = [{"POSITION": k % 2} for k in range(len(names))]
    mesh = {"primitives": [{"attributes": {"POSITION": 0}, "targets": targets}],
            "weights": [0.0] * len(names), "extras": {"targetNames": names}}  # fmt: skip
    return {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(CORNERS)}],
        "bufferViews": [VIEW, VIEW | {"byteLength": 1}],
        "accessors": [VALUES, SPARSE],
        "meshes": [mesh],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "animations": [{"name": "idle", "samplers": [], "channels": []}],
    } | ({"extensions": extensions} if extensions else {})


def documents() -> list[dict[str, Any]]:
    """Characters of all kinds."""
    bind = {"mesh": 0, "index": 1, "weight": 50}
    groups = [{"presetName": name, "binds": [bind]} for name in ("a", "i", "u", "blink")]
    expression = {"isBinary": True, "morphTargetBinds": [{"node": 0, "index": 0, "weight": 1.0}]}
    preset = {name: expression for name in ("aa", "ih", "ou", "blinkLeft")}
    return [
        document(["jawOpen", "eyeBlink_L", "fat"]),
        document(["viseme_PP", "viseme_aa"]),
        document(["x", "y"], {"VRM": {"blendShapeMaster": {"blendShapeGroups": groups}}}),
        document(["x", "y"], {"VRMC_vrm": {"expressions": {"preset": preset}}}),
    ]


def glb(text: bytes) -> bytes:
    """A .glb of a JSON and of `CORNERS`."""
    text += b" " * (-len(text) % 4)
    parts = ((b"JSON", text), (b"BIN\0", CORNERS))
    chunks = b"".join(struct.pack("<I", len(part)) + kind + part for kind, part in parts)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def glbs() -> list[bytes]:
    """The characters as .glb."""
    return [glb(json.dumps(content).encode()) for content in documents()]


def gltfs() -> list[bytes]:
    """The characters as .gltf, with their bytes inside."""
    uri = f"data:application/octet-stream;base64,{base64.b64encode(CORNERS).decode()}"
    buffers = [{"byteLength": len(CORNERS), "uri": uri}]
    images = [{"uri": "data:image/png;base64,AAAA"}]
    return [
        json.dumps(content | {"buffers": buffers, "images": images}).encode()
        for content in documents()
    ]


def mutate_glb(data: bytes, rng: random.Random) -> bytes:
    """A .glb with a changed JSON."""
    return glb(mutate_json(data[20 : 20 + int.from_bytes(data[12:16], "little")], rng))


def character(folder: Path) -> Attempt:
    """A character that is driven by curves, all of which are 1 in its two frames."""
    from export.character import load_character
    from export.character_animation import target_weights

    def attempt(path: Path) -> None:
        loaded = load_character(path)
        sources = {name for drive in loaded.drives for name in drive.sources}
        require(bool(sources), "a shape is driven")
        weights = target_weights(loaded, dict.fromkeys(sources, np.ones(2)), 2)
        for values in weights.values():
            known = values[~np.isnan(values)]
            require(bool(((known >= 0) & (known <= 1)).all()), "weights of 0 to 1")

    return attempt


CHARACTER_TARGETS = (
    Target("character glb", "x.glb", glbs, character, (mutate_glb,), 2, (".glb", ".vrm")),
    Target("character gltf", "x.gltf", gltfs, character, (mutate_json,), 1, (".gltf",)),
)
