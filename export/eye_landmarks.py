"""Landmarks of the eyes of a neutral face of any topology, found on its depth from the front.

Between open lids the skin is missing (BIWI) or lies a centimetre deeper (FLAME, the synthetic head,
without their eyeballs). On a map z(x, y) of the foremost skin these openings are the only deep pits
beside the bridge of the nose. The face looks towards +z with y up, lengths are metres.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STEP_M = 1e-3  # width of a cell of the map
HALF_WIDTH_M, ABOVE_NOSE_M = 0.055, (0.008, 0.065)  # where eyes are searched, from the nose's tip
BRIDGED_M = 0.014  # height of the opening of an eye, at most
PIT_M = 0.004  # depth of a pit below the lids
CELLS_PER_EDGE = (2, 12)  # fewest and most samples along the edge of a triangle
AREA_MM2, WIDTH_MM, HEIGHT_MM, FROM_NOSE_MM = (40, 500), (14, 44), (3, 20), (16, 50)
LEVEL_MM = 10  # accepted difference in height of both eyes
N_POINTS = 4  # of an eye


def eye_landmarks(vertices: NDArray, faces: NDArray, nose: NDArray) -> NDArray[np.float64]:
    """(8, 3) metres: inner corner, outer corner, upper lid, lower lid; the left eye (+x) first.

    vertices: (V, 3) metres, the skin without eyeballs, lids open; nose: (3,) its tip. NaN where the
    face has no such pair of openings.
    """
    openings, bridged, origin = deep_openings(vertices, faces, nose)
    labels, _ = ndimage.label(openings)
    boxes = ndimage.find_objects(labels)
    found = {
        side: [i for i, box in enumerate(boxes) if _is_eye(labels[box] == i + 1, box, side)]
        for side in (1, -1)
    }
    if not all(len(numbers) == 1 for numbers in found.values()):
        return np.full((2 * N_POINTS, 3), np.nan)
    (left,), (right,) = found[1], found[-1]
    if abs(boxes[left][0].start - boxes[right][0].start) * STEP_M * 1e3 > LEVEL_MM:
        return np.full((2 * N_POINTS, 3), np.nan)
    eyes = [(labels == left + 1, 1), (labels == right + 1, -1)]
    return np.concatenate([_rim(opening, side, bridged, origin) for opening, side in eyes])


def deep_openings(
    vertices: NDArray, faces: NDArray, nose: NDArray
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """(cells of the map (rows, columns) in a pit, depth of a skin that covers them, lower left
    corner (x, y) of the map); arguments as of `eye_landmarks`."""
    origin = nose[:2] + np.array([-HALF_WIDTH_M, ABOVE_NOSE_M[0]])
    depth = depth_map(vertices, faces, origin)
    floor = depth[np.isfinite(depth)].min(initial=np.inf) - 2 * PIT_M
    depth = np.where(np.isfinite(depth), depth, floor)
    bridged = ndimage.grey_closing(depth, size=(round(BRIDGED_M / STEP_M), 1))
    return bridged - depth > PIT_M, bridged, origin


def depth_map(vertices: NDArray, faces: NDArray, origin: NDArray) -> NDArray[np.float64]:
    """(rows, columns) the largest z in every cell of the map; -inf where there is no skin.

    origin: (x, y) of the lower left corner.
    """
    shape = np.round(
        np.array([ABOVE_NOSE_M[1] - ABOVE_NOSE_M[0], 2 * HALF_WIDTH_M]) / STEP_M
    ).astype(int)
    end = origin + shape[::-1] * STEP_M
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    inside = ((corners[:, :, :2] >= origin) & (corners[:, :, :2] < end)).all(axis=2).any(axis=1)
    corners = corners[inside]
    forward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0
    corners = corners[forward]
    depth = np.full(shape, -np.inf)
    if not len(corners):
        return depth
    longest = np.percentile(np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2), 95)
    n = int(np.clip(np.ceil(1.5 * longest / STEP_M), *CELLS_PER_EDGE))
    grid = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
    points = np.einsum("kb,fbc->fkc", grid, corners).reshape(-1, 3)
    cell = np.floor((points[:, :2] - origin) / STEP_M).astype(int)[:, ::-1]
    inside = ((cell >= 0) & (cell < shape)).all(axis=1)
    np.maximum.at(depth, tuple(cell[inside].T), points[inside, 2])
    return depth


def _is_eye(opening: NDArray, box: tuple[slice, slice], side: int) -> bool:
    """Whether an opening is that of an eye on a side; box: its rows and columns of the map."""
    height, width = np.array(opening.shape) * STEP_M * 1e3
    area = opening.sum() * (STEP_M * 1e3) ** 2
    centre = 1e3 * (side * ((box[1].start + box[1].stop) / 2 * STEP_M - HALF_WIDTH_M))
    limits = (AREA_MM2, area), (WIDTH_MM, width), (HEIGHT_MM, height), (FROM_NOSE_MM, centre)
    return all(low <= value <= high for (low, high), value in limits)


def _rim(opening: NDArray, side: int, depth: NDArray, origin: NDArray) -> NDArray[np.float64]:
    """(4, 3) the points of one eye on the lids around its opening (rows, columns)."""
    rows, columns = np.nonzero(opening)
    ends = {1: columns.min(), -1: columns.max()}  # by the sign of the step outward, inner first
    cells = []
    for step, column in ((-side, ends[side]), (side, ends[-side])):
        cells.append((round(float(rows[columns == column].mean())), column + step))
    middle = round((columns.min() + columns.max()) / 2)
    of_middle = rows[columns == middle]
    cells += [(of_middle.max() + 1, middle), (of_middle.min() - 1, middle)]
    cells = np.clip(cells, 0, np.array(opening.shape) - 1)
    places = origin + (cells[:, ::-1] + 0.5) * STEP_M
    return np.column_stack([places, depth[tuple(cells.T)]])
