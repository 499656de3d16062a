"""Neutral faces as meshes to sculpt on; with its order kept, the result works as a --template."""

import math
from pathlib import Path

from common.errors import UserError, writable_folder
from common.whole_file import write_whole
from config import RECIPES, DatasetSpec
from dataset.faces import faces_of, templates_of
from dataset.prepared import find_file
from export.clip import SYNTHETIC
from export.glb import save_mesh
from export.sequences import obj_writer
from rendering.face import appearance
from synthetic.head import HEAD_FILE, load_head

ALL = "all"  # every subject of the synthetic head


def write_neutral(name: str, suffix: str, scale: float, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.obj` or .glb: y up, metres times `scale`, colours where known.

    name: a subject of the synthetic head, or of a data set whose templates are here; "all" for all
    of the head. Raises `UserError` for an unknown name or a scale that is not positive, `OSError`
    of the disk.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"--scale {scale}: expected a positive number, such as 100 for centimetres")
    subjects = load_head().templates
    spec = RECIPES["synthetic"].dataset if name in (ALL, *subjects) else dataset_of(name)
    templates, faces = templates_of(spec), faces_of(spec)
    topology = SYNTHETIC if spec.path(spec.topology) == HEAD_FILE else spec.name
    writable_folder(folder)
    paths = []
    for subject in subjects if name == ALL else [name]:
        paths.append(folder / f"{subject}.{suffix}")
        vertices = templates[subject] * (spec.metres_per_unit * scale)
        colors = appearance(spec, subject).get("colors")
        if suffix == "glb":
            save_mesh(paths[-1], vertices, faces, colors, topology)
        else:
            write_whole(paths[-1], obj_writer(len(vertices), faces, colors)(vertices))
    return paths


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
