"""Landmarks of a neutral face of any topology, found on its profile.

The face looks towards +z with y up, lengths are metres. From the tip of the nose downward the
profile z(y) of every face has the same turning points: base of the nose, upper lip, line of the
mouth, lower lip, the fold below it, chin. The line of the mouth is followed to both sides until
its depth vanishes, which is at the corners.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]) / 6.0  # barycentric
BELOW_NOSE_M = (0.004, 0.085)  # where lips and chin are looked for
HALF_STRIP_M, STEP_M = 1e-3, 5e-4  # of a profile: half its width, distance of its points
TURN = 4  # a turning point is the extreme of so many points to both sides
CORNER_DEPTH_M = 7e-4  # of the line of the mouth, below which it has ended
WIDEST_MOUTH_M = 0.045  # from the midline to a corner
UNEVEN = 1.3  # accepted ratio of the distances of both corners from the midline
DRIFT_M, LIP_M = 2.5e-3, 0.012  # change of the line's height in a strip; height of a lip


@dataclass(frozen=True)
class Profile:
    """Points of a vertical strip of the face, from the nose downward: y, z (n,) metres."""

    y: NDArray[np.float64]
    z: NDArray[np.float64]

    def turns(self, sign: int) -> list[int]:
        """Indices of the maxima (sign 1) or minima (sign -1) of z."""
        z = sign * self.z
        return [
            i
            for i in range(2, len(z) - 2)
            if z[i] == z[max(0, i - TURN) : i + TURN + 1].max()
        ]  # fmt: skip

    def point(self, x: float, index: int) -> tuple[float, float, float]:
        """The point (x, y, z) at an index."""
        return x, float(self.y[index]), float(self.z[index])


def landmarks(vertices: NDArray, faces: NDArray) -> NDArray[np.float64]:
    """(9, 3) metres: nose, its base, upper lip, mouth, lower lip, fold, chin, left, right corner.

    vertices: (V, 3) metres, the face with closed lips. NaN for a fold or chin that the profile does
    not show, and for a corner much farther away than the other. Raises `ValueError` where nose or
    lips are not found.
    """
    nose = vertices[vertices[:, 2].argmax()].astype(np.float64)
    surface = front_points(vertices, faces, nose)
    x = float(nose[0])
    middle = profile(surface, x, nose[1])
    minima, maxima = middle.turns(-1), middle.turns(1)
    base = _next(minima, 0)
    upper = _next(maxima, base)
    mouth = _next(minima, upper)
    lower = _next(maxima, mouth)
    points = [middle.point(x, i) for i in (base, upper, mouth, lower)]
    fold = next((i for i in minima if i > lower), None)
    chin = next((i for i in maxima if fold is not None and i > fold), None)
    points += [(np.nan,) * 3 if i is None else middle.point(x, i) for i in (fold, chin)]
    corners = np.array([corner(surface, x, side, middle.y[mouth], nose[1]) for side in (1, -1)])
    reach = np.abs(corners[:, 0] - x)
    corners[reach > UNEVEN * reach.min()] = np.nan  # the line has run on into a fold of the cheek
    return np.array([tuple(nose), *points, *corners])


def front_points(vertices: NDArray, faces: NDArray, nose: NDArray) -> NDArray[np.float64]:
    """Points (n, 3) of the surface around mouth and chin that face forward."""
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    below = nose[1] - corners[:, :, 1]
    near = (np.abs(corners[:, :, 0] - nose[0]) < WIDEST_MOUTH_M + 0.01).all(axis=1)
    near &= ((below > 0.0) & (below < BELOW_NOSE_M[1] + 0.01)).any(axis=1)
    corners = corners[near]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    corners = corners[normal[:, 2] > 0]
    return np.einsum("kb,fbc->fkc", GRID, corners).reshape(-1, 3)


def profile(surface: NDArray, x: float, nose_y: float) -> Profile:
    """The foremost points of `surface` (n, 3) in the vertical strip at x, below the nose."""
    n_steps = round((BELOW_NOSE_M[1] - BELOW_NOSE_M[0]) / STEP_M)
    y = nose_y - BELOW_NOSE_M[0] - STEP_M * np.arange(n_steps)
    strip = surface[np.abs(surface[:, 0] - x) < HALF_STRIP_M]
    step = np.round((y[0] - strip[:, 1]) / STEP_M).astype(int)
    inside = (step >= 0) & (step < n_steps)
    z = np.full(n_steps, -np.inf)
    np.maximum.at(z, step[inside], strip[inside, 2])
    return Profile(y[np.isfinite(z)], z[np.isfinite(z)])


def corner(
    surface: NDArray, middle_x: float, side: int, mouth_y: float, nose_y: float
) -> tuple[float, float, float]:
    """The corner of the mouth on a side (1 for +x, -1); `ValueError` if there is none."""
    found, y = None, mouth_y
    for step in range(1, round(WIDEST_MOUTH_M / HALF_STRIP_M)):
        x = middle_x + side * step * HALF_STRIP_M
        strip = profile(surface, x, nose_y)
        near = np.flatnonzero(np.abs(strip.y - y) < DRIFT_M)
        if not len(near):
            break
        index = near[strip.z[near].argmin()]
        above = strip.z[(strip.y > strip.y[index]) & (strip.y < strip.y[index] + LIP_M)]
        below = strip.z[(strip.y < strip.y[index]) & (strip.y > strip.y[index] - LIP_M)]
        if not len(above) or not len(below):
            break
        if min(above.max(), below.max()) - strip.z[index] < CORNER_DEPTH_M:
            break
        found, y = strip.point(x, index), strip.y[index]
    if found is None:
        raise ValueError("no corner of the mouth")
    return found


def _next(indices: list[int], after: int) -> int:
    """The first index greater than `after`; `ValueError` if there is none."""
    later = [index for index in indices if index > after]
    if not later:
        raise ValueError("a profile without nose, lips and chin")
    return later[0]
