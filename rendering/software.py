"""The `software` renderer: pictures of the z-buffer of `raster`, in the light of `shading`.

A pixel whose samples lie on one smooth patch is one fragment, any other pixel has one for each
sample. So silhouettes, lips and lids get anti-aliased edges, and all other pixels are lit once.
Light is summed in linear space and encoded as sRGB at the end.

A line of pixels is drawn in steps: `_first_kinds`, `_join` and `_find_runs` find its fragments,
`_fill_fragments` interpolates what the light needs, `shading.light_fragments` lights them, and
`_resolve` makes pixels of them.
Coordinates as in raster.py.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.lanes import CONTRACT, LANES, fill_line, fill_rows
from rendering.raster import (
    BAND,
    SAMPLES,
    dot,
    new_buffers,
    rasterise_band,
    row,
    single,
    sort_faces,
    surface_normals,
)
from rendering.rims import Rims
from rendering.shading import CAPACITY, FRONT, N_ROWS, ROW, TO_VIEWER, W, light_fragments
from rendering.srgb import linear_to_srgb, srgb_to_linear

if TYPE_CHECKING:
    from rendering.renderer import Camera

ENCODE_STEPS = 4096
SAME_PATCH_COS = 0.9  # least cosine between the normals of triangles that share one shading
SAME_PATCH_DEPTH = 0.004  # and the largest relative difference of their depths
N_SAMPLES = SAMPLES * SAMPLES  # of a pixel
SEGMENT = CAPACITY // N_SAMPLES  # pixels of a line that are drawn at once
# Kinds of pixels; others are the number of their fragments.
EMPTY, PATCH, NEAR = 0, N_SAMPLES + 1, N_SAMPLES + 2
N_TRAITS = 8  # of a vertex: normal, r, g, b, openness, gloss


@compiled(fastmath=CONTRACT)
def _first_kinds(numbers, depth, lines, left, kinds):
    """Fill `kinds` (N,) of the pixels whose samples are in two lines, from the sample `left` on.

    PATCH where all samples are of one face, NEAR where all are covered and about as deep as the
    first, else the number of covered samples.
    """
    upper, lower = numbers[lines, left:], numbers[lines + 1, left:]
    upper_depth, lower_depth = depth[lines, left:], depth[lines + 1, left:]
    for j in range(kinds.shape[0]):
        a, b = upper[2 * j], upper[2 * j + 1]
        c, d = lower[2 * j], lower[2 * j + 1]
        w = upper_depth[2 * j]
        apart = max(abs(upper_depth[2 * j + 1] - w), abs(lower_depth[2 * j] - w))
        apart = max(apart, abs(lower_depth[2 * j + 1] - w))
        covered = (a > 0) * 1 + (b > 0) * 1 + (c > 0) * 1 + (d > 0) * 1
        near = (covered == N_SAMPLES) & (apart <= single(SAME_PATCH_DEPTH) * w)
        kind = NEAR if near else covered
        same = (a == b) & (a == c) & (a == d) & (a > 0)
        kinds[j] = PATCH if same else kind


@compiled()
def _join(numbers, lines, left, face_normals, kinds, near):
    """Replace NEAR in `kinds` by PATCH or N_SAMPLES: whether the normals of faces are alike.

    near: room for N numbers; other arguments as for `_first_kinds`.
    """
    n = 0
    for j in range(kinds.shape[0]):  # a list first, as a branch here would be guessed wrong
        near[n] = j
        n += kinds[j] == NEAR
    for i in range(n):
        column = left + near[i] * SAMPLES
        first = numbers[lines, column]
        normal, joined = row(face_normals, int(first) - 1), True
        for k in range(1, N_SAMPLES):
            number = numbers[lines + k // SAMPLES, column + k % SAMPLES]
            alike = dot(normal, row(face_normals, int(number) - 1)) >= single(SAME_PATCH_COS)
            joined = joined & (alike | (number == first))
        kinds[near[i]] = PATCH if joined else N_SAMPLES


@compiled()
def _find_runs(numbers, lines, left, kinds, runs):
    """Fill `runs` (M, 4) of the pixels of `kinds` (N,); the number of runs.

    A run is a face, the column and line (0 or 1) of a sample, and the count of its fragments there
    and every SAMPLES samples to the right: neighbouring pixels on one face, or a sample.
    """
    n, previous = -1, single(0.0)
    for j in range(kinds.shape[0]):
        column, kind = left + j * SAMPLES, kinds[j]
        if kind == PATCH:
            here = numbers[lines, column]
            if here == previous:
                runs[n, 3] += 1
            else:
                n += 1
                runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3] = int(here) - 1, column, 0, 1
            previous = here
            continue
        previous = single(0.0)
        for k in range(N_SAMPLES if kind != EMPTY else 0):
            down, aside = k // SAMPLES, k % SAMPLES
            number = int(numbers[lines + down, column + aside])
            if number > 0:
                n += 1
                runs[n, 0], runs[n, 1] = number - 1, column + aside
                runs[n, 2], runs[n, 3] = down, 1
    return n + 1


@compiled(fastmath=CONTRACT)
def _fill_fragments(mesh, lens, runs, top, fragments):
    """Fill `fragments` from the `runs` (M, 4) of a line; their number.

    top: the upper of the line's two lines of samples.

    Perspective-correct weights of the corners are those of the picture, each times its w. They are
    linear in x, and so are the rows of fragments.
    """
    screen, faces, traits, _ = mesh
    focal, middle_x, middle_y = lens
    per_focal, at = 1.0 / focal, 0
    across = single(SAMPLES * per_focal)
    for run in range(runs.shape[0]):
        ia, ib, ic = row(faces, runs[run, 0])
        xa, ya, wa = row(screen, ia)
        xb, yb, wb = row(screen, ib)
        xc, yc, wc = row(screen, ic)
        x, y = runs[run, 1] + 0.5, top + runs[run, 2] + 0.5
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        per_area = 1.0 / area
        wa, wb, wc = wa * per_area, wb * per_area, wc * per_area
        ka = single(((xb - x) * (yc - y) - (xc - x) * (yb - y)) * wa)
        kb = single(((xc - x) * (ya - y) - (xa - x) * (yc - y)) * wb)
        kc = single(((xa - x) * (yb - y) - (xb - x) * (ya - y)) * wc)
        step_a = single(SAMPLES * (yb - yc) * wa)
        step_b = single(SAMPLES * (yc - ya) * wb)
        step_c = single(SAMPLES * (ya - yb) * wc)
        w_step = step_a + step_b + step_c
        # Counter-clockwise in view space is clockwise in sample space, whose y points down.
        front = single(1.0) if area < 0.0 else single(0.0)
        to_x, to_y = single((middle_x - x) * per_focal), single((y - middle_y) * per_focal)
        end = at + runs[run, 3]
        for to in range(at, end, LANES):
            weights, steps = (ka, kb, kc), (step_a, step_b, step_c)
            fill_rows(fragments, to, ROW, traits, (ia, ib, ic), weights, steps)
            fill_line(fragments, W * ROW + to, ka + kb + kc, w_step)
            fill_line(fragments, FRONT * ROW + to, front, single(0.0))
            fill_line(fragments, TO_VIEWER * ROW + to, to_x, -across)
            fill_line(fragments, (TO_VIEWER + 1) * ROW + to, to_y, single(0.0))
            ka += single(LANES) * step_a
            kb += single(LANES) * step_b
            kc += single(LANES) * step_c
            to_x -= single(LANES) * across
        at = end
    return at


@compiled()
def _resolve(kinds, fragments, behind, encode, pixels):
    """Write the pixels (N, 3 or 4) of `kinds` (N,) that are not empty.

    A fourth channel gets the number of samples that a face covers.
    """
    at, top_code = 0, single(encode.shape[0] - 1)
    for j in range(pixels.shape[0]):
        kind = kinds[j]
        if kind == EMPTY:
            continue
        if kind == PATCH:
            for c in range(3):
                pixels[j, c] = encode[int(fragments[c * ROW + at] * top_code + single(0.5))]
            at += 1
        else:
            for c in range(3):
                light = (N_SAMPLES - kind) * behind[c]
                for k in range(at, at + kind):
                    light += fragments[c * ROW + k]
                pixels[j, c] = encode[int(light / single(N_SAMPLES) * top_code + single(0.5))]
            at += kind
        if pixels.shape[1] == 4:
            pixels[j, 3] = min(kind, N_SAMPLES)


@compiled()
def draw_picture(mesh, rims, lens, face_normals, behind, encode, image) -> None:
    """Draw a mesh over `image` (H, W, 3 or 4) uint8.

    mesh: screen (V, 3) as for `rasterise`, faces (F, 3), traits (V, N_TRAITS) float32: unit
    normal, linear r, g, b, openness (1 free, 0 enclosed) and gloss (1 wet, 0 skin), and openness
    (V,) again; rims: of the faces; lens: focal length, middle x and y in samples; face_normals: (F,
    3) float32; behind: (3,) float32, linear light of the background; encode: (n,) uint8, the sRGB
    code of the light i / (n - 1).
    """
    screen, faces, _, openness = mesh
    height, width = image.shape[0], image.shape[1]
    buffers = new_buffers(width * SAMPLES)
    depth, numbers, _, _ = buffers
    kinds, near = np.empty(SEGMENT, np.uint8), np.empty(SEGMENT + 1, np.int32)
    runs, fragments = np.empty((CAPACITY, 4), np.int32), np.ones(N_ROWS * ROW, np.float32)
    sorted_faces = sort_faces(screen, faces, openness, rims, height * SAMPLES)
    for band in range((height * SAMPLES + BAND - 1) // BAND):
        left, right = rasterise_band(screen, faces, sorted_faces, band, buffers)
        end = min((right + 1) // SAMPLES, width)
        for line in range(0, min(BAND, height * SAMPLES - band * BAND), SAMPLES):
            top = band * BAND + line
            for first in range(left // SAMPLES, end, SEGMENT):
                last = min(first + SEGMENT, end)
                here = kinds[: last - first]
                at = first * SAMPLES
                _first_kinds(numbers, depth, line, at, here)
                _join(numbers, line, at, face_normals, here, near)
                n_runs = _find_runs(numbers, line, at, here, runs)
                count = _fill_fragments(mesh, lens, runs[:n_runs], top, fragments)
                light_fragments(fragments, count)
                _resolve(here, fragments, behind, encode, image[top // SAMPLES, first:last])


class SoftwareBackend:
    """Draws on the CPU with numba; may be called from several threads."""

    threadsafe = True

    def __init__(
        self, faces: NDArray, camera: "Camera", background: NDArray | None, rims: Rims
    ) -> None:
        """rims: of the faces."""
        self.faces, self.camera, self.rims = faces, camera, rims
        self.transparent = background is None
        self.behind = np.zeros(3) if background is None else background
        self.behind = self.behind.astype(np.float32)
        codes = linear_to_srgb(np.linspace(0.0, 1.0, ENCODE_STEPS))
        self.encode = np.round(255 * codes).astype(np.uint8)
        blank = self.encode[(self.behind * (ENCODE_STEPS - 1) + 0.5).astype(int)]
        blank = [*blank, 0] if self.transparent else blank
        self.blank = np.empty((camera.height, camera.width, len(blank)), np.uint8)
        self.blank[:] = blank

    def draw(self, view: NDArray, surface: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of vertices (V, 3) in view space.

        surface: (V, 6) float32 linear r, g, b, openness, gloss, 0. (H, W, 4) with straight alpha
        where the background is None.
        """
        camera = self.camera
        face_normals, normals = np.empty((len(self.faces), 3), np.float32), np.empty(view.shape)
        surface_normals(view, self.faces, face_normals, normals)
        traits = np.empty((len(view), N_TRAITS), np.float32)
        traits[:, :3], traits[:, 3:] = normals, surface[:, : N_TRAITS - 3]
        lens = camera.focal_px * SAMPLES, camera.width * SAMPLES / 2, camera.height * SAMPLES / 2
        image = self.blank.copy()
        mesh = camera.project(view, SAMPLES), self.faces, traits, surface[:, 3].copy()
        draw_picture(mesh, self.rims, lens, face_normals, self.behind, self.encode, image)
        return _with_alpha(image) if self.transparent else image


def _with_alpha(image: NDArray) -> NDArray[np.uint8]:
    """(H, W, 4) straight alpha of a picture before black; alpha is the share of covered samples.

    image: (H, W, 4), whose last channel is their number. Alpha 0 has the colour black.
    """
    covered = image[..., 3] / N_SAMPLES
    edge = (covered > 0) & (covered < 1)
    result = np.dstack([image[..., :3], np.round(255 * covered).astype(np.uint8)])
    light = srgb_to_linear(image[edge, :3] / 255) / covered[edge][:, None]
    result[edge, :3] = np.round(255 * linear_to_srgb(np.minimum(light, 1.0)))
    return result
