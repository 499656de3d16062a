"""Frames of B3D(AC)^2 read from their archives, and CodeTalker's normalisation in numpy.

A .vl file holds one frame: the number of vertices (an unsigned integer of 4 or 8 bytes, or none,
as the file's size shows), then x, y, z of each vertex as little-endian float32, millimetres.

The normalisation of CodeTalker's creatDataset_BIWI.m and process_BIWI_template.m, for each frame
and each neutral scan by itself, with the triangles of the subject's neutral scan:

    u_i = v_i diag(1, -1, -1)     half a turn about x: y points up, the face looks along +z
    c_i = u_i - mean_j u_j        the mean of all vertices becomes the origin
    w_i = c_i / sqrt(area(c))     area: the sum over triangles; the surface becomes 1

(Their area is the sum of the mixed Voronoi areas, which is the same number.) A unit is the square
root of the face's own area, 174 to 201 mm. It is a little larger in frames with an open mouth.

Shapes: V vertices, F faces.
"""

import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from files.archives import open_tar
from files.listing import list_files

BYTES_PER_VERTEX = 12
COUNT_TYPES = {0: None, 4: "<u4", 8: "<u8"}  # bytes before the coordinates -> their dtype
BROKEN_ARCHIVE = (tarfile.TarError, EOFError, OSError, OverflowError, ValueError, zlib.error)
HALF_TURN = np.array([1.0, -1.0, -1.0])  # diagonal of the rotation about x by pi


def parse_vl(content: bytes, name: str) -> NDArray[np.float32]:
    """Vertices (V, 3) float32, millimetres, from the bytes of a .vl file.

    Raises `UserError`, with `name` in the message, if size and count disagree or a coordinate is
    not finite.
    """
    size, header = len(content), len(content) % BYTES_PER_VERTEX
    count = (size - header) // BYTES_PER_VERTEX
    if header not in COUNT_TYPES or count == 0:
        raise UserError(
            f"{name}: {size} bytes, expected 12 per vertex and 0, 4 or 8 for their number; "
            "download it again"
        )
    kind = COUNT_TYPES[header]
    if kind is not None:
        declared = int(np.frombuffer(content, kind, 1)[0])
        if declared != count:
            raise UserError(f"{name}: {count} vertices, expected {declared}; download it again")
    vertices = np.frombuffer(content, "<f4", offset=header).reshape(-1, 3)
    if not np.isfinite(vertices).all():
        raise UserError(f"{name}: has NaN or infinite coordinates; download it again")
    return vertices.astype(np.float32)


def read_frames(source: Path, n_vertices: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(number, vertices (V, 3)) of each .vl in a .tar, .tgz or folder, in the order of the source.

    Nothing is unpacked to disk. Raises `UserError` for a broken archive or a frame with another
    number of vertices.
    """
    largest = n_vertices * BYTES_PER_VERTEX + max(COUNT_TYPES)
    entries = _read_folder(source) if source.is_dir() else _read_archive(source, largest)
    for path, content in entries:
        name = f"{source}: {Path(path).name}"
        number = re.search(r"(\d+)\.vl$", path, re.IGNORECASE)
        if number is None:
            raise UserError(f"{name}: expected a frame number in the name, as in frame_001.vl")
        vertices = parse_vl(content, name)
        if len(vertices) != n_vertices:
            raise UserError(
                f"{name}: {len(vertices)} vertices, expected {n_vertices} as in the scan"
            )
        yield int(number[1]), vertices


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in list_files(folder, (".vl",), deep=True):
        yield str(path), path.read_bytes()


def _read_archive(path: Path, largest: int) -> Iterator[tuple[str, bytes]]:
    try:
        with open_tar(path) as archive:
            for member in archive:
                hidden = Path(member.name).name.startswith(".")
                if not member.isfile() or hidden or not member.name.lower().endswith(".vl"):
                    continue
                if member.size > largest:
                    raise UserError(
                        f"{path}: {member.name} has {member.size} bytes, expected at most {largest}"
                    )
                file = archive.extractfile(member)
                yield member.name, file.read()
    except BROKEN_ARCHIVE as error:
        raise UserError(
            f"{path}: broken archive ({reason_of(error)}); download it again"
        ) from error


def in_order(
    frames: list[tuple[int, NDArray[np.float32]]], source: Path
) -> list[NDArray[np.float32]]:
    """The vertices sorted by frame number; `UserError` for a duplicate or a missing frame."""
    frames = sorted(frames, key=lambda frame: frame[0])
    numbers = np.array([number for number, _ in frames])
    steps = np.diff(numbers, prepend=min(numbers[0], 1) - 1)  # they count from 1, or from 0
    if (steps != 1).any():
        at = int(np.argmax(steps != 1))
        problem = "exists twice" if steps[at] == 0 else "follows a gap"
        raise UserError(f"{source}: frame {numbers[at]} {problem}; download it again")
    return [vertices for _, vertices in frames]


def surface_area(vertices: NDArray, faces: NDArray) -> float:
    """Area of the mesh of `vertices` (V, 3) and `faces` (F, 3), unit squared."""
    corners = vertices.T.astype(np.float64)[:, faces.T]  # (axis, corner, F)
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    # u x v written out is four times as fast as np.cross, and every frame needs it
    x, y, z = u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
    return float(np.sqrt(x * x + y * y + z * z).sum() / 2)


def normalise(vertices: NDArray, faces: NDArray) -> NDArray[np.float32]:
    """`vertices` (V, 3) rotated, centred and scaled to a surface of 1; see the module's docstring.

    Computed in float64. Raises `ValueError` for a mesh without area.
    """
    rotated = vertices * HALF_TURN
    centred = rotated - rotated.mean(axis=0)
    area = surface_area(centred, faces)
    if not 0 < area < np.inf:
        raise ValueError(f"surface area {area}, expected more than 0")
    return (centred / np.sqrt(area)).astype(np.float32)
