"""Sound at any rate resampled to 16 kHz, whole or in blocks. N samples at `rate` Hz, S at 16 kHz.

One polyphase filter with a Kaiser window, 100 dB in the stop band.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from config import SAMPLE_RATE

RATES = (4_000, 384_000)  # Hz; a header with a rate outside this range is damaged
ZERO_CROSSINGS = 32  # of the filter, on each side
KAISER_BETA = 10.0  # 100 dB in the stop band
PASS_BAND = 0.95  # of the lower Nyquist frequency
MAX_PHASES = 1 << 16  # of the filter, which then has 4.2 M taps; 383,999 Hz alone would take 1.2 GB
BLOCK_SAMPLES = 1 << 20  # resampled at once


def resample_audio(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """`samples` (N,) at `rate` Hz resampled to (S,) at 16 kHz, S = ceil(N * 16000 / rate).

    Rates above 65,536 Hz whose ratio to 16 kHz has large terms are rounded, see `_ratio`.
    """
    if rate == SAMPLE_RATE or len(samples) == 0:
        return np.ascontiguousarray(samples, dtype=np.float32)
    from scipy.signal import resample_poly  # takes a second to import

    up, down = _ratio(rate)
    samples = samples.astype(np.float32)
    return resample_poly(samples, up, down, window=_taps(max(up, down))).astype(np.float32)


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], rate: int
) -> Iterator[NDArray[np.float32]]:
    """Consecutive blocks (n,) at `rate` Hz as consecutive blocks at 16 kHz.

    Together they are bit for bit `resample_audio` of all blocks together: blocks are cut at whole
    samples of both rates, and the filter also sees the samples around the cut.
    """
    up, down = _ratio(rate)
    around = -(-ZERO_CROSSINGS * max(up, down) // (up * down)) * down + down
    step = max(BLOCK_SAMPLES // down, 1) * down
    pending, before = np.zeros(0, np.float32), 0  # the first `before` samples are resampled already
    for block in blocks:
        pending = np.concatenate([pending, block])
        while rate != SAMPLE_RATE and len(pending) >= before + step + around:
            resampled = resample_audio(pending[: before + step + around], rate)
            yield resampled[before * up // down : (before + step) * up // down]
            pending, before = pending[before + step - around :], around
        if rate == SAMPLE_RATE:
            yield pending
            pending = pending[:0]
    yield resample_audio(pending, rate)[before * up // down :]


def _ratio(rate: int) -> tuple[int, int]:
    """(up, down), the factors from `rate` Hz to 16 kHz, at most `MAX_PHASES` each.

    Where the exact factors are larger the nearest ratio is taken. It is off by less than 10 parts
    per million, while clocks of recorders are off by up to 50.
    """
    ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(MAX_PHASES)
    return ratio.numerator, ratio.denominator


@lru_cache(maxsize=2)
def _taps(phases: int) -> NDArray[np.float64]:
    """The filter for factors whose larger is `phases`."""
    from scipy.signal import firwin

    n_taps = 2 * ZERO_CROSSINGS * phases + 1
    taps = firwin(n_taps, PASS_BAND / phases, window=("kaiser", KAISER_BETA))
    taps.flags.writeable = False
    return taps
