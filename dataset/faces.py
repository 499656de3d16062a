"""Neutral faces and triangles: those of a model's data set, or a face of the user's own.

V vertices, F triangles. A template (V, 3) is a neutral face, in the unit of its data set.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import DatasetSpec
from dataset.prepared import find_file
from files.listing import plain_name
from files.meshes import MESH_SUFFIXES, load_faces, load_mesh, load_templates
from synthetic.head import HEAD_FILE, load_head

FACE_M = (0.02, 10.0)  # metres, accepted width of a template: a wrong unit is a thousandfold off
USUAL_FACE_M = 0.25  # metres, width to suggest where the model's own templates are missing
MAX_SHIFT = 1.0  # of a face's size: accepted distance between the centres of clip and template
MAX_APART = 0.2  # of a face's size: accepted mean distance between vertices of clip and template


def choose_face(
    spec: DatasetSpec, subject: str | None = None, own: str | Path | NDArray | None = None
) -> tuple[str, NDArray[np.float32]]:
    """(name, template (V, 3) float32) of the face to animate, in the unit of the data set.

    subject: a key of the data set's templates; None takes the first. own: another neutral face in
    the same topology, as a mesh file, a file of templates (the first is taken) or an array (V, 3).
    Raises `UserError` for an unknown subject and for a face that does not fit the topology.
    """
    if own is not None and subject is not None:
        raise ValueError(f"subject {subject} and a template both name the face; give one of them")
    if own is not None:
        return own_face(spec, own)
    templates = templates_of(spec)
    name = plain_name(subject or next(iter(templates)))
    if name not in templates:
        raise UserError(f"subject {name}: not in the model's templates: {', '.join(templates)}")
    if len(templates[name]) != spec.n_vertices:
        raise UserError(
            f"templates {spec.templates}: {len(templates[name])} vertices, expected "
            f"{spec.n_vertices} as in the model; the file belongs to another data set"
        )
    return name, templates[name]


def own_face(spec: DatasetSpec, own: str | Path | NDArray) -> tuple[str, NDArray[np.float32]]:
    """(name, template (V, 3)) of a face that the user brings; see `choose_face`."""
    if isinstance(own, str | Path):
        label = f"template {own}"
        name, template = next(iter(load_templates(own).items()))
    else:
        label, name, template = "template", "template", np.asarray(own, dtype=np.float32)
        if template.ndim != 2 or template.shape[1] != 3:
            raise UserError(f"{label}: shape {template.shape}, expected (V, 3)")
        if not np.isfinite(template).all():
            raise UserError(f"{label}: NaN or infinite coordinates; check the array")
    if len(template) != spec.n_vertices:
        raise UserError(
            f"{label}: {len(template)} vertices, expected {spec.n_vertices} (topology of "
            f"{spec.name}); register your face to {spec.topology}, and load it without merging "
            "vertices (trimesh.load: process=False)"
        )
    check_own_face(spec, label, template)
    return name, template


def check_own_face(spec: DatasetSpec, label: str, template: NDArray) -> None:
    """Raise `UserError` where a template (V, 3) is in another unit or vertex order than the data.

    The model adds offsets in its own unit to vertices in its own order: on any other face they
    would be invisible, or tear it apart. The face's position does not matter. Where the model's
    templates are missing, only the size in metres is checked. label: names the face in messages.
    """
    extent = float(np.ptp(template, axis=0).max())
    references = []  # the model's own templates
    if find_file(spec, spec.templates) is not None:
        references = [t for t in templates_of(spec).values() if t.shape == template.shape]
    usual = USUAL_FACE_M / spec.metres_per_unit
    low, high = (limit / spec.metres_per_unit for limit in FACE_M)
    if references:
        sizes = [float(np.ptp(t, axis=0).max()) for t in references]
        usual, low, high = sizes[0], 0.5 * min(sizes), 2.0 * max(sizes)
    if not low < extent < high:
        if extent == 0.0:
            raise UserError(f"{label}: all vertices are at one point; expected a face")
        raise UserError(
            f"{label}: {extent:.4g} across, the model's faces are about {usual:.4g}: "
            f"another unit; multiply its vertices by {unit_ratio(usual / extent):g}"
        )
    if references:
        centred = template - template.mean(axis=0)
        reference = references[0] - references[0].mean(axis=0)
        problem = misfit(centred * (usual / extent), reference)
        if problem:
            raise UserError(
                f"{label}: {problem} or it is rotated; expected the vertices of "
                f"{spec.topology} in its order, y up, the face towards +z"
            )


def misfit(face: NDArray, template: NDArray) -> str:
    """What is wrong with a captured face (V, 3) for its template (V, 3), in words; "" if nothing.

    Small rotations and translations of the head are accepted. A face in another scale, position or
    vertex order is not: the network would be trained on noise.
    """
    size = np.ptp(template, axis=0).max()
    extent = np.ptp(face, axis=0).max()
    if not 0.5 * size < extent < 2.0 * size:
        return f"is {extent:.4g} across, its template {size:.4g}: another scale or another mesh"
    shift = face.mean(axis=0) - template.mean(axis=0)
    if np.linalg.norm(shift) > MAX_SHIFT * size:
        return (
            f"is {np.linalg.norm(shift):.4g} away from its template, which is {size:.4g} across: "
            "move both to one position"
        )
    apart = np.linalg.norm(face - shift - template, axis=1).mean()
    if apart > MAX_APART * size:
        return (
            f"differs from its template by {apart:.4g} a vertex on average, and is {size:.4g} "
            "across: another order of vertices"
        )
    return ""


def unit_ratio(ratio: float) -> float:
    """The power of ten near `ratio`, as units differ by one; else `ratio` to two digits."""
    power = 10.0 ** round(math.log10(ratio))
    return power if 0.7 < ratio / power < 1.4 else float(f"{ratio:.2g}")


def templates_of(spec: DatasetSpec) -> dict[str, NDArray[np.float32]]:
    """Subject -> template (V, 3) of a data set; `UserError` where the file is missing."""
    if spec.path(spec.templates) == HEAD_FILE:
        return load_head().templates
    path = find_file(spec, spec.templates)
    if path is None:
        raise UserError(
            f"templates {spec.templates}: no such file; {how_to_get(spec)}, or give a face of "
            f"{spec.n_vertices} vertices with --template FILE.ply"
        )
    return load_templates(path)


def find_faces(
    spec: DatasetSpec, own: str | Path | NDArray | None = None
) -> NDArray[np.int32] | None:
    """Triangles (F, 3): the data set's; else those of `own` if it is a mesh file; else None."""
    path = find_file(spec, spec.topology) if spec.topology else None
    if path is not None:
        faces = load_faces(path)
        if faces.max() >= spec.n_vertices:
            raise UserError(
                f"topology {path}: a face has vertex {faces.max()}, expected less than "
                f"{spec.n_vertices}; does it belong to another data set?"
            )
        return faces
    if isinstance(own, str | Path) and Path(own).suffix.lower() in MESH_SUFFIXES:
        faces = load_mesh(own)[1]
        if len(faces):
            return faces
    return None


def faces_of(spec: DatasetSpec, own: str | Path | None = None) -> NDArray[np.int32]:
    """`find_faces`, or `UserError` where there are no triangles to draw."""
    faces = find_faces(spec, own)
    if faces is None:
        raise UserError(f"{missing_faces(spec)}, give a --template with faces, or --no_video")
    return faces


def missing_faces(spec: DatasetSpec) -> str:
    """What is wrong where `find_faces` gives None, and the remedy."""
    return (
        f"topology {spec.topology or f'of {spec.name}'}: no such file, so there are no triangles "
        f"to draw; {how_to_get(spec)}"
    )


def how_to_get(spec: DatasetSpec) -> str:
    """The remedy for a missing file of a data set."""
    guide = Path(spec.root).parent / "README.md"
    return f"see {guide}" if spec.path(str(guide)).is_file() else "copy it there"
