"""A disk cache of arrays, memory-mapped, addressed by what they were computed from.

    cache = Cache("cache", {"what": "teacher features", "model": model_key(teacher)})
    clip = cache.content_key("a.wav", sample_rate=16_000)
    features = cache.get(clip, lambda: teacher_features("a.wav"))    # (A, 1024), read-only

Everything that could change the values belongs in the key or in `what_made_it`: if either changes,
a new entry is computed. An entry is an .npy file (numpy can read it) followed by a trailer with
the hash of its maker and key and a checksum. Files are written whole or not at all, so any number
of processes may share a folder. A damaged entry is computed again.

`python -m files.cache --folder DIR [--clear]` lists what a folder holds, or empties it.
This module does not need torch.
"""

import argparse
import errno
import hashlib
import io
import json
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, UserError, reason_of, run_cli, writable_folder
from common.whole_file import LEFTOVERS, delete_stale, whole_file, write_whole
from files.content_index import ContentIndex
from files.npy import read_npy

FORMAT = 1  # of the entries; part of what made them
TRAILER_BYTES = 32 + 4  # SHA-256 of maker and key, CRC-32 of everything before the trailer
KEEP_FREE_BYTES = 2**30  # left free on the disk, so that a run can still save its state
MADE_BY, CONTENTS = "made_by.json", "contents.jsonl"
MAKER_FOLDER = re.compile("[0-9a-f]{16}")
TEMPORARY = (LEFTOVERS, "*.tmp")  # *.tmp: of earlier versions


class Cache:
    """Arrays computed by one maker, stored in a subfolder of `folder`.

    folder: created if needed, shared by any number of makers; `UserError` if it cannot be written.
    what_made_it: everything except the key that the values depend on (model, settings, precision,
    versions), as JSON values.
    """

    def __init__(self, folder: str | Path, what_made_it: Mapping[str, Any]) -> None:
        self.root = writable_folder(folder)
        self.made_by = json.dumps({"format": FORMAT, **what_made_it}, sort_keys=True)
        self.folder = self.root / hashlib.sha256(self.made_by.encode()).hexdigest()[:16]
        self._contents = ContentIndex(self.root / CONTENTS, self._warn)
        self._checked: set[Path] = set()  # entries whose checksum this process has verified
        self._warned = False
        delete_stale(self.folder)

    def get(self, key: str, make: Callable[[], Any]) -> NDArray:
        """The array of `key`, memory-mapped and read-only; `make()` computes a missing entry.

        make: returns an array of numbers, or anything that `numpy.asarray` accepts. Dtype, shape
        and every bit are preserved. If the entry cannot be stored (disk full), the array is
        returned anyway and the first failure prints a warning.
        """
        path, seal = self._place(key)
        stored = self._open(path, seal)
        if stored is not None:
            return stored
        array = np.asarray(make(), order="C")
        if array.dtype.kind not in "biufc":
            raise ValueError(
                f"{key}: {array.dtype} of shape {array.shape}, expected an array of numbers"
            )
        self._write(path, seal, array)
        stored = self._open(path, seal)
        return _read_only(array) if stored is None else stored

    def __contains__(self, key: str) -> bool:
        """Whether `key` has an entry; only `get` checks that it is intact."""
        return self._place(key)[0].exists()

    def _place(self, key: str) -> tuple[Path, bytes]:
        """The path of the entry of `key`, and the seal (32 bytes) that its trailer must have."""
        seal = hashlib.sha256(f"{self.made_by}\n{key}".encode()).digest()
        return self.folder / f"{seal.hex()}.npy", seal

    def content_key(self, path: str | Path, **settings: Any) -> str:
        """A key computed from a file's bytes and `settings` (JSON values), not from its path.

        The bytes are read once: their hash is kept in the folder's index. Raises `UserError` if
        the file cannot be read.
        """
        try:
            content = self._contents.hash_of(Path(path))
        except OSError as error:
            raise UserError(f"file {path}: cannot be read ({reason_of(error)})") from error
        return hashlib.sha256(json.dumps([content, settings], sort_keys=True).encode()).hexdigest()

    def _open(self, path: Path, seal: bytes) -> NDArray | None:
        """The entry, or None if there is no intact one with this seal."""
        try:
            array = read_npy(path, mapped=True)
            data = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError):
            return None
        body, trailer = data[:-TRAILER_BYTES], data[-TRAILER_BYTES:].tobytes()
        if not isinstance(array, np.memmap) or array.offset + array.nbytes != len(body):
            return None
        if trailer[:-4] != seal:
            return None
        if path not in self._checked:
            if zlib.crc32(body) != int.from_bytes(trailer[-4:], "little"):
                return None
            self._checked.add(path)
        return array

    def _write(self, path: Path, seal: bytes, array: NDArray) -> None:
        """Store an entry; a failure is a warning."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        body = buffer.getbuffer()
        self._checked.discard(path)
        try:
            self._make_folder(len(body))
            with whole_file(path) as partial, partial.open("wb") as file:
                file.write(body)
                file.write(seal + zlib.crc32(body).to_bytes(4, "little"))
        except OSError as error:
            self._warn(error)

    def _make_folder(self, n_bytes: int) -> None:
        """Make the maker's folder with its description; raises `OSError` if the disk is full."""
        if shutil.disk_usage(self.root).free < n_bytes + KEEP_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {_size(KEEP_FREE_BYTES)} free")
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / MADE_BY).exists():
            write_whole(self.folder / MADE_BY, f"{self.made_by}\n")

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(
                f"warning: cache {self.root}: cannot be written ({reason_of(error)}); missing "
                "entries are computed every time; free disk space, or --cache another folder",
                file=sys.stderr,
            )
        self._warned = True


