"""Regions: the vertices of lips and upper face on which LVE, FDD and the lip reader are computed.

Scores are comparable only for the same region, so every table states `Region.source`. Known files
are FLAME_masks.pkl ("lips", 254 entries), FaceDiffuser's lve.txt and fdd.txt, DiffSpeaker's
FLAME_lips_idx.mat and upper_mask.npy, ScanTalk's mouth_indices.npy and upper_indices.npy. Any list
of indices can be used. Their licences keep them out of this project. Without a file the region is
the vertices in a box: that of the recipe (config.py), else one about the tip of the nose.

The box about the nose, with y up and the face towards +z: the tip of the nose is the foremost
vertex in the middle 0.3 of the head's width. Lips: within 32 mm to either side of it, 22 to 68 mm
below, at most 40 mm behind. Upper face: within 70 mm, 0 to 90 mm above, at most 60 mm behind.
Measured on the public templates, as recall of the true lips and intersection over union: FLAME
(254 lips, 12 heads) 0.98 and 0.71; BIWI_6 (ScanTalk's 731, 14 heads) 0.85 and 0.80; the CC0 head
0.96 and 0.33, as the box includes skin around the lips. Recall of the upper face: 0.82, 1.00, 0.88.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import RECIPES, Box, DatasetSpec
from dataset.prepared import find_file
from files.meshes import load_region, load_templates, split_key

FIELDS = {"lips": "lips_region", "upper": "upper_region"}
NOSE_BAND = 0.15  # of the head's width, to either side of its middle
ABOUT_NOSE = {  # metres from the tip of the nose; measured above
    "lips": Box((-0.032, -0.068, -0.040), (0.032, -0.022, 1.0)),
    "upper": Box((-0.070, 0.000, -0.060), (0.070, 0.090, 1.0)),
}


@dataclass(frozen=True)
class Region:
    """Vertex indices (n,) int64, and their source in the words of a table."""

    indices: NDArray[np.int64]
    source: str


def find_region(spec: DatasetSpec, which: str) -> Region:
    """The region `which` ("lips" or "upper") of a data set: its file, or a box with a warning.

    A file is searched at its path and by its name in the data's folders. Raises `UserError` if a
    file that the user named is missing, or if a box has no vertices.
    """
    region, remark = look_up(spec, which)
    if remark:
        _warn_once(remark)
    return region


def find_regions(spec: DatasetSpec) -> dict[str, Region]:
    """Every region of a data set: "lips", "upper" and, if `spec` names a file, "inner_lips".

    Raises `UserError` as `find_region` does, or if the file of the inner lips is missing.
    """
    regions = {which: find_region(spec, which) for which in FIELDS}
    if spec.inner_lips:
        path = inner_lips_path(spec)
        indices = load_region(path, spec.n_vertices)
        lip_sides(indices, f"region {path}")
        regions["inner_lips"] = Region(indices, path.name)
    return regions


def find_inner_lips(spec: DatasetSpec) -> tuple[list[int], list[int]] | None:
    """Vertices of the upper and of the lower inner lip, in pairs that touch when the mouth is shut.

    None if the data set names none. Raises `UserError` if the file is missing or has other content.
    """
    if not spec.inner_lips:
        return None
    path = inner_lips_path(spec)
    return lip_sides(load_region(path, spec.n_vertices), f"region {path}")


def lip_sides(indices: Sequence[int], where: str) -> tuple[list[int], list[int]]:
    """The upper and the lower vertices of pairs: upper, lower, upper, lower, ...

    Raises `UserError`, which begins with `where`, for an odd number of them, none, or a pair of one
    vertex.
    """
    upper, lower = ([int(index) for index in indices[side::2]] for side in (0, 1))
    if len(upper) != len(lower) or any(a == b for a, b in zip(upper, lower, strict=True)):
        raise UserError(
            f"{where}: {len(indices)} vertices, expected pairs: an upper and a lower lip's each"
        )
    return upper, lower


def given_inner_lips(indices: Sequence[int], n_vertices: int) -> tuple[list[int], list[int]]:
    """`lip_sides` of the vertices that --inner_lips names; `UserError` for others than 0 to V-1."""
    flag = f"--inner_lips {' '.join(map(str, indices))}"
    if not all(0 <= index < n_vertices for index in indices):
        raise UserError(f"{flag}: expected vertices from 0 to {n_vertices - 1}")
    return lip_sides(indices, flag)


def inner_lips_path(spec: DatasetSpec) -> Path:
    """The file that `spec.inner_lips` names, searched as in `find_file`."""
    return find_file(spec, spec.inner_lips) or spec.path(spec.inner_lips)


def look_up(spec: DatasetSpec, which: str) -> tuple[Region, str]:
    """The region as `find_region`, and its warning ("" for a file), which is not printed."""
    if which not in FIELDS:
        raise ValueError(f"no region '{which}', expected one of {', '.join(FIELDS)}")
    named = getattr(spec, FIELDS[which])
    path = find_file(spec, named) if named else None
    if path is not None:
        return Region(load_region(path, spec.n_vertices), path.name), ""
    if named and named != _region_in_recipe(spec, which):
        raise UserError(
            f"dataset.{FIELDS[which]} {named}: no such file, nor one of that name in "
            f"{spec.root} or its regions/ and masks/; correct the name or put the file there"
        )
    region = boxed(spec, which)
    missing = f"{split_key(Path(named))[0].name} is not in {spec.root}" if named else "no file"
    return region, (
        f"{which} of {spec.name}: {missing}, using {region.source}; scores are comparable only "
        f"for the same region (--set dataset.{FIELDS[which]}=FILE chooses a file)"
    )


def _region_in_recipe(spec: DatasetSpec, which: str) -> str:
    """The file that the recipe of `spec` names for a region, whether or not it exists."""
    recipe = RECIPES.get(spec.name)
    return getattr(recipe.dataset, FIELDS[which]) if recipe else ""


def boxed(spec: DatasetSpec, which: str) -> Region:
    """The vertices of a template in the recipe's box, or in the box about the nose."""
    path = find_file(spec, spec.templates)
    templates = load_templates(path or spec.path(spec.templates))
    box = spec.boxes.get(which)
    if box is None:
        template, name = np.mean(list(templates.values()), axis=0), "mean template"
        indices = about_nose(template * spec.metres_per_unit, which)
        what = "a box about the nose"
    else:
        if box.subject in templates:
            template, name = templates[box.subject], f"template {box.subject}"
        else:
            template, name = np.mean(list(templates.values()), axis=0), "mean template"
        indices, what = inside(template, box), "a box"
    if len(indices) == 0 or indices[-1] >= spec.n_vertices:
        raise UserError(
            f"{which} of {spec.name}: no vertex of the {name} in {what}; expected units of "
            f"{spec.metres_per_unit:g} m, y up and z forward; or choose a region file: "
            f"--set dataset.{FIELDS[which]}=FILE"
        )
    return Region(indices, f"{len(indices)} vertices in {what} on the {name}")


def inside(template: NDArray, box: Box) -> NDArray[np.int64]:
    """Indices of the vertices of a template (V, 3) in a box, in the same unit."""
    within = (template >= np.array(box.low)) & (template <= np.array(box.high))
    return np.flatnonzero(within.all(axis=1))


def about_nose(template: NDArray, which: str) -> NDArray[np.int64]:
    """Indices of the vertices of a template (V, 3), in metres, in the box about its nose."""
    return inside(template - nose_tip(template), ABOUT_NOSE[which])


def nose_tip(template: NDArray) -> NDArray:
    """The foremost vertex (3,) in the middle of a template (V, 3), in its unit."""
    low, high = template[:, 0].min(), template[:, 0].max()
    middle = np.flatnonzero(np.abs(template[:, 0] - (low + high) / 2) <= NOSE_BAND * (high - low))
    return template[middle[template[middle, 2].argmax()]]


@functools.cache
def _warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
