"""Speech of any length, decoded once and read in parts. S samples at 16 kHz.

Zero mean and unit variance need the whole clip, and decoding a recording again takes longer than
reading its samples. So these are stored: in memory up to a few minutes, beyond that in a file
without a name, of 230 MB an hour. The vertices of an hour have 8 GB.
"""

import math
import tempfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

IN_MEMORY_BYTES = 1 << 24  # of samples, 4 minutes
BLOCK_SAMPLES = 1 << 20  # whose moments are computed at once


class Samples:
    """Samples (S,) float32 that are appended block by block, then read in parts.

    folder: of the file for more than `IN_MEMORY_BYTES`; None keeps all of them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.memory = bytearray()
        self.file: BinaryIO | None = None
        self.n_samples, self.is_silent = 0, True

    def __len__(self) -> int:
        return self.n_samples

    def append(self, block: NDArray[np.float32]) -> None:
        """Append samples (n,). Raises `OSError` of the disk."""
        self.n_samples += len(block)
        self.is_silent = self.is_silent and not block.any()
        if self.file is not None:
            self.file.write(block.data)
            return
        self.memory += block.data  # grows in place
        if self.folder is not None and len(self.memory) > IN_MEMORY_BYTES:
            self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  as long as this object
            self.file.write(self.memory)
            self.memory = bytearray()

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples (stop - start,), for 0 <= start <= stop <= S."""
        if self.file is None:
            return np.frombuffer(self.memory, np.float32)[start:stop]
        part = np.empty(stop - start, np.float32)
        self.file.seek(start * part.itemsize)
        self.file.readinto(part.data)
        return part


class Moments(NamedTuple):
    """Mean and variance of samples."""

    mean: float
    variance: float

    @property
    def divisor(self) -> float:
        """The standard deviation; as transformers' Wav2Vec2FeatureExtractor adds 1e-7 to the
        variance, digital silence gives zeros."""
        return math.sqrt(self.variance + 1e-7)


def moments_of(samples: Samples, start: int, stop: int) -> Moments:
    """The moments of samples start to stop - 1, in float64, a block at a time.

    Blocks are combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm
    for computing sample variances", 1979.
    """
    n, mean, squares = 0, 0.0, 0.0  # squares: sum of squared distances from the mean
    for first in range(start, stop, BLOCK_SAMPLES):
        block = samples.read(first, min(first + BLOCK_SAMPLES, stop))
        block_mean = float(block.mean(dtype=np.float64))
        share = len(block) / (n + len(block))
        squares += len(block) * float(block.var(dtype=np.float64))
        squares += n * share * (block_mean - mean) ** 2
        mean += (block_mean - mean) * share
        n += len(block)
    return Moments(mean, squares / n)


class StoredSpeech:
    """Speech (S,) float32 with zero mean and unit variance over the clip, read in parts.

    The clip is samples start to stop - 1 of `samples`, later by `delay` samples (earlier if it is
    negative), with zeros where the delay leaves nothing.
    """

    def __init__(self, samples: Samples, start: int, stop: int, delay: int = 0) -> None:
        self.samples, self.start, self.n_samples, self.delay = samples, start, stop - start, delay
        self.moments = moments_of(samples, start, stop)

    def __len__(self) -> int:
        return self.n_samples

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples (stop - start,), for 0 <= start <= stop <= S."""
        low, high = (min(max(at - self.delay, 0), len(self)) for at in (start, stop))
        part = self.samples.read(self.start + low, self.start + high)
        part = (part - np.float32(self.moments.mean)) / np.float32(self.moments.divisor)
        before = min(max(self.delay - start, 0), stop - start)
        return np.pad(part, (before, stop - start - before - len(part)))

    def any(self) -> bool:
        """Whether a sample differs from zero."""
        starts = range(0, len(self), BLOCK_SAMPLES)
        return any(self.read(i, min(i + BLOCK_SAMPLES, len(self))).any() for i in starts)
