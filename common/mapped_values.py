"""Arrays of a file that are memory-mapped one by one, so that their memory can be given back."""

import mmap
from typing import IO
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MAPPINGS: "WeakValueDictionary[int, mmap.mmap]" = WeakValueDictionary()  # by first address


def map_values(file: IO[bytes], dtype: DTypeLike, offset: int, n: int) -> NDArray:
    """The n values behind byte `offset` of a file, read when they are used.

    They may be changed, which does not change the file. The memory is free with the array.
    """
    if n == 0:  # an empty range cannot be mapped
        return np.empty(0, dtype)
    values = np.memmap(file, dtype, "c", offset, (n,))
    _MAPPINGS[values.ctypes.data] = values._mmap
    return values


def give_back(address: int) -> None:
    """Give back the memory of the array of `map_values` that begins at an address, if one does.

    Its values are read again when they are used. Changes of them are lost.
    """
    mapping = _MAPPINGS.get(address)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
