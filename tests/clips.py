"""What tests of exported meshes share: a small clip."""

from fractions import Fraction
from typing import Any

import numpy as np

from export.clip import Clip


def small_clip(rng: np.random.Generator, n_frames: int = 23, rank: int = 3, **fields: Any) -> Clip:
    """A clip of 41 vertices, of which 13 move along `rank` directions by up to some millimetres."""
    template = rng.normal(size=(41, 3)).astype(np.float32) * 0.1
    offsets = np.zeros((n_frames, 41, 3), np.float32)
    offsets[:, 5:18] = np.tensordot(
        rng.normal(size=(n_frames, rank)), rng.normal(size=(rank, 13, 3)) * 1e-3, 1
    )
    faces = np.array([rng.permutation(41)[:3] for _ in range(67)], np.int32)
    values = dict(
        vertices=template + offsets, template=template, faces=faces, fps=Fraction(30),
        metres_per_unit=1.0, name="clip",
    )  # fmt: skip
    return Clip(**(values | fields))
