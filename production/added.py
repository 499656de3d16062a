"""What rules add to a prediction: which files have it, and how exports name it.

| flag | video | .npy and exports |
|---|---|---|
| none | of the synthetic head: blinks, glances, head motion | as predicted |
| --life | blinks, glances, head motion | the same |
| --no-life | as predicted | as predicted |
| --blink | blinks | the same |
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import DatasetSpec
from dataset.faces import find_faces
from production.life import Motion, live
from production.plan import Plan
from production.rig import Rig, rig_of
from production.sound import Speech
from synthetic.head import HEAD_FILE, SIDES


def rig_for(plan: Plan, spec: DatasetSpec, template: NDArray[np.float32]) -> Rig | None:
    """The rig of a face where the plan adds motion, else None. Raises `UserError` for --blink."""
    synthetic = spec.path(spec.topology) == HEAD_FILE
    if plan.blink and not synthetic:
        raise UserError(
            f"--blink: works with the bundled synthetic head only, {plan.checkpoint} is for "
            f"{spec.name}; leave it out"
        )
    wanted = plan.adds_to_files or (plan.life is None and plan.video and synthetic)
    return rig_of(spec, template, find_faces(spec, plan.template)) if wanted else None


def describe(plan: Plan, spec: DatasetSpec, rig: Rig) -> str:
    """What is added, in one line."""
    if not rig.units:
        return f"life: head motion; {spec.name} has no eyeballs, so lids and eyes stay as they are"
    if not plan.adds_to_files:
        return (
            "life: blinks, glances and head motion in the video only; --life adds them to all "
            "files, --no-life to none"
        )
    return "life: blinks, glances and head motion" if plan.life else "life: blinks"


@dataclass(frozen=True, eq=False)
class Added:
    """What is added to one recording.

    rig: None where nothing is. in_files: whether the .npy and exports have it, or only pictures.
    unmoved: a file that keeps the meshes without it for exports, or None.
    """

    rig: Rig | None
    motion: Motion | None  # that of every frame, where there is a rig
    in_files: bool
    unmoved: IO[bytes] | None

    def to_files(self, meshes: Iterator[NDArray]) -> Iterator[NDArray]:
        """The meshes (V, 3) as the files have them."""
        if self.rig is None or not self.in_files:
            return meshes
        return self.rig.meshes(self._kept(meshes), self.motion)

    def to_pictures(self, meshes: Iterator[NDArray]) -> Iterator[NDArray]:
        """The meshes (V, 3) of the files as they are drawn."""
        if self.rig is None or self.in_files:
            return meshes
        return self.rig.meshes(meshes, self.motion)

    def _kept(self, meshes: Iterator[NDArray]) -> Iterator[NDArray]:
        for mesh in meshes:
            if self.unmoved is not None:
                self.unmoved.write(np.ascontiguousarray(mesh, "<f4").data)
            yield mesh

    def export_fields(self, n_frames: int) -> dict[str, Any]:
        """The fields of `export.clip.Clip` that say what was added to the files.

        Turns are those of Live Link: yaw to the own left and pitch down are positive, and a roll
        to the own left.
        """
        if self.rig is None or self.unmoved is None:
            return {}
        self.unmoved.flush()
        shape = n_frames, *self.rig.template.shape
        yaw, pitch, roll = np.radians(self.motion.head).T
        eye_yaw, eye_pitch = np.radians(self.motion.eyes).T
        rotations = {"HeadYaw": yaw, "HeadPitch": pitch, "HeadRoll": -roll}
        for side in SIDES:
            rotations |= {f"{side}EyeYaw": eye_yaw, f"{side}EyePitch": eye_pitch}
        return {
            "added": self.rig.curves(self.motion),
            "rotations": rotations,
            "unmoved": np.memmap(self.unmoved, "<f4", "r", shape=shape),
        }


@contextmanager
def adding(
    plan: Plan, rig: Rig | None, speech: Speech, n_frames: int, fps: Fraction | int, folder: Path
) -> Iterator[Added]:
    """What the plan adds to the frames of a part of a recording.

    A nameless file of `folder` keeps the meshes without it while exports need them.
    """
    with ExitStack() as stack:
        unmoved = None
        if rig is not None and plan.adds_to_files and (plan.export or plan.character):
            unmoved = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        motion = None
        if rig is not None:
            times = plan.start_s + np.arange(n_frames) / float(fps)
            motion = live(speech.prosody, plan.seed).at(times)
            if plan.blink and not plan.life:
                motion = dataclasses.replace(motion, eyes=0 * motion.eyes, head=0 * motion.head)
        yield Added(rig, motion, plan.adds_to_files, unmoved)
