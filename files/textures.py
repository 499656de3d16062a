"""The texture of a mesh file: a picture, and where each corner of each triangle lies on it.

An .obj names its materials (`mtllib`, `usemtl`), a material its picture (`map_Kd`), and the corners
of faces their coordinates (`f v/vt`). A .ply names its picture in a comment (`TextureFile`, as
MeshLab writes it); coordinates belong to vertices (s t, u v, texture_u texture_v) or to the corners
of triangles (list texcoord). V vertices, F triangles.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from files.arrays import check_file
from files.ply import parse_ply_coordinates
from files.texts import read_text

KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}  # by the first bytes


@dataclass(frozen=True, eq=False)
class Texture:
    """faces: (F, 3) int32. coordinates: (F, 3, 2) float32, u to the right, v upward, 0 to 1 on the
    picture. picture: the bytes of a .png or .jpg; kind: its MIME type."""

    faces: NDArray[np.int32]
    coordinates: NDArray[np.float32]
    picture: bytes
    kind: str


def load_texture(path: str | Path) -> Texture | None:
    """The texture of a .ply or .obj, or None where the file names none.

    An .obj whose file of materials is missing names none. Raises `UserError` for a picture that is
    missing or of another kind, for several pictures, and for a corner without coordinates.
    """
    path = check_file(path, "mesh")
    try:
        if path.suffix.lower() == ".ply":
            name, faces, coordinates = parse_ply_coordinates(path.read_bytes())
        else:
            name, faces, coordinates = _of_obj(path)
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"texture of {path}: {reason_of(error)}; export the mesh again") from error
    if not name or not len(faces):
        return None
    coordinates = coordinates.astype(np.float32)
    if not np.isfinite(coordinates).all():
        raise UserError(f"texture of {path}: a corner has no coordinates; export the mesh again")
    picture, kind = _picture(path, path.parent / name.replace("\\", "/"))
    return Texture(faces.astype(np.int32), coordinates, picture, kind)


def _picture(mesh: Path, path: Path) -> tuple[bytes, str]:
    """(bytes, MIME type) of the picture that a mesh file names."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"texture {path}, named by {mesh}: cannot be read ({reason_of(error)}); copy it there, "
            "or take its line out of the mesh or .mtl"
        ) from error
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
    if kind is None:
        raise UserError(f"texture {path}: expected a .png or .jpg, which glTF takes; convert it")
    return content, kind


def _of_obj(path: Path) -> tuple[str, NDArray, NDArray]:
    """(name of the picture or "", faces (F, 3), coordinates (F, 3, 2), NaN where a corner has
    none) of an .obj."""
    pictures: dict[str, str] = {}
    places: list[list[float]] = []
    corners: list[list[tuple[int, int]]] = []  # of vertex and coordinates, for each triangle
    n_vertices, used, material = 0, set(), ""
    for line in read_text(path, "mesh", "replace").replace("\\\n", " ").splitlines():
        kind, *words = line.partition("#")[0].split() or [""]
        if kind == "v":
            n_vertices += 1
        elif kind == "vt" and len(words) >= 2:
            places.append([float(word) for word in words[:2]])
        elif kind == "mtllib":
            pictures |= _pictures(path.parent / line.split(maxsplit=1)[1].strip())
        elif kind == "usemtl" and words:
            material = line.split(maxsplit=1)[1].strip()
        elif kind == "f":
            used.add(material)
            polygon = [_corner(word, n_vertices, len(places)) for word in words]
            corners += [[polygon[0], a, b] for a, b in zip(polygon[1:], polygon[2:], strict=False)]
    named = {pictures.get(name, "") for name in used}
    if not any(used):  # no usemtl: the only material of the file
        named = set(pictures.values())
    if len(named) > 1:
        raise ValueError(f"{len(named)} materials with different pictures, expected one")
    table = np.array(corners, np.int64).reshape(-1, 3, 2)
    known = np.vstack([np.array(places).reshape(-1, 2), [[np.nan, np.nan]]])
    if len(table) and table[:, :, 1].max() >= len(places):
        raise ValueError(f"a corner has coordinates {table[:, :, 1].max() + 1} of {len(places)}")
    return "".join(named), table[:, :, 0], known[table[:, :, 1]]


def _corner(word: str, n_vertices: int, n_places: int) -> tuple[int, int]:
    """(vertex, coordinates or -1) from 0, of a word such as 7, 7/3, 7/3/1 or -1/-1."""
    vertex, place = ([*word.split("/"), ""])[:2]
    numbers = (int(vertex), n_vertices), (int(place) if place else 0, n_places)
    return tuple(n - 1 if n >= 0 else max(count + n, -1) for n, count in numbers)


def _pictures(path: Path) -> dict[str, str]:
    """Material -> file name of its colours, of an .mtl; none where that is missing."""
    if not path.is_file():
        return {}
    pictures, material = {}, ""
    for line in read_text(path, "materials", "replace").splitlines():
        kind, *words = line.split() or [""]
        if kind == "newmtl" and words:
            material = line.split(maxsplit=1)[1].strip()
        elif kind == "map_Kd" and words:  # options such as -s 1 1 1 stand before the name
            has_options = words[0].startswith("-")
            pictures[material] = words[-1] if has_options else line.split(maxsplit=1)[1].strip()
    return pictures
