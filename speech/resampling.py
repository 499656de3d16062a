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
    from speech.polyphase import filter_phases  # loads numba

    up, down = _ratio(rate)
    phases = _phases(up, down)
    n_taps, n_resampled = phases.shape[1], -(-len(samples) * up // down)
    # The middle of the filter is at the sample, so silence is heard before and after the sound.
    first = ZERO_CROSSINGS * max(up, down) + up
    n_padded = (first + (n_resampled - 1) * down) // up + n_taps
    padded = np.zeros(max(n_padded, n_taps + len(samples)), np.float32)
    padded[n_taps : n_taps + len(samples)] = samples
    resampled = np.empty(n_resampled, np.float32)
    filter_phases(padded, phases, down, first, resampled)
    return resampled


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
def _phases(up: int, down: int) -> NDArray[np.float32]:
    """(up, K) taps of each phase of the filter, in the order of the samples that they weight."""
    factor = max(up, down)
    n_taps = 2 * ZERO_CROSSINGS * factor + 1
    times = np.arange(n_taps) - ZERO_CROSSINGS * factor
    taps = np.sinc(PASS_BAND / factor * times) * np.kaiser(n_taps, KAISER_BETA)
    taps *= up / taps.sum()
    phases = np.zeros(-(-n_taps // up) * up, np.float32)
    phases[:n_taps] = taps
    phases = np.ascontiguousarray(phases.reshape(-1, up)[::-1].T)
    phases.flags.writeable = False
    return phases
