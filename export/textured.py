"""A clip's mesh with the texture of its file, for formats whose vertices have one place on it.

V vertices, F faces, N vertices that are written.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from export.clip import Clip
from files.meshes import MESH_SUFFIXES
from files.textures import load_texture


@dataclass(frozen=True, eq=False)
class Textured:
    """source: (N,) the clip's vertex that each written one is; the first V are the clip's own.

    faces: (F, 3) into the written ones. coordinates: (N, 2) float32, u to the right and v downward
    as in glTF. picture, kind: bytes of a file and its MIME type.
    """

    source: NDArray[np.int64]
    faces: NDArray[np.int32]
    coordinates: NDArray[np.float32]
    picture: bytes
    kind: str


def textured(clip: Clip) -> Textured | None:
    """The texture of `clip.mesh`, or None where it has none.

    A vertex on a seam of the texture is written once for each of its places. Raises `UserError` as
    `load_texture`, or where the file has triangles of another mesh.
    """
    if clip.mesh is None or clip.mesh.suffix.lower() not in MESH_SUFFIXES:
        return None
    texture = load_texture(clip.mesh)
    if texture is None:
        return None
    n_vertices = len(clip.template)
    if texture.faces.min() < 0 or texture.faces.max() >= n_vertices:
        raise UserError(
            f"texture of {clip.mesh}: a face has vertex {texture.faces.max()}, expected less than "
            f"{n_vertices}"
        )
    source, faces, coordinates = split_at_seams(n_vertices, texture.faces, texture.coordinates)
    coordinates[:, 1] = 1.0 - coordinates[:, 1]
    return Textured(source, faces, coordinates, texture.picture, texture.kind)


def split_at_seams(
    n_vertices: int, faces: NDArray, coordinates: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """(source (N,), faces (F, 3), coordinates (N, 2)): one written vertex for each place.

    coordinates: (F, 3, 2) of the corners. The first V written vertices are the mesh's own; those
    without faces are at (0, 0).
    """
    corners = np.column_stack([faces.ravel(), coordinates.reshape(-1, 2)])
    pairs, which = np.unique(corners, axis=0, return_inverse=True)  # sorted by vertex
    vertices = pairs[:, 0].astype(np.int64)
    is_first = np.diff(vertices, prepend=-1) > 0
    number = np.where(is_first, vertices, n_vertices - 1 + np.cumsum(~is_first))
    source = np.concatenate([np.arange(n_vertices), vertices[~is_first]])
    places = np.zeros((len(source), 2), np.float32)
    places[number] = pairs[:, 1:]
    return source, number[which].reshape(-1, 3).astype(np.int32), places
