"""dataset.json: what the owner of a folder of data says instead of leaving it to be inferred."""

import difflib
import fnmatch
import json
from pathlib import Path
from typing import Any

from common.errors import UserError

KEYS = {  # of dataset.json
    "fps": "frames a second that the network predicts",
    "source_fps": "frames a second of vertices_npy/, a multiple of fps",
    "metres_per_unit": "0.001 for millimetres",
    "splits": 'split -> clips: names, patterns like "anna_*", or subjects; "train", "val", "test"',
    "regions": '"lips", "upper", "inner_lips" -> file of vertex indices',
    "templates": "file or folder of the neutral faces",
    "topology": "mesh whose triangles are drawn",
    "base": "recipe that network and training are taken from",
    "model": "fields of config.ModelConfig to change",
    "train": "fields of config.TrainConfig to change",
    "wav2vec2": "pre-trained encoder",
}
KINDS = {"fps": int, "source_fps": int, "metres_per_unit": float | int, "splits": dict,
         "regions": dict, "model": dict, "train": dict}  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """The content of dataset.json, {} without one; `UserError` for keys that it does not have."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(said, dict):
        raise UserError(f"{path}: wanted an object with some of {', '.join(KEYS)}")
    for key, value in said.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS)
            hint = f"did you mean {close[0]}?" if close else f"wanted some of {', '.join(KEYS)}"
            raise UserError(f'{path}: unknown key "{key}"; {hint}')
        if not isinstance(value, KINDS.get(key, str)) or isinstance(value, bool):
            raise UserError(f'{path}: "{key}" is {json.dumps(value)}; it means: {KEYS[key]}')
        if isinstance(value, int | float) and value <= 0:
            raise UserError(f'{path}: "{key}" is {value}; wanted more than 0')
    return said


def chosen_splits(subjects: dict[str, str], wanted: dict[str, Any]) -> dict[str, list[str]]:
    """Split -> clips, from "splits" of dataset.json and clip -> subject.

    An entry is a clip, a pattern or a subject. Raises `UserError` for an entry that is nothing, a
    clip in two splits, or no train or val.
    """
    chosen: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, entries in wanted.items():
        if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
            raise UserError(f'dataset.json: split "{split}" is no list of clips')
        chosen[split] = []
        for entry in entries:
            found = [n for n, s in subjects.items() if s == entry or fnmatch.fnmatch(n, entry)]
            if not found:
                raise UserError(f'dataset.json: split "{split}": "{entry}" is no clip or subject')
            for name in found:
                if owner.setdefault(name, split) != split:
                    raise UserError(f"dataset.json: clip {name} is in {owner[name]} and {split}")
            chosen[split] += [name for name in found if name not in chosen[split]]
    for split in ("train", "val"):
        if not chosen.get(split):
            raise UserError(f'dataset.json: splits have no "{split}", by which training goes')
    return chosen


def settings_of(folder: Path, said: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What dataset.json says of model and train, as `override` wants it."""
    return [
        (
            f"{folder}/dataset.json {part}.{field}",
            f"{part}.{field}",
            value if isinstance(value, str) else json.dumps(value),
        )
        for part in ("model", "train")
        for field, value in said.get(part, {}).items()
    ]
