"""The `software` renderer's light: per-pixel shading of the z-buffer of `raster.rasterise`.

A pixel whose samples lie on one smooth patch is shaded once, any other pixel once for each sample.
So silhouettes, lips and lids get anti-aliased edges, and all other pixels cost one shading. Light
is summed in linear space and encoded as sRGB at the end. Coordinates as in raster.py.
"""

import math
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.raster import (
    SAMPLES,
    dot,
    linear_to_srgb,
    rasterise,
    row,
    scaled,
    srgb_to_linear,
    surface_normals,
    unit,
)

if TYPE_CHECKING:
    from rendering.renderer import Camera

ENCODE_STEPS = 4096

BACK_FACE = 0.22  # share of light on the inside of a surface, e.g. the head's through the mouth
SAME_PATCH_COS = 0.9  # least cosine between the normals of triangles that share one shading
SAME_PATCH_DEPTH = 0.004  # and the largest relative difference of their depths


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


# A portrait studio: direction of each lamp in view space, and its (r, g, b).
KEY_DIRECTION, KEY = _unit(-0.58, 0.58, 0.57), (1.12, 1.05, 0.97)
FILL_DIRECTION, FILL = _unit(0.80, 0.05, 0.60), (0.22, 0.21, 0.22)
RIM_DIRECTION, RIM = _unit(0.65, 0.45, -0.61), (0.55, 0.55, 0.58)
CATCH_DIRECTION = _unit(-0.30, 0.28, 0.91)  # the window reflected in the eyes
SIDE_CATCH_DIRECTION = _unit(0.72, 0.20, 0.66)  # another one, for eyes that look to that side
SKY, GROUND = (0.23, 0.24, 0.27), (0.13, 0.095, 0.08)
WRAP = (0.42, 0.30, 0.25)  # skin scatters light past the terminator, red light the farthest
SKIN_KEY, SKIN_OIL, SKIN_FILL = 0.075, 0.055, 0.02  # broad and narrow highlights of skin
CATCH, CATCH_FROM, CATCH_EDGE = 1.1, 0.985, 0.007  # strength; squared cosines of a soft edge
WET_KEY, GRAZING = 0.10, 0.32  # highlight of wet surfaces; reflection of the sky at grazing angles
BOUNCE = 0.9  # share of a wall's light that reaches the opposite wall; 1 would divide 0 by 0
SHADE = 0.16  # share of a lamp's light that reaches a fully enclosed point


@compiled()
def _wrapped(cosine, wrap):
    """Diffuse light for the cosine of its angle of incidence, extended past 90° by `wrap`."""
    return max((cosine + wrap) / (1.0 + wrap), 0.0)


@compiled()
def _open_light(openness, albedo):
    """Share of the surrounding light that reaches a point, including bounces between the walls.

    The sum of a geometric series: light that does not come from the sky comes from a wall, times
    the wall's albedo. This makes creases of skin warm instead of grey.
    """
    return openness / (1.0 - BOUNCE * albedo * (1.0 - openness))


@compiled()
def _half_cosine_squared(normal, view, light):
    """Squared cosine, clamped at 0, of the normal and the half vector of view and light (Blinn)."""
    along = normal[0] * (view[0] + light[0]) + normal[1] * (view[1] + light[1])
    along = max(along + normal[2] * (view[2] + light[2]), 0.0)
    return along * along / (2.0 + 2.0 * dot(view, light) + 1e-12)


@compiled()
def _diffuse(c, albedo, key, fill, rim, up, openness):
    """Diffuse light of colour channel c from the cosines of three lamps and the surroundings."""
    lamps = KEY[c] * _wrapped(key, WRAP[c]) + FILL[c] * _wrapped(fill, WRAP[c])
    lamps += RIM[c] * _wrapped(rim, 0.0)
    surroundings = GROUND[c] + (SKY[c] - GROUND[c]) * up
    return albedo * (
        lamps * (SHADE + (1.0 - SHADE) * openness) + surroundings * _open_light(openness, albedo)
    )


