"""Functions compiled by numba; the machine code is cached on disk where a folder is writable.

numba compares a cached function with its own file only. A kernel that calls those of another file
would keep their old code, for example after an update of this project. So the folder of the cache
is named after all files with kernels in the same wing.
"""

import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.np import linalg

from common.paths import user_cache

MARK = b"common.numba_jit"  # in each file with kernels
COMPILING = "compiling kernels, once for this version: up to a minute"
NAME = "kernels-"  # of a folder of the cache, followed by the hash of the sources


def compiled(signature: str = "", **options: Any) -> Callable[[Callable], Callable]:
    """Decorator: `numba.njit` that releases the GIL and divides by zero as numpy does.

    signature: numba's; with one the function is compiled at once, else at its first call.
    options: further options of `numba.njit`.
    """
    signatures = (signature,) if signature else ()
    options = {"nogil": True, "error_model": "numpy"} | options

    def decorate(function: Callable) -> Callable:
        before = numba.config.CACHE_DIR
        wing = Path(function.__code__.co_filename).parent
        try:
            numba.config.CACHE_DIR = cache_folder(wing, before)
            return numba.njit(*signatures, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return numba.njit(*signatures, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate


def _import_array_functions() -> None:
    """Import numba's functions of arrays without scipy.linalg, whose import takes 0.25 s.

    numba imports it here only to see whether it is there; it asks again where a kernel needs it.
    """
    check, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = check


_import_array_functions()


class _Notice(event.Listener):
    """Prints one line when the first function is compiled; numba loads cached ones silently."""

    printed = False

    def on_start(self, event: event.Event) -> None:
        """Called by numba before it compiles a function."""
        if not self.printed:
            self.printed = True
            print(COMPILING, file=sys.stderr, flush=True)

    def on_end(self, event: event.Event) -> None:
        """Called by numba afterwards."""


notice = _Notice()
event.register("numba:compile", notice)


@functools.cache
def cache_folder(wing: Path, chosen: str = "") -> str:
    """The folder for the machine code of a wing's kernels, made if needed; "" if none is writable.

    In the wing's own __pycache__, or in the user's cache; chosen: NUMBA_CACHE_DIR, if it is set.
    Folders of other versions beside it are removed.
    """
    name = NAME + source_hash(wing)
    places = (Path(chosen) / wing.name,) if chosen else (
        wing / "__pycache__", user_cache() / wing.name
    )  # fmt: skip
    for place in places:
        try:
            (place / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if not os.access(place / name, os.W_OK):
            continue
        for other in place.glob(f"{NAME}*"):
            if other.name != name:
                shutil.rmtree(other, ignore_errors=True)
        return str(place / name)
    return ""


def source_hash(wing: Path) -> str:
    """A hash of all files with kernels in a folder."""
    digest = hashlib.sha256()
    for path in sorted(wing.glob("*.py")):
        source = path.read_bytes()
        if MARK in source:
            digest.update(path.name.encode() + b"\0" + source)
    return digest.hexdigest()[:12]
