"""A number for every vertex as colours on the face, in the colours of a matplotlib colour map.

The surface is hardly shaded, so that colours can be compared with a colour bar: what faces the
viewer has the colour of the bar, and no part is darker than `LEAST_LIGHT` of it.
"""

import numpy as np
from numpy.typing import NDArray

from rendering.raster import SAMPLES, rasterise, surface_normals
from rendering.renderer import Renderer

COLOUR_MAP = "YlOrRd"  # of matplotlib: 0 is pale, so that the features of the face are seen
LEAST_LIGHT = 0.7  # where the surface is seen edge-on
NO_VALUE = 0.6  # grey level, sRGB, of back sides and of filled holes


def draw_values(renderer: Renderer, vertices: NDArray, values: NDArray, limit: float) -> NDArray:
    """The picture (H, W, 3) uint8 of a mesh (V, 3), white around it, in the camera of `renderer`.

    values: (V,), coloured from 0 to `limit`; larger ones have the colour of the limit.
    """
    if values.shape != (len(renderer.template),) or not limit > 0:
        raise ValueError(f"values {values.shape} of {renderer.template.shape}, limit {limit}")
    view = renderer.camera.view(renderer.hole_fill.append_vertices(vertices.astype(np.float64)))
    screen = renderer.camera.project(view, SAMPLES)
    height, width = renderer.camera.height * SAMPLES, renderer.camera.width * SAMPLES
    depth, face_ids = np.empty((height, width), np.float32), np.empty((height, width), np.int32)
    rasterise(screen, renderer.faces, depth, face_ids)
    normals, face_normals = np.empty(view.shape), np.empty((len(renderer.faces), 3))
    surface_normals(view, renderer.faces, face_normals, normals)
    lines, columns = np.nonzero(face_ids >= 0)
    corners = renderer.faces[face_ids[lines, columns]]  # (N, 3)
    weights, is_front = _weights(screen[corners], columns + 0.5, lines + 0.5)
    filled = np.append(values, np.full(len(view) - len(values), np.nan))
    level = (filled[corners] * weights).sum(axis=1)
    facing = _facing(normals[corners], view[corners], weights)
    samples = np.ones((height, width, 3))
    samples[lines, columns] = _colours(np.where(is_front, level, np.nan) / limit, facing)
    pixels = samples.reshape(height // SAMPLES, SAMPLES, width // SAMPLES, SAMPLES, 3).mean((1, 3))
    return np.round(255 * pixels).astype(np.uint8)


def _weights(triangles: NDArray, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Perspective-correct barycentric weights (N, 3) of sample points, and (N,) seen from outside.

    triangles: (N, 3, 3) corners in sample space: x, y and w = 1 / depth.
    """
    to_corner = triangles[:, :, :2] - np.stack([x, y], axis=1)[:, None]
    following, last = np.roll(to_corner, -1, axis=1), np.roll(to_corner, -2, axis=1)
    areas = following[..., 0] * last[..., 1] - last[..., 0] * following[..., 1]
    weights = areas * triangles[:, :, 2]
    # Counter-clockwise seen from outside is clockwise in sample space, whose y points down.
    return weights / weights.sum(axis=1, keepdims=True), areas.sum(axis=1) < 0


def _facing(normals: NDArray, view: NDArray, weights: NDArray) -> NDArray:
    """Cosine (N,), 0 to 1, between the surface and the direction to the viewer."""
    normal, point = ((part * weights[..., None]).sum(axis=1) for part in (normals, view))
    lengths = np.linalg.norm(normal, axis=1) * np.linalg.norm(point, axis=1)
    return np.abs((normal * point).sum(axis=1)) / np.maximum(lengths, 1e-12)


def _colours(level: NDArray, facing: NDArray) -> NDArray:
    """sRGB (N, 3) of levels 0 to 1; NaN is grey."""
    from matplotlib import colormaps

    colours = colormaps[COLOUR_MAP](np.nan_to_num(level))[:, :3]
    colours[np.isnan(level)] = NO_VALUE
    return colours * (LEAST_LIGHT + (1 - LEAST_LIGHT) * facing[:, None])
