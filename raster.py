"""The `software` renderer's inner loops: a z-buffer and per-pixel shading, compiled by numba.

Two steps per frame. `rasterise` finds, for every sample (2×2 of them a pixel), the nearest triangle
and its depth. `shade` then visits the pixels: it shades a pixel once where its samples lie on one
smooth patch and once a triangle where they do not, so silhouettes, lips and lids get clean edges
and everything else costs one shading. Light is summed linearly and encoded as sRGB at the end.

The kernels release the interpreter lock: several frames may be drawn by threads at the same time.
They check no bounds themselves (numba does not either): every index into an image is clamped.

Coordinates: view space has x right, y up, z towards the viewer; the viewer sits at the origin, so
everything visible has z < 0. Sample space has x right, y down, in samples; the third component
`w` grows towards the viewer (1 / distance) and is linear across a triangle's picture.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

SAMPLES = 2  # a pixel's side in samples
BACK_FACE = 0.22  # the inside of a surface, e.g. the head's seen through the mouth, stays dark
SAME_PATCH_COS = 0.9  # samples whose triangles are this parallel may share one shading
SAME_PATCH_DEPTH = 0.004  # and whose distances differ by no more than this share

# Studio portrait light; directions are view space, towards the light, and need not be unit.
KEY_DIRECTION, KEY = (-0.48, 0.55, 0.68), (0.98, 0.93, 0.86)
FILL_DIRECTION, FILL = (0.80, 0.10, 0.60), (0.27, 0.30, 0.36)
RIM_DIRECTION, RIM = (0.62, 0.45, -0.64), (0.50, 0.50, 0.52)
SKY, GROUND = (0.34, 0.35, 0.38), (0.18, 0.14, 0.12)
WRAP = (0.36, 0.24, 0.19)  # skin scatters light past the terminator, red the farthest


def _jit(function):
    """`numba.njit`, cached on disk where some folder can be written, else compiled every time."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return numba.njit(nogil=True, error_model="numpy")(function)


@_jit
def surface_normals(
    points: NDArray, faces: NDArray, face_normals: NDArray, vertex_normals: NDArray
) -> None:
    """Fill unit `face_normals` (F, 3) and area-weighted unit `vertex_normals` (V, 3) of `points`.

    A degenerate face gets the normal 0 and weighs nothing.
    """
    vertex_normals[:] = 0.0
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (
            points[b, 0] - points[a, 0],
            points[b, 1] - points[a, 1],
            points[b, 2] - points[a, 2],
        )
        vx, vy, vz = (
            points[c, 0] - points[a, 0],
            points[c, 1] - points[a, 1],
            points[c, 2] - points[a, 2],
        )
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in range(3):
            i = faces[f, corner]
            vertex_normals[i, 0] += nx
            vertex_normals[i, 1] += ny
            vertex_normals[i, 2] += nz
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        scale = 1.0 / length if length > 0.0 else 0.0
        face_normals[f, 0], face_normals[f, 1], face_normals[f, 2] = (
            nx * scale,
            ny * scale,
            nz * scale,
        )
    for i in range(vertex_normals.shape[0]):
        nx, ny, nz = vertex_normals[i, 0], vertex_normals[i, 1], vertex_normals[i, 2]
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        if length > 0.0:
            vertex_normals[i, 0] = nx / length
            vertex_normals[i, 1] = ny / length
            vertex_normals[i, 2] = nz / length


@_jit
def _clip_span(x0, y0, x1, y1, area, y, first, last):
    """The part of [first, last] in row y on the inner side of the edge 0-1 (widened by 1e-6)."""
    slope = y1 - y0
    if area < 0.0:
        slope = -slope
    if slope == 0.0:
        # A horizontal edge bounds rows, not columns; the caller visits only rows inside.
        return first, last
    crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    if slope > 0.0:
        return first, min(last, crossing + 1e-6)
    return max(first, crossing - 1e-6), last


