"""Root mean square norm and its gradients as numba kernels. x: (n, C) float32, n frames."""

import numpy as np

from common.numba_jit import compiled

F32 = np.float32
SUMS = {"contract", "reassoc", "nsz"}
ROWS, VECTOR = "float32[:,::1]", "float32[::1]"


@compiled(f"void({ROWS}, {VECTOR}, float32, {ROWS}, {VECTOR}, int64, int64)", fastmath=SUMS)
def forward(x, weight, eps, y, factors, first, end):
    """Fill y = x · factor · weight of the frames from `first` to `end` - 1, and their factors."""
    for r in range(first, end):
        row, out, squares = x[r], y[r], F32(0.0)
        for i in range(len(row)):
            squares += row[i] * row[i]
        factor = F32(1.0) / np.sqrt(squares / F32(len(row)) + eps)
        factors[r] = factor
        for i in range(len(row)):
            out[i] = row[i] * factor * weight[i]


@compiled(
    f"void({ROWS}, {VECTOR}, {VECTOR}, {ROWS}, {ROWS}, {VECTOR}, int64, int64)", fastmath=SUMS
)
def backward(x, weight, factors, gradient, of_x, of_weight, first, end):
    """Fill of_x of the frames from `first` to `end` - 1, and add to of_weight (C,)."""
    for r in range(first, end):
        row, given, out, factor = x[r], gradient[r], of_x[r], factors[r]
        product = F32(0.0)
        for i in range(len(row)):
            product += given[i] * weight[i] * row[i]
        along = product * factor * factor / F32(len(row))
        for i in range(len(row)):
            out[i] = factor * (given[i] * weight[i] - along * row[i])
            of_weight[i] += given[i] * row[i] * factor
