"""The `software` renderer: pictures of the z-buffer of `raster`, in the light of `shading`.

A pixel whose samples lie on one smooth patch is one fragment, any other pixel has one for each
sample. So silhouettes, lips and lids get anti-aliased edges, and all other pixels are lit once.
Light is summed in linear space and encoded as sRGB at the end.

A line of pixels is drawn in steps: `_find_runs` finds its fragments, `_fill_fragments` interpolates
what the light needs, `shading.light_fragments` lights them, and `_resolve` makes pixels of them.
Coordinates as in raster.py.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.raster import (
    BAND,
    CONTRACT,
    SAMPLES,
    dot,
    linear_to_srgb,
    new_buffers,
    rasterise_band,
    row,
    single,
    sort_faces,
    srgb_to_linear,
    surface_normals,
)
from rendering.shading import CAPACITY, FRONT, N_ROWS, ROW, TO_VIEWER, W, light_fragments

if TYPE_CHECKING:
    from rendering.renderer import Camera

ENCODE_STEPS = 4096
SAME_PATCH_COS = 0.9  # least cosine between the normals of triangles that share one shading
SAME_PATCH_DEPTH = 0.004  # and the largest relative difference of their depths
N_SAMPLES = SAMPLES * SAMPLES  # of a pixel
SEGMENT = CAPACITY // N_SAMPLES  # pixels of a line that are drawn at once
# Kinds of pixels; others are the number of their fragments.
EMPTY, PATCH, UNKNOWN = 0, N_SAMPLES + 1, N_SAMPLES + 2
N_TRAITS = 8  # of a vertex: normal, r, g, b, openness, gloss


@compiled(fastmath=CONTRACT)
def _first_kinds(upper, lower, kinds):
    """Fill `kinds` (N,) of pixels: EMPTY, PATCH where all samples are of one face, else UNKNOWN.

    upper, lower: (2 N,) numbers of the faces at their samples.
    """
    for j in range(kinds.shape[0]):
        a, b = upper[2 * j], upper[2 * j + 1]
        c, d = lower[2 * j], lower[2 * j + 1]
        same = (a == b) & (a == c) & (a == d)
        kinds[j] = (PATCH if a > 0 else EMPTY) if same else UNKNOWN


@compiled()
def _kind(depth, numbers, line, column, face_normals):
    """The kind of a pixel whose samples begin at (line, column) and are not of one face.

    It is a patch if the others of its samples can share the shading of the first.
    """
    covered, joined = 0, True
    first, w = numbers[line, column], depth[line, column]
    for k in range(N_SAMPLES):
        i, j = line + k // SAMPLES, column + k % SAMPLES
        number = numbers[i, j]
        if number == 0:
            joined = False
            continue
        covered += 1
        if joined and number != first:
            normals = row(face_normals, int(first) - 1), row(face_normals, int(number) - 1)
            joined = abs(depth[i, j] - w) <= SAME_PATCH_DEPTH * w
            joined = joined and dot(normals[0], normals[1]) >= SAME_PATCH_COS
    return PATCH if joined else covered


@compiled()
def _find_runs(buffers, line, y, first, face_normals, kinds, runs):
    """Fill `kinds` (N,) and `runs` (M, 4) of the pixels from `first` on; the number of runs.

    A run is the number of a face, x and y of a sample, and the count of its fragments there and
    every SAMPLES samples to the right: neighbouring pixels on one face, or a sample. buffers: of
    the band; line: the upper of the pixels' two lines in it; y: the centre of that line.
    """
    depth, numbers, _ = buffers
    left, right = first * SAMPLES, (first + kinds.shape[0]) * SAMPLES
    _first_kinds(numbers[line, left:right], numbers[line + 1, left:right], kinds)
    n, previous = 0, single(0.0)
    for j in range(kinds.shape[0]):
        column, kind = left + j * SAMPLES, kinds[j]
        if kind == UNKNOWN:
            kind = _kind(depth, numbers, line, column, face_normals)
            kinds[j] = kind
        here = numbers[line, column] if kind == PATCH else single(0.0)
        if here > 0 and here == previous:
            runs[n - 1, 3] += single(1.0)
        elif kind != EMPTY:
            for k in range(1 if kind == PATCH else N_SAMPLES):
                down, right = k // SAMPLES, k % SAMPLES
                number = numbers[line + down, column + right]
                if number > 0:
                    runs[n, 0], runs[n, 1] = number, column + right + 0.5
                    runs[n, 2], runs[n, 3] = y + down, single(1.0)
                    n += 1
        previous = here
    return n


@compiled(fastmath=CONTRACT)
def _fill_fragments(mesh, lens, runs, n_runs, fragments):
    """Fill `fragments` from the runs of a line; their number.

    Perspective-correct weights of the corners are those of the picture, each times its w. They are
    linear in x, and so are the rows of fragments.
    """
    screen, faces, traits = mesh
    focal, middle_x, middle_y = lens
    at = 0
    for run in range(n_runs):
        ia, ib, ic = row(faces, int(runs[run, 0]) - 1)
        xa, ya, wa = row(screen, ia)
        xb, yb, wb = row(screen, ib)
        xc, yc, wc = row(screen, ic)
        x, y = float(runs[run, 1]), float(runs[run, 2])
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        wa, wb, wc = wa / area, wb / area, wc / area
        ka = single(((xb - x) * (yc - y) - (xc - x) * (yb - y)) * wa)
        kb = single(((xc - x) * (ya - y) - (xa - x) * (yc - y)) * wb)
        kc = single(((xa - x) * (yb - y) - (xb - x) * (ya - y)) * wc)
        step_a = single(SAMPLES * (yb - yc) * wa)
        step_b = single(SAMPLES * (yc - ya) * wb)
        step_c = single(SAMPLES * (ya - yb) * wc)
        # Counter-clockwise in view space is clockwise in sample space, whose y points down.
        side = single(1.0) if area < 0.0 else single(-1.0)
        for to in range(at, at + int(runs[run, 3])):
            for trait in range(N_TRAITS):
                value = ka * traits[ia, trait] + kb * traits[ib, trait] + kc * traits[ic, trait]
                fragments[trait * ROW + to] = side * value if trait < 3 else value
            fragments[W * ROW + to] = ka + kb + kc
            fragments[FRONT * ROW + to] = max(side, single(0.0))
            fragments[TO_VIEWER * ROW + to] = single((middle_x - x) / focal)
            fragments[(TO_VIEWER + 1) * ROW + to] = single((y - middle_y) / focal)
            ka, kb, kc, x = ka + step_a, kb + step_b, kc + step_c, x + SAMPLES
        at += int(runs[run, 3])
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
        count = 1 if kind == PATCH else kind
        for c in range(3):
            light = fragments[c * ROW + at]
            if kind != PATCH:
                for k in range(1, count):
                    light += fragments[c * ROW + at + k]
                light = (light + (N_SAMPLES - count) * behind[c]) / single(N_SAMPLES)
            pixels[j, c] = encode[int(light * top_code + single(0.5))]
        if pixels.shape[1] == 4:
            pixels[j, 3] = min(kind, N_SAMPLES)
        at += count


@compiled()
def draw_picture(mesh, lens, face_normals, behind, encode, image) -> None:
    """Draw a mesh over `image` (H, W, 3 or 4) uint8.

    mesh: screen (V, 3) as for `rasterise`, faces (F, 3) and traits (V, N_TRAITS) float32: unit
    normal, linear r, g, b, openness (1 free, 0 enclosed) and gloss (1 wet, 0 skin); lens: focal
    length, middle x and y in samples; face_normals: (F, 3); behind: (3,) float32, linear light of
    the background; encode: (n,) uint8, the sRGB code of the light i / (n - 1).
    """
    screen, faces, _ = mesh
    height, width = image.shape[0], image.shape[1]
    buffers = new_buffers(width * SAMPLES)
    kinds = np.empty(SEGMENT, np.uint8)
    runs, fragments = np.empty((CAPACITY, 4), np.float32), np.ones(N_ROWS * ROW, np.float32)
    sorted_faces = sort_faces(screen, faces, height * SAMPLES)
    for band in range((height * SAMPLES + BAND - 1) // BAND):
        left, right = rasterise_band(screen, faces, sorted_faces, band, buffers)
        end = min((right + 1) // SAMPLES, width)
        for line in range(0, min(BAND, height * SAMPLES - band * BAND), SAMPLES):
            i, y = (band * BAND + line) // SAMPLES, band * BAND + line + 0.5
            for first in range(left // SAMPLES, end, SEGMENT):
                last = min(first + SEGMENT, end)
                here = kinds[: last - first]
                n_runs = _find_runs(buffers, line, y, first, face_normals, here, runs)
                count = _fill_fragments(mesh, lens, runs, n_runs, fragments)
                light_fragments(fragments, count)
                _resolve(here, fragments, behind, encode, image[i, first:last])


class SoftwareBackend:
    """Draws on the CPU with numba; may be called from several threads."""

    threadsafe = True

    def __init__(self, faces: NDArray, camera: "Camera", background: NDArray | None) -> None:
        self.faces, self.camera = faces, camera
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

        surface: (V, 6) linear r, g, b, openness, gloss, 0. (H, W, 4) with straight alpha where the
        background is None.
        """
        camera = self.camera
        face_normals, normals = np.empty((len(self.faces), 3)), np.empty((len(view), 3))
        surface_normals(view, self.faces, face_normals, normals)
        traits = np.hstack([normals, surface[:, :5]]).astype(np.float32)
        lens = camera.focal_px * SAMPLES, camera.width * SAMPLES / 2, camera.height * SAMPLES / 2
        image = self.blank.copy()
        mesh = camera.project(view, SAMPLES), self.faces, traits
        draw_picture(mesh, lens, face_normals, self.behind, self.encode, image)
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
