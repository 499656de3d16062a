"""dataset.json: settings of a folder of own data that are not to be inferred from its files."""

import difflib
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.frame_rates import parse_rate
from files.listing import plain_name
from files.texts import read_json

KEYS = {  # of dataset.json -> what the value is
    "fps": "frames a second that the network predicts",
    "source_fps": 'frames a second of vertices_npy/, such as 60, 29.97 or "30000/1001"',
    "max_drift_s": "seconds by which sound and motion of a clip may differ in length",
    "metres_per_unit": "metres in a unit of the vertices, 0.001 for millimetres",
    "splits": '"train", "val", "test" -> list of clips, patterns like "anna_*", or subjects',
    "regions": '"lips", "upper", "inner_lips" -> file of vertex indices',
    "templates": "file or folder of the neutral faces",
    "topology": "mesh file with the triangles to draw",
    "base": "recipe whose network and training are used",
    "model": "fields of config.ModelConfig to change",
    "train": "fields of config.TrainConfig to change",
    "wav2vec2": "pre-trained encoder, a folder or a hub name",
}
TYPES = {"fps": int, "source_fps": int | float | str, "max_drift_s": float | int,
         "metres_per_unit": float | int, "splits": dict, "regions": dict, "model": dict,
         "train": dict}  # fmt: skip
PATHS = ("templates", "topology", "wav2vec2")  # keys whose value is a file name, as in regions
MAX_FPS = 240  # of the network
MAX_NUMBER = 10**9
SPLIT_NAME = re.compile(r"[^\W_][\w. -]{0,49}")  # part of the file names of results
MAX_NAME = 255  # bytes of a file name on all systems


def read_settings(path: Path) -> dict[str, Any]:
    """The content of dataset.json, {} if there is no such file.

    Raises `UserError` for an unknown key, a value of the wrong type or out of range, or a name that
    no file can have.
    """
    if not path.is_file():
        return {}
    settings = read_json(path, "settings")
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected an object with keys among {', '.join(KEYS)}")
    for key, value in settings.items():
        _check_value(path, key, value)
    files = {key: settings[key] for key in PATHS if key in settings}
    for key, name in (files | settings.get("regions", {})).items():
        if not _is_file_name(name):
            raise UserError(f'{path}: "{key}": expected the name of a file, got {str(name)[:40]!r}')
    _check_rates(path, settings)
    return settings


def _check_value(path: Path, key: str, value: Any) -> None:
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS)
        hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(KEYS)}"
        raise UserError(f'{path}: unknown key "{key}"; {hint}')
    if not isinstance(value, TYPES.get(key, str)) or isinstance(value, bool):
        raise UserError(f'{path}: "{key}": expected {KEYS[key]}, got {json.dumps(value)}')
    if isinstance(value, int | float) and not 0 < value <= MAX_NUMBER:  # NaN, too
        expected = f"at most {MAX_NUMBER}" if value > 0 else "more than 0"
        raise UserError(f'{path}: "{key}": expected {expected}, got {str(value)[:40]}')


def _is_file_name(name: Any) -> bool:
    try:
        parts = name.encode().split(b"/")
    except (AttributeError, UnicodeError):  # no text, or half of a UTF-16 pair
        return False
    return b"\0" not in name.encode() and max(map(len, parts)) <= MAX_NAME and len(parts) < 99


def _check_rates(path: Path, settings: dict[str, Any]) -> None:
    """Raise `UserError` for rates out of range, or a drift without a rate to measure it by."""
    if (fps := settings.get("fps", 1)) > MAX_FPS:
        raise UserError(f'{path}: "fps": expected 1 to {MAX_FPS}, got {fps}')
    if "source_fps" in settings:
        parse_rate(settings["source_fps"], f'{path}: "source_fps"')
    elif "max_drift_s" in settings:
        raise UserError(
            f'{path}: "max_drift_s" needs "source_fps": lengths that differ do not show the rate; '
            "add the rate of the capture"
        )


def clips_of_splits(subjects: dict[str, str], splits: dict[str, Any]) -> dict[str, list[str]]:
    """Split -> clips, from "splits" of dataset.json; subjects: clip -> subject.

    An entry of a split is a clip, a pattern or a subject. Raises `UserError` for an entry that
    matches nothing, a clip in two splits, or a missing train or val.
    """
    chosen: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}
    for split, entries in splits.items():
        if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
            raise UserError(
                f'dataset.json: split "{split}": expected a list of clips, patterns or subjects'
            )
        if not SPLIT_NAME.fullmatch(split):
            raise UserError(
                f"dataset.json: split {split[:40]!r}: expected a name of at most 50 letters, "
                "digits, _ and -"
            )
        chosen[split] = []
        for entry in entries:
            name = plain_name(entry)
            clips = [n for n, s in subjects.items() if s == name or fnmatch.fnmatch(n, name)]
            if not clips:
                raise UserError(f'dataset.json: split "{split}": no clip or subject "{entry}"')
            for clip in clips:
                if split_of.setdefault(clip, split) != split:
                    raise UserError(
                        f"dataset.json: clip {clip} is in {split_of[clip]} and {split}; "
                        "list it in one of them"
                    )
            chosen[split] += [clip for clip in clips if clip not in chosen[split]]
    for split in ("train", "val"):
        if not chosen.get(split):
            raise UserError(f'dataset.json: splits have no "{split}"; training needs it')
    return chosen


def recipe_settings(folder: Path, settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The keys "model" and "train" of dataset.json as triples for `override`."""
    return [
        (
            f"{folder}/dataset.json {part}.{field}",
            f"{part}.{field}",
            value if isinstance(value, str) else json.dumps(value),
        )
        for part in ("model", "train")
        for field, value in settings.get(part, {}).items()
    ]
