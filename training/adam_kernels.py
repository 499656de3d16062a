"""AdamW's step with bfloat16 moments as numba kernels: every number is read and written once.

torch has no step for moments of another dtype than their weights; converting them to float32 and
back takes three times as long. bfloat16 is the upper half of float32, here as uint16. Arrays are
flat and of one length. Elements do not depend on each other, so threads may share an array.
"""

from functools import partial

import numpy as np

from common.numba_jit import compiled

F32, U16, U32 = np.float32, np.uint16, np.uint32
HALF, SHIFT, ONE = U32(0x7FFF), U32(16), U32(1)  # just under half of what is cut off
NAN = U16(0x7FC0)
NUMBERS = "float32, float32, float32, float32, float32, float32, float32"


jit = partial(compiled, fastmath={"contract"})  # with fused multiply-adds


@jit()
def widened(half):
    """The float32 of bfloat16 bits."""
    return U32(U32(half) << SHIFT).view(F32)


@jit()
def rounded(x):
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = F32(x).view(U32)
    odd = U32(bits >> SHIFT) & ONE
    return NAN if x != x else U16(U32(bits + HALF + odd) >> SHIFT)


@jit()
def moved(weight, gradient, mean, square, share1, beta2, share2, keep, rate, eps):
    """Weight, first and second moment after a step (AdamW, algorithm 2, corrections in `rate` and
    `eps`): moments move a share of their distance to the gradient and its square."""
    mean = F32(mean + share1 * F32(gradient - mean))
    square = F32(beta2 * square + share2 * F32(gradient * gradient))
    return F32(keep * weight - rate * mean / F32(np.sqrt(square) + eps)), mean, square


@jit(f"(float32[::1], uint16[::1], uint16[::1], uint16[::1], {NUMBERS})")
def step_coarse(weights, gradients, means, squares, factor, share1, beta2, share2, keep, rate, eps):
    """A step in place; gradients, to be multiplied by `factor`, are bfloat16 as the moments are."""
    for i in range(len(weights)):
        gradient = F32(widened(gradients[i]) * factor)
        weights[i], mean, square = moved(
            weights[i], gradient, widened(means[i]), widened(squares[i]),
            share1, beta2, share2, keep, rate, eps,
        )  # fmt: skip
        means[i], squares[i] = rounded(mean), rounded(square)


@jit(f"(float32[::1], float32[::1], uint16[::1], uint16[::1], {NUMBERS})")
def step_fine(weights, gradients, means, squares, factor, share1, beta2, share2, keep, rate, eps):
    """`step_coarse` for gradients in float32."""
    for i in range(len(weights)):
        gradient = F32(gradients[i] * factor)
        weights[i], mean, square = moved(
            weights[i], gradient, widened(means[i]), widened(squares[i]),
            share1, beta2, share2, keep, rate, eps,
        )  # fmt: skip
        means[i], squares[i] = rounded(mean), rounded(square)
