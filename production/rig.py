"""Motion of lids, eyes and head on meshes, and as curves.

The head turns about a joint below the skull. Vertices of the neck follow the less the lower they
are, so that a bust stays where it is. Lids and eyes move by the units of the synthetic head, or on
other topologies by their geometry (`production.lids`). A mesh without eyeballs has neither: there
the head moves only. T frames, V vertices, F faces.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from config import DatasetSpec
from dataset.regions import nose_tip
from production.lids import blink_unit, find_eyes, look_unit
from production.life import Motion
from synthetic.head import HEAD_FILE, SIDES, Head, load_head

JOINT_M = 0.0, -0.040, -0.105  # of skull and neck, from the tip of the nose
NECK_NORMAL = 0.0, -0.92, -0.39  # of the plane through the joint, above which all is skull
NECK_M = 0.06  # below that plane: where the neck stays
BLINK, LOOK = "eyeBlink", "eyeLook"
STILL_M = 1e-6  # vertices that a unit moves less are left out

Unit = tuple[NDArray[np.int64], NDArray[np.float32]]  # vertices (n,) and displacement (n, 3)


@dataclass(frozen=True, eq=False)
class Rig:
    """How one face is moved.

    template: (V, 3). joint: (3,) and weights: (V, 1), 1 where a vertex turns with the skull. units:
    of lids and eyes, by name; {} where they are not known. degrees: the turn of the eye at 1 of
    each unit that has one. Lengths in the data's unit.
    """

    template: NDArray[np.float32]
    joint: NDArray[np.float32]
    weights: NDArray[np.float32]
    units: dict[str, Unit]
    degrees: dict[str, float]

    def curves(self, motion: Motion) -> dict[str, NDArray[np.float64]]:
        """ARKit's curves of lids and eyes, by name: (T,) 0 to 1.

        While a lid closes, its eye goes back to the middle, so that it closes as from there.
        """
        curves = {BLINK + side: motion.closure for side in SIDES}
        yaw, pitch = (motion.eyes * (1.0 - motion.closure)[:, None]).T
        for side, outwards in zip(SIDES, (yaw, -yaw), strict=True):
            for direction, degrees in (
                ("Up", -pitch), ("Down", pitch), ("In", -outwards), ("Out", outwards)
            ):  # fmt: skip
                name = LOOK + direction + side
                curves[name] = np.clip(degrees / self.degrees[name], 0.0, 1.0)
        return curves

    def meshes(self, meshes: Iterable[NDArray], motion: Motion) -> Iterator[NDArray[np.float32]]:
        """Yield the meshes (V, 3) with lids and eyes moved and the head turned."""
        curves = self.curves(motion)
        for t, mesh in enumerate(meshes):
            mesh = np.array(mesh, np.float32)
            values = {name: curves[name][t] for name in self.units if curves[name][t]}
            if values and motion.closure[t]:
                for name, closed in self.closures(mesh).items():
                    values[name] *= 1.0 - closed
            for name, value in values.items():
                indices, shift = self.units[name]
                mesh[indices] += np.float32(value) * shift
            yield self.turned(mesh, motion.head[t])

    def closures(self, mesh: NDArray) -> dict[str, float]:
        """How far each lid is closed in a mesh (V, 3): 0 as in the template to 1 shut."""
        names = [BLINK + side for side in SIDES]
        lids = np.zeros((len(names), *self.template.shape), np.float32)
        for lid, name in zip(lids, names, strict=True):
            lid[self.units[name][0]] = self.units[name][1]
        lids = lids.reshape(len(names), -1)
        product = lids @ (mesh - self.template).ravel()
        return dict(zip(names, np.clip(np.linalg.solve(lids @ lids.T, product), 0, 1), strict=True))

    def turned(self, mesh: NDArray[np.float32], angles: NDArray) -> NDArray[np.float32]:
        """The mesh (V, 3) with its head turned; angles: (3,) yaw, pitch, roll in degrees."""
        change = (rotation(*np.radians(angles)) - np.eye(3)).astype(np.float32)
        return mesh + self.weights * ((mesh - self.joint) @ change.T)


def rig_of(spec: DatasetSpec, template: NDArray[np.float32], faces: NDArray | None = None) -> Rig:
    """The rig of a face; template: (V, 3) in the unit of the data set; faces: (F, 3) or None."""
    metres = template * spec.metres_per_unit
    joint = nose_tip(metres) + np.array(JOINT_M)
    below = np.clip((metres - joint) @ np.array(NECK_NORMAL) / NECK_M, 0.0, 1.0)
    weights = 1.0 - below * below * (3.0 - 2.0 * below)
    head = load_head()
    looks = [name for name in head.units if name.startswith(LOOK)]
    degrees = {name: eye_degrees(head, name) for name in looks}
    if spec.path(spec.topology) == HEAD_FILE:
        names = [BLINK + side for side in SIDES] + looks
        units = {name: _moved(head.units[name]) for name in names}
    else:
        units = {} if faces is None else geometric_units(metres, faces, degrees)
        units = {
            n: (i, shift / np.float32(spec.metres_per_unit)) for n, (i, shift) in units.items()
        }
    return Rig(
        template=template,
        joint=(joint / spec.metres_per_unit).astype(np.float32),
        weights=weights[:, None].astype(np.float32),
        units=units,
        degrees=degrees,
    )


def geometric_units(metres: NDArray, faces: NDArray, degrees: dict[str, float]) -> dict[str, Unit]:
    """Units of lids and eyes of a mesh (V, 3) with eyeballs, by name; {} without.

    degrees: of each look at 1.
    """
    units = {}
    for side, eye in zip(SIDES, find_eyes(metres, faces), strict=False):
        lid = blink_unit(metres, faces, eye)
        if lid is None:
            return {}
        units[BLINK + side] = _moved(lid)
        for direction in ("Up", "Down", "In", "Out"):
            name = LOOK + direction + side
            angle = math.radians(degrees[name])
            outwards = angle if side == "Left" else -angle
            turn = {"Up": (0.0, -angle), "Down": (0.0, angle), "In": (-outwards, 0.0),
                    "Out": (outwards, 0.0)}[direction]  # fmt: skip
            units[name] = _moved(look_unit(metres, eye, rotation(*turn, 0.0)))
    return units


def _moved(unit: NDArray) -> Unit:
    indices = np.flatnonzero(np.linalg.norm(unit, axis=1) > STILL_M)
    return indices, np.ascontiguousarray(unit[indices], np.float32)


def eye_degrees(head: Head, name: str) -> float:
    """By how many degrees a unit such as eyeLookUpLeft turns its eye at 1.

    The angle of the rotation that fits best (Kabsch 1976): its cosine is (trace - 1) / 2.
    """
    eye = head.parts["left_eye" if name.endswith("Left") else "right_eye"]
    before = next(iter(head.templates.values()))[eye].astype(np.float64)
    after = before + head.units[name][eye]
    left, _, right = np.linalg.svd((after - after.mean(0)).T @ (before - before.mean(0)))
    fit = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return math.degrees(math.acos(min(1.0, (np.trace(fit) - 1.0) / 2.0)))


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """(3, 3) that turns column vectors by roll about z, then pitch about x, then yaw about y.

    Radians, right-handed: yaw turns z to x, pitch turns y to z, roll turns x to y.
    """
    (cy, cx, cz), (sy, sx, sz) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    return about_y @ about_x @ about_z
