"""What a run loads once for all its recordings: model, face, renderer and what is added to them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import printable
from config import DatasetSpec
from dataset.faces import choose_face, faces_of
from export.clip import SYNTHETIC
from export.formats import check_formats
from production.added import describe, rig_for
from production.gains import Gains, gains_for
from production.plan import Plan
from rendering.face import appearance
from synthetic.head import HEAD_FILE

if TYPE_CHECKING:
    from export.character import Character
    from jambatalk import Checkpoint
    from production.rig import Rig
    from rendering.renderer import Renderer


@dataclass(frozen=True, eq=False)
class Speaker:
    """What is loaded once for all recordings.

    renderer: None with --no_video; rig: None where no motion is added; gains: None where all are 1.
    """

    checkpoint: "Checkpoint"
    name: str
    template: NDArray[np.float32]  # (V, 3)
    renderer: "Renderer | None"
    rig: "Rig | None"
    gains: Gains | None
    character: "Character | None"

    @property
    def spec(self) -> DatasetSpec:
        """The data set of the model."""
        return self.checkpoint.spec


def load_speaker(plan: Plan) -> Speaker:
    """Model, face and renderer of a plan. Raises `UserError` where they do not fit."""
    from jambatalk import load_checkpoint

    check_formats(plan.export, plan.glb_targets, plan.curve_gains, plan.character is not None)
    character = None
    if plan.character is not None:
        from export.character import load_character  # loads scipy, half a second of processor

        character = load_character(plan.character)
    checkpoint = load_checkpoint(
        plan.checkpoint, plan.dataset, plan.encoder_backend, plan.precision
    )
    spec = checkpoint.spec
    name, template = choose_face(spec, plan.subject, plan.template)
    rig = rig_for(plan, spec, template)
    if plan.export or character:
        faces_of(spec, plan.template)  # its error comes before the prediction
    renderer = make_renderer(plan, spec, (name, template)) if plan.video else None
    if rig is not None:
        say(plan, describe(plan, spec, rig))
    gains = gains_for(plan, spec, template, topology_of(spec))
    return Speaker(checkpoint, name, template, renderer, rig, gains, character)


def make_renderer(plan: Plan, spec: DatasetSpec, face: tuple[str, NDArray]) -> "Renderer":
    """The `Renderer` of a plan; face: name and template (V, 3)."""
    from rendering.renderer import Renderer

    return Renderer(
        faces_of(spec, plan.template),
        face[1],
        size=plan.size,
        background=plan.background,
        renderer=plan.renderer,
        yaw=plan.yaw,
        zoom=plan.zoom,
        swing=plan.turn,
        **appearance(spec, face[0]),
    )


def say(plan: Plan, *lines: object) -> None:
    """Print lines, unless --quiet."""
    if not plan.quiet:
        print(*(printable(str(line)) for line in lines), sep="\n")


def topology_of(spec: DatasetSpec) -> str:
    """The topology of a data set, by the names of `export.clip.Clip`."""
    return SYNTHETIC if spec.path(spec.topology) == HEAD_FILE else spec.name
