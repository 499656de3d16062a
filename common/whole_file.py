"""The one way to write a file: under a temporary name, flushed to the disk, then renamed.

Whatever happens in between, a reader finds the old file or the new one, never a part of it.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVERS = ".*.partial*"  # glob pattern of what a killed process may leave in a folder


@contextmanager
def whole_file(path: str | Path, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it becomes `path` when the block succeeds.

    The temporary name keeps the suffix, so that writers that choose a format by it work. Where the
    block raises, `path` stays as it was and the temporary file is deleted. `shared`: several
    processes may write this file at the same time, so each gets a temporary name of its own; else
    the name is fixed and a killed process leaves one file at most. Raises `OSError` of the disk.
    """
    path = Path(path)
    token = f".{os.getpid()}-{secrets.token_hex(4)}" if shared else ""
    partial = path.with_name(f".{path.stem}{token}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    finally:
        with suppress(OSError):  # gone if all went well
            partial.unlink()


def write_whole(path: str | Path, content: str | bytes, shared: bool = False) -> None:
    """Write text (UTF-8) or bytes with `whole_file`."""
    with whole_file(path, shared) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut; systems that cannot open folders do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
