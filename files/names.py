"""Names out of data: of subjects, sentences and clips, which become parts of file names."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from common.errors import UserError
from files.listing import plain_name

LONGEST_NAME = 200  # bytes of UTF-8; file systems allow 255, and suffixes are added
RESERVED = '/\\:*?"<>|'  # they separate folders, or Windows allows them in no file name
UNPRINTABLE = ("Cc", "Zl", "Zp")  # Unicode categories: control characters and line breaks


def text_of(key: Any) -> str:
    """A key of a pickle as text: bytes are Latin-1, as Python 2 wrote them."""
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def check_name(key: Any, where: str) -> str:
    """`key` in NFC if it can be part of a file name on every system; raises `UserError` otherwise.

    where: what the message begins with, the file that has the name.
    """
    name = plain_name(text_of(key))
    if problem := _problem(name):
        shown = ascii(name if len(name) <= 30 else f"{name[:30]}...")
        raise UserError(
            f"{where}: name {shown} {problem}; expected a file name of at most {LONGEST_NAME} "
            f"bytes without a leading dot or any of {RESERVED}; rename it"
        )
    return name


def by_name(entries: Iterable[tuple[Any, Any]], where: str) -> dict[str, Any]:
    """Pairs of key and entry as a dict, with the keys as names of `check_name`.

    Raises `UserError` as it does, and for two keys with one name, of which one entry would be lost.
    """
    named: dict[str, Any] = {}
    for key, entry in entries:
        name = check_name(key, where)
        if name in named:
            raise UserError(f"{where}: name {ascii(name)} is there twice; rename one of them")
        named[name] = entry
    return named


def _problem(name: str) -> str:
    if not name.strip():
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if reserved := next((c for c in name if c in RESERVED), None):
        return f"contains {reserved}"
    if any(unicodedata.category(c) in UNPRINTABLE for c in name):
        return "contains a control character"
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode text"
    return f"has {n_bytes} bytes" if n_bytes > LONGEST_NAME else ""
