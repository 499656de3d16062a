"""The `software` renderer's light: per-pixel shading of what `raster.rasterise` found.

A pixel is shaded once where its samples lie on one smooth patch and once a sample where they do
not, so silhouettes, lips and lids get clean edges and everything else costs one shading. Light is
summed linearly and encoded as sRGB at the end. Coordinates as in raster.py.
"""

import math
import threading

import numpy as np
from numpy.typing import NDArray

from raster import SAMPLES, jit, linear_to_srgb, rasterise, surface_normals

ENCODE_STEPS = 4096

BACK_FACE = 0.22  # the inside of a surface, e.g. the head's seen through the mouth, stays dark
SAME_PATCH_COS = 0.9  # samples whose triangles are this parallel may share one shading
SAME_PATCH_DEPTH = 0.004  # and whose distances differ by no more than this share

# Studio portrait light; directions are view space, towards the light, and need not be unit.
KEY_DIRECTION, KEY = (-0.48, 0.55, 0.68), (0.98, 0.93, 0.86)
FILL_DIRECTION, FILL = (0.80, 0.10, 0.60), (0.27, 0.30, 0.36)
RIM_DIRECTION, RIM = (0.62, 0.45, -0.64), (0.50, 0.50, 0.52)
SKY, GROUND = (0.34, 0.35, 0.38), (0.18, 0.14, 0.12)
WRAP = (0.36, 0.24, 0.19)  # skin scatters light past the terminator, red the farthest


@jit
def _wrapped(cosine, wrap):
    """Diffuse light at that cosine of its angle, let round the terminator by `wrap`, softly."""
    lit = max((cosine + wrap) / (1.0 + wrap), 0.0)
    return lit * (1.0 - 0.4 * wrap * (1.0 - lit))


@jit
def _open_light(openness, albedo):
    """Share of the surrounding light that arrives, with the bounces inside a crease.

    Jimenez et al. 2016 give the idea: the brighter the surface, the less a crease darkens, so
    that creases of skin turn warm, not grey.
    """
    return openness / (1.0 - albedo * (1.0 - openness))


@jit
def _lobe(nx, ny, nz, vx, vy, vz, light):
    """Cosine between the normal and the half vector of view and `light` (Blinn), at least 0."""
    hx, hy, hz = vx + light[0], vy + light[1], vz + light[2]
    return max((nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz), 0.0)


@jit
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


@jit
def _channel(c, albedo, key, fill, rim, up, openness, direct):
    """Diffuse light of colour channel c: key, fill, rim and the surroundings, times the albedo."""
    lamps = KEY[c] * _wrapped(key, WRAP[c]) + FILL[c] * _wrapped(fill, WRAP[c])
    lamps += RIM[c] * _wrapped(rim, 0.0)
    surroundings = GROUND[c] + (SKY[c] - GROUND[c]) * up
    return albedo * (lamps * direct + surroundings * _open_light(openness, albedo))


@jit
def _knee(light):
    """`light` with everything above 0.75 rolled off towards 1 instead of clipped."""
    if light <= 0.75:
        return light
    return 1.0 - 0.25 * math.exp((0.75 - light) / 0.25)


@jit
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


@jit
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


@jit
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


class SoftwareBackend:
    """Draws with py on the CPU; may be called from several threads."""

    threadsafe = True

    def __init__(self, faces: NDArray, surface: NDArray, camera, background: NDArray):
        self.faces, self.surface, self.camera = faces, surface, camera
        self.background = background
        codes = linear_to_srgb(np.linspace(0.0, 1.0, ENCODE_STEPS))
        self.encode = np.round(255 * codes).astype(np.uint8)
        self.buffers = threading.local()

    def draw(self, view: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of vertices (V, 3) in view space."""
        size = self.camera.size
        screen = self.camera.project(view, SAMPLES)
        if not hasattr(self.buffers, "depth"):
            side = size * SAMPLES
            self.buffers.depth = np.empty((side, side), np.float32)
            self.buffers.face_ids = np.empty((side, side), np.int32)
        depth, face_ids = self.buffers.depth, self.buffers.face_ids
        face_normals, normals = np.empty((len(self.faces), 3)), np.empty((len(view), 3))
        surface_normals(view, self.faces, face_normals, normals)
        rasterise(screen, self.faces, depth, face_ids)
        image = np.empty((size, size, 3), np.uint8)
        shade(
            screen, view, self.faces, face_normals, normals, self.surface,
            depth, face_ids, self.background, self.encode, image,
        )  # fmt: skip
        return image
