"""A pickle of many arrays read with little memory: the arrays go to a scratch file.

raw_audio_fixed.pkl holds the audio of all clips in one pickle of several GB.
"""

import os
import pickle
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from files.arrays import find_known

LONGEST_KEPT = 1 << 16  # bytes; longer strings are an array's data and are not kept in memory


@dataclass
class SpilledArray:
    """An array of a pickle whose data is in a scratch file."""

    file: BinaryIO
    offset: int = 0
    shape: tuple[int, ...] = (0,)
    dtype: np.dtype = np.dtype(np.int16)
    order: str = "C"

    def __setstate__(self, state: tuple) -> None:
        """Take numpy's state (version, shape, dtype, is_fortran, data); data goes to the file."""
        *_, shape, dtype, is_fortran, data = state
        if dtype.hasobject:
            raise pickle.UnpicklingError("an array of Python objects")
        content = data.encode("latin1") if isinstance(data, str) else data  # str: from Python 2
        self.store(content, dtype, shape, "F" if is_fortran else "C")

    def store(self, content: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> None:
        """Append the bytes `content` to the scratch file."""
        expected = int(np.prod(shape)) * dtype.itemsize
        n_bytes = len(memoryview(content).cast("B"))
        if n_bytes != expected:
            raise pickle.UnpicklingError(
                f"an array of shape {shape} has {n_bytes} bytes, expected {expected}"
            )
        self.offset = self.file.seek(0, os.SEEK_END)
        self.file.write(content)
        self.shape, self.dtype, self.order = tuple(shape), dtype, order

    def read(self) -> NDArray:
        """The array, read from the scratch file."""
        self.file.seek(self.offset)
        count = int(np.prod(self.shape))
        content = self.file.read(count * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape, order=self.order)


class _ShortMemo(dict):
    """A pickle's memo that does not keep the data of arrays, alone or in a tuple of arguments.

    Nothing refers to the data a second time: for an array that appears twice, the memo has the
    `SpilledArray`.
    """

    def __setitem__(self, key: int, value: Any) -> None:
        parts = value if isinstance(value, tuple) else (value,)
        super().__setitem__(key, None if any(map(_is_long, parts)) else value)


def _is_long(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | str) and len(value) > LONGEST_KEPT


class StreamingUnpickler(pickle._Unpickler):
    """The restricted unpickler, with every array as a `SpilledArray` in the file `scratch`.

    Based on Python's unpickler in Python: the one in C keeps every string until the end.
    """

    def __init__(self, file: BinaryIO, scratch: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.memo = _ShortMemo()
        self._scratch = scratch

    def find_class(self, module: str, name: str) -> Any:
        """See `files.arrays.find_known`; numpy's two array constructors are replaced."""
        known = find_known(module, name)
        if name == "_reconstruct":
            return lambda *_: SpilledArray(self._scratch)
        if name == "_frombuffer":
            return self._spill_buffer
        return known

    def _spill_buffer(
        self, content: Any, dtype: np.dtype, shape: tuple[int, ...], order: str
    ) -> SpilledArray:
        array = SpilledArray(self._scratch)
        array.store(content, dtype, shape, order)
        return array
