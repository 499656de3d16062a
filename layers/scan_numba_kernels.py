"""The selective scan on a CPU as numba kernels: one pass over the frames, no intermediate arrays.

A block of `LANES` channels is processed through all frames of a clip with its states in the L1
cache. Forward keeps the state before every chunk of `CHUNK` frames; backward computes the states of
one chunk again and goes through them from last frame to first. Softplus, skip and gate are applied
in the same pass. A job is one block of one clip. Threads may process different jobs at the same
time, because the interpreter lock is released.

Symbols as in `selective_scan`; all arrays are float32, B clips, T frames. The loops over channels
`d` compile to vector instructions. For that they must be inlined into the function that allocates
the arrays, or the compiler cannot prove that these do not overlap.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

from common.numba_jit import compiled

LANES = 256  # channels per block: 16 kB of states at N = 16
CHUNK = 16  # frames that backward recomputes at once: 0.5 MB with their decays, fits L2

F32, I32 = np.float32, np.int32
LOG2_E, LN_2 = F32(math.log2(math.e)), F32(math.log(2.0))
ROUND = F32(1.5 * 2**23)  # adding and subtracting it rounds to the nearest integer
LOWEST, HIGHEST = F32(-127.0), F32(128.0)  # exponents that encode 0 and infinity
NEAR = F32(126.0)  # exponents nearer to 0 need not be limited
MAGNITUDE = I32(0x7FFFFFFF)  # the bits of a number without its sign
MANTISSA_BITS = I32(23)
# 2**f for f in [-1/2, 1/2], to 1e-7; the constant term is set to 1 so that 2**0 is exactly 1
_, E1, E2, E3, E4, E5 = (
    F32(c)
    for c in Chebyshev.interpolate(np.exp2, 5, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef
)
# log(1 + w) = 2 artanh(s), s = w / (2 + w), for w in [0, 1]: 2 (s + s^3 / 3 + ...), to 2e-9
L0, L1, L2, L3, L4, L5, L6, L7 = (F32(2.0 / (2 * i + 1)) for i in range(8))
STEP, DRIVE, OUT, GATE, GRAD, BY_DRIVE, BY_RATE = range(7)  # rows of `work`, per frame
SEQUENCE, MATRIX, VECTOR = "float32[:,:,::1]", "float32[:,::1]", "float32[::1]"
STATES, VIEW = "float32[:,:,:,::1]", "float32[:,:,:]"


def jit(signature: str = "", inline: bool = False, sums: bool = False) -> Callable:
    """numba's jit with fused multiply-adds.

    inline: inline the function into its caller, whose `sums` then applies. sums: allow sums over
    channels in any order, which vector instructions need.
    """
    fastmath = {"contract", "reassoc", "nsz"} if sums else {"contract"}
    return compiled(signature, inline="always" if inline else "never", fastmath=fastmath)


@jit()
def exp2(x):
    """2**x to 3e-7; 0 from -127 down, infinity from 128 up, NaN stays NaN."""
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    shifted = x + ROUND  # its last bits are the integer next to x
    f = x - (shifted - ROUND)
    p = (((((E5 * f + E4) * f + E3) * f + E2) * f) + E1) * f + F32(1.0)
    exponent = F32(shifted).view(np.int32) << MANTISSA_BITS
    return I32(F32(p).view(np.int32) + exponent).view(np.float32)


@intrinsic
def multiply_add(_typing, a, b, c):
    """a · b + c in one instruction, where the processor has it; also where a · b is used twice."""

    def build(_context, builder, _signature, args):
        kind = args[0].type
        function = builder.module.declare_intrinsic(
            "llvm.fmuladd", [kind], ir.FunctionType(kind, [kind] * 3)
        )
        return builder.call(function, args)

    return types.float32(types.float32, types.float32, types.float32), build


@jit()
def near_exp2(step, rate):
    """`exp2` of step · rate, which is between -NEAR and NEAR: a third fewer instructions."""
    shifted = multiply_add(step, rate, ROUND)
    f = multiply_add(step, rate, ROUND - shifted)
    p = (((((E5 * f + E4) * f + E3) * f + E2) * f) + E1) * f + F32(1.0)
    exponent = F32(shifted).view(np.int32) << MANTISSA_BITS
    return I32(F32(p).view(np.int32) + exponent).view(np.float32)


@jit()
def softplus(x):
    """log(1 + exp(x)), with the same relative error for small and large results."""
    w = exp2((x if x < F32(0.0) else -x) * LOG2_E)
    s = w / (F32(2.0) + w)
    q = s * s
    p = ((((((L7 * q + L6) * q + L5) * q + L4) * q + L3) * q + L2) * q + L1) * q + L0
    return p * s + (x if x > F32(0.0) else F32(0.0))


@jit()
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return F32(1.0) / (F32(1.0) + exp2(-x * LOG2_E))


@jit(inline=True)
def largest(values):
    """The largest magnitude; NaN counts as the largest."""
    most = I32(0)  # magnitudes are ordered as their bits are
    for d in range(len(values)):
        most = max(most, I32(F32(values[d]).view(np.int32) & MAGNITUDE))
    return I32(most).view(np.float32)


@jit(inline=True)
def take_rates(A, first, width, rates):
    """Fill rates (N, LANES) with A · log2(e) of a block: exp(step · A) = exp2(step · rate).

    Returns the largest magnitude of a rate.
    """
    reach = F32(0.0)
    for n in range(len(A)):
        for d in range(width):
            rates[n, d] = A[n, first + d] * LOG2_E
        reach = max(reach, largest(rates[n, :width]))
    return reach


@jit(inline=True)
def begin(x, raw, bias, skip, delta_softplus, step, drive, out):
    """Fill step and drive of one frame, and start its output with the skip term."""
    for d in range(len(x)):
        step[d] = raw[d] + bias[d]
    if delta_softplus:
        for d in range(len(x)):
            step[d] = softplus(step[d])
    for d in range(len(x)):
        drive[d] = step[d] * x[d]
        out[d] = skip[d] * x[d]


@jit(inline=True)
def advance(h, rates, work, n, width, b, c, near):
    """Update state n by one frame, in place, and add its part of the output to work[OUT].

    near: whether `near_exp2` holds for all channels.
    """
    if near:
        for d in range(width):
            state = near_exp2(work[STEP, d], rates[n, d]) * h[n, d] + b * work[DRIVE, d]
            h[n, d] = state
            work[OUT, d] += c * state
        return
    for d in range(width):
        state = exp2(work[STEP, d] * rates[n, d]) * h[n, d] + b * work[DRIVE, d]
        h[n, d] = state
        work[OUT, d] += c * state


@jit(inline=True)
def gated(out, gate, y):
    """y = out · silu(gate)."""
    for d in range(len(y)):
        y[d] = out[d] * gate[d] * sigmoid(gate[d])


@jit(
    f"void({SEQUENCE}, {SEQUENCE}, {MATRIX}, {SEQUENCE}, {SEQUENCE}, {VECTOR}, {VIEW}, {VECTOR},"
    f"boolean, {SEQUENCE}, {SEQUENCE}, {STATES}, {SEQUENCE}, int64, int64)"
)
def forward(
    u, delta, A, B, C, D, z, bias, delta_softplus, initial, y, starts, last, first_job, end_job
):  # fmt: skip
    """Fill y (B, T, d_inner), starts (chunks, B, N, d_inner) and last (B, N, d_inner).

    initial: (B, N, d_inner), the state before the first frame, or empty for zeros. starts: the
    state before each chunk; not written if it has no chunks. z may be empty.
    """
    clips, frames, channels = u.shape
    h = np.empty((len(A), LANES), F32)
    rates = np.empty_like(h)
    work = np.empty((GATE + 1, LANES), F32)
    for job in range(first_job, end_job):
        block, clip = divmod(job, clips)
        p, q = block * LANES, min((block + 1) * LANES, channels)
        k = q - p
        h[:] = 0.0
        if len(initial):
            h[:, :k] = initial[clip, :, p:q]
        reach = take_rates(A, p, k, rates)
        for t in range(frames):
            if len(starts) and t % CHUNK == 0:
                starts[t // CHUNK, clip, :, p:q] = h[:, :k]
            x = u[clip, t, p:q]
            begin(
                x, delta[clip, t, p:q], bias[p:q], D[p:q], delta_softplus, work[STEP], work[DRIVE],
                work[OUT],
            )  # fmt: skip
            near = largest(work[STEP, :k]) * reach < NEAR
            for n in range(len(A)):
                advance(h, rates, work, n, k, B[clip, t, n], C[clip, t, n], near)
            if len(z):
                work[GATE, :k] = z[clip, t, p:q]
                gated(work[OUT], work[GATE], y[clip, t, p:q])
            else:
                y[clip, t, p:q] = work[OUT, :k]
        last[clip, :, p:q] = h[:, :k]


@jit(inline=True)
def expand(old, new, decay, rates, work, n, width, b, c, near):
    """`advance` that keeps old and new state and the decay, for backward."""
    if near:
        for d in range(width):
            rate = near_exp2(work[STEP, d], rates[n, d])
            state = rate * old[n, d] + b * work[DRIVE, d]
            decay[n, d] = rate
            new[n, d] = state
            work[OUT, d] += c * state
        return
    for d in range(width):
        rate = exp2(work[STEP, d] * rates[n, d])
        state = rate * old[n, d] + b * work[DRIVE, d]
        decay[n, d] = rate
        new[n, d] = state
        work[OUT, d] += c * state


@jit(inline=True)
def retreat(grad, before, after, decay, rates, grad_A, work, n, width, b, c):
    """Backward of one frame for state n: update grad[n], the gradient of h[t], to that of h[t - 1].

    before, after: h[t - 1] and h[t]. With d loss / d (delta · A) = grad · h[t - 1] adds to the
    gradients of A and of the step size. Returns the contributions of this block of channels to the
    gradients of b and c.
    """
    grad_b = grad_c = F32(0.0)
    for d in range(width):
        g = grad[n, d] + c * work[GRAD, d]
        grad_c += work[GRAD, d] * after[n, d]
        grad_b += work[DRIVE, d] * g
        work[BY_DRIVE, d] += b * g
        g *= decay[n, d]
        grad[n, d] = g
        power = g * before[n, d]
        work[BY_RATE, d] += rates[n, d] * power
        grad_A[n, d] += work[STEP, d] * power
    return grad_b, grad_c


@jit(inline=True)
def ungate(gate, out, grad, grad_gate):
    """Turn grad, the gradient of out · silu(gate), into that of out; fill grad_gate."""
    for d in range(len(grad)):
        s = sigmoid(gate[d])
        grad_gate[d] = grad[d] * out[d] * s * (F32(1.0) + gate[d] * (F32(1.0) - s))
        grad[d] *= gate[d] * s


@jit(inline=True)
def finish(x, raw, bias, skip, delta_softplus, work, grad_u, grad_delta, grad_D, grad_bias):
    """Fill the gradients of u and delta for one frame; add to those of D and of the bias."""
    for d in range(len(x)):
        grad_u[d] = work[BY_DRIVE, d] * work[STEP, d] + skip[d] * work[GRAD, d]
        grad_D[d] += x[d] * work[GRAD, d]
    for d in range(len(x)):
        step = work[BY_DRIVE, d] * x[d] + work[BY_RATE, d] * LN_2
        grad_delta[d] = step * sigmoid(raw[d] + bias[d]) if delta_softplus else step
    for d in range(len(x)):
        grad_bias[d] += grad_delta[d]


@jit(inline=True)
def remake(
    u, delta, B, C, D, bias, delta_softplus, h, decay, rates, reach, work, clip, t, count, p, q
):  # fmt: skip
    """Fill h, decay and work for `count` frames from t on, given the state h[0] before them."""
    for i in range(count):
        x, raw = u[clip, t + i, p:q], delta[clip, t + i, p:q]
        frame, old, new, rate = work[i], h[i], h[i + 1], decay[i]
        begin(x, raw, bias[p:q], D[p:q], delta_softplus, frame[STEP], frame[DRIVE], frame[OUT])
        near = largest(frame[STEP, : q - p]) * reach < NEAR
        for n in range(len(rates)):
            b, c = B[clip, t + i, n], C[clip, t + i, n]
            expand(old, new, rate, rates, frame, n, q - p, b, c, near)


def walk_back(
    u, delta, A, B, C, D, z, bias, delta_softplus, starts, grad_y, grad_last,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, first_job, end_job,
):  # fmt: skip
    """Fill grad_u, grad_delta, grad_z (B, T, d_inner) for these jobs; add to other gradients."""
    clips, frames, channels = u.shape
    h = np.empty((CHUNK + 1, len(A), LANES), F32)
    decay = np.empty((CHUNK, len(A), LANES), F32)
    rates, grad, sum_A = np.empty((3, len(A), LANES), F32)
    work = np.empty((CHUNK, BY_RATE + 1, LANES), F32)
    for job in range(first_job, end_job):
        block, clip = divmod(job, clips)
        p, q = block * LANES, min((block + 1) * LANES, channels)
        k = q - p
        reach = take_rates(A, p, k, rates)
        grad[:, :k] = grad_last[clip, :, p:q]
        sum_A[:] = 0.0
        for chunk in range(len(starts) - 1, -1, -1):
            first = chunk * CHUNK
            count = min(CHUNK, frames - first)
            h[0, :, :k] = starts[chunk, clip, :, p:q]
            remake(
                u, delta, B, C, D, bias, delta_softplus, h, decay, rates, reach, work, clip, first,
                count, p, q,
            )  # fmt: skip
            work[:, BY_DRIVE:] = 0.0
            for i in range(count - 1, -1, -1):
                t = first + i
                frame, before, after, rate = work[i], h[i], h[i + 1], decay[i]
                frame[GRAD, :k] = grad_y[clip, t, p:q]
                if len(z):
                    frame[GATE, :k] = z[clip, t, p:q]
                    grad_out = frame[GRAD, :k]
                    ungate(frame[GATE], frame[OUT], grad_out, grad_z[clip, t, p:q])
                for n in range(len(A)):
                    b, c = B[clip, t, n], C[clip, t, n]
                    grad_b, grad_c = retreat(
                        grad, before, after, rate, rates, sum_A, frame, n, k, b, c
                    )
                    grad_B[clip, t, n] += grad_b
                    grad_C[clip, t, n] += grad_c
                finish(
                    u[clip, t, p:q], delta[clip, t, p:q], bias[p:q], D[p:q], delta_softplus, frame,
                    grad_u[clip, t, p:q], grad_delta[clip, t, p:q], grad_D[p:q], grad_bias[p:q],
                )  # fmt: skip
        for n in range(len(A)):
            for d in range(k):
                grad_A[n, p + d] += sum_A[n, d]


@cache
def backward() -> Callable:
    """`walk_back`, compiled at the first call, so that prediction does not wait for it."""
    signature = (
        f"void({SEQUENCE}, {SEQUENCE}, {MATRIX}, {SEQUENCE}, {SEQUENCE}, {VECTOR}, {VIEW},"
        f"{VECTOR}, boolean, {STATES}, {VIEW}, {VIEW}, {SEQUENCE}, {SEQUENCE}, {MATRIX},"
        f"{SEQUENCE}, {SEQUENCE}, {VECTOR}, {SEQUENCE}, {VECTOR}, int64, int64)"
    )
    return jit(signature, sums=True)(walk_back)
