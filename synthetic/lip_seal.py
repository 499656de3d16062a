"""Correct the head's lips so that they touch in every template and in units of a closed mouth.

MakeHuman's lips are about a millimetre apart at rest and intersect in some units. Here both lips
are moved onto one curve in every template, and stay on it in every unit in which a closed mouth
should stay closed. Only `build_head.py` uses this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

GAP = 1e-4  # metres between the contact rings of a closed mouth
FLATTENING = 0.6  # share of the bow in the line between the closed lips that is removed
ROUND_WIDTH = 0.5  # share of the mouth's width that a funnel opens
ROUND_POWER = 0.8  # of the funnel's outline: 0.5 is an ellipse, 1 a parabola with pointed ends
ROUND_UPPER = 0.35  # share of the funnel's opening by the upper lip, which covers the teeth
OUTER, CONTACT, INNER = range(3)  # rings around the mouth's opening, from the face inwards


class SmoothSpread:
    """Extends displacements of a few vertices smoothly to their neighbourhood.

    Bi-Laplacian on the mesh's graph: the field and its slope vanish at the border of `free`.
    fixed: (k,) vertices with given values; free: vertices that are solved for.
    """

    def __init__(self, faces: np.ndarray, n_vertices: int, fixed: np.ndarray, free: np.ndarray):
        a, b = faces.ravel(), np.roll(faces, 1, axis=1).ravel()
        ones = np.ones(len(a))
        graph = sparse.coo_matrix((ones, (a, b)), shape=(n_vertices,) * 2).tocsr()
        graph = ((graph + graph.T) > 0).astype(float)
        degree = np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1)
        laplacian = sparse.identity(n_vertices) - sparse.diags(1 / degree) @ graph
        energy = (laplacian.T @ laplacian).tocsr()
        self.n_vertices, self.fixed = n_vertices, fixed
        self.free = np.setdiff1d(free, fixed)
        self._solver = splu(energy[self.free][:, self.free].tocsc())
        self._coupling = energy[self.free][:, fixed]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The field (V, 3) with `values` (k, 3) at the fixed vertices."""
        field = np.zeros((self.n_vertices, 3))
        field[self.fixed] = values
        field[self.free] = -self._solver.solve(self._coupling @ values)
        return field


