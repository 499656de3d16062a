"""Quantising of activations as a numba kernel."""

import numpy as np

from common.numba_jit import compiled

F32 = np.float32


@compiled("void(float32[::1], float32, float32, uint8[::1])", fastmath={"contract"})
def quantise(x, levels_per_unit, zero, out):
    """Write the nearest whole number to x · levels_per_unit + zero, which must not be negative."""
    offset = zero + F32(0.5)  # cutting off the fraction rounds then
    for i in range(len(x)):
        out[i] = np.uint8(np.int32(x[i] * levels_per_unit + offset))
