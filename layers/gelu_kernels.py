"""GELU, alone or behind a layer norm, as numba kernels that read and write every number once.

GELU(x) = x Φ(x) (Hendrycks and Gimpel 2016, arXiv 1606.08415) with the normal distribution function
Φ, exact and not by tanh. Φ(x) - 1/2 is x times an even polynomial, without an exponential: 2e-7 of
Φ; so is the derivative less 1/2, to 7e-7. Rows are frames, C channels. A coarse array holds the
bits of bfloat16 numbers as uint16; sums, norms and GELU are float32. The loops over channels
compile to vector instructions.
"""

import math

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from common.numba_jit import compiled

F32, U32 = np.float32, np.uint32
REACH = F32(5.5)  # from |x| = 5.5 on Φ is 0 or 1 in float32
ONE, HALF = F32(1.0), F32(0.5)
SCALE = F32(2.0) / (REACH * REACH)
HALF_ULP, LAST, SHIFT = U32(0x7FFF), U32(1), U32(16)  # to round float32 to bfloat16


def slope(u: np.ndarray) -> np.ndarray:
    """(Φ(x) - 1/2) / x for u = 2 x² / REACH² - 1 in [-1, 1]."""
    x = np.sqrt(np.maximum((u + 1) / 2, 1e-12)) * float(REACH)
    return np.array([math.erf(value / math.sqrt(2)) / (2 * value) for value in x])


def steepness(u: np.ndarray) -> np.ndarray:
    """(Φ(x) + x φ(x) - 1/2) / x for the same u, with the normal density φ = Φ'."""
    x = np.sqrt(np.maximum((u + 1) / 2, 1e-12)) * float(REACH)
    return slope(u) + np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14 = (
    F32(c) for c in Chebyshev.interpolate(slope, 14).convert(kind=Polynomial).coef
)


D0, D1, D2, D3, D4, D5, D6, D7, D8, D9, D10, D11, D12, D13, D14, D15, D16 = (
    F32(c) for c in Chebyshev.interpolate(steepness, 16).convert(kind=Polynomial).coef
)


@compiled(inline="never", fastmath={"contract"})
def gelu(x):
    """x Φ(x), to 2e-7 |x|."""
    t = REACH if x > REACH else x
    t = -REACH if t < -REACH else t
    u = t * t * SCALE - ONE
    v = u * u  # even and odd powers apart: half as long a chain of operations
    even = ((((((C14 * v + C12) * v + C10) * v + C8) * v + C6) * v + C4) * v + C2) * v + C0
    odd = (((((C13 * v + C11) * v + C9) * v + C7) * v + C5) * v + C3) * v + C1
    return x * (t * (odd * u + even) + HALF)


@compiled("void(float32[::1])", fastmath={"contract"})
def gelu_in_place(x):
    """Replace x by its GELU."""
    for i in range(len(x)):
        x[i] = gelu(x[i])


@compiled("void(float32[::1], float32[::1])", fastmath={"contract"})
def gelu_of(x, out):
    """Write the GELU of x to `out`."""
    for i in range(len(x)):
        out[i] = gelu(x[i])


@compiled(inline="never", fastmath={"contract"})
def derivative(x):
    """Φ(x) + x φ(x), to 7e-7."""
    t = REACH if x > REACH else x
    t = -REACH if t < -REACH else t
    u = t * t * SCALE - ONE
    v = u * u
    even = (((((((D16 * v + D14) * v + D12) * v + D10) * v + D8) * v + D6) * v + D4) * v + D2) * v
    odd = ((((((D15 * v + D13) * v + D11) * v + D9) * v + D7) * v + D5) * v + D3) * v + D1
    return t * (odd * u + (even + D0)) + HALF


@compiled("void(float32[::1], float32[::1], float32[::1])", fastmath={"contract"})
def gelu_gradient(x, gradient, out):
    """Write the gradient times GELU's derivative at x to `out`."""
    for i in range(len(x)):
        out[i] = gradient[i] * derivative(x[i])


@compiled(inline="always", fastmath={"contract", "reassoc", "nsz"})
def normalise(row, weight, bias, eps):
    """Layer norm of a row, in place; none where weight is empty."""
    if len(weight) == 0:
        return
    total, squares = F32(0.0), F32(0.0)
    for i in range(len(row)):
        total += row[i]
    mean = total / F32(len(row))
    for i in range(len(row)):
        row[i] -= mean
        squares += row[i] * row[i]
    factor = ONE / np.sqrt(squares / F32(len(row)) + eps)
    for i in range(len(row)):
        row[i] = row[i] * factor * weight[i] + bias[i]


@compiled(inline="always", fastmath={"contract"})
def write_coarse(row, out):
    """The GELU of a row, rounded to bfloat16."""
    for i in range(len(row)):
        bits = U32(F32(gelu(row[i])).view(np.uint32))
        out[i] = (bits + HALF_ULP + ((bits >> SHIFT) & LAST)) >> SHIFT


SUMS = {"contract", "reassoc", "nsz"}
ROWS, COARSE, VECTOR = "float32[:,::1]", "uint16[:,::1]", "float32[::1]"


@compiled(f"void({ROWS}, {ROWS}, {VECTOR}, {VECTOR}, float32, {ROWS}, int64, int64)", fastmath=SUMS)
def finish(a, b, weight, bias, eps, out, first, step):
    """Fill rows first, first + step, ... of out with the GELU of the norm of a + b, each (n, C).

    b may have no rows, out may be a.
    """
    row = np.empty(a.shape[1], F32)
    for r in range(len(a)):
        if len(b):
            for i in range(len(row)):
                row[i] = a[r, i] + b[r, i]
        else:
            row[:] = a[r]
        normalise(row, weight, bias, eps)
        to = out[first + r * step]
        for i in range(len(row)):
            to[i] = gelu(row[i])


@compiled(f"void({ROWS}, {VECTOR}, {VECTOR}, float32, {COARSE})", fastmath=SUMS)
def finish_to_coarse(a, weight, bias, eps, out):
    """`finish` without b, to a coarse array."""
    row = np.empty(a.shape[1], F32)
    for r in range(len(a)):
        row[:] = a[r]
        normalise(row, weight, bias, eps)
        write_coarse(row, out[r])


@compiled(f"void({COARSE}, {VECTOR}, {VECTOR}, float32, {COARSE})", fastmath=SUMS)
def finish_coarse(a, weight, bias, eps, out):
    """`finish` without b, from a coarse array to a coarse array, which may be the same."""
    row = np.empty(a.shape[1], F32)
    for r in range(len(a)):
        for i in range(len(row)):
            row[i] = U32(U32(a[r, i]) << SHIFT).view(np.float32)
        normalise(row, weight, bias, eps)
        write_coarse(row, out[r])
