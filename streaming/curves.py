"""ARKit curves of live frames. n frames, V vertices, C units."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from config import DatasetSpec
from dataset.faces import faces_of
from export.bounded import bounded_solution
from export.clip import SYNTHETIC, Clip
from export.curves import RIDGE, limits, start_groups, units_of
from export.live_link import ARKIT_UNITS
from layers.vertex_head import VertexHead
from synthetic.head import HEAD_FILE


class LiveCurves:
    """Motion of frames to the curves of ARKit's 52 units, in the order of `ARKIT_UNITS`.

    As `export.curves`, but frame by frame: with the units that move in speech, left and right tied,
    so that no unit comes and goes. All others are 0. template: (V, 3) in the data set's unit; head:
    of the model; units: of the data set for one of the head. Raises `UserError` for a mesh that is
    not a face.
    """

    def __init__(
        self, spec: DatasetSpec, template: NDArray[np.float32], head: VertexHead, units: float
    ) -> None:
        is_ours = spec.path(spec.topology) == HEAD_FILE
        clip = Clip(
            template[None], template, faces_of(spec, None), Fraction(spec.fps),
            spec.metres_per_unit, spec.name, topology=SYNTHETIC if is_ours else spec.name,
        )  # fmt: skip
        names, basis = units_of(clip)
        groups, _ = start_groups(names)
        tied = np.zeros((len(groups), len(names)))
        for row, group in zip(tied, groups, strict=True):
            row[list(group)] = 1.0
        columns = (tied @ basis.reshape(len(basis), -1)).astype(np.float32)
        self.matrix, self.bias = products_of_motion(
            1000.0 * spec.metres_per_unit * units * columns.T, head
        )
        gram = columns.astype(np.float64) @ columns.T
        self.gram = gram + RIDGE * np.diag(np.diag(gram))
        self.upper = np.array([limits(names)[list(group)].min() for group in groups])
        order = [names.index(name) if name in names else -1 for name in ARKIT_UNITS]
        self.spread = np.pad(tied, ((0, 0), (0, 1)))[:, order]  # absent units are 0

    def __call__(self, motion: NDArray[np.float32]) -> NDArray[np.float32]:
        """Curves (n, 52), 0 to 1; motion: (n, M) of `VertexHead.motion`."""
        product = motion.astype(np.float64) @ self.matrix + self.bias
        solution = bounded_solution(self.gram, product, self.upper)
        return np.clip(solution @ self.spread, 0.0, 1.0).astype(np.float32)


def products_of_motion(columns: NDArray, head: VertexHead) -> tuple[NDArray, NDArray]:
    """Matrix (M, G) and bias (G,) from a head's motion to products of its offsets with `columns`.

    columns: (3V, G). A frame of a head with components needs r products instead of 3V.
    """
    if head.coefficients is None:
        return columns.astype(np.float64), np.zeros(columns.shape[1])
    last = head.offsets
    parts = (part.detach().double().numpy() for part in (last.weight, last.bias))
    components, mean = parts  # (3V, r), (3V,)
    return components.T @ columns, mean @ columns
