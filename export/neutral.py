"""Neutral faces as meshes to sculpt on; with its order kept, the result works as a --template."""

import math
from pathlib import Path

from common.errors import UserError, writable_folder
from common.whole_file import write_whole
from config import RECIPES, DatasetSpec
from dataset.faces import faces_of, templates_of
from dataset.prepared import find_file
from export.glb import save_mesh
from export.sequences import obj_writer
from rendering.face import appearance
from synthetic.head import load_head

ALL = "all"  # every subject of the synthetic head


def write_neutral(name: str, suffix: str, scale: float, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.obj` or .glb: y up, metres times `scale`, colours where known.

    name: a subject of the synthetic head, or of a data set whose templates are here; "all" for all
    of the head. Raises `UserError` for an unknown name or a scale that is not positive, `OSError`
    of the disk.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"--scale {scale}: expected a positive number, such as 100 for centimetres")
    names = list(load_head().templates) if name == ALL else [name]
    sets = {subject: dataset_of(subject) for subject in names}
    writable_folder(folder)
    return [_write(sets[subject], subject, suffix, scale, folder) for subject in names]


def dataset_of(subject: str) -> DatasetSpec:
    """The first data set that has a subject of this name; `UserError` if there is none."""
    for recipe in RECIPES.values():
        spec = recipe.dataset
        if find_file(spec, spec.templates) is not None and subject in templates_of(spec):
            return spec
    raise UserError(
        f"--template {subject}: no subject has this name; expected {ALL}, "
        f"{', '.join(load_head().templates)}, or a subject of a data set that is here"
    )


def _write(spec: DatasetSpec, subject: str, suffix: str, scale: float, folder: Path) -> Path:
    vertices = templates_of(spec)[subject] * (spec.metres_per_unit * scale)
    faces, colors = faces_of(spec), appearance(spec, subject).get("colors")
    path = folder / f"{subject}.{suffix}"
    if suffix == "glb":
        save_mesh(path, vertices, faces, colors)
    else:
        write_whole(path, obj_writer(len(vertices), faces, colors)(vertices))
    return path
