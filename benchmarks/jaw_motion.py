"""Motion of FLAME that owes nothing to our units: a jaw that turns about a hinge.

No captured motion of FLAME is free to keep here. FLAME itself moves its jaw by a joint with blend
weights; this does the same on its public neutral face: the hinge lies before the ears, the weights
are harmonic between the lower lip with the chin (1) and the rest of the head (0). It tests the jaw
and the lower lip, not the shapes of other lips. V vertices, T frames. Lengths in metres.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import diags
from scipy.sparse.linalg import splu

from export.face_landmarks import landmarks
from export.registration import laplacian, largest_part

HINGE_M = 0.085, 0.045  # behind and above the chin: the joint of an adult's jaw
OPEN_DEG = 20.0  # at a value of 1
LIP_M = 0.003  # from the line of the mouth to vertices that are surely of one lip
STIFF = 1e6  # of vertices whose weight is given
UP, MOUTH, CHIN, LEFT, RIGHT = 2, 3, 6, 7, 8  # of the landmarks


def jaw_motion(template: NDArray, faces: NDArray, opening: NDArray) -> NDArray[np.float32]:
    """(T, V, 3) a face (V, 3) with closed lips whose jaw turns by `opening` (T,), 0 to 1."""
    points = landmarks(template, largest_part(faces, len(template)))
    weights = jaw_weights(template, faces, points)[:, None]
    hinge = points[CHIN] + [0.0, HINGE_M[1], -HINGE_M[0]]
    frames = []
    for angle in np.radians(OPEN_DEG) * opening:
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])  # chin downward
        turned = (template - hinge) @ turn.T + hinge
        frames.append(template + weights * (turned - template))
    return np.array(frames, np.float32)


def jaw_weights(template: NDArray, faces: NDArray, points: NDArray) -> NDArray[np.float64]:
    """(V,) how much of the jaw's turn each vertex takes, 0 to 1; points: `landmarks`."""
    x, y, z = (template - points[MOUTH]).T
    half_width = np.nanmean(np.abs(points[[LEFT, RIGHT], 0] - points[MOUTH, 0]))
    # The line of the mouth is bent: linear from the middle to the corners.
    bend = np.nanmean(points[[LEFT, RIGHT], 1]) - points[MOUTH, 1]
    line = bend * np.minimum(np.abs(x) / half_width, 1.0)
    in_mouth = np.abs(x) < 0.5 * half_width
    chin = points[CHIN] - points[MOUTH]
    lower = in_mouth & (y < line - LIP_M) & (y > chin[1]) & (z > chin[2] - 0.02)
    upper = in_mouth & (y > line + LIP_M)
    still = upper | (y > 0.012) | (z < -HINGE_M[0]) | (y < chin[1] - 0.05)
    given = (lower | still).astype(float)
    used = np.isin(np.arange(len(template)), largest_part(faces, len(template)))
    matrix = laplacian(faces, len(template)) + diags(STIFF * given + 1e-9)
    weights = splu(matrix.tocsc()).solve(STIFF * given * lower)
    return np.where(used, np.clip(weights, 0.0, 1.0), 0.0)
