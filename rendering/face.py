"""Who speaks in a demo: the network of a checkpoint, a neutral face for it, how that looks."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import RECIPES, DatasetSpec, ModelConfig
from dataset.prepared import locate_files
from synthetic.head import HEAD_FILE, load_head

USUAL_FACE_M = 0.25  # metres across: what to wish for where the model's own faces are not there
WETNESS = {"eye": 1.0, "teeth": 0.35, "tongue": 0.35}  # of parts whose name has this in it


def load_model(checkpoint: Path, dataset: str | None):
    """(model, data set) of a checkpoint: one of ours, which names its own, or a published one.

    dataset: what --dataset says, a key of `config.RECIPES` or None.
    """
    from jambatalk import load_checkpoint
    from released.weights import is_release, load_release

    if is_release(checkpoint):
        model = load_release(checkpoint)
        return model, locate_files(published_dataset(checkpoint, dataset, model.config))
    model, spec = load_checkpoint(checkpoint)
    if dataset not in (None, spec.name):
        raise UserError(f"--dataset {dataset}: {checkpoint} is a model for {spec.name}")
    return model, locate_files(spec)


def published_dataset(checkpoint: Path, dataset: str | None, config: ModelConfig) -> DatasetSpec:
    """The data set whose faces published weights move: as many vertices, and of that name.

    --dataset BIWI also means BIWI_6: what the release calls BIWI has 3,895 vertices.
    """
    known = {name: recipe.dataset for name, recipe in RECIPES.items()}
    for name, spec in known.items():
        if spec.n_vertices == config.n_vertices and name.startswith(dataset or ""):
            return dataclasses.replace(spec, fps=config.fps)
    given = f"--dataset {dataset}" if dataset else "no --dataset fits"
    counts = ", ".join(f"{name} has {spec.n_vertices}" for name, spec in known.items())
    raise UserError(
        f"{given}: the weights in {checkpoint} move {config.n_vertices} vertices; {counts}"
    )


def choose_face(
    spec: DatasetSpec, subject: str | None, own: Path | None
) -> tuple[str, NDArray[np.float32]]:
    """(name, template (V, 3)) of who speaks, in the unit of the model."""
    if own is not None:
        from files.meshes import load_templates

        name, template = next(iter(load_templates(own).items()))
        if len(template) != spec.n_vertices:
            raise UserError(
                f"--template {own}: {len(template)} vertices, the model's topology "
                f"({spec.name}) has {spec.n_vertices}; register your face to {spec.topology}, and "
                "let nothing merge vertices on the way (trimesh.load: process=False)"
            )
        check_own_face(spec, own, template)
        return name, template
    templates = templates_of(spec)
    name = subject or next(iter(templates))
    if name not in templates:
        raise UserError(f"--subject {name}: not one of the model's: {', '.join(templates)}")
    if len(templates[name]) != spec.n_vertices:
        raise UserError(
            f"templates {spec.templates}: {len(templates[name])} vertices, the model moves "
            f"{spec.n_vertices}; the file belongs to another data set"
        )
    return name, templates[name]


def check_own_face(spec: DatasetSpec, own: Path, template: NDArray) -> None:
    """Raise `UserError` where the face `own` (V, 3) is in another unit or order than the model's.

    The model adds offsets in its own unit to its own vertices: on any other face they would be
    invisible, or tear it apart. Its place does not matter. Where the model's templates are not
    there, its size in metres alone is looked at.
    """
    from data_loader import FACE_M, misfit

    extent = float(np.ptp(template, axis=0).max())
    known = spec.path(spec.templates) == HEAD_FILE or spec.path(spec.templates).exists()
    like = [t for t in templates_of(spec).values() if t.shape == template.shape] if known else []
    usual = USUAL_FACE_M / spec.metres_per_unit
    low, high = (limit / spec.metres_per_unit for limit in FACE_M)
    if like:
        sizes = [float(np.ptp(t, axis=0).max()) for t in like]
        usual, low, high = sizes[0], 0.5 * min(sizes), 2.0 * max(sizes)
    if not low < extent < high:
        if extent == 0.0:
            raise UserError(f"--template {own}: all its vertices are at one point; wanted a face")
        raise UserError(
            f"--template {own}: {extent:.4g} across, the model's faces are about {usual:.4g}: "
            f"another unit; multiply its vertices by {unit_ratio(usual / extent):g}"
        )
    if like:
        centred, model = template - template.mean(axis=0), like[0] - like[0].mean(axis=0)
        problem = misfit(centred * (usual / extent), model)
        if problem:
            raise UserError(
                f"--template {own}: {problem} or it is turned; wanted the vertices of "
                f"{spec.topology} in its order, y up, the face towards +z"
            )


def unit_ratio(ratio: float) -> float:
    """The power of ten near `ratio`, as units differ by one; else `ratio` to two digits."""
    power = 10.0 ** round(math.log10(ratio))
    return power if 0.7 < ratio / power < 1.4 else float(f"{ratio:.2g}")


def templates_of(spec: DatasetSpec) -> dict[str, NDArray[np.float32]]:
    """Subject -> neutral face (V, 3) of the data that the model was trained on."""
    from files.meshes import load_templates

    path = spec.path(spec.templates)
    if path == HEAD_FILE:
        return load_head().templates
    if not path.exists():
        raise UserError(
            f"templates {spec.templates}: no such file; {how_to_get(spec)}, or give a face of "
            f"{spec.n_vertices} vertices with --template FILE.ply"
        )
    return load_templates(path)


def faces_of(spec: DatasetSpec, own: Path | None) -> NDArray[np.int32]:
    """Triangles (F, 3): the data set's, or where its file is missing those of the mesh `own`."""
    from files.meshes import load_faces, load_mesh

    path = spec.path(spec.topology)
    if spec.topology and path.exists():
        return load_faces(path)
    if own is not None and own.suffix.lower() in (".ply", ".obj"):
        faces = load_mesh(own)[1]
        if len(faces):
            return faces
    raise UserError(
        f"topology {spec.topology or f'of {spec.name}'}: no such file, so there is nothing to "
        f"draw; {how_to_get(spec)}, "
        "or give a --template with faces, or --no_video"
    )


def how_to_get(spec: DatasetSpec) -> str:
    """What to do about a missing file of a data set."""
    guide = Path(spec.root).parent / "README.md"
    return f"{guide} says how to get it" if spec.path(str(guide)).is_file() else "copy it there"


def appearance(spec: DatasetSpec, subject: str) -> dict[str, NDArray]:
    """Keyword arguments of `Renderer`: the subject's colours, what is wet; only if it is known."""
    if spec.path(spec.topology) != HEAD_FILE:
        return {}
    head = load_head()
    gloss = np.zeros(len(head.colors))
    for part, indices in head.parts.items():
        gloss[indices] = max((wet for name, wet in WETNESS.items() if name in part), default=0.0)
    return {"colors": head.subject_colors.get(subject, head.colors), "gloss": gloss}
