"""A pickle of many arrays read with little memory: the arrays go to a scratch file.

raw_audio_fixed.pkl holds the audio of all clips in one pickle of several GB.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO

from numpy.typing import NDArray

from files.pickled_values import Layout
from files.pickles import PickleReader


@dataclass(frozen=True)
class SpilledArray:
    """An array of a pickle whose data is in a scratch file."""

    file: BinaryIO
    offset: int
    layout: Layout

    @property
    def nbytes(self) -> int:
        """Size of the array."""
        return self.layout.n_bytes

    def read(self) -> NDArray:
        """The array, read from the scratch file."""
        self.file.seek(self.offset)
        return self.layout.array_of(self.file.read(self.nbytes))


class StreamedPickleReader(PickleReader):
    """Reads a pickle with every array as a `SpilledArray` in the file `scratch`."""

    array_type = SpilledArray

    def __init__(self, file: BinaryIO, scratch: BinaryIO) -> None:
        super().__init__(file)
        self._scratch = scratch

    def make_array(self, content: bytes | bytearray, layout: Layout) -> SpilledArray:
        """Append the bytes to the scratch file."""
        offset = self._scratch.seek(0, os.SEEK_END)
        self._scratch.write(content)
        return SpilledArray(self._scratch, offset, layout)
