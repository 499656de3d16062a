"""Archives from outside, read only as far as their members have a plausible size.

An archive of a few kilobytes can expand to gigabytes. Arrays and weights hardly shrink, so an
honest file is far below the limit.
"""

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b"
FREE_BYTES = 2**26  # that the members of any archive may have together
MAX_EXPANSION = 30  # additional bytes of the members for each byte of the file
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # that numpy and torch write
ENCRYPTED = 0x1  # bit of a member's flags
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a method or flag that zipfile does not know
    RuntimeError,  # a password is needed
    OverflowError,
    KeyError,
    IndexError,
)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive `path`, .tar or .tgz, to be read once from its beginning to its end.

    Reading raises `ValueError` where it expands to much more than the file, and what tarfile, gzip
    and zlib raise where it is damaged.
    """
    with path.open("rb") as file:
        opened = gzip.open if file.read(2) == GZIP_MAGIC else open
    with opened(path, "rb") as content:
        limited = _Limited(content, FREE_BYTES + MAX_EXPANSION * path.stat().st_size)
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            yield archive


class _Limited:
    """The first `most` bytes of a stream; raises `ValueError` where it has more."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self.stream, self.most = stream, most

    def read(self, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes."""
        content = self.stream.read(n_bytes)
        self.most -= len(content)
        if self.most < 0:
            raise ValueError("it expands to much more than the file has")
        return content


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip archive `path`, its directory read and checked.

    Raises `ValueError` for a damaged archive, other methods than stored and deflated, and members
    that claim much more than the file has; `OSError` of the disk.
    """
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN_ZIP as error:
        raise ValueError(f"its zip directory is damaged ({error})") from error
    try:
        _check_members(archive, path.stat().st_size)
    except ValueError:
        archive.close()
        raise
    return archive


def _check_members(archive: zipfile.ZipFile, n_bytes: int) -> None:
    for member in archive.infolist():
        if member.compress_type not in METHODS or member.flag_bits & ENCRYPTED:
            raise ValueError(f"its member {member.filename!r} is encrypted or compressed unusually")
    total = sum(member.file_size for member in archive.infolist())
    if total > FREE_BYTES + MAX_EXPANSION * n_bytes:
        raise ValueError(f"its members claim {total} bytes, the file has {n_bytes}")


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of one member; raises `ValueError` where it is damaged."""
    try:
        content = archive.read(member)
    except BROKEN_ZIP as error:
        raise ValueError(f"{member.filename}: damaged ({error})") from error
    if len(content) != member.file_size:
        raise ValueError(f"{member.filename}: {len(content)} of {member.file_size} bytes are there")
    return content
