"""Resampling of sound that arrives in blocks: the result does not depend on the blocks.

Each output sample is one dot product of the input with a windowed sinc (Smith, "Digital Audio
Resampling", https://ccrma.stanford.edu/~jos/resample/), computed when its last input has arrived.
"""

import math

import numpy as np
from numpy.typing import NDArray

from config import SAMPLE_RATE

CROSSINGS = 12  # of the sinc on each side, at the lower of the two rates
ROLL_OFF = 0.94  # pass band, as a share of the lower Nyquist frequency
KAISER_BETA = 9.0  # about 90 dB of stop band
MIN_RATE, MAX_RATE = 8_000, 192_000


class BlockResampler:
    """Blocks of samples at `rate` Hz to blocks at 16 kHz.

    Output sample i is the input at i / 16,000 s; before the first sample there is silence. Raises
    `ValueError` for a rate that is not an integer from 8,000 to 192,000.
    """

    def __init__(self, rate: int) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(
                f"sample rate {rate!r}: expected an integer from {MIN_RATE} to {MAX_RATE}"
            )
        self.rate = rate
        shared = math.gcd(rate, SAMPLE_RATE)
        self.up, self.down = SAMPLE_RATE // shared, rate // shared
        cutoff = ROLL_OFF * min(1.0, SAMPLE_RATE / rate)  # of the input's Nyquist frequency
        self.reach = math.ceil(CROSSINGS * max(1.0, rate / SAMPLE_RATE))  # inputs on each side
        self.filters = _filters(self.up, self.reach, cutoff)
        self.reset()

    def reset(self) -> None:
        """Forget all sound."""
        self.kept = np.zeros(self.reach, np.float32)  # inputs from index `first` on
        self.first, self.next = -self.reach, 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output samples that became complete; samples: (n,) float32."""
        if self.rate == SAMPLE_RATE:
            return samples
        self.kept = np.concatenate([self.kept, samples])
        last = self.first + len(self.kept) - 1 - self.reach  # largest centre that is complete
        stop = max(self.next, (last * self.up + self.up - 1) // self.down + 1)
        outputs = np.arange(self.next, stop)
        position = outputs * self.down
        centre, phase = position // self.up, position % self.up
        ready = centre <= last
        outputs, centre, phase = outputs[ready], centre[ready], phase[ready]
        if not len(outputs):
            return np.zeros(0, np.float32)
        taps = np.arange(-self.reach + 1, self.reach + 1)
        rows = self.kept[(centre - self.first)[:, None] + taps]
        result = (rows * self.filters[phase]).sum(axis=1, dtype=np.float32)
        self.next += len(outputs)
        used = self.next * self.down // self.up - self.reach + 1 - self.first
        self.kept, self.first = self.kept[used:], self.first + used
        return result

    def flush(self) -> NDArray[np.float32]:
        """The rest of the output, as if silence followed."""
        if self.rate == SAMPLE_RATE:
            return np.zeros(0, np.float32)
        n_inputs = self.first + len(self.kept)
        wanted = -(-n_inputs * self.up // self.down) - self.next
        return self.push(np.zeros(self.reach + self.down, np.float32))[: max(wanted, 0)]


def _filters(up: int, reach: int, cutoff: float) -> NDArray[np.float32]:
    """(up, 2 * reach) taps for the inputs centre - reach + 1 to centre + reach, for each phase."""
    offset = np.arange(-reach + 1, reach + 1)[None] - np.arange(up)[:, None] / up
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (offset / reach) ** 2, 0, 1)))
    taps = np.sinc(cutoff * offset) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