@compiled()
def _gleam(normal, view, openness, gloss):
    """Shares of light that the surface reflects: (of the key light, of the sky)."""
    key = _half_cosine_squared(normal, view, KEY_DIRECTION) ** 6
    fill = _half_cosine_squared(normal, view, FILL_DIRECTION) ** 6
    skin = SKIN_KEY * key + SKIN_OIL * key**5 + SKIN_FILL * fill
    wet = 0.0
    if gloss > 0.0:
        window = _half_cosine_squared(normal, view, CATCH_DIRECTION)
        window = max(window, _half_cosine_squared(normal, view, SIDE_CATCH_DIRECTION))
        wet = CATCH * min(max((window - CATCH_FROM) / CATCH_EDGE, 0.0), 1.0) + WET_KEY * key**3
    grazing = max(1.0 - dot(normal, view), 0.0)
    lamps = (SHADE + (1.0 - SHADE) * openness) * (skin * openness * (1.0 - gloss) + wet * gloss)
    # Surfaces that face down reflect the ground, which is dark: no grey seam under the jaw.
    return lamps, GRAZING * grazing**4 * openness * max(normal[1], 0.0)


@compiled()
def _knee(light):
    """`light` with values above 0.75 rolled off towards 1 instead of clipped."""
    if light <= 0.75:
        return light
    return 1.0 - 0.25 * math.exp((0.75 - light) / 0.25)


@compiled()
def _light_point(normal, view, albedo, openness, gloss, front):
    """Linear light (r, g, b) 0..1 from a point towards the viewer; normal and view are unit."""
    key, fill = dot(normal, KEY_DIRECTION), dot(normal, FILL_DIRECTION)
    rim, up = dot(normal, RIM_DIRECTION), 0.5 + 0.5 * normal[1]
    red = _diffuse(0, albedo[0], key, fill, rim, up, openness)
    green = _diffuse(1, albedo[1], key, fill, rim, up, openness)
    blue = _diffuse(2, albedo[2], key, fill, rim, up, openness)
    if not front:
        return BACK_FACE * red, BACK_FACE * green, BACK_FACE * blue
    lamp, sky = _gleam(normal, view, openness, gloss)
    return (
        _knee(red + lamp * KEY[0] + sky * SKY[0]),
        _knee(green + lamp * KEY[1] + sky * SKY[1]),
        _knee(blue + lamp * KEY[2] + sky * SKY[2]),
    )


@compiled()
def _mix(array, at, weights, column):
    """Three columns of `array` from `column` on, as the weighted sum of the rows `at`."""
    a, b, c = at
    ka, kb, kc = weights
    return (
        ka * array[a, column] + kb * array[b, column] + kc * array[c, column],
        ka * array[a, column + 1] + kb * array[b, column + 1] + kc * array[c, column + 1],
        ka * array[a, column + 2] + kb * array[b, column + 2] + kc * array[c, column + 2],
    )


@compiled()
def _shade_face(f, x, y, screen, view, faces, normals, surface):
    """Linear (r, g, b) of face f at the sample-space point (x, y)."""
    at = row(faces, f)
    xa, ya, wa = row(screen, at[0])
    xb, yb, wb = row(screen, at[1])
    xc, yc, wc = row(screen, at[2])
    # Perspective-correct barycentric weights: those of the picture, each times its w.
    ka = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * wa
    kb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * wb
    kc = ((xa - x) * (yb - y) - (xb - x) * (ya - y)) * wc
    weights = scaled((ka, kb, kc), 1.0 / (ka + kb + kc))
    # Counter-clockwise in view space is clockwise in sample space, whose y points down.
    front = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya) < 0.0
    normal = unit(_mix(normals, at, weights, 0))
    if not front:
        normal = scaled(normal, -1.0)
    to_viewer = unit(scaled(_mix(view, at, weights, 0), -1.0))
    albedo = _mix(surface, at, weights, 0)
    openness, gloss, _ = _mix(surface, at, weights, 3)
    return _light_point(normal, to_viewer, albedo, openness, gloss, front)


