"""Openness: the share of its surroundings that is visible from a point (ambient occlusion).

`measure_openness` computes it once, for the neutral face and from all directions. There teeth,
tongue and the inside of the lips are enclosed; how much light reaches them depends on the mouth of
each frame. So `open_mouth` computes the openness of these points again in every frame, from the
viewer's side.
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.raster import (
    ENCLOSED,
    bounds,
    dot,
    is_seen,
    rasterise,
    rasterise_depth,
    row,
    surface_normals,
)
from rendering.rims import Rims, back_is_hidden, find_rims, rim_boxes, with_exposed

OPENNESS_DIRECTIONS = 96
SURVEYS = 24  # of them, from which the whole mesh is drawn
OPENNESS_MAP = 192  # side of the depth pictures for `measure_openness`, in samples
SOFTNESS = 0.012  # of the head's radius: depth behind another surface at which light begins to fade
MOUTH_MAP = 256  # side of the depth picture for `open_mouth`, in samples
MOUTH_DIRECTIONS = 16
MOUTH_RADII = (0.008, 0.016, 0.028, 0.044)  # of the picture's side, up to that of a wide open mouth
_TURNS = 2.0 * np.pi * np.arange(MOUTH_DIRECTIONS) / MOUTH_DIRECTIONS
MOUTH_COMPASS = np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1)  # (MOUTH_DIRECTIONS, 2)


@compiled()
def add_visible(
    screen: NDArray,
    normals: NDArray,
    depth: NDArray,
    direction: tuple[float, float, float],
    softness: float,
    visible: NDArray,
    total: NDArray,
) -> None:
    """Add to `visible` (V,) the light from `direction` that reaches each vertex.

    `total` (V,) is increased by the light that would reach it without any occlusion; both are
    weighted by the cosine to the vertex normal. screen: (V, 3) x, y, w of an orthographic picture
    taken from `direction` (unit), with its z-buffer `depth`. A vertex up to `softness` behind the
    nearest surface is lit; from twice that depth on it is hidden.
    """
    height, width = depth.shape
    for v in range(screen.shape[0]):
        cosine = dot(row(normals, v), direction)
        if cosine <= 0.0:
            continue
        x, y, w = row(screen, v)
        nearest = depth[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)]
        total[v] += cosine
        visible[v] += cosine * min(max(2.0 - (nearest - w) / softness, 0.0), 1.0)


@compiled()
def _expose(screen, faces, face_ids, rims, exposed):
    """Set `exposed` (V,) at faces whose back side is in a picture although `rims` exclude it."""
    boxes = rim_boxes(screen, rims)
    for line in range(face_ids.shape[0]):
        for column in range(face_ids.shape[1]):
            f = face_ids[line, column]
            if f < 0:
                continue
            corners = row(faces, f)
            left, right, top, bottom, _ = bounds(screen, corners)
            _, front = is_seen(screen, corners)
            if not front and back_is_hidden(rims, boxes, f, left, right, top, bottom):
                exposed[corners[0]] = exposed[corners[1]] = exposed[corners[2]] = True


def measure_openness(template: NDArray, faces: NDArray) -> NDArray:
    """(V,) share of the sky above each vertex that no face (F, 3) hides: 1 free, 0 enclosed.

    template: (V, 3).
    """
    return look_around(template, faces, find_rims(faces, template))[0]


def look_around(template: NDArray, faces: NDArray, rims: Rims) -> tuple[NDArray, NDArray]:
    """`measure_openness`, and (V,) bool, corners of back sides that are seen in spite of `rims`.

    Ambient occlusion from small orthographic pictures, taken from evenly spread directions; all
    faces are drawn for the first `SURVEYS` of them, then those that may be seen.
    """
    centre = (template.min(axis=0) + template.max(axis=0)) / 2
    radius = np.linalg.norm(template - centre, axis=1).max()
    points = (template - centre) / radius
    normals = np.empty_like(points)
    surface_normals(points, faces, np.empty((len(faces), 3), np.float32), normals)
    depth = np.empty((OPENNESS_MAP, OPENNESS_MAP), np.float32)
    face_ids, exposed = np.empty(depth.shape, np.int32), np.zeros(len(points), np.bool_)
    free = np.ones(len(points), np.float32)  # not known yet
    visible, total = np.zeros(len(points)), np.zeros(len(points))
    for k, direction in enumerate(_directions()):
        screen = _orthographic(points, direction)
        if k < SURVEYS:
            rasterise(screen, faces, depth, face_ids)
            _expose(screen, faces, face_ids, rims, exposed)
        else:
            if k == SURVEYS:
                rims = with_exposed(rims, faces, exposed)
            rasterise_depth(screen, faces, free, rims, 0, OPENNESS_MAP, depth)
        add_visible(screen, normals, depth, tuple(direction), SOFTNESS, visible, total)
    openness = np.where(total > 0, visible / np.maximum(total, 1e-9), 0.0)
    return _smooth(openness, faces), exposed


def _directions() -> NDArray[np.float64]:
    """(OPENNESS_DIRECTIONS, 3) of a Fibonacci sphere, unit vectors; the first are spread, too."""
    k = np.arange(OPENNESS_DIRECTIONS)
    height, turn = 1 - (2 * k + 1) / OPENNESS_DIRECTIONS, k * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - height * height)
    directions = np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], axis=1)
    return directions[np.argsort(k % (OPENNESS_DIRECTIONS // SURVEYS), kind="stable")]


def _orthographic(points: NDArray, direction: NDArray) -> NDArray[np.float64]:
    """(V, 3) x, y, w in an openness map of points (V, 3) in the unit ball, from a direction."""
    right = np.cross([0.0, 0.0, 1.0] if abs(direction[1]) > 0.9 else [0.0, 1.0, 0.0], direction)
    right /= np.linalg.norm(right)
    up = np.cross(direction, right)
    screen = np.stack([points @ right, -(points @ up), points @ direction], axis=1)
    screen[:, :2] = (screen[:, :2] + 1.0) * OPENNESS_MAP / 2
    screen[:, 2] += 2.0  # only positive w is drawn
    return screen


def _smooth(values: NDArray, faces: NDArray) -> NDArray:
    """(V,) values averaged once over the triangles around each vertex."""
    sums, counts = np.zeros_like(values), np.zeros_like(values)
    of_face = values[faces].mean(axis=1)
    for corner in range(3):
        np.add.at(sums, faces[:, corner], of_face)
        np.add.at(counts, faces[:, corner], 1.0)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), values)


@compiled()
def draw_mouth_map(
    screen: NDArray, faces: NDArray, resting: NDArray, rims: Rims, depth: NDArray
) -> None:
    """Fill the lines of `depth` (N, N) that `open_mouth` reads: screen, resting as there.

    rims: of `faces`.
    """
    side = depth.shape[0]
    first, last = float(side), 0.0
    for v in range(screen.shape[0]):
        if resting[v] < ENCLOSED and screen[v, 2] > 0.0:
            first, last = min(first, screen[v, 1]), max(last, screen[v, 1])
    reach = MOUTH_RADII[-1] * side + 1.0  # one line more, for the interpolation
    first, last = max(first - reach, 0.0), min(last + reach, float(side))
    if first < last:
        rasterise_depth(screen, faces, resting, rims, int(first), int(math.ceil(last)), depth)


@compiled(forceinline=True)
def _between(depth, x, y):
    """The depth picture at (x, y) samples, interpolated bilinearly so that nothing flickers."""
    last = depth.shape[0] - 1
    x, y = min(max(x - 0.5, 0.0), last - 1e-3), min(max(y - 0.5, 0.0), last - 1e-3)
    i, j = int(y), int(x)
    right, down = x - j, y - i
    upper = depth[i, j] + right * (depth[i, j + 1] - depth[i, j])
    lower = depth[i + 1, j] + right * (depth[i + 1, j + 1] - depth[i + 1, j])
    return upper + down * (lower - upper)


@compiled()
def open_mouth(
    screen: NDArray, depth: NDArray, focal: float, resting: NDArray, openness: NDArray
) -> None:
    """Fill `openness` (V,): that of this frame for enclosed points, `resting` for all others.

    resting: (V,) openness of the neutral face; screen: (V, 3) and depth: (N, N) as for `rasterise`;
    focal: the focal length in samples. In every direction of the picture the steepest surface in
    front of the point limits the sky; a point's openness is the mean share of sky that is left.
    """
    side = depth.shape[0]
    for v in range(screen.shape[0]):
        openness[v] = resting[v]
        x, y, w = row(screen, v)
        if resting[v] >= ENCLOSED or not w > 0.0:
            continue
        sky = 0.0
        for k in range(MOUTH_DIRECTIONS):
            across, down = MOUTH_COMPASS[k, 0] * side, MOUTH_COMPASS[k, 1] * side
            steepest = 0.0
            for share in MOUTH_RADII:
                nearest = _between(depth, x + share * across, y + share * down)
                if nearest > w:
                    # (1 / w - 1 / nearest) over the distance share · side / (focal · w)
                    steepest = max(steepest, (1.0 - w / nearest) * (focal / (share * side)))
            sky += 1.0 - steepest / math.sqrt(1.0 + steepest * steepest)
        sky /= MOUTH_DIRECTIONS
        # Blends into the resting value towards the threshold, so that there is no visible border.
        trust = 1.0 - resting[v] / ENCLOSED
        openness[v] = trust * sky + (1.0 - trust) * resting[v]
