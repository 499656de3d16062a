"""A number for every vertex as colours on the face, in the colours of a matplotlib colour map.

The surface is hardly shaded, so that colours can be compared with a colour bar: what faces the
viewer has the colour of the bar, and no part is darker than `LEAST_LIGHT` of it.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.raster import SAMPLES, dot, rasterise, row, surface_normals, unit
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
    view = renderer.view(vertices)
    screen = renderer.camera.project(view, SAMPLES)
    height, width = renderer.camera.height, renderer.camera.width
    depth = np.empty((height * SAMPLES, width * SAMPLES), np.float32)
    face_ids = np.empty(depth.shape, np.int32)
    rasterise(screen, renderer.faces, depth, face_ids)
    normals, face_normals = np.empty(view.shape), np.empty((len(renderer.faces), 3), np.float32)
    surface_normals(view, renderer.faces, face_normals, normals)
    n_filled = len(renderer.hole_fill.append_vertices(renderer.template)) - len(values)
    levels = np.append(values / limit, np.full(n_filled, np.nan))
    levels = renderer.rounding.append_values(levels[:, None])[:, 0]
    image = np.empty((height, width, 3), np.uint8)
    _paint(screen, view, renderer.faces, normals, levels, face_ids, _colours(), image)
    return image


@functools.cache
def _colours() -> NDArray[np.float64]:
    """sRGB (N + 1, 3) 0 to 1 of levels from 0 to 1, last that of surfaces without a value."""
    from matplotlib import colormaps

    table = colormaps[COLOUR_MAP](np.arange(colormaps[COLOUR_MAP].N))[:, :3]
    return np.append(table, np.full((1, 3), NO_VALUE), axis=0)


@compiled()
def _paint(screen, view, faces, normals, levels, face_ids, colours, image):
    """Fill `image` (H, W, 3) uint8 with the mean of each pixel's samples, white where no face is.

    screen, view: (V, 3) the vertices in sample and view space; normals: (V, 3) unit; levels: (V,)
    0 to 1, NaN without a value; face_ids: of `rasterise`; colours: of `_colours`.
    """
    share = 255.0 / (SAMPLES * SAMPLES)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            red, green, blue = 0.0, 0.0, 0.0
            for k in range(SAMPLES * SAMPLES):
                line, column = i * SAMPLES + k // SAMPLES, j * SAMPLES + k % SAMPLES
                f, light, colour = face_ids[line, column], 1.0, (1.0, 1.0, 1.0)
                if f >= 0:
                    index, light = _sample(
                        f, column + 0.5, line + 0.5, screen, view, faces, normals, levels,
                        colours.shape[0] - 1,
                    )  # fmt: skip
                    colour = row(colours, index)
                red, green, blue = (
                    red + light * colour[0], green + light * colour[1], blue + light * colour[2]
                )  # fmt: skip
            image[i, j, 0] = int(red * share + 0.5)
            image[i, j, 1] = int(green * share + 0.5)
            image[i, j, 2] = int(blue * share + 0.5)


@compiled()
def _sample(f, x, y, screen, view, faces, normals, levels, n_colours):
    """(row in the table of colours, light) of face f at the sample-space point (x, y).

    The last row is that of back sides and of surfaces without a value.
    """
    a, b, c = row(faces, f)
    xa, ya, wa = row(screen, a)
    xb, yb, wb = row(screen, b)
    xc, yc, wc = row(screen, c)
    # Perspective-correct barycentric weights: those of the picture, each times its w.
    ka = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * wa
    kb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * wb
    kc = ((xa - x) * (yb - y) - (xb - x) * (ya - y)) * wc
    total = ka + kb + kc
    ka, kb, kc = ka / total, kb / total, kc / total
    normal = unit(_mix(row(normals, a), row(normals, b), row(normals, c), ka, kb, kc))
    point = unit(_mix(row(view, a), row(view, b), row(view, c), ka, kb, kc))
    light = LEAST_LIGHT + (1.0 - LEAST_LIGHT) * abs(dot(normal, point))
    level = ka * levels[a] + kb * levels[b] + kc * levels[c]
    # Counter-clockwise seen from outside is clockwise in sample space, whose y points down.
    front = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya) < 0.0
    if not front or math.isnan(level):
        return n_colours, light
    return min(int(min(max(level, 0.0), 1.0) * n_colours), n_colours - 1), light


@compiled()
def _mix(a, b, c, ka, kb, kc):
    """The weighted sum of three triples."""
    return (
        ka * a[0] + kb * b[0] + kc * c[0],
        ka * a[1] + kb * b[1] + kc * c[1],
        ka * a[2] + kb * b[2] + kc * c[2],
    )
