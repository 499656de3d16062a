"""Openness: how much of its surroundings a point of the surface sees (ambient occlusion).

`measure_openness` looks at the neutral face once, from all around. Teeth, tongue and the inside of
the lips see nothing there; how much light falls on them depends on the mouth of each frame, so
`open_mouth` looks again, from the viewer's side, at those points only.
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.raster import dot, rasterise, row, surface_normals

OPENNESS_DIRECTIONS = 96
OPENNESS_MAP = 192  # side of the depth pictures that openness is measured in
SOFTNESS = 0.012  # of the head's radius: what a surface may lie behind another and still get light
ENCLOSED = 0.3  # points less open than this in the neutral face are looked at in every frame
MOUTH_MAP = 256  # side of the depth picture for that
MOUTH_DIRECTIONS = 16
MOUTH_RADII = (0.008, 0.016, 0.028, 0.044)  # of the picture's side: up to a wide open mouth's


@compiled()
def add_visible(
    screen: NDArray,
    normals: NDArray,
    depth: NDArray,
    direction: tuple[float, float, float],
    softness: float,
    seen: NDArray,
    total: NDArray,
) -> None:
    """Add to `seen` and `total` (V,) how much of the light from `direction` reaches each vertex.

    screen: (V, 3) x, y, w of an orthographic picture taken from `direction` (unit), with its
    z-buffer `depth`; both sums are weighted by the cosine to the vertex normal. A vertex that is
    up to `softness` behind the nearest surface is lit, from twice that on it is hidden.
    """
    height, width = depth.shape
    for v in range(screen.shape[0]):
        cosine = dot(row(normals, v), direction)
        if cosine <= 0.0:
            continue
        x, y, w = row(screen, v)
        nearest = depth[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)]
        total[v] += cosine
        seen[v] += cosine * min(max(2.0 - (nearest - w) / softness, 0.0), 1.0)


def measure_openness(template: NDArray, faces: NDArray) -> NDArray:
    """(V,) how much of the sky above each vertex of the template is free: 1 open, 0 enclosed.

    Ambient occlusion from small orthographic depth pictures out of evenly spread directions.
    """
    centre = (template.min(axis=0) + template.max(axis=0)) / 2
    radius = np.linalg.norm(template - centre, axis=1).max()
    points = (template - centre) / radius
    normals = np.empty_like(points)
    surface_normals(points, faces, np.empty((len(faces), 3)), normals)
    depth = np.empty((OPENNESS_MAP, OPENNESS_MAP), np.float32)
    face_ids = np.empty((OPENNESS_MAP, OPENNESS_MAP), np.int32)
    seen, total = np.zeros(len(points)), np.zeros(len(points))
    for k in range(OPENNESS_DIRECTIONS):
        # Fibonacci sphere.
        height = 1 - (2 * k + 1) / OPENNESS_DIRECTIONS
        turn = k * math.pi * (3 - math.sqrt(5))
        flat = math.sqrt(1 - height * height)
        direction = np.array([flat * math.cos(turn), height, flat * math.sin(turn)])
        right = np.cross([0.0, 0.0, 1.0] if abs(height) > 0.9 else [0.0, 1.0, 0.0], direction)
        right /= np.linalg.norm(right)
        up = np.cross(direction, right)
        screen = np.stack([points @ right, -(points @ up), points @ direction], axis=1)
        screen[:, :2] = (screen[:, :2] + 1.0) * OPENNESS_MAP / 2
        screen[:, 2] += 2.0  # positive, as the z-buffer wants it
        rasterise(screen, faces, depth, face_ids)
        add_visible(screen, normals, depth, tuple(direction), SOFTNESS, seen, total)
    openness = np.where(total > 0, seen / np.maximum(total, 1e-9), 0.0)
    return _smooth(openness, faces)


def _smooth(values: NDArray, faces: NDArray) -> NDArray:
    """(V,) values averaged once over the triangles around each vertex."""
    sums, counts = np.zeros_like(values), np.zeros_like(values)
    of_face = values[faces].mean(axis=1)
    for corner in range(3):
        np.add.at(sums, faces[:, corner], of_face)
        np.add.at(counts, faces[:, corner], 1.0)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), values)


@compiled()
def _between(depth, x, y):
    """The depth picture at (x, y) samples, bilinear: what moves past a point must not flicker."""
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
    """Fill `openness` (V,): `resting` in the open, and what the frame shows for enclosed points.

    screen: (V, 3) and depth (N, N) as of `rasterise`, w = 1 / distance; focal: the focal length in
    samples. In every direction of the picture the steepest thing in front bounds the sky; a point
    gets the mean share of sky that is left.
    """
    side = depth.shape[0]
    for v in range(screen.shape[0]):
        openness[v] = resting[v]
        x, y, w = row(screen, v)
        if resting[v] >= ENCLOSED or not w > 0.0:
            continue
        sky = 0.0
        for k in range(MOUTH_DIRECTIONS):
            turn = 2.0 * math.pi * k / MOUTH_DIRECTIONS
            steepest = 0.0
            for share in MOUTH_RADII:
                away = share * side
                nearest = _between(depth, x + away * math.cos(turn), y + away * math.sin(turn))
                if nearest > w:
                    rise = (1.0 / w - 1.0 / nearest) / (away / (focal * w))
                    steepest = max(steepest, rise)
            sky += 1.0 - steepest / math.sqrt(1.0 + steepest * steepest)
        sky /= MOUTH_DIRECTIONS
        # Towards the threshold the resting value takes over, so that no border shows.
        trust = 1.0 - resting[v] / ENCLOSED
        openness[v] = trust * sky + (1.0 - trust) * resting[v]
