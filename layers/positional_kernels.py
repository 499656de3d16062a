"""numba kernels of `positional_gradients`: weight norm, and sums of windows.

K taps, C channels of a group, T frames; rows are contiguous, so every loop runs over a row.
"""

import numpy as np

from common.numba_jit import compiled

SUMS = {"contract", "reassoc", "nsz"}
ROWS, WIDE, VECTOR = "float32[:,::1]", "float64[::1]", "float32[::1]"


@compiled(f"void({ROWS}, {ROWS}, {WIDE})", fastmath=SUMS)
def tap_sums(a, b, sums):
    """Add to sums (K,) those of a · b over the rows; a and b: (n, K)."""
    for first in range(0, len(a), 256):  # float32 sums of a few rows, float64 ones of those
        part = np.zeros(len(sums), np.float32)
        for r in range(first, min(first + 256, len(a))):
            for k in range(len(part)):
                part[k] += a[r, k] * b[r, k]
        for k in range(len(part)):
            sums[k] += part[k]


@compiled(f"void({ROWS}, {VECTOR}, {ROWS}, {VECTOR}, {ROWS})", fastmath=SUMS)
def scale_taps(a, by, b, by_b, out):
    """Write a · by + b · by_b, each (n, K) times (K,), to out; b may have no rows."""
    for r in range(len(a)):
        if len(b):
            for k in range(len(by)):
                out[r, k] = a[r, k] * by[k] + b[r, k] * by_b[k]
        else:
            for k in range(len(by)):
                out[r, k] = a[r, k] * by[k]


@compiled(f"void({ROWS}, int64, {ROWS})")
def add_windows(windows, taps, x):
    """Add windows[t, c · K + k] to x[c, t + k]; windows: (T, C · K), x: (C, T + K - 1)."""
    for t in range(len(windows)):
        for c in range(len(x)):
            for k in range(taps):
                x[c, t + k] += windows[t, c * taps + k]
