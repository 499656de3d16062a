"""What is inferred from a folder of own data: unit, subjects and splits.

`settings` is the content of dataset.json throughout; what it has is not inferred.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import Split
from dataset.own_settings import clips_of_splits
from dataset.prepared import subject_of

UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
HEAD_M = (0.1, 0.7)  # metres, the largest extent of a face, a head or a bust
USUAL_HEAD_M = 0.25  # metres, assumed if no unit fits
BY_SUBJECT = 4  # number of subjects from which whole subjects are held out
HELD_SUBJECTS, HELD_CLIPS = 1 / 6, 1 / 10  # share of val and of test, as in VOCASET and BIWI


def check_templates(path: Path, templates: dict[str, NDArray]) -> None:
    """Raise `UserError` for a template with another scale than the others."""
    sizes = {name: float(np.ptp(mesh, axis=0).max()) for name, mesh in templates.items()}
    median = float(np.median(list(sizes.values())))
    for name, size in sizes.items():
        if not 0.5 * median < size < 2.0 * median:
            raise UserError(
                f"templates {path}: {name} is {size:.4g} across, expected about {median:.4g} as "
                "the others; use the same unit for all"
            )


def unit_of(template: NDArray, metres_per_unit: float | None) -> tuple[float, str]:
    """(metres per unit, description) for a face (V, 3), by its size unless it is given."""
    size = float(np.ptp(template, axis=0).max())
    if metres_per_unit is not None:
        return metres_per_unit, (
            f"units of {metres_per_unit:g} m as in dataset.json (a face {size:.4g} across)"
        )
    for name, metres in UNITS.items():
        if HEAD_M[0] <= size * metres <= HEAD_M[1]:
            return metres, f"in {name} (a face {size:.4g} across)"
    return USUAL_HEAD_M / size, (
        f"in an unknown unit (a face {size:.4g} across): assumed to be {USUAL_HEAD_M} m across, "
        'or set "metres_per_unit" in dataset.json'
    )


def subjects_of(names: list[str], path: Path, known: tuple[str, ...]) -> dict[str, str]:
    """Clip -> subject, the longest of the templates' names (`known`) that the clip begins with."""
    subjects = {}
    for name in names:
        subject = subject_of(name, known)
        if subject is None:
            raise UserError(
                f"clip {name}: the name begins with none of the subjects of {path} "
                f"({shortened(sorted(known))}); rename it to <subject>_<anything>, or use one "
                "template for all clips"
            )
        subjects[name] = subject
    return subjects


def splits_of(subjects: dict[str, str], settings: dict[str, Any]) -> tuple[dict[str, Split], str]:
    """The splits of clips (name -> subject), and how they were chosen.

    With four or more subjects, a sixth of them (at least one) is held out for val and a sixth for
    test. With fewer, a tenth of each subject's clips. The choice depends only on the names, so a
    folder is always split in the same way.
    """
    people = sorted(set(subjects.values()))
    chosen: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    if "splits" in settings:
        chosen, how = clips_of_splits(subjects, settings["splits"]), "as in dataset.json"
    elif len(people) >= BY_SUBJECT:
        for split, part in _held_out(people, HELD_SUBJECTS).items():
            chosen[split] = [name for name, subject in subjects.items() if subject in part]
        how = "by subject"
    else:
        groups = [[n for n in sorted(subjects) if subjects[n] == subject] for subject in people]
        if min(map(len, groups)) < 3:
            groups = [sorted(subjects)]
        for clips in groups:
            for split, part in _held_out(clips, HELD_CLIPS).items():
                chosen[split] += part
        how = "by sentence, the last names held out"
    return {k: Split(tuple(people), (), clips=tuple(sorted(v))) for k, v in chosen.items()}, how


def _held_out(items: list[str], share: float) -> dict[str, list[str]]:
    n = max(1, round(len(items) * share))
    return {"train": items[: -2 * n], "val": items[-2 * n : -n], "test": items[-n:]}


def shortened(words: list[str]) -> str:
    """The first six words, separated by commas."""
    return ", ".join(words[:6]) + (", ..." if len(words) > 6 else "")
