"""Units of lids and eyes on meshes that have eyeballs, such as FLAME's, from their geometry.

An eyeball is a part of the mesh by itself, and nearly a ball. About its centre every vertex of the
skin has an azimuth (to the side) and an elevation (turn about the axis that runs sideways). The gap
in the elevations of the skin is the opening between the lids. A blink turns the upper lid about
that axis over the opening, and the lower lid a little; above and below, the skin follows less and
less. Degrees about the centre of an eye; V vertices, F faces, E vertices of the skin about an eye.
"""

import math

import numpy as np
from numpy.typing import NDArray

RADIUS_M = 0.008, 0.022  # of an eyeball
ROUNDNESS = 0.08  # greatest standard deviation of the distance from the centre, in radii
APART_M = 0.04, 0.09  # between two eyes
NEAR = 1.9  # radii from the centre: the skin about an eye
OUTSIDE = 0.95  # radii: nearer skin lies inside the eyeball, behind the lids
FRONT = -0.2  # radii: how far behind the centre the skin about an eye begins
AZIMUTHS = np.arange(-80.0, 81.0, 2.5)
WINDOW = 2.5  # degrees of azimuth to either side in which the edges of the lids are measured
SMOOTHING = 3.5  # degrees: standard deviation of the smoothing of these edges over azimuth
SAMPLES = 9  # points of each edge of the mesh whose elevation counts
MIDDLE = 25.0  # degrees of azimuth in which the opening is surely open
LEAST_OPENING = 10.0  # degrees, in the middle
UPPER_SHARE, LOWER_SHARE = 0.94, 0.08  # of the opening that each lid covers
UPPER_REACH, LOWER_REACH = 40.0, 25.0  # degrees from the edge of a lid to skin that rests

Eye = tuple[NDArray[np.float64], float, NDArray[np.int64]]  # centre (3,), radius, vertices


def find_eyes(metres: NDArray, faces: NDArray) -> list[Eye]:
    """The two eyeballs of a mesh (V, 3), its left one first; [] where it does not have two."""
    from scipy import sparse  # not before a mesh is searched: --help imports no scipy
    from scipy.sparse.csgraph import connected_components

    n = len(metres)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    eyes = []
    for label in np.flatnonzero(np.bincount(part) > 3):
        ball = fit_ball(metres, np.flatnonzero(part == label))
        if ball is not None:
            eyes.append(ball)
    eyes.sort(key=lambda eye: -eye[0][0])
    apart = abs(eyes[0][0][0] - eyes[-1][0][0]) if len(eyes) == 2 else 0.0
    return eyes if APART_M[0] <= apart <= APART_M[1] else []


def fit_ball(metres: NDArray, vertices: NDArray) -> Eye | None:
    """The ball through some vertices, or None where they are not on one of an eye's size."""
    points = metres[vertices].astype(np.float64)
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    *centre, rest = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0]
    centre = np.array(centre)
    radius = math.sqrt(max(rest + centre @ centre, 0.0))
    deviation = np.linalg.norm(points - centre, axis=1).std()
    is_eye = RADIUS_M[0] <= radius <= RADIUS_M[1] and deviation <= ROUNDNESS * radius
    return (centre, radius, vertices) if is_eye else None


def blink_unit(metres: NDArray, faces: NDArray, eye: Eye) -> NDArray[np.float64] | None:
    """Displacement (V, 3) that shuts the lids of an eye, metres; None where they are not open."""
    centre, radius, ball = eye
    from_centre = metres - centre
    distance = np.linalg.norm(from_centre, axis=1)
    near = (distance < NEAR * radius) & (from_centre[:, 2] > FRONT * radius)
    near[ball] = False
    skin = np.flatnonzero(near)
    x, y, z = from_centre[skin].T
    azimuth, elevation = directions(from_centre[skin])
    outside = near & (distance > OUTSIDE * radius)
    edges = lid_edges(*directions(points_on_edges(from_centre, faces[outside[faces].all(axis=1)])))
    if edges is None:
        return None
    middle, upper, lower = edges
    upper, lower = (np.interp(azimuth, AZIMUTHS, edge) for edge in (upper, lower))
    opening = upper - lower
    down = UPPER_SHARE * opening * _fading((elevation - upper) / UPPER_REACH)
    up = LOWER_SHARE * opening * _fading((lower - elevation) / LOWER_REACH)
    turn = np.radians(np.where(elevation > middle, -down, up))
    cosine, sine = np.cos(turn), np.sin(turn)
    unit = np.zeros(metres.shape)
    unit[skin, 1] = y * cosine + z * sine - y
    unit[skin, 2] = z * cosine - y * sine - z
    return unit


def directions(points: NDArray) -> NDArray[np.float64]:
    """(2, n) azimuth and elevation of points (n, 3) about the centre of an eye."""
    x, y, z = points.T
    return np.degrees([np.arctan2(x, np.hypot(y, z)), np.arctan2(y, z)])


def points_on_edges(points: NDArray, faces: NDArray) -> NDArray[np.float64]:
    """(n, 3) points on the edges of some faces: lids have few vertices."""
    start, end = (points[corners.ravel()] for corners in (faces, np.roll(faces, 1, axis=1)))
    share = np.linspace(0.0, 1.0, SAMPLES)[:, None, None]
    return (start + share * (end - start)).reshape(-1, 3)


def lid_edges(
    azimuth: NDArray, elevation: NDArray
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]] | None:
    """(elevation between the lids, edges of the upper and of the lower lid at AZIMUTHS).

    azimuth, elevation: (E,) of the skin outside the eyeball. None where nothing is open.
    """
    gaps = []
    for degrees in AZIMUTHS[np.abs(AZIMUTHS) <= MIDDLE]:
        heights = np.sort(elevation[np.abs(azimuth - degrees) <= WINDOW])
        if len(heights) > 1:
            widest = np.diff(heights).argmax()
            gaps.append(heights[widest : widest + 2])
    if not gaps:
        return None
    low, high = np.median(gaps, axis=0)
    if high - low < LEAST_OPENING:
        return None
    middle, edges = (low + high) / 2, np.full((2, len(AZIMUTHS)), np.nan)
    for column, degrees in enumerate(AZIMUTHS):
        heights = elevation[np.abs(azimuth - degrees) <= WINDOW]
        above, below = heights[heights > middle], heights[heights <= middle]
        if len(above) and len(below):
            edges[:, column] = above.min(), below.max()
    known = ~np.isnan(edges[0])
    kernel = np.exp(-0.5 * ((AZIMUTHS - AZIMUTHS[:, None]) / SMOOTHING) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    upper, lower = (kernel @ np.interp(AZIMUTHS, AZIMUTHS[known], e[known]) for e in edges)
    return float(middle), upper, lower


def look_unit(metres: NDArray, eye: Eye, turn: NDArray) -> NDArray[np.float64]:
    """Displacement (V, 3) that turns an eyeball by a rotation (3, 3), metres."""
    centre, _, ball = eye
    unit = np.zeros(metres.shape)
    unit[ball] = (metres[ball] - centre) @ (turn - np.eye(3)).T
    return unit


def _fading(share: NDArray) -> NDArray[np.float64]:
    """1 up to 0, 0 from 1 on, smooth in between."""
    share = np.clip(share, 0.0, 1.0)
    return 1.0 - share * share * (3.0 - 2.0 * share)
