"""Softmax of bfloat16 scores as a numba kernel; exponentials and sums are float32."""

import numpy as np

from common.numba_jit import compiled  # noqa: F401  marks a file with kernels
from layers.gelu_kernels import HALF_ULP, LAST, SHIFT
from layers.scan_numba_kernels import F32, MAGNITUDE, exp2, jit

I32, U32 = np.int32, np.uint32
SIGN, SIGNED_SHIFT, LOWEST = I32(31), I32(16), I32(-(2**31))


@jit("void(uint16[:,::1], int64, int64)", sums=True)
def softmax2(scores, first, end):
    """Replace rows `first` to `end` - 1 by 2**row / sum(2**row).

    scores: (n, T), the bits of bfloat16 numbers that are not infinite.
    """
    row = np.empty(scores.shape[1], F32)
    for r in range(first, end):
        bits, largest, total = scores[r], LOWEST, F32(0.0)
        for i in range(len(row)):
            raw = I32(I32(bits[i]) << SIGNED_SHIFT)
            row[i] = raw.view(np.float32)
            order = raw ^ ((raw >> SIGN) & MAGNITUDE)  # a whole number that grows with the score
            largest = order if order > largest else largest
        top = I32(largest ^ ((largest >> SIGN) & MAGNITUDE)).view(np.float32)
        for i in range(len(row)):
            power = exp2(row[i] - top)
            row[i] = power
            total += power
        factor = F32(1.0) / total
        for i in range(len(row)):
            share = U32(F32(row[i] * factor).view(np.uint32))
            bits[i] = (share + HALF_ULP + ((share >> SHIFT) & LAST)) >> SHIFT
