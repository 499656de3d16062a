"""The files of folders and their names, on every system alike.

Hidden files are left out: macOS leaves ._name beside a file on disks of other systems. macOS may
write a letter with an accent as two characters (NFD), other systems write one (NFC): names are
compared and returned in NFC.
"""

import unicodedata
from collections.abc import Collection
from pathlib import Path


def plain_name(text: str) -> str:
    """A name in NFC, the form in which all names are compared."""
    return unicodedata.normalize("NFC", text)


def list_files(folder: Path, suffixes: Collection[str], deep: bool = False) -> list[Path]:
    """The visible files of a folder with one of these suffixes, small or capital, sorted.

    deep: also those of its visible subfolders. Empty where there is no such folder. Raises
    `OSError` for a folder that cannot be read.
    """
    if not folder.is_dir():
        return []
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def on_disk(path: Path) -> Path:
    """`path`, or the existing one whose name is the same in another form of Unicode."""
    if path.name.isascii() or path.exists():
        return path
    forms = [path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD")]
    return next((form for form in forms if form.exists()), path)
