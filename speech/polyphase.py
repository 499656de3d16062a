"""The filter of `speech.resampling`, compiled by numba: a module of its own, as numba loads slowly.

P phases (the upward factor), K taps of a phase, N samples, S resampled ones.
"""

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled


@compiled(fastmath={"contract", "reassoc", "nsz"})
def filter_phases(
    padded: NDArray[np.float32],
    phases: NDArray[np.float32],
    down: int,
    first: int,
    resampled: NDArray[np.float32],
) -> None:
    """Fill `resampled` (S,): each sample is a scalar product of K samples and the taps of a phase.

    padded: (N,); phases: (P, K). Sample s begins at (first + s · down) // P and has the phase
    (first + s · down) % P. Sums are ordered in one way everywhere, so blocks equal the whole.
    """
    n_phases, n_taps = phases.shape
    for s in range(resampled.shape[0]):
        at = first + s * down
        start, phase = at // n_phases, at % n_phases
        total = np.float32(0.0)
        for k in range(n_taps):
            total += padded[start + k] * phases[phase, k]
        resampled[s] = total
