"""Heads as glTF 2.0 binary files, .glb: a mesh with morph targets and the animation of its weights.

Metres, y up, the face towards +z. The mesh is the neutral face, in the clip's order of vertices,
with normals and vertex colours or the texture of its file. T frames, V vertices, F faces, K
targets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.clip import SYNTHETIC, Clip
from export.frames import template_of
from export.gltf import ATTRIBUTES, INDICES, Binary, index_type
from export.morph_targets import MorphTargets, arkit_targets, principal_targets
from export.textured import Textured, textured
from rendering.raster import surface_normals
from rendering.srgb import srgb_to_linear

TURNED = 0.01  # length of the change of a unit normal (0.6°); less is left out of a target
SKIN = {"metallicFactor": 0.0, "roughnessFactor": 0.6}
GREY = 0.6  # linear, for meshes without colours
ASSET = {"version": "2.0", "generator": "JambaTalk"}


def write_glb(clip: Clip, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.glb`, whose morph targets are the clip's principal components.

    No vertex is further than 0.1 mm from where the clip has it (`principal_targets`). Raises
    `UserError` for NaN, `OSError` of the disk.
    """
    path = folder / f"{clip.name}.glb"
    save_animation(path, clip, principal_targets(clip))
    return [path]


def write_arkit_glb(clip: Clip, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.glb`, whose morph targets are ARKit's units (`arkit_targets`).

    For tools that drive or read shapes by name. Raises as `write_glb`, and as `curves_of`.
    """
    path = folder / f"{clip.name}.glb"
    save_animation(path, clip, arkit_targets(clip))
    return [path]


def save_animation(path: Path, clip: Clip, targets: MorphTargets) -> None:
    """Write a clip's mesh with morph targets and the animation of their weights.

    Keys are at the instants of the frames, t / fps, with linear interpolation.
    """
    binary, template, texture = Binary(), template_of(clip), textured(clip)
    mesh = _mesh(binary, template, clip.faces, clip.colors, texture)
    extras = {"fps": str(clip.fps), "largest_error_mm": round(1e3 * targets.error, 6)}
    _add_targets(binary, mesh, template, clip.faces, targets.names, targets.deltas, texture)
    animation = _animation(binary, targets.weights, key_times(clip))
    content = {"asset": ASSET | {"extras": extras}, "animations": [animation]}
    if texture is not None:
        image = {"bufferView": binary.add_bytes(texture.picture), "mimeType": texture.kind}
        content |= {"images": [image], "textures": [{"source": 0}]}
    binary.save(path, _document(clip.name, mesh, clip.topology) | content)


def save_mesh(
    path: Path,
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    colors: NDArray[np.float32] | None = None,
    topology: str = "",
) -> None:
    """Write a mesh at rest: vertices (V, 3), metres; faces (F, 3); colors (V, 3) sRGB 0 to 1.

    topology: as of a `Clip`.
    """
    binary = Binary()
    binary.save(path, _document(path.stem, _mesh(binary, vertices, faces, colors), topology))


def morphing_glb(
    name: str, template: NDArray, faces: NDArray, names: Sequence[str], deltas: NDArray
) -> tuple[dict[str, Any], bytes]:
    """(JSON, bytes) of a mesh (V, 3) with morph targets (K, V, 3) and no animation."""
    binary = Binary()
    mesh = _mesh(binary, template, faces, None)
    _add_targets(binary, mesh, template, faces, names, deltas)
    return binary.added_to(_document(name, mesh, ""), b"")


def key_times(clip: Clip) -> NDArray[np.float32]:
    """(T,) seconds, of float32 the nearest to t / fps."""
    numbers = np.arange(len(clip.vertices), dtype=np.int64)
    return (numbers * clip.fps.denominator / clip.fps.numerator).astype(np.float32)


def vertex_normals(vertices: NDArray, faces: NDArray) -> NDArray[np.float32]:
    """(V, 3) unit normals of vertices (V, 3); (0, 0, 1) where no face of any area has a vertex."""
    of_faces, normals = np.empty((len(faces), 3), np.float32), np.empty((len(vertices), 3))
    surface_normals(
        np.asarray(vertices, np.float64), np.asarray(faces, np.int32), of_faces, normals
    )
    normals[~normals.any(axis=1)] = 0.0, 0.0, 1.0
    return normals.astype(np.float32)


def _mesh(
    binary: Binary, vertices: NDArray, faces: NDArray, colors: NDArray | None,
    texture: Textured | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The description of a mesh of one primitive, whose values are added to `binary`."""
    normals = vertex_normals(vertices, faces)
    if texture is not None:
        vertices, normals, faces = vertices[texture.source], normals[texture.source], texture.faces
    attributes = {
        "POSITION": binary.add(vertices.astype(np.float32), ATTRIBUTES, bounds=True),
        "NORMAL": binary.add(normals, ATTRIBUTES),
    }
    if texture is not None:
        attributes["TEXCOORD_0"] = binary.add(texture.coordinates, ATTRIBUTES)
    elif colors is not None:  # 16 bits, as 8 bits of linear light show steps in dark hair
        opaque = np.full((len(colors), 4), 0xFFFF, np.uint16)
        opaque[:, :3] = np.round(0xFFFF * srgb_to_linear(np.clip(colors, 0.0, 1.0)))
        attributes["COLOR_0"] = binary.add(opaque, ATTRIBUTES, normalized=True)
    corners = faces.ravel().astype(index_type(len(vertices)))
    primitive = {"attributes": attributes, "indices": binary.add(corners, INDICES), "material": 0}
    return {"primitives": [primitive]}


def _add_targets(
    binary: Binary, mesh: dict, template: NDArray, faces: NDArray, names: Sequence[str],
    deltas: NDArray, texture: Textured | None = None,
) -> None:  # fmt: skip
    """Give a mesh morph targets (K, V, 3); their normals are those of each target alone."""
    at_rest = vertex_normals(template, faces)
    accessors = []
    for delta, here in zip(deltas, deltas.any(axis=2), strict=True):
        turn = vertex_normals(template + delta, faces) - at_rest
        if texture is not None:
            delta, here, turn = (values[texture.source] for values in (delta, here, turn))
        accessors.append(
            {
                "POSITION": binary.add_sparse(delta, here),
                "NORMAL": binary.add_sparse(turn, np.linalg.norm(turn, axis=1) > TURNED),
            }
        )
    mesh["primitives"][0]["targets"] = accessors
    mesh["weights"] = [0.0] * len(names)
    mesh["extras"] = {"targetNames": list(names)}  # where readers look for names


def _animation(binary: Binary, weights: NDArray, times: NDArray) -> dict[str, Any]:
    """An animation of the weights (T, K) of node 0."""
    sampler = {
        "input": binary.add(times, bounds=True),
        "output": binary.add(weights.astype(np.float32).ravel()),
        "interpolation": "LINEAR",
    }
    channel = {"sampler": 0, "target": {"node": 0, "path": "weights"}}
    return {"name": "speech", "samplers": [sampler], "channels": [channel]}


def _document(name: str, mesh: dict[str, Any], topology: str) -> dict[str, Any]:
    """The JSON of a file with one node that shows one mesh.

    The synthetic head is closed behind its mouth. Through the mouth of others one sees the inside
    of the head, so both sides of their faces are drawn; at edges that gives bright specks.
    """
    attributes = mesh["primitives"][0]["attributes"]
    surface: dict[str, Any] = dict(SKIN)
    if "TEXCOORD_0" in attributes:
        surface["baseColorTexture"] = {"index": 0}
    elif "COLOR_0" not in attributes:
        surface["baseColorFactor"] = [GREY, GREY, GREY, 1.0]
    material = {"name": "head", "pbrMetallicRoughness": surface}
    if topology != SYNTHETIC:
        material["doubleSided"] = True
    return {
        "asset": ASSET,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name} | mesh],
        "materials": [material],
    }
