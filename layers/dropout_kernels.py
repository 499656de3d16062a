"""Dropout as a numba kernel whose mask is a function of a key and the place, so it is not stored.

The random number of a place is a hash of key + place: two multiplications and three shifts, the
constants of Wellons' "lowbias32" (https://nullprogram.com/blog/2018/07/31/). So a key is the place
at which a sequence of 2^32 numbers begins. The loops compile to vector instructions.
"""

import numpy as np

from common.numba_jit import compiled
from layers.gelu_kernels import derivative, gelu

F32, U32 = np.float32, np.uint32
SHIFT, SHORT = U32(16), U32(15)
FIRST, SECOND = U32(0x7FEB352D), U32(0x846CA68B)


@compiled(inline="always")
def mixed(n):
    """A hash of 32 bits in which every bit of n counts."""
    n = U32(n ^ (n >> SHIFT)) * FIRST
    n = U32(n ^ (n >> SHORT)) * SECOND
    return U32(n ^ (n >> SHIFT))


@compiled("void(float32[::1], uint32, uint32, float32, float32[::1])")
def drop(x, key, limit, factor, out):
    """out = factor · x, but 0 where the random number of a place is below `limit`."""
    for i in range(len(x)):
        out[i] = x[i] * factor if mixed(U32(key + U32(i))) >= limit else F32(0.0)


@compiled("void(float32[::1], uint32, uint32, float32, float32[::1])", fastmath={"contract"})
def drop_gelu(x, key, limit, factor, out):
    """`drop` of the GELU of x."""
    for i in range(len(x)):
        y = gelu(x[i]) * factor
        out[i] = y if mixed(U32(key + U32(i))) >= limit else F32(0.0)


@compiled(
    "void(float32[::1], float32[::1], uint32, uint32, float32, float32[::1])",
    fastmath={"contract"},
)
def drop_gelu_gradient(x, gradient, key, limit, factor, out):
    """The gradient of x of `drop_gelu`."""
    for i in range(len(x)):
        y = gradient[i] * derivative(x[i]) * factor
        out[i] = y if mixed(U32(key + U32(i))) >= limit else F32(0.0)