@_jit
def rasterise(screen: NDArray, faces: NDArray, depth: NDArray, face_ids: NDArray) -> None:
    """Fill the z-buffer: `depth` (N, N) the largest w at each sample, `face_ids` (N, N) whose it is.

    screen: (V, 3) x, y in samples and w. A vertex with w <= 0 is behind the viewer: its triangles
    are left out. Samples of no triangle keep w = 0 and the face -1.
    """
    depth[:] = 0.0
    face_ids[:] = -1
    height, width = depth.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        wa, wb, wc = screen[a, 2], screen[b, 2], screen[c, 2]
        if not (wa > 0.0 and wb > 0.0 and wc > 0.0):
            continue
        xa, ya, xb, yb = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
        xc, yc = screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if not abs(area) > 1e-12:
            continue
        # Clamped before the conversion: a huge float has no integer.
        left = max(min(xa, xb, xc), 0.0)
        right = min(max(xa, xb, xc), float(width))
        top = max(min(ya, yb, yc), 0.0)
        bottom = min(max(ya, yb, yc), float(height))
        if left >= right or top >= bottom:
            continue
        # w is a plane over the picture.
        w_dx = ((wb - wa) * (yc - ya) - (wc - wa) * (yb - ya)) / area
        w_dy = ((wc - wa) * (xb - xa) - (wb - wa) * (xc - xa)) / area
        # Rows, then columns, whose centres lie inside; a row's span is what three edges leave of it.
        for row in range(int(math.ceil(top - 0.5)), int(math.floor(bottom - 0.5)) + 1):
            y = row + 0.5
            first, last = _clip_span(xa, ya, xb, yb, area, y, left, right)
            first, last = _clip_span(xb, yb, xc, yc, area, y, first, last)
            first, last = _clip_span(xc, yc, xa, ya, area, y, first, last)
            if first > last:
                continue
            begin, end = int(math.ceil(first - 0.5)), int(math.floor(last - 0.5)) + 1
            w = wa + (begin + 0.5 - xa) * w_dx + (y - ya) * w_dy
            for column in range(begin, end):
                if w > depth[row, column]:
                    depth[row, column] = w
                    face_ids[row, column] = f
                w += w_dx


@_jit
def _wrapped(cosine, wrap):
    """Diffuse light at that cosine of its angle, let round the terminator by `wrap`, softly."""
    lit = max((cosine + wrap) / (1.0 + wrap), 0.0)
    return lit * (1.0 - 0.4 * wrap * (1.0 - lit))


@_jit
def _open_light(openness, albedo):
    """Share of the surrounding light that arrives, with the bounces inside a crease.

    Jimenez et al. 2016 give the idea: the brighter the surface, the less a crease darkens, so
    that creases of skin turn warm, not grey.
    """
    return openness / (1.0 - albedo * (1.0 - openness))


@_jit
def _lobe(nx, ny, nz, vx, vy, vz, light):
    """Cosine between the normal and the half vector of view and `light` (Blinn), at least 0."""
    hx, hy, hz = vx + light[0], vy + light[1], vz + light[2]
    return max((nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz), 0.0)


