"""The `software` renderer's z-buffer and surface normals, compiled by numba.

The kernels release the interpreter lock, so threads can draw several frames at a time. Numba does
not check bounds, so every index into an image is clamped here.

View space: x right, y up, z towards the viewer, who is at the origin. Sample space: x right and y
down in samples (2 × 2 a pixel), and w = 1 / depth, which is linear across a projected triangle.

A picture is rasterised in bands of `BAND` sample lines, whose z-buffer stays in the processor's
cache: `depth` (BAND, N) float32, the largest w at each sample, and `numbers` (BAND, N) float32, the
number of its face, which is 1 + its index, or 0 where there is no face. N is a multiple of `BLOCK`,
and `LANES` more.
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.lanes import CONTRACT, LANES, keep_nearer
from rendering.rims import Rims, back_is_hidden, no_rims, rim_boxes

SAMPLES = 2  # samples to a pixel's side
ENCLOSED = 0.3  # openness below which a point lies inside the mouth or behind the lids
BLOCK = 16  # samples of a line that are tested at once
BAND = 32  # sample lines
single = np.float32
EDGE = 1e-6  # samples by which spans are widened, so that rounding leaves no cracks


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


@compiled(fastmath=CONTRACT)
def project_points(
    view: NDArray, near: float, focal: float, middle: tuple[float, float], screen: NDArray
) -> None:
    """Fill `screen` (V, 3) with sample space: x, y and w of points (V, 3) in view space.

    near: depth from which on points are in front of the viewer, others get w = 0; focal: the focal
    length in samples; middle: x and y of the optical axis.
    """
    for i in range(view.shape[0]):
        depth = -view[i, 2]
        w = 1.0 / depth if depth > near else 0.0
        screen[i, 0] = middle[0] + focal * view[i, 0] * w
        screen[i, 1] = middle[1] - focal * view[i, 1] * w
        screen[i, 2] = w


@compiled()
def surface_normals(
    points: NDArray, faces: NDArray, face_normals: NDArray, vertex_normals: NDArray
) -> None:
    """Fill unit `face_normals` (F, 3) float32 and area-weighted unit `vertex_normals` (V, 3).

    points: (V, 3); faces: (F, 3). A degenerate face gets the normal 0 and weight 0.
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


@compiled(fastmath=CONTRACT)
def _draw_face(screen, corners, number, top, depth, numbers):
    """Draw a face into the z-buffer of the band that begins at line `top`."""
    a, b, c = _by_height(screen, corners)
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    above, below = max(a[1], float(top)), min(c[1], float(top + BAND))
    if not (abs(area) > 1e-12 and above < below):
        return
    w_dx = ((b[2] - a[2]) * (c[1] - a[1]) - (c[2] - a[2]) * (b[1] - a[1])) / area
    w_dy = ((c[2] - a[2]) * (b[0] - a[0]) - (b[2] - a[2]) * (c[0] - a[0])) / area
    plane = a[0], a[1], a[2], w_dx, w_dy
    # Lines whose centres lie inside; those before `middle` lie above the corner b.
    first, last = int(math.ceil(above - 0.5)), int(math.floor(below - 0.5)) + 1
    middle = int(math.ceil(min(max(b[1], above), below) - 0.5))
    # Edges, as a point and columns per line.
    long = a[0], a[1], (c[0] - a[0]) / (c[1] - a[1])
    short = a[0], a[1], (b[0] - a[0]) / (b[1] - a[1]) if first < middle else 0.0
    lines = first, middle
    for _ in range(2):
        edges = (long, short) if area > 0.0 else (short, long)
        _draw_lines(edges, lines, top, plane, number, depth, numbers)
        short = b[0], b[1], (c[0] - b[0]) / (c[1] - b[1]) if c[1] > b[1] else 0.0
        lines = middle, last


@compiled(fastmath=CONTRACT)
def _draw_lines(edges, lines, top, plane, number, depth, numbers):
    """Draw lines, from the first until before the last, between the left and the right edge."""
    (left, left_y, left_step), (right, right_y, right_step) = edges
    x, y, w, w_dx, w_dy = plane
    width = float(depth.shape[1] - LANES)
    for line in range(lines[0], lines[1]):
        at = line + 0.5
        first = max(left + (at - left_y) * left_step - EDGE, 0.0)
        last = min(right + (at - right_y) * right_step + EDGE, width)
        if not first <= last:  # outside the picture, or not a number
            continue
        begin, end = int(math.ceil(first - 0.5)), int(math.floor(last - 0.5)) + 1
        here = w + (begin + 0.5 - x) * w_dx + (at - y) * w_dy
        for start in range(begin, end, LANES):
            keep_nearer(
                depth, numbers, line - top, start,
                single(here), single(w_dx), single(end - start), number,
            )  # fmt: skip
            here += LANES * w_dx


