"""The `software` renderer's z-buffer and surface normals, compiled by numba; sRGB conversion.

The kernels release the interpreter lock, so threads can draw several frames at a time. Numba does
not check bounds, so every index into an image is clamped here.

View space: x right, y up, z towards the viewer, who is at the origin. Sample space: x right and y
down in samples (2 × 2 a pixel), and w = 1 / depth, which is linear across a projected triangle.
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled

SAMPLES = 2  # samples to a pixel's side


@compiled()
def row(array, i):
    """The first three numbers of array[i], as a tuple."""
    return array[i, 0], array[i, 1], array[i, 2]


@compiled()
def dot(a, b):
    """Scalar product of two triples."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled()
def scaled(a, factor):
    """A triple times a number."""
    return a[0] * factor, a[1] * factor, a[2] * factor


@compiled()
def unit(a):
    """A triple with length 1; (0, 0, 0) stays as it is."""
    length = math.sqrt(dot(a, a))
    return scaled(a, 1.0 / length if length > 0.0 else 0.0)


@compiled()
def surface_normals(
    points: NDArray, faces: NDArray, face_normals: NDArray, vertex_normals: NDArray
) -> None:
    """Fill unit `face_normals` (F, 3) and area-weighted unit `vertex_normals` (V, 3) of `points`.

    A degenerate face gets the normal 0 and weight 0.
    """
    vertex_normals[:] = 0.0
    for f in range(faces.shape[0]):
        a, b, c = row(points, faces[f, 0]), row(points, faces[f, 1]), row(points, faces[f, 2])
        u = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
        v = (c[0] - a[0], c[1] - a[1], c[2] - a[2])
        # Its length is twice the face's area, which weights the vertex normals.
        normal = (
            u[1] * v[2] - u[2] * v[1],
            u[2] * v[0] - u[0] * v[2],
            u[0] * v[1] - u[1] * v[0],
        )
        for corner in range(3):
            for axis in range(3):
                vertex_normals[faces[f, corner], axis] += normal[axis]
        face_normals[f, 0], face_normals[f, 1], face_normals[f, 2] = unit(normal)
    for i in range(vertex_normals.shape[0]):
        normal = unit(row(vertex_normals, i))
        vertex_normals[i, 0], vertex_normals[i, 1], vertex_normals[i, 2] = normal


@compiled()
def _clip_span(x0, y0, x1, y1, area, y, first, last):
    """The part of [first, last] of row y on the inner side of the edge 0-1, widened by 1e-6."""
    slope = y1 - y0
    if area < 0.0:
        slope = -slope
    if slope == 0.0:
        # A horizontal edge limits rows, not columns, and the caller visits only rows inside.
        return first, last
    crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    # Comparisons instead of min and max, so that a crossing that is NaN never becomes a bound.
    if slope > 0.0:
        return first, crossing + 1e-6 if crossing + 1e-6 < last else last
    return crossing - 1e-6 if crossing - 1e-6 > first else first, last


@compiled()
def rasterise(screen: NDArray, faces: NDArray, depth: NDArray, face_ids: NDArray) -> None:
    """Fill the z-buffer: (M, N) `depth`, the largest w at each sample, and `face_ids`, its face.

    screen: (V, 3) x, y in samples and w. A vertex with w <= 0 is behind the viewer, and triangles
    with such a vertex are not drawn. Samples that no triangle covers get w = 0 and the face -1.
    """
    depth[:] = 0.0
    face_ids[:] = -1
    height, width = depth.shape
    for f in range(faces.shape[0]):
        xa, ya, wa = row(screen, faces[f, 0])
        xb, yb, wb = row(screen, faces[f, 1])
        xc, yc, wc = row(screen, faces[f, 2])
        if not (wa > 0.0 and wb > 0.0 and wc > 0.0):
            continue
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if not abs(area) > 1e-12:
            continue
        # Clamped before the conversion to int, which overflows for huge floats.
        left = max(min(xa, xb, xc), 0.0)
        right = min(max(xa, xb, xc), float(width))
        top = max(min(ya, yb, yc), 0.0)
        bottom = min(max(ya, yb, yc), float(height))
        if left >= right or top >= bottom:
            continue
        # w is linear in x and y.
        w_dx = ((wb - wa) * (yc - ya) - (wc - wa) * (yb - ya)) / area
        w_dy = ((wc - wa) * (xb - xa) - (wb - wa) * (xc - xa)) / area
        # Rows, then columns, whose centres lie inside: the three edges clip a row to its span.
        for line in range(int(math.ceil(top - 0.5)), int(math.floor(bottom - 0.5)) + 1):
            y = line + 0.5
            first, last = _clip_span(xa, ya, xb, yb, area, y, left, right)
            first, last = _clip_span(xb, yb, xc, yc, area, y, first, last)
            first, last = _clip_span(xc, yc, xa, ya, area, y, first, last)
            if first > last:
                continue
            begin, end = int(math.ceil(first - 0.5)), int(math.floor(last - 0.5)) + 1
            w = wa + (begin + 0.5 - xa) * w_dx + (y - ya) * w_dy
            for column in range(begin, end):
                if w > depth[line, column]:
                    depth[line, column] = w
                    face_ids[line, column] = f
                w += w_dx


def srgb_to_linear(colour: NDArray) -> NDArray:
    """Linear light 0..1 of sRGB values 0..1 (IEC 61966-2-1)."""
    colour = np.asarray(colour, dtype=np.float64)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: NDArray) -> NDArray:
    """sRGB values 0..1 of linear light 0..1 (IEC 61966-2-1)."""
    light = np.asarray(light, dtype=np.float64)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
