"""A causal depthwise convolution with SiLU on a CPU as numba kernels, frames before channels.

torch's convolution has channels before frames: a copy before, one after, and its own reordering
take ten times as long as the products. Here a frame's channels are one row, and the last rows stay
in the L1 cache.

u (B, T, C) input; taps (K, C), the last one for the frame itself; float32.
"""

import numpy as np

from common.numba_jit import compiled  # noqa: F401  marks a file with kernels
from layers.scan_numba_kernels import F32, MATRIX, SEQUENCE, VECTOR, VIEW, jit, sigmoid


@jit(inline=True)
def convolve_frame(rows, taps, bias, t, out):
    """Fill out (C,) with the convolution at frame t; rows: (K, C), frame t is rows[t % K]."""
    for d in range(len(out)):
        out[d] = bias[d]
    for j in range(len(taps)):
        row, tap = rows[(t - j) % len(taps)], taps[len(taps) - 1 - j]
        for d in range(len(out)):
            out[d] += tap[d] * row[d]


@jit(f"void({VIEW}, {MATRIX}, {VECTOR}, {SEQUENCE}, int64, int64)")
def forward(u, taps, bias, y, first, end):
    """Fill y (B, T, C) = silu(convolution) of the clips from `first` to `end` - 1."""
    rows = np.empty((len(taps), u.shape[2]), F32)
    out = np.empty(u.shape[2], F32)
    for clip in range(first, end):
        rows[:] = 0.0
        for t in range(u.shape[1]):
            rows[t % len(taps)] = u[clip, t]
            convolve_frame(rows, taps, bias, t, out)
            for d in range(len(out)):
                y[clip, t, d] = out[d] * sigmoid(out[d])


@jit(f"void({VIEW}, {MATRIX}, {VECTOR}, {VIEW}, {SEQUENCE}, {MATRIX}, {VECTOR}, int64, int64)")
def backward(u, taps, bias, grad_y, grad_u, grad_taps, grad_bias, first, end):
    """Add to the gradients of the clips from `first` to `end` - 1; grad_u (B, T, C) has zeros."""
    rows = np.empty((len(taps), u.shape[2]), F32)
    out, given = np.empty((2, u.shape[2]), F32)
    for clip in range(first, end):
        rows[:] = 0.0
        for t in range(u.shape[1]):
            rows[t % len(taps)] = u[clip, t]
            convolve_frame(rows, taps, bias, t, out)
            given[:] = grad_y[clip, t]
            for d in range(len(out)):
                s = sigmoid(out[d])
                out[d] = given[d] * s * (F32(1.0) + out[d] * (F32(1.0) - s))
            for d in range(len(out)):
                grad_bias[d] += out[d]
            for j in range(min(t + 1, len(taps))):
                k = len(taps) - 1 - j
                row, of_tap = rows[(t - j) % len(taps)], grad_taps[k]
                for d in range(len(out)):
                    of_tap[d] += out[d] * row[d]
                tap, of_row = taps[k], grad_u[clip, t - j]
                for d in range(len(out)):
                    of_row[d] += out[d] * tap[d]
