"""Characters of users, driven by curves: their own file with an animation of its morph targets.

A character is a glTF file whose morph targets, or VRM expressions that bind several of them, have
names of ARKit, of the visemes of Oculus Lipsync or of VRM's vowels (`shape_names`). One of these
kinds moves the mouth, because the others would move it a second time. Lids, brows, nose and cheeks
have ARKit's names, or VRM's for blinks, whatever moves the mouth. K targets of a mesh.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, report
from export.curves import EXTRA
from export.gltf_file import SUFFIXES, GltfFile, load_gltf, number
from export.obj_shapes import load_obj_shapes
from export.shape_names import (
    ARKIT,
    OF_MOUTH,
    Match,
    arkit_spellings,
    match,
    viseme_spellings,
    vowel_spellings,
)
from export.visemes import OCULUS, SILENCE, VRM

ANIMATION = "speech"  # its name
ENOUGH = 0.5  # share of the names of a kind with which it is complete
SHOWN_NAMES = 12  # of a list in a message
MAX_TARGETS = 2**16  # of all meshes together
FBX = (
    "FBX is not read; in Blender import it (File > Import > FBX), then File > Export > glTF 2.0, "
    "format glTF Binary, with Data > Shape Keys on"
)


@dataclass(frozen=True)
class Kind:
    """A set of names for the shapes of the mouth."""

    name: str
    shapes: tuple[str, ...]
    spellings: Callable[[], Mapping[str, Match]]


KINDS = (
    Kind(
        "ARKit", tuple(n for n in ARKIT if n.startswith(OF_MOUTH) and n != EXTRA), arkit_spellings
    ),
    Kind("Oculus", (SILENCE, *OCULUS), viseme_spellings),
    Kind("VRM", tuple(VRM), vowel_spellings),
)


@dataclass(frozen=True)
class Shape:
    """A morph target, or an expression of VRM.

    mesh: None for an expression. binds: (mesh, target, weight at 1.0). is_binary: values are 0 or
    1 only.
    """

    name: str
    mesh: int | None
    binds: tuple[tuple[int, int, float], ...]
    is_binary: bool = False


@dataclass(frozen=True)
class Drive:
    """A shape, and the curves or poses whose mean is its value."""

    sources: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Character:
    """A file with what drives it.

    names: of all its shapes. kind: what moves its mouth. animations: those that are kept, which are
    all but an earlier "speech" of weights only.
    """

    file: GltfFile
    names: tuple[str, ...]
    kind: Kind
    drives: tuple[Drive, ...]
    animations: tuple[dict[str, Any], ...]


def load_character(path: Path) -> Character:
    """The character in a .glb, .vrm or .gltf, or in a folder of .obj files.

    Raises `UserError` for a broken file, and where no shape of the mouth has a known name.
    """
    if path.suffix.lower() == ".fbx":
        raise UserError(f"character {path}: {FBX}")
    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"character {path}: expected {', '.join(SUFFIXES)} or a folder of .obj files"
        )
    file = load_obj_shapes(path) if path.is_dir() else load_gltf(path)
    try:
        check_weights(file)
        animations = tuple(one for one in file.items("animations") if not _is_own(one))
        shapes = [*_targets(file), *_expressions(file)]
    except ValueError as error:
        raise UserError(f"character {path}: {error}") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"character {path}: broken ({error!r}); export it again") from error
    if not shapes:
        raise UserError(
            f"character {path}: no morph targets; export the head with its shape keys (in Blender: "
            "Data > Shape Keys, and no modifiers)"
        )
    return _driven(file, shapes, animations)


def check_weights(file: GltfFile) -> None:
    """Raise `ValueError` for weights at rest that are no numbers, and nodes of unknown meshes."""
    nodes, meshes = file.items("nodes"), file.items("meshes")
    for place in (*nodes, *meshes):
        if not all(isinstance(weight, int | float) for weight in place.get("weights", [])):
            raise ValueError("broken: weights that are no numbers; export it again")
    for node in nodes:
        if "mesh" in node:
            number(node, "mesh", len(meshes))


def _is_own(animation: dict[str, Any]) -> bool:
    """Whether an animation is one that this program has written: of weights only, by its name."""
    channels = animation.get("channels", [])
    return animation.get("name") == ANIMATION and all(
        channel.get("target", {}).get("path") == "weights" for channel in channels
    )


def _driven(
    file: GltfFile, shapes: Sequence[Shape], animations: tuple[dict[str, Any], ...]
) -> Character:
    """The character whose mouth the first complete kind moves, or the fullest one."""
    names = tuple(dict.fromkeys(shape.name for shape in shapes))
    drives = {kind.name: _drives(shapes, kind) for kind in KINDS}
    shares = {
        kind.name: len(sources_of(drives[kind.name]) & set(kind.shapes)) / len(kind.shapes)
        for kind in KINDS
    }
    complete = (kind for kind in KINDS if shares[kind.name] >= ENOUGH)
    kind = next(complete, max(KINDS, key=lambda kind: shares[kind.name]))
    if not shares[kind.name]:
        raise UserError(
            f"character {file.path}: none of its {len(names)} shapes has a known name: "
            f"{_listed(names)}; name them as ARKit (jawOpen), Oculus (viseme_aa) or VRM (aa) does"
        )
    chosen = [drive for drive in drives[kind.name] if kind.name != "ARKit" or _is_mouth(drive)]
    others = [drive for drive in drives["ARKit"] if not _is_mouth(drive)]
    used = (*chosen, *others)
    shown = {node.get("mesh") for node in file.items("nodes")}
    if not any(mesh in shown for drive in used for mesh, _, _ in drive.shape.binds):
        raise UserError(f"character {file.path}: no node shows its meshes; export the whole scene")
    return Character(file, names, kind, used, animations)


def _is_mouth(drive: Drive) -> bool:
    return drive.sources[0].startswith(OF_MOUTH)


def sources_of(drives: Iterable[Drive]) -> set[str]:
    return {source for drive in drives for source in drive.sources}


def _drives(shapes: Sequence[Shape], kind: Kind) -> list[Drive]:
    """The shapes that have names of a kind.

    Expressions of VRM come before targets for its vowels, after them for other kinds; whatever
    comes first is not moved a second time.
    """
    expressions = [[shape for shape in shapes if shape.mesh is None]]
    meshes = [
        [shape for shape in shapes if shape.mesh == mesh]
        for mesh in dict.fromkeys(shape.mesh for shape in shapes if shape.mesh is not None)
    ]
    result: list[Drive] = []
    for groups in (expressions, meshes) if kind.name == "VRM" else (meshes, expressions):
        before = sources_of(result)
        for group in groups:
            result += [drive for drive in _of_group(group, kind) if not before & set(drive.sources)]
    return result


def _of_group(shapes: Sequence[Shape], kind: Kind) -> list[Drive]:
    """The shapes of one mesh that have names of a kind: of several for one, the best spelled."""
    found = [(shape, match(shape.name, kind.spellings())) for shape in shapes]
    found = [(shape, known) for shape, known in found if known is not None]
    singles = [(shape, known) for shape, known in found if len(known.shapes) == 1]
    covered = {known.shapes[0] for _, known in singles}
    pairs = [(shape, known) for shape, known in found
             if len(known.shapes) == 2 and not covered & set(known.shapes)]  # fmt: skip
    best: dict[tuple[str, ...], int] = {}
    for _, known in (*singles, *pairs):
        best[known.shapes] = min(known.rank, best.get(known.shapes, known.rank))
    return [
        Drive(known.shapes, shape)
        for shape, known in (*singles, *pairs)
        if known.rank == best[known.shapes]
    ]


def _targets(file: GltfFile) -> list[Shape]:
    """The morph targets of all meshes that have names; raises `ValueError`."""
    result = []
    for index, mesh in enumerate(file.items("meshes")):
        names = _target_names(file, mesh)
        result += [Shape(name, index, ((index, k, 1.0),)) for k, name in enumerate(names) if name]
        if len(result) > MAX_TARGETS:
            raise ValueError(f"more than {MAX_TARGETS} morph targets")
    return result


def n_targets(mesh: dict[str, Any]) -> int:
    """How many morph targets a mesh has; raises `ValueError` if its primitives disagree."""
    counts = {len(primitive.get("targets", [])) for primitive in mesh.get("primitives", [])}
    if len(counts) > 1:
        raise ValueError(f"broken: parts of a mesh have {sorted(counts)} targets; export it again")
    return counts.pop() if counts else 0


def _target_names(file: GltfFile, mesh: dict[str, Any]) -> list[str]:
    """A name for each target, "" where it has none: of the mesh, its primitive or its values."""
    count, first = n_targets(mesh), (mesh.get("primitives") or [{}])[0]
    for place in (mesh, first):
        extras = place.get("extras")
        names = extras.get("targetNames") if isinstance(extras, dict) else None
        if isinstance(names, list) and len(names) == count:
            return [name if isinstance(name, str) else "" for name in names]
    accessors = file.items("accessors")
    used = [
        accessors[number(target, "POSITION", len(accessors), 0)]
        for target in first.get("targets", [])
    ]
    return [name if isinstance(name := accessor.get("name"), str) else "" for accessor in used]


def _expressions(file: GltfFile) -> list[Shape]:
    """The expressions of a VRM 1.0 or 0.x avatar that bind morph targets."""
    extensions = file.document.get("extensions", {})
    nodes, result = file.items("nodes"), []
    expressions = extensions.get("VRMC_vrm", {}).get("expressions", {})
    for group in ("preset", "custom"):
        for name, expression in expressions.get(group, {}).items():
            binds = expression.get("morphTargetBinds", [])
            places = ((nodes[number(b, "node", len(nodes))].get("mesh"), b, 1.0) for b in binds)
            result.append((name, places, expression))
    groups = extensions.get("VRM", {}).get("blendShapeMaster", {}).get("blendShapeGroups", [])
    for group in groups:
        preset = group.get("presetName", "unknown")
        name = group.get("name", "") if preset in ("", "unknown") else preset
        places = ((b.get("mesh"), b, 0.01) for b in group.get("binds", []))  # percent in VRM 0.x
        result.append((name, places, group))
    shapes = [
        Shape(str(name), None, _binds(file, str(name), places), bool(group.get("isBinary")))
        for name, places, group in result
    ]
    return [shape for shape in shapes if shape.binds]


def _binds(
    file: GltfFile, name: str, places: Iterable[tuple[Any, dict[str, Any], float]]
) -> tuple[tuple[int, int, float], ...]:
    """(mesh, target, weight) of an expression; those of targets that do not exist are left out."""
    meshes, result = file.items("meshes"), []
    for mesh, bind, unit in places:
        target, weight = bind.get("index"), bind.get("weight", 1.0 / unit)
        exists = isinstance(mesh, int) and 0 <= mesh < len(meshes) and isinstance(target, int)
        if not (exists and 0 <= target < n_targets(meshes[mesh])):
            report(
                f"warning: character {file.path}: the expression {name} binds target {target} of "
                f"mesh {mesh}, which does not exist; it is left out"
            )
        elif isinstance(weight, int | float):
            result.append((mesh, target, min(max(unit * weight, 0.0), 1.0)))
    return tuple(result)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(name[:40] for name in names[:SHOWN_NAMES]) + more
