"""What does not change is computed once and kept on disk: arrays, memory-mapped, by content.

    cache = Cache("cache", {"what": "teacher features", "model": model_key(teacher)})
    clip = cache.content_key("a.wav", sample_rate=16_000)
    features = cache.get(clip, lambda: teacher_features("a.wav"))    # (A, 1024), read-only

Whatever could change the values belongs into the key or into what made them; a change of either
finds no entry and makes a new one. An entry is an .npy (numpy alone reads it) with a trailer that
says whose it is and what its bytes sum to. It appears under its name whole or not at all, so any
number of processes may share a folder, and a damaged entry is made again.

`python -m files.cache --folder DIR [--clear]` tells what a folder holds, or empties it.
Nothing here needs torch.
"""

import argparse
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, run_cli, writable_folder
from files.arrays import BROKEN_NPY

FORMAT = 1  # of the entries; part of what made them
TRAILER_BYTES = 32 + 4  # SHA-256 of maker and key, CRC-32 of all that stands before
KEEP_FREE_BYTES = 2**30  # a cache must not be what fills the disk that a run saves itself to
STALE_S = 3600.0  # a temporary file this old was left by a process that was killed
FRESH_NS = 2 * 10**9  # a file changed so lately may change again within a tick of its time stamp
MADE_BY, CONTENTS = "made_by.json", "contents.jsonl"
MAKER_FOLDER = re.compile("[0-9a-f]{16}")

# Resolved path, size in bytes, and in nanoseconds when its bytes changed and when anything of it
# did: tools set the first time back (cp -p, tar), the second they cannot.
Place = tuple[str, int, int, int]


class Cache:
    """Arrays made by one maker, kept in a folder of their own below `folder`.

    folder: made if need be, shared by any number of makers; `UserError` when it cannot be written.
    what_made_it: everything but the key that the values depend on (model, settings, precision,
    versions), in values that JSON knows.
    """

    def __init__(self, folder: str | Path, what_made_it: Mapping[str, Any]) -> None:
        self.root = writable_folder(folder)
        self.made_by = json.dumps({"format": FORMAT, **what_made_it}, sort_keys=True)
        self.folder = self.root / hashlib.sha256(self.made_by.encode()).hexdigest()[:16]
        self._contents: dict[Place, str] = {}
        self._read_to = 0  # bytes of the index that `_contents` has
        self._checked: set[Path] = set()  # entries whose sum this process has found right
        self._warned = False
        _sweep(self.folder)

    def get(self, key: str, make: Callable[[], Any]) -> NDArray:
        """The array of `key`, memory-mapped read-only; `make()` computes it where there is none.

        make: returns an array of numbers, or what `numpy.asarray` takes; dtype and shape are kept
        and every value bit for bit. Where it cannot be stored (a full disk) it is returned all the
        same, after one warning line for all such entries.
        """
        path, seal = self._place(key)
        found = self._open(path, seal)
        if found is not None:
            return found
        made = np.asarray(make(), order="C")
        if made.dtype.kind not in "biufc":
            raise ValueError(f"{key}: {made.dtype} of shape {made.shape} is no array of numbers")
        self._write(path, seal, made)
        found = self._open(path, seal)
        return _frozen(made) if found is None else found

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry of `key`; only `get` finds out whether it is damaged."""
        return self._place(key)[0].exists()

    def _place(self, key: str) -> tuple[Path, bytes]:
        """Where the entry of `key` is, or would be, and whose it has to say it is."""
        seal = hashlib.sha256(f"{self.made_by}\n{key}".encode()).digest()
        return self.folder / f"{seal.hex()}.npy", seal

    def content_key(self, path: str | Path, **settings: Any) -> str:
        """A key of a file's bytes and of `settings` (JSON values); where it lies is no part of it.

        The bytes are read once: the folder's index keeps their hash by path, size and time of
        change. Raises `UserError` when the file cannot be read.
        """
        path = Path(path)
        try:
            about = path.stat()
            changed = about.st_mtime_ns, about.st_ctime_ns
            place = (str(path.resolve()), about.st_size, *changed)
            if place not in self._contents:
                self._read_contents()  # another process may have been here
            content = self._contents.get(place) or hash_file(path)
        except OSError as error:
            raise UserError(f"file {path}: cannot be read ({error.strerror})") from error
        if place not in self._contents and time.time_ns() - max(changed) > FRESH_NS:
            self._contents[place] = content
            self._note(place, content)
        return hashlib.sha256(json.dumps([content, settings], sort_keys=True).encode()).hexdigest()

    def _open(self, path: Path, seal: bytes) -> NDArray | None:
        """The entry, or None when there is no whole one with this seal."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            data = np.memmap(path, np.uint8, mode="r")
        except BROKEN_NPY:
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
        """Store an entry whole or, with a warning, not at all."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        body = buffer.getbuffer()
        self._checked.discard(path)
        try:
            self._make_folder(len(body))
            _write_whole(path, body, seal + zlib.crc32(body).to_bytes(4, "little"))
        except OSError as error:
            self._warn(error)

    def _make_folder(self, n_bytes: int) -> None:
        """The maker's folder with a line about it; `OSError` when the disk is as good as full."""
        if shutil.disk_usage(self.root).free < n_bytes + KEEP_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {_size(KEEP_FREE_BYTES)} free")
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / MADE_BY).exists():
            _write_whole(self.folder / MADE_BY, f"{self.made_by}\n".encode())

    def _read_contents(self) -> None:
        """Take in what the index has got since it was last read; broken lines do not count."""
        try:
            with open(self.root / CONTENTS, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read_to:  # cleared and begun anew
                    self._read_to = 0
                file.seek(self._read_to)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
        self._read_to += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, TypeError):
                name, size, changed, touched, content = json.loads(line)
                self._contents[name, size, changed, touched] = str(content)

    def _note(self, place: Place, content: str) -> None:
        """Add a file's hash to the index: one short line, appended, so that processes may share."""
        try:
            with open(self.root / CONTENTS, "a") as file:
                file.write(json.dumps([*place, content]) + "\n")
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(
                f"warning: cache {self.root}: cannot be written ({error.strerror or error}); "
                "what it lacks is computed every time; free some space, or --cache another folder",
                file=sys.stderr,
            )
        self._warned = True


