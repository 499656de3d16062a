"""Lips and upper face: the vertices that LVE, FDD and the lip reader look at, and their source.

A score means nothing without its region, so `Region.source` goes into every table. Known files
are FLAME_masks.pkl ("lips", 254 entries), FaceDiffuser's lve.txt and fdd.txt, DiffSpeaker's
FLAME_lips_idx.mat and upper_mask.npy, ScanTalk's mouth_indices.npy and upper_indices.npy; any
list of indices will do. Their licences keep them out of this project, so where there is none the
region is a box: that of the recipe (config.py), else one about the tip of the nose.

The rule, in metres, y up, the face towards +z: the nose's tip is the foremost vertex of the middle
0.3 of the head's width; lips within 32 mm to either side of it, 22 to 68 mm below, at most 40 mm
behind; upper face within 70 mm, 0 to 90 mm above, at most 60 mm behind. On the public templates
it finds, of the true lips, 0.98 in FLAME (254 lips, 12 heads; intersection over union 0.71), 0.85
in BIWI_6 (ScanTalk's 731, 14 heads; 0.80), 0.96 on the CC0 head (0.33: it takes skin round the
lips, too); of the upper face 0.82, 1.00, 0.88.
"""

import functools
import sys
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
ABOUT_NOSE = {  # metres from the tip of the nose; see above for what they find
    "lips": Box((-0.032, -0.068, -0.040), (0.032, -0.022, 1.0)),
    "upper": Box((-0.070, 0.000, -0.060), (0.070, 0.090, 1.0)),
}


@dataclass(frozen=True)
class Region:
    """Vertices (n,) int64, and what tables say of where they come from."""

    indices: NDArray[np.int64]
    source: str


def find_region(spec: DatasetSpec, which: str) -> Region:
    """The region `which` ("lips" or "upper") of a data set: its file, or a box with a warning.

    A file is looked for as it is written and by its name in the data's folders. Raises
    `UserError` when a file that the user named is not there, or when a box holds nothing.
    """
    region, remark = look_up(spec, which)
    if remark:
        _warn_once(remark)
    return region


def find_regions(spec: DatasetSpec) -> dict[str, Region]:
    """`find_region` for every region that a data set has: "lips" and "upper"."""
    return {which: find_region(spec, which) for which in FIELDS}


def look_up(spec: DatasetSpec, which: str) -> tuple[Region, str]:
    """What `find_region` returns, and its warning ("" for a file) instead of printing it."""
    if which not in FIELDS:
        raise ValueError(f"no region '{which}'; wanted one of {', '.join(FIELDS)}")
    named = getattr(spec, FIELDS[which])
    path = find_file(spec, named) if named else None
    if path is not None:
        return Region(load_region(path, spec.n_vertices), path.name), ""
    if named and named != _recipes_own(spec, which):
        raise UserError(
            f"dataset.{FIELDS[which]} {named}: no such file, nor one of that name in "
            f"{spec.root} or its regions/ and masks/"
        )
    region = boxed(spec, which)
    missing = f"{split_key(Path(named))[0].name} is not in {spec.root}" if named else "no file"
    return region, (
        f"{which} of {spec.name}: {missing}; taken instead: {region.source}. Scores compare only "
        f"with those of the same region (--set dataset.{FIELDS[which]}=FILE names one)"
    )


def _recipes_own(spec: DatasetSpec, which: str) -> str:
    recipe = RECIPES.get(spec.name)
    return getattr(recipe.dataset, FIELDS[which]) if recipe else ""


def boxed(spec: DatasetSpec, which: str) -> Region:
    """The vertices of a template in the recipe's box, or in the one about the nose."""
    path = find_file(spec, spec.templates)
    templates = load_templates(path or spec.path(spec.templates))
    box = spec.boxes.get(which)
    if box is None:
        template, name = np.mean(list(templates.values()), axis=0), "mean template"
        indices = about_nose(template * spec.metres_per_unit, which)
        what = "a box about the nose"
    else:
        known = box.subject in templates
        template = templates[box.subject] if known else np.mean(list(templates.values()), axis=0)
        name = f"template {box.subject}" if known else "mean template"
        indices, what = inside(template, box), "a box"
    if len(indices) == 0 or indices[-1] >= spec.n_vertices:
        raise UserError(
            f"{which} of {spec.name}: no vertex of the {name} is in {what}: its unit may not be "
            f"{spec.metres_per_unit:g} m, or y is not up and z not forward; name the region: "
            f"--set dataset.{FIELDS[which]}=FILE"
        )
    return Region(indices, f"{len(indices)} vertices in {what} on the {name}")


def inside(template: NDArray, box: Box) -> NDArray[np.int64]:
    """Vertices of a template (V, 3) in a box, both in one unit."""
    within = (template >= np.array(box.low)) & (template <= np.array(box.high))
    return np.flatnonzero(within.all(axis=1))


def about_nose(template: NDArray, which: str) -> NDArray[np.int64]:
    """Vertices of a template (V, 3), in metres, in the box about its nose."""
    low, high = template[:, 0].min(), template[:, 0].max()
    middle = np.flatnonzero(np.abs(template[:, 0] - (low + high) / 2) <= NOSE_BAND * (high - low))
    nose = template[middle[template[middle, 2].argmax()]]
    return inside(template - nose, ABOUT_NOSE[which])


@functools.cache
def _warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
