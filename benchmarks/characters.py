"""Characters of the kinds that users have, made of the synthetic head, to try `--character` on.

Targets are named as by Apple's tools with `_L` and `_R`, as Oculus' visemes or as VRoid names
vowels. Each is a .glb of two meshes with the same names, head and teeth, with colours, a texture, a
skin and an animation of its own; one is a folder of .obj files. V vertices, K targets.
"""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.curves import unit_basis
from export.gltf import ATTRIBUTES, INDICES, Binary, write_glb_file
from export.live_link import ARKIT_UNITS
from export.sequences import obj_writer
from export.visemes import OCULUS, SILENCE, VRM, pose_matrix
from rendering.srgb import srgb_to_linear
from synthetic.head import load_head

PARTS = ("head", "teeth")  # names of the nodes, in the order of the alphabet
VROID = {"aa": "Fcl_MTH_A", "ih": "Fcl_MTH_I", "ou": "Fcl_MTH_U", "ee": "Fcl_MTH_E",
         "oh": "Fcl_MTH_O"}  # fmt: skip
PRESETS_0 = {"aa": "a", "ih": "i", "ou": "u", "ee": "e", "oh": "o"}  # of VRM 0.x
SHARES = 0.75, 0.25  # of a vowel, between the two targets that its expression binds


def sided(name: str) -> str:
    """ "eyeBlinkLeft" -> "eyeBlink_L"."""
    for side in ("Left", "Right"):
        if name.endswith(side):
            return f"{name.removesuffix(side)}_{side[0]}"
    return name


def part_indices() -> list[NDArray[np.int64]]:
    """The vertices of each of `PARTS` in the head."""
    head = load_head()
    teeth = np.sort(np.concatenate([v for name, v in head.parts.items() if "teeth" in name]))
    return [np.setdiff1d(np.arange(len(head.colors)), teeth), teeth]


def arkit_targets() -> dict[str, NDArray[np.float64]]:
    """Name -> displacement (V, 3) in metres of ARKit's units, with `_L` and `_R`."""
    names, basis_mm = unit_basis()
    return {sided(n): 1e-3 * basis_mm[names.index(n)] for n in ARKIT_UNITS}


def pose_targets(phones_of: dict[str, str], spelled: Mapping[str, str]) -> dict[str, NDArray]:
    """Name -> displacement (V, 3) in metres of visemes; spelled: their names in the file."""
    names, basis_mm = unit_basis()
    poses = np.tensordot(pose_matrix(phones_of, names), 1e-3 * basis_mm, 1)
    return {spelled[name]: pose for name, pose in zip(phones_of, poses, strict=True)}


def make_characters(folder: Path, subject: str) -> dict[str, Path]:
    """Write one character of each kind; kind -> path."""
    head = load_head()
    template = head.templates[subject]
    visemes = {SILENCE: "viseme_sil"} | {name: f"viseme_{name}" for name in OCULUS}
    silent = {visemes[SILENCE]: np.zeros_like(template)}
    vowels = pose_targets(VRM, VROID)
    upright, level = np.diag([0, 1, 0]) / SHARES[0], np.diag([1, 0, 1]) / SHARES[1]
    halves = {f"{name}_more": target @ level for name, target in vowels.items()}
    vowels = {name: target @ upright for name, target in vowels.items()}
    files = {
        "eyeBlink_L": (arkit_targets(), {}),
        "oculus": (silent | pose_targets(OCULUS, visemes), {}),
        "vrm0": (vowels | halves, {"VRM": vrm0(list(vowels))}),
        "vrm1": (vowels | halves, {"VRMC_vrm": vrm1(list(vowels))}),
    }
    paths = {}
    for kind, (targets, extensions) in files.items():
        suffix = ".vrm" if extensions else ".glb"
        paths[kind] = folder / f"{kind}{suffix}"
        write_head(paths[kind], template, targets, extensions)
    paths["obj"] = folder / "obj"
    paths["obj"].mkdir()
    write = obj_writer(len(template), head.faces, None)
    for name, target in {"neutral": 0, **arkit_targets()}.items():
        (paths["obj"] / f"{name}.obj").write_bytes(write(template + target))
    return paths


