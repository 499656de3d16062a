"""Lids that meet and eyeballs that turn, for units transferred to another topology.

Faces differ most in how far their eyes are open, so the unit eyeBlink is scaled until it closes the
opening between the lids. Eyeballs that are parts of their own (FLAME) turn about
their centres as the head's do. C units, V vertices. Lengths in metres.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from export.eye_landmarks import HALF_WIDTH_M, N_POINTS, STEP_M, deep_openings
from export.registration import Landmarks, mean_face, similarity
from synthetic.head import SIDES, Head

LID_GAINS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # factors of a blink that are tried
CLOSED = 0.1  # share of the opening that may remain in the middle of an eye
EYEBALL_M = 0.015  # from the middle of the lids to the axis of the eyeball, at most
EYEBALL_VERTICES = 20  # of a part that may be an eyeball, at least


def close_lids(
    result: NDArray, names: Sequence[str], points: Landmarks, face: NDArray, faces: NDArray
) -> bool:
    """Scale the blinks among the transferred units `result` (C, V, 3), so that the lids meet.

    face: (V, 3); faces: (F, 3), without eyeballs. Returns whether both eyes close.
    """
    nose = points.other[0]
    is_open = deep_openings(face, faces, nose)[0]
    for side, (_, eye) in enumerate(_eyes(points)):
        quarters = np.array([[0.75, 0.25], [0.25, 0.75]]) @ eye[:2, 0]  # the corners close last
        ends = np.sort((quarters - nose[0] + HALF_WIDTH_M) / STEP_M).astype(int)
        columns = slice(*ends)
        unit = result[names.index("eyeBlink" + SIDES[side])]
        accepted = CLOSED * is_open[:, columns].sum()
        for gain in LID_GAINS:
            remaining = is_open & deep_openings(face + gain * unit, faces, nose)[0]
            if remaining[:, columns].sum() <= accepted:
                unit *= gain
                break
        else:
            return False
    return True


def turn_eyeballs(
    result: NDArray, names: Sequence[str], units: NDArray, points: Landmarks, head: Head,
    face: NDArray, faces: NDArray,
) -> None:  # fmt: skip
    """Let the eyeballs of a face (V, 3) turn in the transferred units `result` (C, V, 3).

    units: (C, head's vertices, 3); faces: (F, 3) with those of the eyeballs.
    """
    neutral = mean_face(head)
    for side, (_, eye) in enumerate(_eyes(points)):
        ball = eyeball(face, faces, eye)
        part = head.parts[SIDES[side].lower() + "_eye"]
        for name, unit, moved in zip(names, units[:, part], result, strict=True):
            if len(ball) and name.startswith("eyeLook") and name.endswith(SIDES[side]):
                _, turn, _ = similarity(neutral[part], neutral[part] + unit)
                centred = face[ball] - face[ball].mean(axis=0)
                moved[ball] = centred @ turn.T - centred


def eyeball(face: NDArray, faces: NDArray, eye: NDArray) -> NDArray[np.int64]:
    """Indices of the vertices of the eyeball behind the lids (4, 3); none if there is none."""
    edges = np.vstack([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), (len(face),) * 2)
    labels = connected_components(graph, directed=False)[1]
    counts = np.bincount(labels)
    centres = np.column_stack([np.bincount(labels, face[:, axis]) / counts for axis in (0, 1)])
    apart = np.linalg.norm(centres - eye[:, :2].mean(axis=0), axis=1)
    apart[(counts < EYEBALL_VERTICES) | (counts == counts.max())] = np.inf
    nearest = int(apart.argmin())
    return np.flatnonzero(labels == nearest) if apart[nearest] < EYEBALL_M else np.zeros(0, int)


def _eyes(points: Landmarks) -> list[tuple[NDArray, NDArray]]:
    """The landmarks (own (4, 3), other (4, 3)) of the left eye and of the right."""
    ends = (-2 * N_POINTS, -N_POINTS), (-N_POINTS, None)
    return [(points.own[start:end], points.other[start:end]) for start, end in ends]
