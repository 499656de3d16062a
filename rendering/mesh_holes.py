"""Meshes as they come, made fit to be drawn; the vertices that a model predicts stay untouched.

Some topologies have faces twice, once inside out, which flickers (BIWI of 3,895 vertices). Masks,
meshes of the face's front alone (both BIWI), are open at the eyes and the mouth, and a white
background shining through the lips reads as teeth; through FLAME's lips one sees the back of the
head. `HoleFill` stands behind such holes: a dark cavity that moves with the lips, and eyeballs.
Heads with a mouth of their own stay as they are.

V vertices, F faces, N vertices of a hole's rim; y up, the face towards +z.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOLE = 0.35  # of the mesh's extent: smaller rims are holes, larger ones its border
MASK_HEIGHT = 0.5  # a mesh whose outer rim is taller than this share of it is a mask, no head
MOUTH_RINGS = 4  # of vertices between the lips and the cavity's end
MOUTH_DEPTH = 0.3  # of the mouth's width
MOUTH_COLOUR = (0.30, 0.13, 0.12)  # sRGB
EYE_AXES = np.array([0.75, 0.48, 0.40])  # half axes of an eyeball, of the distance of its corners:
# wider than a real one, so that it fills the corners, too
EYE_GRID = 24, 16  # meridians and parallels
EYE_COLOUR = (0.82, 0.73, 0.67)  # sRGB, a little lighter than clay: a statue's


def drop_doubles(faces: NDArray, template: NDArray) -> NDArray:
    """`faces` (F, 3) with every triangle once; of two that face apart, the one like its neighbours.

    template: (V, 3).
    """
    _, group, count = np.unique(
        np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    group = group.ravel()
    if count.max(initial=1) == 1:
        return faces
    a, b, c = template[faces].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)  # (F, 3)
    around = np.zeros(template.shape)
    single = count[group] == 1
    for corner in range(3):
        np.add.at(around, faces[single, corner], normals[single])
    agreement = np.einsum("ij,ij->i", normals, around[faces].sum(axis=1))
    best_first = np.lexsort((-agreement, group))
    first = np.r_[True, np.diff(group[best_first]) > 0]
    return np.ascontiguousarray(faces[np.sort(best_first[first])])


def boundary_loops(faces: NDArray) -> list[NDArray]:
    """Closed loops (N,) of vertex indices along the mesh's open edges, as their faces run."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    n = edges.max(initial=0) + 1
    alone = ~np.isin(edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0])
    after = dict(edges[alone].tolist())
    loops = []
    while after:
        start, here = after.popitem()
        loop = [start]
        while here != start and here in after:
            loop.append(here)
            here = after.pop(here)
        if here == start and len(loop) > 2:
            loops.append(np.array(loop))
    return loops


class HoleFill:
    """What stands behind the holes of a face: vertices and faces of its own, or none.

    faces: (F, 3), counter-clockwise from outside; template: (V, 3).
    """

    def __init__(self, faces: NDArray, template: NDArray) -> None:
        self.mouths: list[NDArray] = []
        self.eyes: list[Eye] = []
        loops = sorted(boundary_loops(faces), key=lambda loop: -_extent(template[loop]))
        inner = [loop for loop in loops if _extent(template[loop]) < HOLE * _extent(template)]
        inner.sort(key=lambda loop: template[loop, 1].mean())
        if len(loops) == 2 and len(inner) == 1:  # a head, open at the neck and the lips: FLAME
            self.mouths = inner
        elif inner and np.ptp(template[loops[0], 1]) > MASK_HEIGHT * np.ptp(template[:, 1]):
            self.mouths = inner[:1]  # the lowest hole
            self.eyes = [eye_behind(rim, template) for rim in inner[1:]]

    def vertices(self, mesh: NDArray) -> NDArray:
        """`mesh` (V, 3) with the backing's own vertices after it."""
        eyes = [eye.ball + (mesh[eye.corners] - eye.at).mean(axis=0) for eye in self.eyes]
        return np.concatenate([mesh, *(_cavity(mesh[rim]) for rim in self.mouths), *eyes])

    def faces(self, faces: NDArray, n_vertices: int) -> NDArray:
        """`faces` (F, 3) int32 of a mesh of `n_vertices` with those of the backing after them."""
        parts, start = [faces], n_vertices
        for rim in self.mouths:
            parts.append(_cavity_faces(len(rim)) + start)
            start += MOUTH_RINGS * len(rim) + 1
        for eye in self.eyes:
            parts.append(_ball_faces() + start)
            start += len(eye.ball)
        return np.concatenate(parts).astype(np.int32)

    def colours(self, colours: NDArray) -> NDArray:
        """`colours` (V, 3) sRGB with those of the backing after them."""
        mouth = sum(MOUTH_RINGS * len(rim) + 1 for rim in self.mouths)
        eyes = sum(len(eye.ball) for eye in self.eyes)
        return np.concatenate(
            [colours, np.tile(MOUTH_COLOUR, (mouth, 1)), np.tile(EYE_COLOUR, (eyes, 1))]
        )