def smooth_field(field: np.ndarray, faces: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`field` (V, C) with `share` (V,) of each vertex's value replaced by its neighbours' mean."""
    a, b = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)), axis=0).T
    total, count = np.zeros_like(field), np.zeros(len(field))
    for here, there in ((a, b), (b, a)):
        np.add.at(total, here, field[there])
        np.add.at(count, here, 1)
    mean = total / np.maximum(count, 1)[:, None]
    return field + share[:, None] * (mean - field)


def hops(faces: np.ndarray, n_vertices: int, start: np.ndarray, limit: int) -> np.ndarray:
    """Sorted indices of the vertices within `limit` edges of `start`."""
    near = np.zeros(n_vertices, bool)
    near[start] = True
    for _ in range(limit):
        near[faces[near[faces].any(axis=1)]] = True
    return np.flatnonzero(near)


@dataclass(frozen=True)
class Seam:
    """The rings (3, R) around the mouth's opening: vertex indices of the skin, OUTER first.

    Each ring starts at the middle of the upper lip and runs over the left corner, the lower lip
    and the right corner. `corner` is the position of the left corner in a ring, `lower` the
    position of the lower lip's middle.
    """

    rings: np.ndarray
    corner: int
    lower: int

    def halves(self, ring: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Left and right half: (upper, lower) vertices, each from the middle to the corner."""
        around = self.rings[ring]
        left = around[: self.corner + 1], around[self.corner : self.lower + 1][::-1]
        back = np.concatenate([around[:1], around[:0:-1]])
        end = len(around) - self.lower
        right = back[: self.corner + 1], back[self.corner : end + 1][::-1]
        return [left, right]

    def separation(self, vertices: np.ndarray, field: np.ndarray, ring: int) -> list:
        """Per half: upper minus lower of `field` (V, 3), compared at equal x of `vertices`.

        Returns per half a pair: at the upper vertices (n, 3) and at the lower ones (m, 3).
        """
        out = []
        for upper, lower in self.halves(ring):
            x_upper, x_lower = (np.abs(vertices[run, 0]) for run in (upper, lower))
            at_upper = field[upper] - _along(x_upper, x_lower, field[lower])
            at_lower = _along(x_lower, x_upper, field[upper]) - field[lower]
            out.append((at_upper, at_lower))
        return out


def _along(x: np.ndarray, x_known: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`known` (n, 3) at `x_known` (n,), interpolated linearly at `x` (m,): (m, 3)."""
    order = np.argsort(x_known)
    return np.stack([np.interp(x, x_known[order], column[order]) for column in known.T], axis=1)


class LipSealer:
    """Applies the lip corrections on one topology.

    skin: (V, 3) reference vertices; upper and lower lip are matched at equal x of these.
    """

    def __init__(self, seam: Seam, faces: np.ndarray, skin: np.ndarray):
        self.seam, self.skin = seam, skin
        fixed = np.unique(seam.rings)
        near = hops(faces, len(skin), fixed, 5)
        self.spread = SmoothSpread(faces, len(skin), fixed, near)

    def _correction(
        self,
        change: list,
        weights: np.ndarray,
        together: bool = False,
        upper_share: float = 0.5,
    ) -> np.ndarray:
        """Field (V, 3) that adds `change` (in the form of `separation`) between the lips.

        weights: (3, 3), share of the change by ring and axis. `upper_share` of the change is done
        by the upper lip. With `together` both lips move by `change` instead of apart.
        """
        lower_share, upper_share = (1.0, 1.0) if together else (upper_share - 1, upper_share)
        field = np.zeros_like(self.skin)
        counts = np.zeros(len(self.skin))
        for ring in (OUTER, CONTACT, INNER):
            for runs, half in zip(self.seam.halves(ring), change, strict=True):
                for run, values, share in zip(runs, half, (upper_share, lower_share), strict=True):
                    field[run] += share * values * weights[ring]
                    counts[run] += 1
        field[counts > 0] /= counts[counts > 0, None]
        return self.spread(field[self.spread.fixed])

    def close(self, vertices: np.ndarray) -> np.ndarray:
        """The neutral skin (V, 3) with the contact rings of both lips on one flattened curve."""
        weights = np.array([[0, 1, 0.0], [1, 1, 1], [0, 1, 0.5]])
        for _ in range(3):
            apart = self.seam.separation(vertices, vertices, CONTACT)
            gap = np.array([0.0, GAP, 0.0])
            change = [tuple(gap - side * [0, 1, 1] for side in half) for half in apart]
            vertices = vertices + self._correction(change, weights)
        return vertices + self._correction(self._bow(vertices), np.ones((3, 3)), together=True)

    def _bow(self, vertices: np.ndarray) -> list:
        """Change that flattens the line between the lips by `FLATTENING` to a parabola over x."""
        change = []
        for upper, lower in self.seam.halves(CONTACT):
            x, y = np.abs(vertices[upper, 0]), vertices[upper, 1]
            curve = np.polynomial.Polynomial.fit(np.r_[x, -x], np.r_[y, y], 2)
            half = []
            for run in (upper, lower):
                shift = np.zeros((len(run), 3))
                shift[:, 1] = FLATTENING * (curve(np.abs(vertices[run, 0])) - vertices[run, 1])
                half.append(shift)
            change.append(tuple(half))
        return change

    def keep(self, unit: np.ndarray, share: Sequence[float]) -> np.ndarray:
        """The unit (V, 3) with `share` (3,) of its motion between the lips, per axis."""
        apart = self.seam.separation(self.skin, unit, CONTACT)
        change = [tuple((np.array(share) - 1) * side for side in half) for half in apart]
        return unit + self._correction(change, np.ones((3, 3)))

    def oppose(self, unit: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The unit (V, 3) with the opposite of `other`'s motion between the lips."""
        apart = self.seam.separation(self.skin, unit + other, CONTACT)
        change = [tuple(-side for side in half) for half in apart]
        return unit + self._correction(change, np.ones((3, 3)))

    def round_out(self, unit: np.ndarray, height: float) -> np.ndarray:
        """The unit (V, 3) with a round opening, `height` metres in the middle, 0 at the corners."""
        apart = self.seam.separation(self.skin, unit, CONTACT)
        change = []
        for runs, half in zip(self.seam.halves(CONTACT), apart, strict=True):
            shifts = [np.zeros_like(side) for side in half]
            for run, side, shift in zip(runs, half, shifts, strict=True):
                x = np.abs(self.skin[run, 0])
                profile = np.clip(1 - (x / (ROUND_WIDTH * x.max())) ** 2, 0, 1) ** ROUND_POWER
                shift[:, 1] = height * profile - side[:, 1]
            change.append(tuple(shifts))
        return unit + self._correction(change, np.ones((3, 3)), upper_share=ROUND_UPPER)