@compiled()
def _by_height(screen, corners):
    """The corners of a face as rows of `screen`, from the highest to the lowest."""
    a, b, c = corners
    if screen[a, 1] > screen[b, 1]:
        a, b = b, a
    if screen[b, 1] > screen[c, 1]:
        b, c = c, b
    if screen[a, 1] > screen[b, 1]:
        a, b = b, a
    return row(screen, a), row(screen, b), row(screen, c)


@compiled()
def bounds(screen, corners):
    """Bounds of a face: left, right, top, bottom in samples, and the largest w."""
    xa, ya, wa = row(screen, corners[0])
    xb, yb, wb = row(screen, corners[1])
    xc, yc, wc = row(screen, corners[2])
    return min(xa, xb, xc), max(xa, xb, xc), min(ya, yb, yc), max(ya, yb, yc), max(wa, wb, wc)


@compiled()
def is_seen(screen, corners):
    """Whether all corners of a face are in front of the viewer, and whether its front is seen."""
    xa, ya, wa = row(screen, corners[0])
    xb, yb, wb = row(screen, corners[1])
    xc, yc, wc = row(screen, corners[2])
    # Counter-clockwise in view space is clockwise in sample space, whose y points down.
    front = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya) < 0.0
    return wa > 0.0 and wb > 0.0 and wc > 0.0, front