def vrm0(names: list[str]) -> dict[str, Any]:
    """The extension VRM with the vowels, of which each mesh has a bind to two targets."""
    groups = []
    for k, vowel in enumerate(VRM):
        binds = [
            {"mesh": mesh, "index": k + half * len(names), "weight": 100 * share}
            for mesh in range(len(PARTS))
            for half, share in enumerate(SHARES)
        ]
        groups.append({"name": vowel.upper(), "presetName": PRESETS_0[vowel], "binds": binds,
                       "materialValues": [], "isBinary": False})  # fmt: skip
    return {"specVersion": "0.0", "blendShapeMaster": {"blendShapeGroups": groups}}


def vrm1(names: list[str]) -> dict[str, Any]:
    """The extension VRMC_vrm with the same expressions."""
    preset = {}
    for k, vowel in enumerate(VRM):
        preset[vowel] = {"isBinary": False, "overrideBlink": "none", "overrideLookAt": "none",
                         "overrideMouth": "none", "morphTargetBinds": [
            {"node": node, "index": k + half * len(names), "weight": share}
            for node in range(len(PARTS))
            for half, share in enumerate(SHARES)
        ]}  # fmt: skip
    return {"specVersion": "1.0", "expressions": {"preset": preset}}


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of pixels (height, width, 3)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def write_head(
    path: Path, template: NDArray, targets: Mapping[str, NDArray], extensions: dict[str, Any]
) -> None:
    """Write a character: two skinned meshes (V, 3) with targets (V, 3), a texture, an animation."""
    head, binary = load_head(), Binary()
    picture = binary.add(np.frombuffer(png(np.full((4, 4, 3), 250, np.uint8)), np.uint8))
    colors = srgb_to_linear(head.colors).astype(np.float32)
    meshes = []
    for name, part in zip(PARTS, part_indices(), strict=True):
        number = np.full(len(template), -1)
        number[part] = np.arange(len(part))
        faces = number[head.faces]
        faces = faces[(faces >= 0).all(axis=1)].ravel()
        joints = np.zeros((len(part), 4), np.uint8)
        weights = np.tile(np.array([1, 0, 0, 0], np.float32), (len(part), 1))
        attributes = {
            "POSITION": binary.add(template[part].astype(np.float32), ATTRIBUTES, bounds=True),
            "COLOR_0": binary.add(colors[part], ATTRIBUTES),
            "TEXCOORD_0": binary.add(template[part, :2].astype(np.float32), ATTRIBUTES),
            "JOINTS_0": binary.add(joints, ATTRIBUTES),
            "WEIGHTS_0": binary.add(weights, ATTRIBUTES),
        }
        accessors = [
            {"POSITION": binary.add_sparse(d.astype(np.float32), d.any(axis=1))}
            for d in (target[part] for target in targets.values())
        ]
        primitive = {"attributes": attributes, "targets": accessors, "material": 0,
                     "indices": binary.add(faces.astype(np.uint16), INDICES)}  # fmt: skip
        meshes.append({"name": name, "primitives": [primitive],
                       "extras": {"targetNames": list(targets)}})  # fmt: skip
    write_glb_file(path, *_finished(binary, meshes, picture, extensions))


def _finished(
    binary: Binary, meshes: list[dict], picture: int, extensions: dict[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """(JSON, bytes): nodes, skin, material and an animation that turns the joint by 0.2 rad."""
    turned = np.array([[0, 0, 0, 1], [0, np.sin(0.1), 0, np.cos(0.1)]], np.float32)
    sampler = {"input": binary.add(np.array([0, 1], np.float32), bounds=True),
               "output": binary.add(turned)}  # fmt: skip
    view = binary.accessors[picture]["bufferView"]
    nodes = [{"name": name, "mesh": k, "skin": 0} for k, name in enumerate(PARTS)]
    joint = len(nodes)
    document = {
        "asset": {"version": "2.0", "generator": "benchmarks.characters"},
        "scene": 0,
        "scenes": [{"nodes": list(range(joint + 1))}],
        "nodes": [*nodes, {"name": "neck"}],
        "meshes": meshes,
        "skins": [{"joints": [joint]}],
        "images": [{"bufferView": view, "mimeType": "image/png"}],
        "textures": [{"source": 0}],
        "materials": [{"name": "skin", "pbrMetallicRoughness": {
            "baseColorTexture": {"index": 0}, "metallicFactor": 0.0}}],
        "animations": [{"name": "idle", "samplers": [sampler], "channels": [
            {"sampler": 0, "target": {"node": joint, "path": "rotation"}}]}],
    }  # fmt: skip
    if extensions:
        document |= {"extensionsUsed": list(extensions), "extensions": extensions}
    return binary.added_to(document, b"")
