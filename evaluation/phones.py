"""Phones of clips with their times: JSON lines {"name", "segments": [[phone, start_s, end_s]]}."""

import math
from pathlib import Path
from typing import Any

from common.errors import UserError
from config import DatasetSpec
from files.texts import parse_json, read_text

Segments = list[tuple[str, float, float]]


def load_phones(spec: DatasetSpec) -> dict[str, Segments]:
    """Clip -> [(phone, start_s, end_s), ...] from the file `spec.phones`; {} without one."""
    if not spec.phones:
        return {}
    path = spec.path(spec.phones)
    if not path.exists():
        raise UserError(f"{path}: no such file; make the data: python -m synthetic.make_corpus")
    return read_phones(path)


def read_phones(path: Path) -> dict[str, Segments]:
    """Clip -> [(phone, start_s, end_s), ...] of a file; other keys of a line are ignored.

    Raises `UserError` with the number of a line that has another form.
    """
    phones = {}
    for number, line in enumerate(read_text(path, "phones").splitlines(), start=1):
        try:
            row = parse_json(line)
            phones[row["name"]] = [_segment(*segment) for segment in row["segments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: expected a JSON object with name and segments "
                "[[phone, start_s, end_s], ...]; make the file again"
            ) from error
    return phones


def _segment(phone: Any, start_s: Any, end_s: Any) -> tuple[str, float, float]:
    start_s, end_s = float(start_s), float(end_s)
    if not isinstance(phone, str) or not 0 <= start_s <= end_s < math.inf:
        raise ValueError(f"{phone} from {start_s} to {end_s} s")
    return phone, start_s, end_s
