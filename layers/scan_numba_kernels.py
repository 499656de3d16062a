"""The selective scan on a CPU as numba kernels: one pass over the frames, nothing written between.

A block of `LANES` channels goes through all frames of a clip with its states in the first-level
cache. Forward keeps the state before every chunk of `CHUNK` frames; backward makes the states of
one chunk again and walks them from its last frame to its first. Softplus, skip and gate happen on
the way. A job is one block of one clip; several threads may do different jobs at one time, the
interpreter lock is released.

Symbols as in `selective_scan`; arrays float32, as `scan_numba` passes them: B clips, T frames. The
loops over channels `d` are what becomes vector instructions. For that they have to be inlined where
the arrays they work on are made: else the compiler cannot tell that these do not overlap.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from common.numba_jit import compiled

LANES = 256  # channels a block: 16 kB of states at N = 16
CHUNK = 16  # frames whose states backward makes again at once: 0.5 MB with their decays, the L2

F32, I32 = np.float32, np.int32
LOG2_E, LN_2 = F32(math.log2(math.e)), F32(math.log(2.0))
ROUND = F32(1.5 * 2**23)  # added and taken away again, it rounds to a whole number
LOWEST, HIGHEST = F32(-127.0), F32(128.0)  # exponents that stand for 0 and infinity
MANTISSA_BITS, BIAS = I32(23), I32(127)
# 2**f for f in [-1/2, 1/2], to 2e-8; the constant term is 1 so that 2**0 is
_, E1, E2, E3, E4, E5, E6 = (
    F32(c)
    for c in Chebyshev.interpolate(np.exp2, 6, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef
)
# log(1 + w) = 2 artanh(s), s = w / (2 + w), for w in [0, 1]: 2 (s + s^3 / 3 + ...), to 2e-9
L0, L1, L2, L3, L4, L5, L6, L7 = (F32(2.0 / (2 * i + 1)) for i in range(8))
STEP, DRIVE, OUT, GATE, GRAD, BY_DRIVE, BY_RATE = range(7)  # rows of a frame's work
SEQUENCE, MATRIX, VECTOR = "float32[:,:,::1]", "float32[:,::1]", "float32[::1]"
STATES, VIEW = "float32[:,:,:,::1]", "float32[:,:,:]"


def jit(signature: str = "", inline: bool = False, sums: bool = False) -> Callable:
    """`compiled` with fused multiply-adds.

    inline: put the body in the caller's place, who then says `sums` for it. sums: let sums over
    channels be taken in any order, as vectors do.
    """
    fastmath = {"contract", "reassoc", "nsz"} if sums else {"contract"}
    return compiled(signature, inline="always" if inline else "never", fastmath=fastmath)


@jit()
def exp2(x):
    """2**x to 2e-7; 0 from -127 down, infinity from 128 up, NaN stays NaN."""
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    whole = (x + ROUND) - ROUND
    f = x - whole
    p = ((((((E6 * f + E5) * f + E4) * f + E3) * f + E2) * f) + E1) * f + F32(1.0)
    return p * I32((I32(whole) + BIAS) << MANTISSA_BITS).view(np.float32)


@jit()
def softplus(x):
    """log(1 + exp(x)), small results as exact as large ones."""
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
def take_rates(A, first, width, rates):
    """The exponents' slopes of a block's channels, for `exp2`."""
    for n in range(len(A)):
        for d in range(width):
            rates[n, d] = A[n, first + d] * LOG2_E


@jit(inline=True)
def begin(x, raw, bias, skip, softened, step, drive, out):
    """A frame's step sizes and drive, and the skip term as the first part of its output."""
    for d in range(len(x)):
        step[d] = raw[d] + bias[d]
    if softened:
        for d in range(len(x)):
            step[d] = softplus(step[d])
    for d in range(len(x)):
        drive[d] = step[d] * x[d]
        out[d] = skip[d] * x[d]


