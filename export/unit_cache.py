"""Transferred units, kept in the user's cache folder: the next export of a face finds them there.

An entry is a `files.cache` array, written whole and checked when it is read. It belongs to a
neutral face with its triangles, a head file and a version of the transfer; another of them makes
another entry. `python -m files.cache --folder ~/.cache/jambatalk --clear` empties the folder.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, report
from common.paths import user_cache
from export.transfer import transferred_units
from files.cache import Cache, NoCache
from synthetic.head import HEAD_FILE, load_head

VERSION = 2  # of the transfer: raise it when its results change


def units_on(
    template: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """`transferred_units` of the head, from the cache where they are there.

    A damaged entry is computed again and a line says so; without a folder that can be written, the
    units are computed every time. Raises `ValueError` as `transferred_units`.
    """
    head, cache = load_head(), _open_cache()
    shape = np.array([*np.shape(template), *np.shape(faces)], np.int64)
    face = hashlib.sha256(shape.tobytes())
    for array, dtype in ((template, np.float32), (faces, np.int32)):
        face.update(np.ascontiguousarray(array, dtype).tobytes())
    key = cache.content_key(HEAD_FILE, face=face.hexdigest())
    was_there = key in cache

    def make() -> NDArray[np.float32]:
        if was_there:
            report(f"cache {cache.folder}: damaged units of a face; they are computed again")
        names, units = transferred_units(head, template, faces)
        every = np.zeros((len(head.units), *template.shape), np.float32)
        every[[list(head.units).index(name) for name in names]] = units
        return every

    every = cache.get(key, make)
    moving = every.any(axis=(1, 2))
    names = tuple(name for name, moves in zip(head.units, moving, strict=True) if moves)
    return names, every[moving]


def _open_cache() -> Cache | NoCache:
    try:
        return Cache(user_cache(), {"what": "transferred units", "version": VERSION})
    except (UserError, RuntimeError):  # a user without a home, or one that is read-only
        return NoCache()