def _extent(points: NDArray) -> float:
    """Diagonal of the box around `points` (N, 3)."""
    return float(np.linalg.norm(np.ptp(points, axis=0)))


def _cavity(rim: NDArray) -> NDArray:
    """(MOUTH_RINGS · N + 1, 3): from the lips' rim (N, 3) back to a point behind its middle."""
    middle, back = rim.mean(axis=0), [0.0, 0.0, -MOUTH_DEPTH * np.ptp(rim[:, 0])]
    shares = np.arange(MOUTH_RINGS)[:, None, None] / MOUTH_RINGS
    rings = rim + shares * (middle - rim) + (1.0 - (1.0 - shares) ** 2) * back
    return np.concatenate([rings.reshape(-1, 3), [middle + back]])


def _cavity_faces(n: int) -> NDArray:
    """Triangles of a cavity whose rim of n vertices runs as the faces outside of it do."""
    here = np.arange(n)
    following = np.roll(here, -1)
    parts = []
    for ring in range(MOUTH_RINGS - 1):
        parts += _strip(ring * n + here, ring * n + following, n)
    last = (MOUTH_RINGS - 1) * n
    parts.append(np.stack([last + following, last + here, np.full(n, MOUTH_RINGS * n)], axis=1))
    return np.concatenate(parts)


def _strip(here: NDArray, following: NDArray, step: int) -> list[NDArray]:
    """Two triangles for each (here, following) and their partners, `step` vertices further."""
    return [
        np.stack([following, here, here + step], axis=1),
        np.stack([following, here + step, following + step], axis=1),
    ]


@dataclass(frozen=True)
class Eye:
    """An eyeball: `ball` (n, 3) when the vertices `corners` (2,) are `at` (2, 3)."""

    ball: NDArray
    corners: NDArray
    at: NDArray


def eye_behind(rim: NDArray, template: NDArray) -> Eye:
    """The eyeball that touches the lids `rim` (N,) of the template (V, 3) from behind.

    It keeps its place between the eye's corners whatever the lids do.
    """
    lids = template[rim]
    corners = rim[[lids[:, 0].argmin(), lids[:, 0].argmax()]]
    across = template[corners[1]] - template[corners[0]]
    width = np.linalg.norm(across)
    x = across / width
    z = np.cross(x, [0.0, 1.0, 0.0])
    frame = np.stack([x, np.cross(z, x) / np.linalg.norm(z), z / np.linalg.norm(z)])  # rows
    middle = lids.mean(axis=0)
    local = (lids - middle) @ frame.T / (width * EYE_AXES)
    inside = (local[:, :2] ** 2).sum(axis=1) < 1.0
    front = np.sqrt(1.0 - (local[inside, :2] ** 2).sum(axis=1))
    behind = (local[inside, 2] - front).min()  # every lid stays before the ball
    ball = (_unit_ball() + [0.0, 0.0, behind]) * (width * EYE_AXES)
    return Eye(ball @ frame + middle, corners, template[corners])


def _unit_ball() -> NDArray:
    """(n, 3) of a unit sphere, its poles above and below."""
    meridians, parallels = EYE_GRID
    turn = 2 * np.pi * np.arange(meridians) / meridians
    height = np.pi * np.arange(parallels + 1)[:, None] / parallels
    across = np.sin(height)
    grid = [across * np.sin(turn), np.broadcast_to(np.cos(height), (parallels + 1, meridians))]
    return np.stack([*grid, across * np.cos(turn)], axis=-1).reshape(-1, 3)


def _ball_faces() -> NDArray:
    """Triangles of `_unit_ball`, seen from outside."""
    meridians, parallels = EYE_GRID
    here = np.arange(meridians)
    following = np.roll(here, -1)
    parts = []
    for row in range(parallels):
        parts += _strip(row * meridians + here, row * meridians + following, meridians)
    return np.concatenate(parts)
