"""Text and JSON from outside, in the encodings that editors on all systems write."""

import codecs
import json
from pathlib import Path
from typing import Any

from common.errors import UserError, reason_of
from files.arrays import check_file

MAX_TEXT, MAX_JSON = 2**28, 2**24  # bytes of a file; parsed JSON takes up to 30 times its size
BOMS = (  # UTF-32 first: the mark of UTF-16 is the beginning of its own
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(
    path: str | Path, what: str = "file", errors: str = "strict", most: int = MAX_TEXT
) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Lines end with a line feed, whatever the file has. errors: as of `bytes.decode`; "replace" for
    formats in which other encodings stand in comments. Raises `UserError`, beginning with `what`
    and the path, for a file that cannot be read, is larger than `most` bytes or has no such text.
    """
    path = check_file(path, what)
    try:
        size = path.stat().st_size
        if size > most:
            raise UserError(f"{what} {path}: {size} bytes, expected at most {most}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({reason_of(error)})") from error
    try:
        return decode(content, errors)
    except UnicodeError as error:
        raise UserError(
            f"{what} {path}: not UTF-8 text ({reason_of(error)}); save it as UTF-8"
        ) from error


def decode(content: bytes, errors: str = "strict") -> str:
    """The text of bytes, as `read_text`; raises `UnicodeError`."""
    encoding = next((name for mark, name in BOMS if content.startswith(mark)), "utf-8")
    text = content.decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, what: str = "file") -> Any:
    """The content of a JSON file; raises `UserError` as `read_text`, and for other text."""
    text = read_text(path, what, most=MAX_JSON)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{what} {path}: not JSON: {reason_of(error)}") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `ValueError` where it is no JSON, or nested too deeply.

    So it does for NaN and infinity, which JSON does not have, and for an object that has one key
    twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key "{next(k for k in keys if keys.count(k) > 1)}" is there twice')
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
