"""Mean temporal misalignment (MTM): by how much the extrema of the lips' motion come too early or
too late.

Lee et al., "Perceptually Accurate 3D Talking Head Generation", CVPR 2025, arXiv 2503.20308, and
their evaluation script, github.com/kaist-ami/Perceptual-3D-Talking-Head: the distance of an upper
and a lower lip vertex in every frame is smoothed, the distances of prediction and truth are aligned
by dynamic time warping of their derivatives, and the absolute differences in time of extrema that
the path connects are averaged.

Two differences. The script takes the distance of two vertices of the outer lips of FLAME, 3531 and
3504; here it is the height of the gap between the inner lips, because a distance turns the overlap
of closed lips into another opening. Parts of a long clip are compared one by one.

T frames of the truth, n of a prediction; in practice both are equal.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIGMA = 2.0  # frames, of the Gaussian that smooths the opening
TRUNCATE = 4.0  # standard deviations at which the Gaussian ends
# Longer clips are compared in parts of at most this many frames: time and memory grow with T².
PART_FRAMES = 1_800


class Misalignment(NamedTuple):
    """MTM of a clip; NaN where no extremum of the truth meets one of the prediction."""

    ms: float
    extrema: int  # matched ones


def temporal_misalignment(prediction: NDArray, truth: NDArray, fps: float) -> Misalignment:
    """MTM of a clip from its mouth openings, `prediction` (n,) and `truth` (T,).

    An extremum of the truth counts if the path connects it with one of the same kind, maximum or
    minimum, that lies between the extrema before and after it.
    """
    _check(prediction, truth)
    delays: list[int] = []
    for start in range(0, len(truth), PART_FRAMES):
        part = slice(start, start + PART_FRAMES)
        if len(prediction[part]):
            delays += _delays(smooth(prediction[part]), smooth(truth[part]))
    return Misalignment(float(np.mean(delays)) * 1000 / fps if delays else np.nan, len(delays))


def _check(prediction: NDArray, truth: NDArray) -> None:
    if prediction.ndim != 1 or truth.ndim != 1 or not len(prediction) or not len(truth):
        raise ValueError(f"openings {prediction.shape}, {truth.shape}: expected (n,) and (T,)")


def _delays(prediction: NDArray, truth: NDArray) -> list[int]:
    """Frames between the matched extrema of two smooth curves."""
    found, expected = extrema(prediction), extrema(truth)
    places = sorted(expected)
    delays = []
    for at_truth, at_prediction in warping_path(slope(truth), slope(prediction)):
        kind = expected.get(at_truth)
        if kind is None or found.get(at_prediction) != kind:
            continue
        number = places.index(at_truth)
        before = places[number - 1] if number else 0
        after = places[number + 1] if number + 1 < len(places) else len(truth) - 1
        if before <= at_prediction <= after:
            delays.append(abs(at_truth - at_prediction))
    return delays


def smooth(curve: NDArray) -> NDArray[np.float64]:
    """A curve (T,) after a Gaussian of `SIGMA` frames; it is mirrored at its ends."""
    reach = int(TRUNCATE * SIGMA + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    padded = np.pad(curve.astype(np.float64), reach, mode="symmetric")
    return np.convolve(padded, weights / weights.sum(), mode="valid")


def extrema(curve: NDArray) -> dict[int, int]:
    """Frame -> 1 for a maximum, -1 for a minimum, of a curve (T,); its ends are none.

    Where a curve stays at its extremum, the middle counts.
    """
    steps = np.sign(np.diff(curve)).astype(int)
    moving = np.flatnonzero(steps)
    turns = np.flatnonzero(np.diff(steps[moving]))
    middles = (moving[turns] + 1 + moving[turns + 1]) // 2
    return dict(zip(middles.tolist(), steps[moving[turns]].tolist(), strict=True))


def slope(curve: NDArray) -> NDArray[np.float64]:
    """The difference of each frame and the one before it, 0 for the first: (T,)."""
    return np.diff(curve, prepend=curve[:1])


def warping_path(one: NDArray, other: NDArray) -> list[tuple[int, int]]:
    """The pairs of frames of the cheapest alignment of two curves, (T,) and (n,).

    Dynamic time warping: both curves advance by one frame or one of them waits; a pair costs the
    absolute difference of its values. Of equally cheap steps, the one in which both advance is
    taken. Computed by antidiagonals, whose cells do not depend on each other.
    """
    n, m = len(one), len(other)
    cost = np.full((n + 1, m + 1), np.inf)
    cost[0, 0] = 0.0
    for total in range(2, n + m + 1):
        i = np.arange(max(1, total - m), min(n, total - 1) + 1)
        j = total - i
        before = np.minimum(cost[i - 1, j - 1], np.minimum(cost[i - 1, j], cost[i, j - 1]))
        cost[i, j] = np.abs(one[i - 1] - other[j - 1]) + before
    path, i, j = [], n, m
    while i and j:
        path.append((i - 1, j - 1))
        steps = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
        i, j = ((i - 1, j - 1), (i - 1, j), (i, j - 1))[int(np.argmin(steps))]
    return path[::-1]
