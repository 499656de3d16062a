"""Several channels mixed down to one, and the recordings whose mean would lose the speech.

The mean of all channels is what a network gets. Two faults are common: a microphone in one of two
channels, which the mean halves, and one channel with reversed polarity, where the mean is silent.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENT = 1e-4  # power relative to the loudest channel, -40 dB: a channel without signal
CANCELLED = 0.1  # power of the mean relative to that of independent channels: it cancels


@dataclass(frozen=True)
class Mix:
    """The channels (from 0) whose mean is taken, and why they are not all; reason "": they are."""

    channels: tuple[int, ...]
    reason: str = ""

    def apply(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean (n,) of the channels of a block (n, channels)."""
        if len(self.channels) == block.shape[1]:
            return block.mean(axis=1)
        return block[:, list(self.channels)].mean(axis=1)


class Levels:
    """The power of the channels of a recording and of their mean, collected block by block."""

    def __init__(self, channels: int) -> None:
        self.n_samples = 0
        self.sums = np.zeros(channels + 1)  # the last one is that of the mean
        self.squares = np.zeros(channels + 1)

    def mean(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean (n,) of a block (n, channels), whose levels are added to the others."""
        mean = block.mean(axis=1)
        if block.shape[1] > 1:
            self.n_samples += len(block)
            ones = np.ones(len(block), np.float32)
            for index, channel in enumerate((*block.T, mean)):
                self.sums[index] += ones @ channel
                self.squares[index] += channel @ channel
        return mean

    def mix(self) -> Mix:
        """The channels to use: those with a signal, or the loudest if their mean cancels."""
        n_channels = len(self.sums) - 1
        everything = tuple(range(n_channels))
        if not self.n_samples:
            return Mix(everything)
        power = self.squares / self.n_samples - np.square(self.sums / self.n_samples)
        power, of_mean = power[:-1], power[-1]
        loudest = int(power.argmax())
        if power[loudest] <= 0:
            return Mix(everything)
        live = tuple(int(i) for i in np.flatnonzero(power > SILENT * power[loudest]))
        if len(live) > 1 and of_mean < CANCELLED * power.sum() / n_channels**2:
            decibels = -10 * math.log10(max(of_mean / power[loudest], 1e-12))
            return Mix((loudest,), f"the channels cancel each other, their mean is {decibels:.0f} "
                                   f"dB softer; only channel {loudest + 1} is used")  # fmt: skip
        if len(live) < n_channels:
            silent = ", ".join(str(i + 1) for i in everything if i not in live)
            return Mix(live, f"silent in channel {silent} of {n_channels}; the others are used")
        return Mix(everything)
