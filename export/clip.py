"""A finished animation as every writer of `export` takes it. T frames, V vertices, F faces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

SYNTHETIC = "synthetic"  # the topology of synthetic/head.npz
CurveGains = tuple[tuple[str, float], ...]  # (name of a unit, factor of its curve)


@dataclass(frozen=True, eq=False)
class Clip:
    """Motion of one face. Frame t is the instant t / fps.

    vertices: (T, V, 3) float32 in the unit of the data set; may be memory-mapped.
    template: (V, 3) float32, the neutral face, in the same unit.
    faces: (F, 3) int32 triangles.
    fps: frames a second, exact: Fraction(30000, 1001) for 29.97.
    metres_per_unit: length of the unit of the vertices.
    name: stem of the files that are written.
    colors: (V, 3) float32 sRGB 0 to 1, or None.
    topology: `SYNTHETIC`, or the name of the data set or file that the faces come from.
    audio: the recording that belongs to the motion, or None.
    mesh: the file of the neutral face, whose texture a .glb takes, or None.
    added: curves by name, each (T,) 0 to 1, that rules added to the motion: blinks and glances.
    rotations: (T,) radians by the name of Live Link's column: turns of head and eyes.
    unmoved: the vertices without what `added` and `rotations` say, or None where that is nothing.
    curve_gains: factors of the curves that are fitted to the motion; meshes do not change.

    Raises `UserError` if there is no frame, or vertices, template, faces and colours disagree.
    """

    vertices: NDArray[np.float32]
    template: NDArray[np.float32]
    faces: NDArray[np.int32]
    fps: Fraction
    metres_per_unit: float
    name: str
    colors: NDArray[np.float32] | None = None
    topology: str = ""
    audio: Path | None = None
    mesh: Path | None = None
    added: Mapping[str, NDArray] = field(default_factory=dict)
    rotations: Mapping[str, NDArray] = field(default_factory=dict)
    unmoved: NDArray[np.float32] | None = None
    curve_gains: CurveGains = ()

    def __post_init__(self) -> None:
        shape, n_vertices = np.shape(self.vertices), len(self.template)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise UserError(f"clip {self.name}: shape {shape}, expected (frames, vertices, 3)")
        if shape[1] != n_vertices:
            raise UserError(
                f"clip {self.name}: {shape[1]} vertices, expected {n_vertices} as in its neutral "
                "face; was it made with another mesh?"
            )
        if len(self.faces) and int(np.max(self.faces)) >= n_vertices:
            raise UserError(
                f"clip {self.name}: a face has vertex {np.max(self.faces)}, expected less than "
                f"{n_vertices}; give the faces of the same mesh"
            )
        if self.colors is not None and len(self.colors) != n_vertices:
            raise UserError(
                f"clip {self.name}: {len(self.colors)} colours, expected {n_vertices}, one a vertex"
            )