class NoCache:
    """Stands in for a `Cache` with `--cache off`: stores nothing."""

    def get(self, key: str, make: Callable[[], Any]) -> NDArray:
        """`make()` as a read-only array."""
        return _read_only(np.asarray(make(), order="C"))

    def __contains__(self, key: str) -> bool:
        """False."""
        return False

    def content_key(self, path: str | Path, **settings: Any) -> str:
        """The empty string; the file is not read."""
        return ""


def model_key(model: Any) -> str:
    """Hash of every name, dtype, shape and bit of a state dict, or of a module that has one.

    Settings that the state dict does not show belong in `what_made_it` beside this key.
    """
    state = model.state_dict() if hasattr(model, "state_dict") else model
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        kind = str(value.dtype)
        if hasattr(value, "detach"):  # a tensor; numpy lacks bfloat16, which float32 represents
            value = value.detach().cpu()
            value = (value.float() if kind == "torch.bfloat16" else value).numpy()
        total.update(f"{name} {kind.removeprefix('torch.')} {value.shape}\n".encode())
        total.update(np.ascontiguousarray(value).data)
    return total.hexdigest()


@dataclass(frozen=True)
class Holding:
    """The entries of one maker in a cache folder."""

    folder: Path
    made_by: str
    entries: int
    n_bytes: int


def holdings(root: str | Path) -> list[Holding]:
    """The makers of a cache folder, largest first; raises `UserError` if there is no folder."""
    if not Path(root).is_dir():
        raise UserError(f"--folder {root}: no such folder; give the one of --cache")
    makers = []
    for folder in Path(root).iterdir():
        if MAKER_FOLDER.fullmatch(folder.name) and (folder / MADE_BY).is_file():
            sizes = []
            for path in folder.glob("[!.]*.npy"):
                with suppress(FileNotFoundError):  # deleted or replaced by another process
                    sizes.append(path.stat().st_size)
            made_by = (folder / MADE_BY).read_text(errors="replace").strip()
            makers.append(Holding(folder, made_by, len(sizes), sum(sizes)))
    return sorted(makers, key=lambda holding: -holding.n_bytes)


def clear(root: str | Path) -> None:
    """Delete what caches have written to a folder, and nothing else."""
    for holding in holdings(root):
        for pattern in ("*.npy", *TEMPORARY):
            for path in holding.folder.glob(pattern):
                path.unlink(missing_ok=True)
        (holding.folder / MADE_BY).unlink(missing_ok=True)
        with suppress(OSError):  # it holds other files, or a run has just written an entry
            holding.folder.rmdir()
    (Path(root) / CONTENTS).unlink(missing_ok=True)


def _read_only(array: NDArray) -> NDArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="List what a cache folder holds; --clear empties it.")
    parser.add_argument("--folder", required=True, help="the folder of --cache")
    parser.add_argument("--clear", action="store_true", help="delete what caches have written")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per maker and a total."""
    args = _parser().parse_args(argv)
    makers = holdings(args.folder)
    for holding in makers:
        print(f"{_size(holding.n_bytes):>10}  {holding.entries:>6} entries  {holding.made_by}")
    if args.clear:
        clear(args.folder)
    total = sum(holding.n_bytes for holding in makers)
    print(f"{_size(total):>10}  in all{', deleted' if args.clear else ''}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
