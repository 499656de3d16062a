"""Repairs of meshes for drawing: doubled faces are dropped, open mouths and eyes are filled.

The vertices that a model predicts stay as they are.

Some topologies contain faces twice, once inside out, which flickers (BIWI of 3,895 vertices). Both
BIWI topologies are masks (the front of the face alone) and open at the eyes and the mouth: a white
background seen through the lips looks like teeth. FLAME is open at the lips: through them the back
of the head is seen. `HoleFill` adds a dark cavity that moves with the lips, and eyeballs. Heads
with a mouth of their own get nothing. From the side (beyond about 45°) the eyes of masks stay open.

V vertices, F faces, N vertices of a boundary loop (the rim of a hole); y up, the face towards +z.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOLE = 0.35  # share of the mesh's extent below which a boundary loop is a hole, not its border
MASK_HEIGHT = 0.5  # share of the mesh's height above which its border makes it a mask, not a head
MOUTH_RINGS = 4  # rings of vertices between the lips and the cavity's end
MOUTH_DEPTH = 0.3  # of the mouth's width
MOUTH_COLOUR = (0.30, 0.13, 0.12)  # sRGB
# Half axes of an eyeball as shares of the distance between the eye's corners. It is wider than a
# real eyeball so that it fills the corners, too.
EYE_AXES = np.array([0.75, 0.48, 0.40])
EYE_GRID = 24, 16  # meridians and parallels
EYE_COLOUR = (0.82, 0.73, 0.67)  # sRGB, a little lighter than clay, as a statue's


def drop_doubles(faces: NDArray, template: NDArray) -> NDArray:
    """`faces` (F, 3) with every triangle once.

    Of two copies that face opposite ways the one that agrees with its neighbours stays. template:
    (V, 3).
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
    """Closed loops (N,) of vertex indices along open edges, in the direction of the faces."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    n = edges.max(initial=0) + 1
    is_open = ~np.isin(edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0])
    next_vertex = dict(edges[is_open].tolist())
    loops = []
    while next_vertex:
        start, here = next_vertex.popitem()
        loop = [start]
        while here != start and here in next_vertex:
            loop.append(here)
            here = next_vertex.pop(here)
        if here == start and len(loop) > 2:
            loops.append(np.array(loop))
    return loops


class HoleFill:
    """A mouth cavity and eyeballs behind the holes of a face; nothing where it has no such holes.

    faces: (F, 3), counter-clockwise from outside; template: (V, 3).
    """

    def __init__(self, faces: NDArray, template: NDArray) -> None:
        self.mouths: list[NDArray] = []
        self.eyes: list[Eye] = []
        loops = sorted(boundary_loops(faces), key=lambda loop: -_extent(template[loop]))
        holes = [loop for loop in loops if _extent(template[loop]) < HOLE * _extent(template)]
        holes.sort(key=lambda loop: template[loop, 1].mean())
        if len(loops) == 2 and len(holes) == 1:  # a head, open at the neck and the lips: FLAME
            self.mouths = holes
        elif holes and np.ptp(template[loops[0], 1]) > MASK_HEIGHT * np.ptp(template[:, 1]):
            self.mouths = holes[:1]  # the lowest hole
            self.eyes = [eye_behind(rim, template) for rim in holes[1:]]

    def append_vertices(self, mesh: NDArray) -> NDArray:
        """The vertices of a mesh (V, 3), followed by those of its cavity and eyeballs."""
        eyes = [eye.ball + (mesh[eye.corners] - eye.at).mean(axis=0) for eye in self.eyes]
        return np.concatenate([mesh, *(_cavity(mesh[rim]) for rim in self.mouths), *eyes])

    def append_faces(self, faces: NDArray, n_vertices: int) -> NDArray[np.int32]:
        """The faces (F, 3) of a mesh of `n_vertices`, followed by those of cavity and eyeballs."""
        parts, start = [faces], n_vertices
        for rim in self.mouths:
            parts.append(_cavity_faces(len(rim)) + start)
            start += MOUTH_RINGS * len(rim) + 1
        for eye in self.eyes:
            parts.append(_ball_faces() + start)
            start += len(eye.ball)
        return np.concatenate(parts).astype(np.int32)

    def append_colours(self, colours: NDArray) -> NDArray:
        """The colours (V, 3) sRGB of a mesh, followed by those of its cavity and eyeballs."""
        mouth = sum(MOUTH_RINGS * len(rim) + 1 for rim in self.mouths)
        eyes = sum(len(eye.ball) for eye in self.eyes)
        return np.concatenate(
            [colours, np.tile(MOUTH_COLOUR, (mouth, 1)), np.tile(EYE_COLOUR, (eyes, 1))]
        )


def _extent(points: NDArray) -> float:
    """Diagonal of the box around `points` (N, 3)."""
    return float(np.linalg.norm(np.ptp(points, axis=0)))


def _cavity(rim: NDArray) -> NDArray:
    """(MOUTH_RINGS · N + 1, 3): rings from the rim (N, 3) back to a point behind its middle."""
    middle, back = rim.mean(axis=0), [0.0, 0.0, -MOUTH_DEPTH * np.ptp(rim[:, 0])]
    shares = np.arange(MOUTH_RINGS)[:, None, None] / MOUTH_RINGS
    rings = rim + shares * (middle - rim) + (1.0 - (1.0 - shares) ** 2) * back
    return np.concatenate([rings.reshape(-1, 3), [middle + back]])


def _cavity_faces(n: int) -> NDArray:
    """Triangles of `_cavity` for a rim of n vertices in the order of `boundary_loops`."""
    here = np.arange(n)
    following = np.roll(here, -1)
    parts = []
    for ring in range(MOUTH_RINGS - 1):
        parts += _strip(ring * n + here, ring * n + following, n)
    last = (MOUTH_RINGS - 1) * n
    parts.append(np.stack([last + following, last + here, np.full(n, MOUTH_RINGS * n)], axis=1))
    return np.concatenate(parts)


def _strip(here: NDArray, following: NDArray, step: int) -> list[NDArray]:
    """Two triangles between each edge (here, following) and the edge `step` indices further on."""
    return [
        np.stack([following, here, here + step], axis=1),
        np.stack([following, here + step, following + step], axis=1),
    ]


@dataclass(frozen=True)
class Eye:
    """An eyeball `ball` (n, 3) for the vertices `corners` (2,) of an eye when these are at `at`."""

    ball: NDArray
    corners: NDArray
    at: NDArray


def eye_behind(rim: NDArray, template: NDArray) -> Eye:
    """The eyeball that touches the lids `rim` (N,) of the template (V, 3) from behind.

    It moves with the corners of the eye and not with the lids.
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
    behind = (local[inside, 2] - front).min()  # every lid stays in front of the ball
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
