"""Rounded outlines: a finer mesh for drawing, in which coarse edges follow the curved surface.

Where flat triangles would look angular, each edge gets a vertex in its middle, at the height of the
PN triangle's cubic edge (Vlachos et al. 2001, "Curved PN triangles"). The mesh's own vertices stay
where they are, so a picture passes through all predicted vertices.

V vertices, F faces, E split edges.
"""

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.raster import dot, row, surface_normals

TOLERANCE = 8e-4  # of the mesh's height: an edge nearer to the curve than this is not coarse


class Rounding:
    """Splits the coarse edges of a mesh. They are chosen once, on the template.

    faces: (F', 3) of the finer mesh; edges: (E, 2) the split edges.
    """

    def __init__(self, faces: NDArray, template: NDArray, rounded: NDArray) -> None:
        """faces: (F, 3); template: (V, 3); rounded: (V,) bool, where the surface is curved."""
        self.coarse_faces = faces
        edges = _edges(faces[rounded[faces].all(axis=1)])
        bulge = np.linalg.norm(self._middles(template, edges) - template[edges].mean(1), axis=1)
        # All edges between vertices of coarse edges are split. A lone split would show as a dent.
        coarse = np.zeros(len(template), bool)
        coarse[edges[bulge > TOLERANCE * np.ptp(template[:, 1])]] = True
        self.edges = edges[coarse[edges].all(axis=1)]
        self.faces = _split(faces, self.edges, len(template)) if len(self.edges) else faces

    def _middles(self, points: NDArray, edges: NDArray) -> NDArray:
        """(E, 3) middles of cubic curves over the edges, normal to the surface at both ends."""
        normals, faces = np.empty(points.shape), self.coarse_faces
        surface_normals(points, faces, np.empty((len(faces), 3), np.float32), normals)
        middles = np.empty((len(edges), 3))
        _fill_middles(points, normals, edges, middles)
        return middles

    def append_vertices(self, points: NDArray) -> NDArray:
        """The vertices (V, 3) float64 of a mesh, followed by the middles of the split edges."""
        if not len(self.edges):
            return points
        return np.concatenate([points, self._middles(points, self.edges)])

    def append_values(self, values: NDArray) -> NDArray:
        """Values (V,) or (V, C) at the vertices, followed by their means on the split edges."""
        start, end = self.edges.T
        return np.concatenate([values, (values[start] + values[end]) / 2])


@compiled()
def _fill_middles(points: NDArray, normals: NDArray, edges: NDArray, middles: NDArray) -> None:
    """Fill `middles` (E, 3) as `Rounding._middles`; points, normals: (V, 3); edges: (E, 2)."""
    for i in range(edges.shape[0]):
        start, end = row(points, edges[i, 0]), row(points, edges[i, 1])
        first, last = row(normals, edges[i, 0]), row(normals, edges[i, 1])
        along = end[0] - start[0], end[1] - start[1], end[2] - start[2]
        rise, fall = dot(along, first), dot(along, last)
        for axis in range(3):
            bend = rise * first[axis] - fall * last[axis]
            middles[i, axis] = (start[axis] + end[axis]) / 2.0 - bend / 8.0


def _edges(faces: NDArray) -> NDArray:
    """Each edge of the faces (F, 3) once, as pairs (n, 2) in ascending order."""
    pairs = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    return np.unique(pairs, axis=0)


def _split(faces: NDArray, edges: NDArray, n_vertices: int) -> NDArray[np.int32]:
    """The faces after edge i of `edges` (E, 2) got the vertex `n_vertices` + i in its middle.

    Faces with one, two or three split edges become two, three or four, so the mesh stays closed.
    """
    following = np.roll(faces, -1, axis=1)
    keys = edges @ [n_vertices, 1]  # ascending, as np.unique sorts pairs
    key = np.minimum(faces, following) * np.int64(n_vertices) + np.maximum(faces, following)
    at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    middle = np.where(keys[at] == key, n_vertices + at, -1)  # (F, 3): that of edge corner, next
    parts = [faces[(middle < 0).all(axis=1)]]
    for corner in range(3):  # faces turned so that the first of their split edges comes first
        around, between = np.roll(faces, -corner, axis=1), np.roll(middle, -corner, axis=1)
        split = between >= 0
        one, two = (split == [True, False, False]).all(1), (split == [True, True, False]).all(1)
        (a, b, c), ab = around[one].T, between[one, 0]
        parts += [np.stack(triangle, axis=1) for triangle in ((a, ab, c), (ab, b, c))]
        (a, b, c), (ab, bc, _) = around[two].T, between[two].T
        parts += [np.stack(t, axis=1) for t in ((ab, b, bc), (a, ab, bc), (a, bc, c))]
    whole = (middle >= 0).all(axis=1)
    (a, b, c), (ab, bc, ca) = faces[whole].T, middle[whole].T
    four = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    parts += [np.stack(triangle, axis=1) for triangle in four]
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.int32)