class NoCache:
    """What `--cache off` stands for: a `Cache` that keeps nothing."""

    def get(self, key: str, make: Callable[[], Any]) -> NDArray:
        """`make()` as a read-only array."""
        return _frozen(np.asarray(make(), order="C"))

    def content_key(self, path: str | Path, **settings: Any) -> str:
        """No key; the file is not read."""
        return ""


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    total = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def model_key(model: Any) -> str:
    """Hash of every name, dtype, shape and bit of a state dict, or of a module that has one.

    How a model uses its parameters is no part of it: settings that a state dict does not show
    belong beside it into `what_made_it`.
    """
    state = model.state_dict() if hasattr(model, "state_dict") else model
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        kind = str(value.dtype)
        if hasattr(value, "detach"):  # a tensor; numpy has no bfloat16, and float32 holds all of it
            value = value.detach().cpu()
            value = (value.float() if kind == "torch.bfloat16" else value).numpy()
        total.update(f"{name} {kind.removeprefix('torch.')} {value.shape}\n".encode())
        total.update(np.ascontiguousarray(value).data)
    return total.hexdigest()


@dataclass(frozen=True)
class Holding:
    """What a cache folder holds of one maker."""

    folder: Path
    made_by: str
    entries: int
    n_bytes: int


def holdings(root: str | Path) -> list[Holding]:
    """What is in a cache folder, the largest first; `UserError` when there is no such folder."""
    if not Path(root).is_dir():
        raise UserError(f"--folder {root}: no such folder; give the one that --cache named")
    found = []
    for folder in Path(root).iterdir():
        if MAKER_FOLDER.fullmatch(folder.name) and (folder / MADE_BY).is_file():
            sizes = []
            for path in folder.glob("*.npy"):
                with suppress(FileNotFoundError):  # cleared or replaced by another process
                    sizes.append(path.stat().st_size)
            made_by = (folder / MADE_BY).read_text(errors="replace").strip()
            found.append(Holding(folder, made_by, len(sizes), sum(sizes)))
    return sorted(found, key=lambda holding: -holding.n_bytes)


def clear(root: str | Path) -> None:
    """Delete what caches have put into a folder, and nothing else."""
    for holding in holdings(root):
        for path in (*holding.folder.glob("*.npy"), *holding.folder.glob("*.tmp")):
            path.unlink(missing_ok=True)
        (holding.folder / MADE_BY).unlink(missing_ok=True)
        with suppress(OSError):  # it holds files of somebody's own, or a run has just written
            holding.folder.rmdir()
    (Path(root) / CONTENTS).unlink(missing_ok=True)


def _write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """A file that is there whole or not at all; `OSError` when it cannot be written."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it is gone where all went well
            temporary.unlink()


def _sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes have left."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):  # another process may be faster
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def _frozen(array: NDArray) -> NDArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MB"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a cache folder holds; --clear empties it.")
    parser.add_argument("--folder", required=True, help="the folder that --cache named")
    parser.add_argument("--clear", action="store_true", help="delete what caches have put there")
    args = parser.parse_args(argv)
    found = holdings(args.folder)
    for holding in found:
        print(f"{_size(holding.n_bytes):>10}  {holding.entries:>6} entries  {holding.made_by}")
    if args.clear:
        clear(args.folder)
    total = sum(holding.n_bytes for holding in found)
    print(f"{_size(total):>10}  in all{', deleted' if args.clear else ''}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
