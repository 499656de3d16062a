"""Measures of a face's lips in millimetres, from meshes or from curves of the head's channels.

Positions are relative to the neutral face. Symbols: T frames, V vertices, C channels.
"""

from typing import NamedTuple

import numpy as np

from synthetic.coarticulation import CHANNEL_INDEX, CHANNELS, CLOSED
from synthetic.head import Head, channel_basis

_LANDMARKS = (
    "lower_teeth", "upper_lip_inner", "lower_lip_inner", "upper_lip_outer", "lower_lip_outer",
    "mouth_left", "mouth_right",
)  # fmt: skip
_MIDDLE = slice(1, 5)  # the landmarks in the middle of the lips


class Lips(NamedTuple):
    """Lips of a clip at 30 fps, and the threshold of closed lips."""

    jaw: np.ndarray  # (T,) mm, how far the lower teeth are down
    aperture: np.ndarray  # (T,) mm, gap between the inner lips
    width: np.ndarray  # (T,) mm, distance of the corners; < 0: narrower than at rest
    protrusion: np.ndarray  # (T,) mm, how far the middle of the lips is forward
    jitter: np.ndarray  # (T - 2,) mm, second difference, mean over the vertices of the lips
    curves: np.ndarray  # (T, C), CHANNELS, 1.0 = the unit's full motion
    closed: float  # mm, lips are closed where the aperture is below this


class LipMeter:
    """Measures the lips of meshes and of curves in the same way."""

    def __init__(self, head: Head) -> None:
        self.basis = channel_basis(head, CHANNELS)  # (C, V, 3)
        flat = self.basis.reshape(len(CHANNELS), -1).astype(np.float64)
        self._fit = np.linalg.solve(flat @ flat.T, flat).T.astype(np.float32)  # (3V, C)
        self._points = np.r_[[head.landmarks[name] for name in _LANDMARKS], head.lips]
        _, upper, lower = self.basis[CHANNEL_INDEX["jawOpen"], self._points[:3], 1]
        self.closed = 1000 * CLOSED * float(upper - lower)

    def of_curves(self, curves: np.ndarray) -> Lips:
        """Lips of the head with these curves (T, C)."""
        points = np.einsum("tc,clx->tlx", curves, self.basis[:, self._points])
        return self._lips(points, curves)

    def of_meshes(self, vertices: np.ndarray, template: np.ndarray) -> Lips:
        """Lips of vertices (T, V, 3) in metres; template (V, 3) is the neutral face.

        The curves are those whose meshes are nearest, by least squares over all vertices.
        """
        offsets = vertices - template
        return self._lips(offsets[:, self._points], offsets.reshape(len(offsets), -1) @ self._fit)

    def _lips(self, points: np.ndarray, curves: np.ndarray) -> Lips:
        """points: (T, landmarks and lips, 3) displacements in metres; curves: (T, C)."""
        points = 1000 * points.astype(np.float64)
        landmarks, lips = points[:, : len(_LANDMARKS)], points[:, len(_LANDMARKS) :]
        teeth, upper, lower, *_ = landmarks[..., 1].T  # y points up
        left, right = landmarks[:, 5, 0], landmarks[:, 6, 0]  # x points to the subject's left
        acceleration = np.linalg.norm(np.diff(lips, 2, axis=0), axis=2)
        return Lips(
            jaw=-teeth,
            aperture=upper - lower,
            width=left - right,
            protrusion=landmarks[:, _MIDDLE, 2].mean(axis=1),
            jitter=acceleration.mean(axis=1),
            curves=curves,
            closed=self.closed,
        )
