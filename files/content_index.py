"""Hashes of files' bytes, remembered by path, size and times, so that each file is read once.

The index is a file of JSON lines that any number of processes append to and read.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from files.texts import parse_json

FRESH_NS = 2 * 10**9  # a file changed this recently may change again without a new time stamp
READ_BYTES = 2**20

# Resolved path, size in bytes, mtime and ctime in ns. cp -p and tar restore the first time of a
# file, but cannot set the second.
Place = tuple[str, int, int, int]


class ContentIndex:
    """The index file at `path`; a missing file is an empty index.

    warn: called with the `OSError` when the index cannot be written.
    """

    def __init__(self, path: Path, warn: Callable[[OSError], None]) -> None:
        self.path, self.warn = path, warn
        self._hashes: dict[Place, str] = {}
        self._read_to = 0  # bytes of the index file that are in `_hashes`

    def hash_of(self, path: Path) -> str:
        """SHA-256 of the bytes of `path`; raises `OSError` if it cannot be read."""
        status = path.stat()
        times = status.st_mtime_ns, status.st_ctime_ns
        place = (str(path.resolve()), status.st_size, *times)
        if place not in self._hashes:
            self._read()  # another process may have added it
        if place in self._hashes:
            return self._hashes[place]
        content = hash_file(path)
        if time.time_ns() - max(times) > FRESH_NS:
            self._hashes[place] = content
            self._append(place, content)
        return content

    def _read(self) -> None:
        """Read what was added to the file since the last time; incomplete lines are skipped."""
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read_to:  # deleted and written anew
                    self._read_to = 0
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            return
        lines = added[: added.rfind(b"\n") + 1]  # another process may be writing the last line
        self._read_to += len(lines)
        for line in lines.splitlines():
            with suppress(ValueError, TypeError):
                name, size, mtime_ns, ctime_ns, content = parse_json(line)
                self._hashes[name, size, mtime_ns, ctime_ns] = str(content)

    def _append(self, place: Place, content: str) -> None:
        """Append one short line, which is safe with several processes."""
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps([*place, content]) + "\n")
        except OSError as error:
            self.warn(error)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
