"""Where back sides of a mesh can be seen: through its rims alone.

A ray from the viewer enters a closed surface through a front before it meets a back side. A surface
with open edges is closed by a lid on every rim, so a back side can only be seen where the picture
of a lid is, which lies in the box around the picture of the rim. Where a surface is inside out in
places, as in the ears of some FLAME heads, that is not so: `rendering.occlusion.look_around` finds
these places on the template, and `with_exposed` excepts them.

V vertices, F faces, P parts (surfaces that are not connected), R rims.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled

ANYWHERE = -1  # in place of a part: surfaces that enclose nothing, or are inside out
THIN = 0.01  # a part's volume below which it encloses nothing, in cubes of its mean radius
MARGIN = 1.0  # samples around the box of a rim


class Rims(NamedTuple):
    """part: (F,) int32 of each face, or ANYWHERE; the other fields are those of the rims.

    Rims first[p] to first[p + 1] - 1 belong to part p, and rim r has the vertices
    vertices[starts[r] : starts[r + 1]].
    """

    part: NDArray[np.int32]
    first: NDArray[np.int64]
    vertices: NDArray[np.int64]
    starts: NDArray[np.int64]


@compiled()
def no_rims(n_faces: int) -> Rims:
    """Rims of a mesh of which nothing is known: all back sides may be seen anywhere."""
    part, nothing = np.full(n_faces, ANYWHERE, np.int32), np.zeros(1, np.int64)
    return Rims(part, nothing, nothing[:0], nothing)


def find_rims(faces: NDArray, points: NDArray) -> Rims:
    """The rims of a mesh. faces: (F, 3), counter-clockwise from outside; points: (V, 3)."""
    n = len(points)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    part = _label(edges, n)
    parts, part_of_face = np.unique(part[faces[:, 0]], return_inverse=True)
    open_edges = _open_edges(edges, n)
    rim = _label(open_edges, n)
    on_rim = np.unique(open_edges)
    # Rims by their parts, and the vertices by their rims.
    order = np.lexsort((rim[on_rim], part[on_rim]))
    vertices = on_rim[order]
    starts = np.flatnonzero(np.r_[True, np.diff(rim[vertices]) != 0]) if len(vertices) else []
    starts = np.append(np.asarray(starts, np.int64), len(vertices))
    first = np.searchsorted(part[vertices[starts[:-1]]], parts)
    first = np.append(first, len(starts) - 1).astype(np.int64)
    encloses = _encloses(faces, part_of_face, len(parts), points, open_edges, rim)
    known = np.where(encloses[part_of_face], part_of_face, ANYWHERE).astype(np.int32)
    return Rims(known, first, vertices, starts)


def with_exposed(rims: Rims, faces: NDArray, exposed: NDArray) -> Rims:
    """Rims by which back sides at the vertices `exposed` (V,) bool may be seen anywhere."""
    anywhere = exposed[faces].any(axis=1)
    return rims._replace(part=np.where(anywhere, ANYWHERE, rims.part).astype(np.int32))


def _open_edges(edges: NDArray, n: int) -> NDArray[np.int64]:
    """Edges (E, 2) that more faces use in this direction than in the other, each so many times."""
    keys, times = np.unique(edges @ [n, 1], return_counts=True)
    back = keys % n * n + keys // n
    at = np.minimum(np.searchsorted(keys, back), len(keys) - 1)
    left = times - np.where(keys[at] == back, times[at], 0)
    keys = np.repeat(keys, np.maximum(left, 0))
    return np.stack([keys // n, keys % n], axis=1)


def _encloses(
    faces: NDArray, part: NDArray, n_parts: int, points: NDArray, open_edges: NDArray, rim: NDArray
) -> NDArray[np.bool_]:
    """(P,) whether a part, closed by lids, encloses a volume and its fronts face outwards.

    part: (F,) of each face; rim: (V,) a label for each vertex of a rim.
    """
    sums, counts = np.zeros(points.shape), np.zeros(len(points))
    np.add.at(sums, rim[open_edges[:, 0]], points[open_edges[:, 0]])
    np.add.at(counts, rim[open_edges[:, 0]], 1.0)
    middle = sums / np.maximum(counts, 1.0)[:, None]
    start, end = points[open_edges[:, 0]], points[open_edges[:, 1]]
    lids = np.stack([end, start, middle[rim[open_edges[:, 0]]]], axis=1)  # (E, 3, 3)
    part_of_vertex = np.zeros(len(points), np.int64)
    part_of_vertex[faces] = part[:, None]
    triangles = np.concatenate([points[faces], lids])
    of = np.concatenate([part, part_of_vertex[open_edges[:, 0]]])
    a, b, c = triangles.transpose(1, 0, 2)
    volumes = np.bincount(of, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6, n_parts)
    counts = np.bincount(part, minlength=n_parts)
    square = np.zeros(n_parts)
    for axis in points[faces[:, 0]].T:
        mean = np.bincount(part, axis, n_parts) / counts
        square += np.bincount(part, (axis - mean[part]) ** 2, n_parts) / counts
    return volumes > THIN * square**1.5


def _label(edges: NDArray, n: int) -> NDArray[np.int64]:
    """(n,) the least vertex that is connected to each of n vertices by edges (E, 2)."""
    labels = np.arange(n)
    _join(np.ascontiguousarray(edges), labels)
    return labels


@compiled()
def _join(edges, labels) -> None:
    """Fill `labels` (V,), which begin as 0, 1, 2, ..."""
    for e in range(edges.shape[0]):
        a, b = edges[e, 0], edges[e, 1]
        while labels[a] != a:
            labels[a] = labels[labels[a]]
            a = labels[a]
        while labels[b] != b:
            labels[b] = labels[labels[b]]
            b = labels[b]
        if a != b:
            labels[max(a, b)] = min(a, b)
    for v in range(labels.shape[0]):  # in ascending order, so that labels[v] is known before v
        labels[v] = labels[labels[v]]


@compiled()
def rim_boxes(screen, rims):
    """(R, 4) left, right, top and bottom of each rim; screen: (V, 3) as for `rasterise`.

    A rim with a vertex behind the viewer may be anywhere.
    """
    boxes = np.empty((rims.starts.shape[0] - 1, 4))
    for r in range(boxes.shape[0]):
        left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
        for k in range(rims.starts[r], rims.starts[r + 1]):
            v = rims.vertices[k]
            left, right = min(left, screen[v, 0]), max(right, screen[v, 0])
            top, bottom = min(top, screen[v, 1]), max(bottom, screen[v, 1])
            if not screen[v, 2] > 0.0:
                left, right, top, bottom = -np.inf, np.inf, -np.inf, np.inf
                break
        boxes[r, 0], boxes[r, 1] = left - MARGIN, right + MARGIN
        boxes[r, 2], boxes[r, 3] = top - MARGIN, bottom + MARGIN
    return boxes


@compiled()
def back_is_hidden(rims, boxes, f, left, right, top, bottom):
    """Whether the back side of face f, in these bounds, is behind fronts of its part for certain.

    boxes: of `rim_boxes`.
    """
    part = rims.part[f]
    if part == ANYWHERE:
        return False
    for r in range(rims.first[part], rims.first[part + 1]):
        across = left <= boxes[r, 1] and right >= boxes[r, 0]
        if across and top <= boxes[r, 3] and bottom >= boxes[r, 2]:
            return False
    return True