@compiled()
def sort_faces(
    screen: NDArray, faces: NDArray, openness: NDArray, rims: Rims, height: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Faces by the bands that they reach, of a picture of `height` lines, and may be seen in.

    openness: (V,) float32. Returns (indices, starts, reach): fronts of band k are indices[starts[2
    k] : starts[2 k + 1]], and until starts[2 k + 2] follow faces that others are likely to hide:
    back sides and those with an enclosed corner; reach: (bands, 2) samples, left and right.
    """
    n_bands = (height + BAND - 1) // BAND
    starts, reach = np.zeros(2 * n_bands + 1, np.int64), np.empty((n_bands, 2))
    reach[:, 0], reach[:, 1] = np.inf, -np.inf
    bands, behind = np.empty((faces.shape[0], 2), np.int32), np.empty(faces.shape[0], np.int32)
    boxes = rim_boxes(screen, rims)
    for f in range(faces.shape[0]):
        corners = row(faces, f)
        left, right, top, bottom, _ = bounds(screen, corners)
        drawn, front = is_seen(screen, corners)
        bands[f, 0], bands[f, 1] = 0, 0
        if not front and back_is_hidden(rims, boxes, f, left, right, top, bottom):
            continue
        top, bottom = max(top, 0.0), min(bottom, float(height))
        if not (drawn and top < bottom and left <= right):
            continue
        least = min(openness[corners[0]], openness[corners[1]], openness[corners[2]])
        behind[f] = 0 if front and least >= ENCLOSED else 1
        bands[f, 0], bands[f, 1] = int(top) // BAND, min(int(bottom) // BAND + 1, n_bands)
        for band in range(bands[f, 0], bands[f, 1]):
            starts[2 * band + behind[f] + 1] += 1
            reach[band, 0], reach[band, 1] = min(reach[band, 0], left), max(reach[band, 1], right)
    for k in range(2 * n_bands):
        starts[k + 1] += starts[k]
    indices, fill = np.empty(starts[2 * n_bands], np.int32), starts.copy()
    for f in range(faces.shape[0]):
        for band in range(bands[f, 0], bands[f, 1]):
            k = 2 * band + behind[f]
            indices[fill[k]] = f
            fill[k] += 1
    return indices, starts, reach


@compiled(fastmath={"nnan", "nsz"})  # without them minima are not computed by vectors
def _measure_floors(depth, first, last, floors, lows):
    """Fill `floors` (BAND / BLOCK, N / BLOCK): the least w of each square, samples first to last.

    first, last: multiples of BLOCK; lows: room for N numbers.
    """
    for square in range(floors.shape[0]):
        for k in range(first, last):
            lows[k] = depth[square * BLOCK, k]
        for line in range(square * BLOCK + 1, (square + 1) * BLOCK):
            for k in range(first, last):
                lows[k] = min(lows[k], depth[line, k])
        for block in range(first // BLOCK, last // BLOCK):
            least = lows[block * BLOCK]
            for k in range(block * BLOCK + 1, (block + 1) * BLOCK):
                least = min(least, lows[k])
            floors[square, block] = least


@compiled()
def _hidden(screen, corners, top, floors):
    """Whether a face is behind the floors of all squares that it reaches."""
    left, right, upper, lower, w = bounds(screen, corners)
    n_blocks = floors.shape[1]
    end = float(n_blocks * BLOCK - 1)
    for square in range(
        int(max(upper - top, 0.0)) // BLOCK, int(min(lower - top, BAND - 1.0)) // BLOCK + 1
    ):
        for block in range(
            int(min(max(left, 0.0), end)) // BLOCK, int(max(min(right, end), 0.0)) // BLOCK + 1
        ):
            if floors[square, block] < w:
                return False
    return True


@compiled()
def rasterise_band(
    screen: NDArray,
    faces: NDArray,
    sorted_faces: tuple[NDArray, NDArray, NDArray],
    band: int,
    buffers: tuple[NDArray, NDArray, NDArray, NDArray],
) -> tuple[int, int]:
    """Fill the z-buffer of a band; the first and last + 1 of the samples that it reaches.

    Fronts are drawn first, so that most other faces are found to be hidden, many samples at once.
    buffers: see `new_buffers`; samples outside the returned ones keep what they were.
    """
    indices, starts, reach = sorted_faces
    depth, numbers, floors, lows = buffers
    top, width = band * BAND, float(depth.shape[1] - LANES)
    left = int(min(max(reach[band, 0], 0.0), width))
    right = int(max(min(reach[band, 1] + 1.0, width), 0.0))
    first, last = left // BLOCK * BLOCK, (right + BLOCK - 1) // BLOCK * BLOCK
    depth[:, first:last] = single(0.0)
    numbers[:, first:last] = single(0.0)
    for k in range(starts[2 * band], starts[2 * band + 1]):
        f = indices[k]
        _draw_face(screen, row(faces, f), single(f + 1), top, depth, numbers)
    _measure_floors(depth, first, last, floors, lows)
    for k in range(starts[2 * band + 1], starts[2 * band + 2]):
        f = indices[k]
        if not _hidden(screen, row(faces, f), top, floors):
            _draw_face(screen, row(faces, f), single(f + 1), top, depth, numbers)
    return left, right


@compiled()
def new_buffers(width: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Buffers for `rasterise_band` of `width` samples: depth, numbers, floors, lows."""
    n_blocks = (width + BLOCK - 1) // BLOCK
    samples = BAND, n_blocks * BLOCK + LANES
    floors = np.empty((BAND // BLOCK, n_blocks), np.float32)
    lows = np.empty(n_blocks * BLOCK, np.float32)
    return np.empty(samples, np.float32), np.empty(samples, np.float32), floors, lows


@compiled()
def rasterise(screen: NDArray, faces: NDArray, depth: NDArray, face_ids: NDArray) -> None:
    """Fill the z-buffer: (M, N) `depth`, the largest w at each sample, and `face_ids`, its face.

    screen: (V, 3) x, y in samples and w. A vertex with w <= 0 is behind the viewer, and triangles
    with such a vertex are not drawn. Samples that no triangle covers get w = 0 and the face -1.
    """
    depth[:] = 0.0
    face_ids[:] = -1
    height, width = depth.shape
    buffers = new_buffers(width)
    rims, free = no_rims(faces.shape[0]), np.ones(screen.shape[0], np.float32)
    sorted_faces = sort_faces(screen, faces, free, rims, height)
    for band in range((height + BAND - 1) // BAND):
        left, right = rasterise_band(screen, faces, sorted_faces, band, buffers)
        right = min(right, width)
        for line in range(min(BAND, height - band * BAND)):
            for column in range(left, right):
                depth[band * BAND + line, column] = buffers[0][line, column]
                face_ids[band * BAND + line, column] = int(buffers[1][line, column]) - 1


@compiled()
def rasterise_depth(
    screen: NDArray,
    faces: NDArray,
    openness: NDArray,
    rims: Rims,
    first: int,
    last: int,
    depth: NDArray,
) -> None:
    """Fill the lines first to last of `depth` (M, N) as `rasterise`; others are of no use.

    openness, rims: as for `sort_faces`.
    """
    height, width = depth.shape
    buffers = new_buffers(width)
    sorted_faces = sort_faces(screen, faces, openness, rims, height)
    for band in range(first // BAND, (last + BAND - 1) // BAND):
        left, right = rasterise_band(screen, faces, sorted_faces, band, buffers)
        right = min(right, width)
        for line in range(min(BAND, height - band * BAND)):
            here = depth[band * BAND + line]
            here[:] = 0.0
            for column in range(left, right):
                here[column] = buffers[0][line, column]