@compiled()
def _empty(line, column, face_ids):
    """Whether no face covers any sample of a pixel."""
    for k in range(SAMPLES * SAMPLES):
        if face_ids[line + k // SAMPLES, column + k % SAMPLES] >= 0:
            return False
    return True


@compiled()
def _one_patch(line, column, depth, face_ids, face_normals):
    """Whether the four samples of a pixel lie on one smooth patch and can share one shading."""
    first, w = face_ids[line, column], depth[line, column]
    if first < 0:
        return False
    for k in range(1, SAMPLES * SAMPLES):
        i, j = line + k // SAMPLES, column + k % SAMPLES
        f = face_ids[i, j]
        if f == first:
            continue
        if f < 0 or abs(depth[i, j] - w) > SAME_PATCH_DEPTH * w:
            return False
        if dot(row(face_normals, f), row(face_normals, first)) < SAME_PATCH_COS:
            return False
    return True


@compiled()
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
    """Fill `image` (H, W, 3) uint8 from the z-buffer that `rasterise` made of (2 H, 2 W) samples.

    screen, view: (V, 3) the vertices in sample and view space; normals: (V, 3) unit;
    surface: (V, 6) linear r, g, b, openness (1 free, 0 enclosed), gloss (1 wet, 0 skin), 0;
    background: (3,) linear; encode: (n,) uint8, the sRGB code of the light i / (n - 1).
    """
    top_code, behind = encode.shape[0] - 1, (background[0], background[1], background[2])
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            line, column = i * SAMPLES, j * SAMPLES
            if _empty(line, column, face_ids):
                light = behind
            elif _one_patch(line, column, depth, face_ids, face_normals):
                f = face_ids[line, column]
                light = _shade_face(
                    f, column + 0.5, line + 0.5, screen, view, faces, normals, surface
                )
            else:
                red, green, blue = 0.0, 0.0, 0.0
                for k in range(SAMPLES * SAMPLES):
                    y, x = line + k // SAMPLES, column + k % SAMPLES
                    f, r, g, b = face_ids[y, x], behind[0], behind[1], behind[2]
                    if f >= 0:
                        r, g, b = _shade_face(
                            f, x + 0.5, y + 0.5, screen, view, faces, normals, surface
                        )
                    red, green, blue = red + r, green + g, blue + b
                light = scaled((red, green, blue), 1.0 / (SAMPLES * SAMPLES))
            for c in range(3):
                # Written so that NaN becomes 0: an index made of NaN would be out of bounds.
                level = min(light[c], 1.0) if light[c] > 0.0 else 0.0
                image[i, j, c] = encode[int(level * top_code + 0.5)]


class SoftwareBackend:
    """Draws on the CPU with numba; may be called from several threads."""

    threadsafe = True

    def __init__(self, faces: NDArray, camera: "Camera", background: NDArray | None) -> None:
        self.faces, self.camera = faces, camera
        self.transparent = background is None
        self.background = np.zeros(3) if background is None else background
        codes = linear_to_srgb(np.linspace(0.0, 1.0, ENCODE_STEPS))
        self.encode = np.round(255 * codes).astype(np.uint8)
        self.buffers = threading.local()

    def draw(self, view: NDArray, surface: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of vertices (V, 3) in view space; surface as for `shade`.

        (H, W, 4) with straight alpha where the background is None.
        """
        width, height = self.camera.width, self.camera.height
        screen = self.camera.project(view, SAMPLES)
        if not hasattr(self.buffers, "depth"):
            samples = height * SAMPLES, width * SAMPLES
            self.buffers.depth = np.empty(samples, np.float32)
            self.buffers.face_ids = np.empty(samples, np.int32)
        depth, face_ids = self.buffers.depth, self.buffers.face_ids
        face_normals, normals = np.empty((len(self.faces), 3)), np.empty((len(view), 3))
        surface_normals(view, self.faces, face_normals, normals)
        rasterise(screen, self.faces, depth, face_ids)
        image = np.empty((height, width, 3), np.uint8)
        shade(
            screen, view, self.faces, face_normals, normals, surface,
            depth, face_ids, self.background, self.encode, image,
        )  # fmt: skip
        return _with_alpha(image, face_ids) if self.transparent else image


def _with_alpha(image: NDArray, face_ids: NDArray) -> NDArray[np.uint8]:
    """(H, W, 4) straight alpha of a picture (H, W, 3) before black; alpha is the share of samples.

    face_ids: (2 H, 2 W) as for `shade`. Alpha 0 has the colour black.
    """
    height, width = image.shape[:2]
    covered = (face_ids >= 0).reshape(height, SAMPLES, width, SAMPLES).mean(axis=(1, 3))
    edge = (covered > 0) & (covered < 1)
    result = np.dstack([image, np.round(255 * covered).astype(np.uint8)])
    light = srgb_to_linear(image[edge] / 255) / covered[edge][:, None]
    result[edge, :3] = np.round(255 * linear_to_srgb(np.minimum(light, 1.0)))
    return result