@_jit
def _light_point(normal, view, albedo, openness, gloss, front):
    """Linear light that leaves a point towards the viewer, (r, g, b) 0..1."""
    nx, ny, nz = normal
    vx, vy, vz = view
    key = nx * KEY_DIRECTION[0] + ny * KEY_DIRECTION[1] + nz * KEY_DIRECTION[2]
    fill = nx * FILL_DIRECTION[0] + ny * FILL_DIRECTION[1] + nz * FILL_DIRECTION[2]
    rim = nx * RIM_DIRECTION[0] + ny * RIM_DIRECTION[1] + nz * RIM_DIRECTION[2]
    up = 0.5 + 0.5 * ny
    direct = 0.35 + 0.65 * openness
    strength = 1.0 if front else BACK_FACE
    shine, sheen = 0.0, 0.0
    if front:
        key_lobe = _lobe(nx, ny, nz, vx, vy, vz, KEY_DIRECTION) ** 16
        fill_lobe = _lobe(nx, ny, nz, vx, vy, vz, FILL_DIRECTION) ** 16
        skin = 0.055 * key_lobe + 0.05 * key_lobe**4 + 0.02 * fill_lobe
        wet = 0.9 * key_lobe**24 + 0.10 * key_lobe**3 + 0.25 * fill_lobe**20
        shine = direct * openness * (skin * (1.0 - gloss) + wet * gloss)
        grazing = max(1.0 - (nx * vx + ny * vy + nz * vz), 0.0)
        sheen = 0.30 * grazing**4 * openness
    red = _channel(0, albedo[0], key, fill, rim, up, openness, direct)
    green = _channel(1, albedo[1], key, fill, rim, up, openness, direct)
    blue = _channel(2, albedo[2], key, fill, rim, up, openness, direct)
    return (
        _knee(strength * red + shine * KEY[0] + sheen * SKY[0]),
        _knee(strength * green + shine * KEY[1] + sheen * SKY[1]),
        _knee(strength * blue + shine * KEY[2] + sheen * SKY[2]),
    )


@_jit
def _channel(c, albedo, key, fill, rim, up, openness, direct):
    """Diffuse light of colour channel c: key, fill, rim and the surroundings, times the albedo."""
    lamps = KEY[c] * _wrapped(key, WRAP[c]) + FILL[c] * _wrapped(fill, WRAP[c])
    lamps += RIM[c] * _wrapped(rim, 0.0)
    surroundings = GROUND[c] + (SKY[c] - GROUND[c]) * up
    return albedo * (lamps * direct + surroundings * _open_light(openness, albedo))


@_jit
def _knee(light):
    """`light` with everything above 0.75 rolled off towards 1 instead of clipped."""
    if light <= 0.75:
        return light
    return 1.0 - 0.25 * math.exp((0.75 - light) / 0.25)


@_jit
def _shade_face(f, x, y, screen, view, faces, normals, surface):
    """Linear (r, g, b) of face f where the sample-space point (x, y) sees it."""
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    xa, ya, xb, yb = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
    xc, yc = screen[c, 0], screen[c, 1]
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    # Barycentric in the picture, then divided by the distance: true to perspective.
    ka = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * screen[a, 2]
    kb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * screen[b, 2]
    kc = ((xa - x) * (yb - y) - (xb - x) * (ya - y)) * screen[c, 2]
    total = ka + kb + kc
    ka, kb, kc = ka / total, kb / total, kc / total
    front = area < 0.0  # counter-clockwise in view space, whose y points the other way
    nx = ka * normals[a, 0] + kb * normals[b, 0] + kc * normals[c, 0]
    ny = ka * normals[a, 1] + kb * normals[b, 1] + kc * normals[c, 1]
    nz = ka * normals[a, 2] + kb * normals[b, 2] + kc * normals[c, 2]
    scale = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    if not front:
        scale = -scale
    vx = -(ka * view[a, 0] + kb * view[b, 0] + kc * view[c, 0])
    vy = -(ka * view[a, 1] + kb * view[b, 1] + kc * view[c, 1])
    vz = -(ka * view[a, 2] + kb * view[b, 2] + kc * view[c, 2])
    near = 1.0 / max(math.sqrt(vx * vx + vy * vy + vz * vz), 1e-12)
    red = ka * surface[a, 0] + kb * surface[b, 0] + kc * surface[c, 0]
    green = ka * surface[a, 1] + kb * surface[b, 1] + kc * surface[c, 1]
    blue = ka * surface[a, 2] + kb * surface[b, 2] + kc * surface[c, 2]
    openness = ka * surface[a, 3] + kb * surface[b, 3] + kc * surface[c, 3]
    gloss = ka * surface[a, 4] + kb * surface[b, 4] + kc * surface[c, 4]
    return _light_point(
        (nx * scale, ny * scale, nz * scale),
        (vx * near, vy * near, vz * near),
        (red, green, blue),
        openness,
        gloss,
        front,
    )


