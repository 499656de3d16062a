"""More or less jaw and lips than predicted, while lips that touch keep touching.

The offsets of a mesh are fitted with the mouth's channels (jawOpen, mouthPucker, ...): the units of
the synthetic head, or on another topology those transferred to it. What a gain g adds is (g - 1)
times the share of its channels, so that the rest of the mesh, and all of it at g = 1, stays as
predicted.

jaw: jawOpen, and mouthClose, by which the lips meet while the jaw is open. lips: rounding, spread
and opening by the lips alone. Where the lips touch each other, or the lower one the teeth (f, v),
the jaw moves without opening them, and the gain of the lips is 1. C channels, V vertices.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from config import DatasetSpec
from dataset.faces import faces_of
from export.clip import Clip
from production.plan import Plan
from synthetic.coarticulation import CLOSED
from synthetic.head import SIDES, Head, channel_basis, load_head
from synthetic.visemes import MOUTH_CHANNELS

JAW, CLOSE, ROLL = "jawOpen", "mouthClose", "mouthRollLower"
LIPS = ("mouthPucker", "mouthFunnel", "mouthStretch", "mouthSmile", "mouthUpperUp",
        "mouthLowerDown", "mouthShrugUpper")  # fmt: skip
FULL = 1.0  # of a channel; a gain does not move it further
OPEN = 3 * CLOSED  # gap, in units of jawOpen's, from which gains act in full
ROLLED = 0.3, 0.6  # of ROLL: from where on, and from where on fully, the lip may touch the teeth
AT_TEETH = 0.15, 0.3  # gap of the lips up to which it does fully, and from which on it does not
RIDGE = 1e-6  # of the mean square of the channels, for a unique solution


@dataclass(frozen=True, eq=False)
class Gains:
    """Gains of one face.

    template: (V, 3). channels: C names; basis: (C, V, 3) displacements at 1 in the template's unit;
    solver: (C, V * 3), offsets to curves. gaps: (C,) by how much a channel opens the lips, in units
    of jawOpen's gap. jaw, lips: factors.
    """

    template: NDArray[np.float32]
    channels: tuple[str, ...]
    basis: NDArray[np.float32]
    solver: NDArray[np.float32]
    gaps: NDArray[np.float64]
    jaw: float
    lips: float

    def meshes(self, meshes: Iterable[NDArray]) -> Iterator[NDArray[np.float32]]:
        """Yield the meshes (V, 3) with the gains."""
        for mesh in meshes:
            change = self.change(self.curves(mesh)).astype(np.float32)
            yield np.asarray(mesh, np.float32) + np.tensordot(change, self.basis, 1)

    def curves(self, mesh: NDArray) -> NDArray[np.float64]:
        """The curves (C,) whose mesh is nearest to a mesh (V, 3)."""
        return (self.solver @ (mesh - self.template).astype(np.float32).ravel()).astype(np.float64)

    def change(self, curves: NDArray) -> NDArray[np.float64]:
        """What the gains add to curves (C,)."""
        rolled = float(curves[self.channels.index(ROLL)])
        touch = touching(float(self.gaps @ curves), rolled)
        change = np.zeros_like(curves)
        jaw, close = self.channels.index(JAW), self.channels.index(CLOSE)
        change[jaw] = _gained(curves[jaw], self.jaw)
        # Touching lips are moved by as much as the jaw opens them, and stay together.
        free = _gained(curves[close], self.jaw)
        change[close] = free + touch * (-change[jaw] / self.gaps[close] - free)
        for name in LIPS:
            index = self.channels.index(name)
            change[index] = (1.0 - touch) * _gained(curves[index], self.lips)
        return change


def touching(gap: float, rolled: float) -> float:
    """1 where lips touch each other or the lower one the teeth, 0 where they do not.

    gap: of the lips, in units of jawOpen's; rolled: the curve of ROLL.
    """
    at_teeth = _rise(rolled, *ROLLED) * (1.0 - _rise(gap, *AT_TEETH))
    return max(1.0 - _rise(gap, CLOSED, OPEN), at_teeth)


def _rise(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, smooth in between."""
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


def _gained(value: float, gain: float) -> float:
    """What a gain adds to the value of a channel: up to FULL, and nothing to negative values."""
    value = max(value, 0.0)
    return min(gain * value, max(value, FULL)) - value


def gains_of(
    template: NDArray[np.float32],
    names: tuple[str, ...],
    units: NDArray,
    jaw: float,
    lips: float,
) -> Gains:
    """The gains of a face; template: (V, 3); units: (N, V, 3), by `names`, in its unit."""
    channels = tuple(c for c in MOUTH_CHANNELS if c in names or c + SIDES[0] in names)
    basis = np.stack(
        [sum(units[names.index(n)] for n in (c, c + "Left", c + "Right") if n in names)
         for c in channels]
    )  # fmt: skip
    columns = basis.reshape(len(basis), -1).astype(np.float64)
    gram = columns @ columns.T
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solver = np.linalg.solve(gram, columns).astype(np.float32)
    basis = basis.astype(np.float32)
    return Gains(template, channels, basis, solver, lip_gaps(load_head(), channels), jaw, lips)


def gains_for(
    plan: Plan, spec: DatasetSpec, template: NDArray[np.float32], topology: str
) -> Gains | None:
    """The gains of --jaw and --lips, or None where both are 1.

    topology: as of `export.clip.Clip`. Raises `UserError` where the mesh is not a face.
    """
    if plan.jaw == plan.lips == 1.0:
        return None
    from export.curves import units_of  # imports scipy

    faces = faces_of(spec, plan.template)
    face = Clip(template[None], template, faces, Fraction(spec.fps), spec.metres_per_unit,
                spec.name, topology=topology)  # fmt: skip
    names, units_mm = units_of(face)
    return gains_of(template, names, units_mm / (1e3 * spec.metres_per_unit), plan.jaw, plan.lips)


def lip_gaps(head: Head, channels: tuple[str, ...]) -> NDArray[np.float64]:
    """(C,) by how much each channel moves the inner lips apart, as a share of jawOpen's gap."""
    basis = channel_basis(head, channels)
    upper, lower = head.landmarks["upper_lip_inner"], head.landmarks["lower_lip_inner"]
    gaps = (basis[:, upper, 1] - basis[:, lower, 1]).astype(np.float64)
    return gaps / gaps[channels.index(JAW)]
