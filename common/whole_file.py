"""The one way to write a file: under a temporary name, flushed to the disk, then renamed.

Whatever happens in between, a reader finds the old file or the new one, never a part of it.
Temporary names are hidden and carry the process: `.<stem>.<host>-<pid>-<token>.partial<suffix>`.
So writers of one file never share a temporary one, and what a killed process has left is deleted by
the next process that writes into the folder.
"""

import ctypes
import errno
import os
import platform
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# no space left; the quota of the user is used up; larger than the file system or a limit allows
FULL_DISK = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
LEFTOVERS = ".*.partial*"  # glob pattern of temporary files
OWNER = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.partial[^/]*$")
STEM_BYTES, SUFFIX_BYTES = 96, 12  # of a temporary name, which has at most 143 bytes (eCryptfs)
OTHER_HOST_S = 7 * 86_400.0  # an unchanged temporary file this old is stale, whoever wrote it

_open: dict[Path, int] = {}  # temporary files that are being written -> process id
_tidied: set[Path] = set()  # folders in which this process has looked for stale files


@contextmanager
def whole_file(path: str | Path, target: Callable[[], Path] | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it becomes `path` when the block succeeds.

    The temporary name keeps the suffix, so that writers that choose a format by it work. target:
    asked after the block for another name in that folder, such as that of `unfinished_name`. Where
    the block raises, `path` stays as it was and the temporary file is deleted. Raises `OSError` of
    the disk, which names `path`.
    """
    path = Path(path)
    folder = path.parent.absolute()
    if folder not in _tidied:
        _tidied.add(folder)
        delete_stale(folder)
    partial = path.with_name(_temporary_name(path))
    own = partial.absolute()
    _open[own] = os.getpid()
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path if target is None else target())
        _flush_folder(path.parent)
    except OSError as error:
        names = str(error.filename), str(error.filename2)  # a copy names source and target
        if error.filename is None or str(partial) in names:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # gone if all went well
            partial.unlink()
        del _open[own]


@contextmanager
def whole_folder(path: str | Path, target: Callable[[], Path] | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` when the block succeeds.

    target: as for `whole_file`.
    A folder that is at `path` is replaced with all that it holds; where the system cannot exchange
    two names at once, by two renames between which there is none. Where the block raises, it stays
    as it was and the temporary folder is deleted.
    Raises `OSError` of the disk, which names `path`.
    """
    path = Path(path)
    folder = path.parent.absolute()
    delete_stale(folder)
    partial, old = (path.with_name(_temporary_name(path)) for _ in range(2))
    own = partial.absolute()
    _open[own] = os.getpid()
    try:
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            _flush(file)
        path = path if target is None else target()
        if not (path.exists() and _exchange(partial, path)):
            if path.exists():
                os.replace(path, old)
            os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            _delete(partial)
        with suppress(OSError):
            _delete(old)
        del _open[own]


def unfinished_name(path: Path) -> Path:
    """The name for what an interrupted run has made of `path`: x.part.mp4, x.part_png."""
    stem, suffix = path.stem, path.suffix
    if not suffix and path.name.endswith("_png"):
        stem, suffix = path.name.removesuffix("_png"), "_png"
    return path.with_name(f"{stem}.part{suffix}")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once, by Linux' renameat2(2); False where that is not possible."""
    if not sys.platform.startswith("linux"):
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return (
        exchange is not None
        and exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0
    )


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes with `whole_file`."""
    write_together({Path(path): content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Write files that belong together; where the disk refuses one, none is replaced."""
    with ExitStack() as stack:
        for path, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            stack.enter_context(whole_file(path)).write_bytes(data)


def delete_stale(folder: Path) -> None:
    """Delete the temporary files that killed processes have left in a folder.

    Those of processes that run, and recent ones of other machines, are left alone.
    """
    with suppress(OSError):
        for path in folder.glob(LEFTOVERS):
            with suppress(OSError):  # another process may delete it first
                if _is_stale(path):
                    _delete(path)


def delete_own() -> None:
    """Delete the temporary files that this process is writing; for a signal that ends it."""
    for path, pid in list(_open.items()):
        if pid == os.getpid():  # else inherited from the process that forked this one
            with suppress(OSError):
                _delete(path)


def _delete(path: Path) -> None:
    """Delete a file, or a folder with all that it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _temporary_name(path: Path) -> str:
    stem, suffix = _first_bytes(path.stem, STEM_BYTES), _first_bytes(path.suffix, SUFFIX_BYTES)
    return f".{stem}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial{suffix}"


def _first_bytes(text: str, n_bytes: int) -> str:
    """At most `n_bytes` of `text` as UTF-8, without a character cut in half."""
    return text.encode(errors="ignore")[:n_bytes].decode(errors="ignore")


def _host() -> str:
    """Eight letters for this machine or container, inside which process ids have a meaning."""
    name = platform.node()
    with suppress(OSError):  # not Linux
        name += os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(name.encode(errors='replace')):08x}"


def _is_stale(path: Path) -> bool:
    owner = OWNER.search(path.name)
    if owner is None or owner[1] != _host():
        return time.time() - path.stat().st_mtime > OTHER_HOST_S
    pid = int(owner[2])
    return path.absolute() not in _open if pid == os.getpid() else not _is_running(pid)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end it; deleting a file that is open fails there
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no process id at all
        return True
    return True


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


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