@_jit
def _one_patch(row, column, depth, face_ids, face_normals):
    """Whether the four samples of a pixel lie on one smooth patch, so that one shading will do."""
    first = face_ids[row, column]
    if first < 0:
        return False
    for k in range(1, SAMPLES * SAMPLES):
        i, j = row + k // SAMPLES, column + k % SAMPLES
        f = face_ids[i, j]
        if f == first:
            continue
        if f < 0:
            return False
        w, w0 = depth[i, j], depth[row, column]
        if abs(w - w0) > SAME_PATCH_DEPTH * w0:
            return False
        cosine = (
            face_normals[f, 0] * face_normals[first, 0]
            + face_normals[f, 1] * face_normals[first, 1]
            + face_normals[f, 2] * face_normals[first, 2]
        )
        if cosine < SAME_PATCH_COS:
            return False
    return True


@_jit
def shade(
    screen: NDArray,
    view: NDArray,
    faces: NDArray,
    face_normals: NDArray,
    normals: NDArray,
    surface: NDArray,
    depth: NDArray,
    face_ids: NDArray,
    background: NDArray,
    encode: NDArray,
    image: NDArray,
) -> None:
    """Fill `image` (H, W, 3) uint8 from what `rasterise` found on (2 H, 2 W) samples.

    screen, view: (V, 3) the vertices in sample and view space; normals: (V, 3) unit;
    surface: (V, 5) linear r, g, b, openness (1 in the open, 0 enclosed), gloss (1 wet, 0 skin);
    background: (3,) linear; encode: (n,) uint8, the sRGB code of the light i / (n - 1).
    """
    top_code = encode.shape[0] - 1
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            row, column = i * SAMPLES, j * SAMPLES
            if _one_patch(row, column, depth, face_ids, face_normals):
                red, green, blue = _shade_face(
                    face_ids[row, column], column + 0.5, row + 0.5,
                    screen, view, faces, normals, surface,
                )  # fmt: skip
            else:
                red, green, blue = 0.0, 0.0, 0.0
                for k in range(SAMPLES * SAMPLES):
                    y, x = row + k // SAMPLES, column + k % SAMPLES
                    if face_ids[y, x] < 0:
                        r, g, b = background[0], background[1], background[2]
                    else:
                        r, g, b = _shade_face(
                            face_ids[y, x], x + 0.5, y + 0.5,
                            screen, view, faces, normals, surface,
                        )  # fmt: skip
                    red, green, blue = red + r, green + g, blue + b
                share = 1.0 / (SAMPLES * SAMPLES)
                red, green, blue = red * share, green * share, blue * share
            image[i, j, 0] = encode[int(min(max(red, 0.0), 1.0) * top_code + 0.5)]
            image[i, j, 1] = encode[int(min(max(green, 0.0), 1.0) * top_code + 0.5)]
            image[i, j, 2] = encode[int(min(max(blue, 0.0), 1.0) * top_code + 0.5)]


@_jit
def add_visible(
    screen: NDArray, normals: NDArray, depth: NDArray, direction: NDArray, softness: float,
    seen: NDArray, total: NDArray,
) -> None:  # fmt: skip
    """Add to `seen` and `total` (V,) how much of the light from `direction` reaches each vertex.

    screen: (V, 3) x, y, w of an orthographic picture taken from `direction` (unit), with its
    z-buffer `depth`; both sums are weighted by the cosine to the vertex normal. A vertex
    `softness` behind the nearest surface counts as hidden.
    """
    height, width = depth.shape
    for v in range(screen.shape[0]):
        cosine = (
            normals[v, 0] * direction[0]
            + normals[v, 1] * direction[1]
            + normals[v, 2] * direction[2]
        )
        if cosine <= 0.0:
            continue
        total[v] += cosine
        column = min(max(int(screen[v, 0]), 0), width - 1)
        row = min(max(int(screen[v, 1]), 0), height - 1)
        behind = (depth[row, column] - screen[v, 2]) / softness
        seen[v] += cosine * min(max(2.0 - behind, 0.0), 1.0)