@jit(inline=True)
def advance(h, rates, work, n, width, b, c):
    """One frame of state n, in place; what it gives is added to work[OUT]."""
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
    f"boolean, {SEQUENCE}, {STATES}, {SEQUENCE}, int64, int64)"
)
def forward(u, delta, A, B, C, D, z, bias, softened, y, starts, last, first_job, end_job):
    """Fill y (B, T, d_inner), starts (chunks, B, N, d_inner) and last (B, N, d_inner).

    starts: the state before each chunk; left alone when it has no chunks. z may be empty.
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
        take_rates(A, p, k, rates)
        for t in range(frames):
            if len(starts) and t % CHUNK == 0:
                starts[t // CHUNK, clip, :, p:q] = h[:, :k]
            x = u[clip, t, p:q]
            begin(
                x,
                delta[clip, t, p:q],
                bias[p:q],
                D[p:q],
                softened,
                work[STEP],
                work[DRIVE],
                work[OUT],
            )
            for n in range(len(A)):
                advance(h, rates, work, n, k, B[clip, t, n], C[clip, t, n])
            if len(z):
                work[GATE, :k] = z[clip, t, p:q]
                gated(work[OUT], work[GATE], y[clip, t, p:q])
            else:
                y[clip, t, p:q] = work[OUT, :k]
        last[clip, :, p:q] = h[:, :k]


@jit(inline=True)
def expand(old, new, decay, rates, work, n, width, b, c):
    """`advance` that keeps both: h[i + 1, n] from h[i, n], and decay[i, n]."""
    for d in range(width):
        rate = exp2(work[STEP, d] * rates[n, d])
        state = rate * old[n, d] + b * work[DRIVE, d]
        decay[n, d] = rate
        new[n, d] = state
        work[OUT, d] += c * state


@jit(inline=True)
def retreat(grad, h, decay, work, n, width, b, c):
    """One frame back: grad[n], what the later frames ask of state n, becomes grad · decay.

    Returns what this block of channels adds to the gradients of b and c.
    """
    grad_b = grad_c = F32(0.0)
    for d in range(width):
        g = grad[n, d] + c * work[GRAD, d]
        grad_c += work[GRAD, d] * h[n, d]
        grad_b += work[DRIVE, d] * g
        work[BY_DRIVE, d] += b * g
        grad[n, d] = decay[n, d] * g
    return grad_b, grad_c


@jit(inline=True)
def weigh(grad, h, rates, grad_A, work, n, width):
    """Add the exponent's share, d loss / d (delta · A) = grad · h: to grad_A and to the step's."""
    for d in range(width):
        power = grad[n, d] * h[n, d]
        work[BY_RATE, d] += rates[n, d] * power
        grad_A[n, d] += work[STEP, d] * power


@jit(inline=True)
def ungate(gate, out, grad, grad_gate):
    """grad, of out · silu(gate), becomes that of out; fills grad_gate."""
    for d in range(len(grad)):
        s = sigmoid(gate[d])
        grad_gate[d] = grad[d] * out[d] * s * (F32(1.0) + gate[d] * (F32(1.0) - s))
        grad[d] *= gate[d] * s


@jit(inline=True)
def finish(x, raw, bias, skip, softened, work, grad_u, grad_delta, grad_D, grad_bias):
    """A frame's gradients of u and delta; adds those of D and of the bias."""
    for d in range(len(x)):
        grad_u[d] = work[BY_DRIVE, d] * work[STEP, d] + skip[d] * work[GRAD, d]
        grad_D[d] += x[d] * work[GRAD, d]
    for d in range(len(x)):
        step = work[BY_DRIVE, d] * x[d] + work[BY_RATE, d] * LN_2
        grad_delta[d] = step * sigmoid(raw[d] + bias[d]) if softened else step
    for d in range(len(x)):
        grad_bias[d] += grad_delta[d]


@jit(inline=True)
def remake(u, delta, B, C, D, bias, softened, h, decay, rates, work, clip, t, count, p, q):
    """Fill h, decay and work with `count` frames from t on, from the state h[0] before them."""
    for i in range(count):
        x, raw = u[clip, t + i, p:q], delta[clip, t + i, p:q]
        frame, old, new, rate = work[i], h[i], h[i + 1], decay[i]
        begin(x, raw, bias[p:q], D[p:q], softened, frame[STEP], frame[DRIVE], frame[OUT])
        for n in range(len(rates)):
            expand(old, new, rate, rates, frame, n, q - p, B[clip, t + i, n], C[clip, t + i, n])


def walk_back(
    u, delta, A, B, C, D, z, bias, softened, starts, grad_y, grad_last,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, first_job, end_job,
):  # fmt: skip
    """Fill grad_u, grad_delta, grad_z (B, T, d_inner) of these jobs; add to the other gradients."""
    clips, frames, channels = u.shape
    h = np.empty((CHUNK + 1, len(A), LANES), F32)
    decay = np.empty((CHUNK, len(A), LANES), F32)
    rates, grad, sum_A = np.empty((3, len(A), LANES), F32)
    work = np.empty((CHUNK, BY_RATE + 1, LANES), F32)
    for job in range(first_job, end_job):
        block, clip = divmod(job, clips)
        p, q = block * LANES, min((block + 1) * LANES, channels)
        k = q - p
        take_rates(A, p, k, rates)
        grad[:, :k] = grad_last[clip, :, p:q]
        sum_A[:] = 0.0
        for chunk in range(len(starts) - 1, -1, -1):
            first = chunk * CHUNK
            count = min(CHUNK, frames - first)
            h[0, :, :k] = starts[chunk, clip, :, p:q]
            remake(
                u, delta, B, C, D, bias, softened, h, decay, rates, work, clip, first, count, p, q
            )
            work[:, BY_DRIVE:] = 0.0
            for i in range(count - 1, -1, -1):
                t = first + i
                frame, before, after, rate = work[i], h[i], h[i + 1], decay[i]
                frame[GRAD, :k] = grad_y[clip, t, p:q]
                if len(z):
                    frame[GATE, :k] = z[clip, t, p:q]
                    asked = frame[GRAD, :k]
                    ungate(frame[GATE], frame[OUT], asked, grad_z[clip, t, p:q])
                for n in range(len(A)):
                    b, c = B[clip, t, n], C[clip, t, n]
                    grad_b, grad_c = retreat(grad, after, rate, frame, n, k, b, c)
                    grad_B[clip, t, n] += grad_b
                    grad_C[clip, t, n] += grad_c
                    weigh(grad, before, rates, sum_A, frame, n, k)
                finish(
                    u[clip, t, p:q], delta[clip, t, p:q], bias[p:q], D[p:q], softened, frame,
                    grad_u[clip, t, p:q], grad_delta[clip, t, p:q], grad_D[p:q], grad_bias[p:q],
                )  # fmt: skip
        for n in range(len(A)):
            for d in range(k):
                grad_A[n, p + d] += sum_A[n, d]


@cache
def backward() -> Callable:
    """`walk_back`, compiled when first asked for: who only predicts need not wait for it."""
    signature = (
        f"void({SEQUENCE}, {SEQUENCE}, {MATRIX}, {SEQUENCE}, {SEQUENCE}, {VECTOR}, {VIEW},"
        f"{VECTOR}, boolean, {STATES}, {VIEW}, {VIEW}, {SEQUENCE}, {SEQUENCE}, {MATRIX},"
        f"{SEQUENCE}, {SEQUENCE}, {VECTOR}, {SEQUENCE}, {VECTOR}, int64, int64)"
    )
    return jit(signature, sums=True)(walk_back)
