"""Connectionist temporal classification as numba kernels: losses, and their gradient by logits.

Graves et al. 2006, "Connectionist temporal classification", section 4. The alignments of a text of
n characters go through n + 1 blanks and n characters in turn, blank i before character i. Forward
variables are sums over the beginnings of all alignments that are in a state at a frame. Backward
variables are the forward variables of the reversed text over the reversed frames, without the
frame's own emission, so both come from `advance`. The gradient is softmax less posterior.

Every variable is m · 2^e, two float64. Neighbouring states may differ by more than float64's range
(logits that exclude a text), so one scale per frame would lose alignments; logarithms would need
several exp and log per state. Here a sum needs additions, products and shifts of bits, which
compile to vector instructions, and its precision does not depend on the loss.

T frames of a clip, K characters with the blank, n characters of its text; float64 but for logits
and gradients.
"""

import math
from functools import partial

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from common.numba_jit import compiled

F64, I64 = np.float64, np.int64
BM, BE, CM, CE = range(4)  # rows of states: m and e of blanks, m and e of characters
NONE = F64(-1e300)  # the exponent of 0: adding the exponent of a probability does not change it
LEAST = F64(-(2.0**36))  # exponents of an emission below are NONE; sums of others are exact
NEGLIGIBLE = F64(-1000.0)  # exponents that are taken for this one, still a normal float64
BIAS = F64(1.5 * 2**52 + 1023)  # moves an integer into the last bits, as float64 has exponents
MANTISSA_BITS, MANTISSA, ONE = I64(52), I64(2**52 - 1), I64(1023 << 52)
PERIOD = 32  # frames after which every m is brought to [1, 2); a frame changes it by 2^±3 at most
LOG2_E, LN_2 = math.log2(math.e), math.log(2.0)
# 2**f for f in [-1/2, 1/2], to 1e-16
E0, E1, E2, E3, E4, E5, E6, E7, E8, E9, E10 = (
    F64(c)
    for c in Chebyshev.interpolate(np.exp2, 10, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef
)

jit = partial(compiled, fastmath={"contract"})  # with fused multiply-adds


@jit(inline="always")
def power(e):
    """2**e of an integer e up to 1023; from `NEGLIGIBLE` down, of that."""
    e = e if e > NEGLIGIBLE else NEGLIGIBLE
    return I64(F64(e + BIAS).view(I64) << MANTISSA_BITS).view(F64)


@jit()
def emit(logits, m, e, totals):
    """Fill m · 2^e (T, K + 1) = exp(logits - the frame's largest); column K is 0.

    totals: (T,) sums over the characters. Returns False for NaN, infinity and frames of -infinity.
    """
    for t in range(len(logits)):
        row, of_m, of_e = logits[t], m[t], e[t]
        largest, valid = -np.inf, True
        for k in range(len(row)):
            largest = row[k] if row[k] > largest else largest
            valid = valid and row[k] < np.inf  # not NaN
        if not valid or largest == -np.inf:
            return False
        for k in range(len(row)):
            x = (F64(row[k]) - largest) * LOG2_E
            x = x if x > LEAST else LEAST
            whole = np.floor(x + 0.5)
            f = x - whole
            p = ((((E10 * f + E9) * f + E8) * f + E7) * f + E6) * f + E5
            p = ((((p * f + E4) * f + E3) * f + E2) * f + E1) * f + E0
            of_m[k], of_e[k] = p, whole if x > LEAST else NONE
        of_m[-1], of_e[-1] = 1.0, NONE
        totals[t] = 0.0
        for k in range(len(row)):
            totals[t] += of_m[k] * power(of_e[k])
    return True


@jit()
def advance(old, new, labels, hop, blank, m, e, low, high):
    """Fill new with the states of the next frame, from state `low` to `high` - 1.

    old, new: (4, n + 2), state i in column i + 1; column 0 and character n, which do not exist,
    are 0. labels, hop: of `read`; m, e: (K + 1,) emissions at the next frame.
    """
    columns, before = slice(low + 1, high + 1), slice(low, high)
    bm, be, cm, ce = old[BM, columns], old[BE, columns], old[CM, columns], old[CE, columns]
    last_m, last_e = old[CM, before], old[CE, before]
    labels, hop, blank_m, blank_e = labels[before], hop[before], m[blank], e[blank]
    new_bm, new_be = new[BM, columns], new[BE, columns]
    new_cm, new_ce = new[CM, columns], new[CE, columns]
    for i in range(high - low):
        top = be[i] if be[i] > last_e[i] else last_e[i]
        new_bm[i] = (bm[i] * power(be[i] - top) + last_m[i] * power(last_e[i] - top)) * blank_m
        new_be[i] = top + blank_e
    for i in range(high - low):  # by itself, since it does not compile to vector instructions
        new_cm[i], new_ce[i] = m[labels[i]], e[labels[i]]
    for i in range(high - low):
        hopped = last_e[i] + hop[i]
        top = be[i] if be[i] > ce[i] else ce[i]
        top = hopped if hopped > top else top
        total = bm[i] * power(be[i] - top) + cm[i] * power(ce[i] - top)
        new_cm[i] = (total + last_m[i] * power(hopped - top)) * new_cm[i]
        new_ce[i] += top
    for column in (0, high + 1):  # the neighbours that the next frame may read
        if column < new.shape[1] and (column > 0 or low == 0):
            new[BM, column], new[CM, column] = 1.0, 1.0
            new[BE, column], new[CE, column] = NONE, NONE


@jit()
def normalise(states, low, high):
    """Bring every m of the states from `low` to `high` - 1 to [1, 2)."""
    for row in (BM, CM):
        for i in range(low + 1, high + 1):
            bits = F64(states[row, i]).view(I64)
            states[row, i] = I64((bits & MANTISSA) | ONE).view(F64)
            states[row + 1, i] += (bits >> MANTISSA_BITS) - 1023


@jit()
def read(text, n_characters):
    """Labels (n + 1,) of a text, the last one `n_characters`, whose emission is 0; and hops.

    hops: (n + 1,) exponent of the step from the last character without a blank, 0 or NONE.
    """
    labels, hops = np.empty(len(text) + 1, np.uint64), np.zeros(len(text) + 1)
    labels[-1] = n_characters
    for i in range(len(text)):
        labels[i] = text[i]
        if i > 0 and text[i] == text[i - 1]:
            hops[i] = NONE
    return labels, hops


@jit()
def first_state(states):
    """Fill states (4, n + 2) with those before the first frame: 1 for blank 0, else 0."""
    states[BM], states[CM] = 1.0, 1.0
    states[BE], states[CE] = NONE, NONE
    states[BE, 1] = 0.0


@jit()
def reached(t, n_frames, n):
    """First and end i of the blanks and characters that an alignment can be in at frame t."""
    return max(0, n - n_frames + t), min(n, t) + 1


@jit()
def forward(text, blank, m, e, states):
    """Fill states (T + 1, 4, n + 2), before the first frame and at each.

    Returns m and e of the sum over all alignments.
    """
    n, n_frames = len(text), len(m)
    labels, hops = read(text, m.shape[1] - 1)
    first_state(states[0])
    for t in range(n_frames):
        low, high = reached(t, n_frames, n)
        advance(states[t], states[t + 1], labels, hops, blank, m[t], e[t], low, high)
        if t % PERIOD == PERIOD - 1:
            normalise(states[t + 1], low, high)
    last = states[n_frames]
    top = max(last[BE, n + 1], last[CE, n])
    total = last[BM, n + 1] * power(last[BE, n + 1] - top)
    return total + last[CM, n] * power(last[CE, n] - top), top


@jit()
def add_visits(ahead, back, labels, blank, e, low, high, exponent, visits):
    """Add to visits (K + 1,) the products of forward and backward variables at a frame.

    ahead, back: (4, n + 2); labels: of `read`; e: (K + 1,) exponents of the emissions, which are in
    both; low, high: of blanks, and of characters from low - 1; exponent: that they are divided by.
    """
    n, total = len(labels) - 1, 0.0
    for i in range(low, high):
        sum_e = ahead[BE, i + 1] + back[BE, n - i + 1] - (e[blank] + exponent)
        total += ahead[BM, i + 1] * back[BM, n - i + 1] * power(sum_e)
    visits[blank] += total
    for i in range(max(0, low - 1), min(n, high)):
        sum_e = ahead[CE, i + 1] + back[CE, n - i] - (e[labels[i]] + exponent)
        visits[labels[i]] += ahead[CM, i + 1] * back[CM, n - i] * power(sum_e)


@jit()
def write_gradient(text, blank, m, e, totals, ahead, total_m, total_e, gradient):
    """Fill gradient (T, K) of the loss by the logits.

    m, e, totals: of `emit`; ahead, total_m, total_e: of `forward`.
    """
    n, n_frames, n_characters = len(text), len(m), gradient.shape[1]
    labels, _ = read(text, n_characters)
    reverse, hops = read(text[::-1], n_characters)
    back, visits = np.empty((2, 4, n + 2)), np.empty(n_characters + 1)
    first_state(back[0])
    for steps in range(n_frames):
        t = n_frames - 1 - steps
        old, new = back[steps % 2], back[(steps + 1) % 2]
        low, high = reached(steps, n_frames, n)
        advance(old, new, reverse, hops, blank, m[t], e[t], low, high)
        if steps % PERIOD == PERIOD - 1:
            normalise(new, low, high)
        visits[:] = 0.0
        first, end = max(0, n - steps), min(n, t) + 1
        add_visits(ahead[t + 1], new, labels, blank, e[t], first, end, total_e, visits)
        for k in range(n_characters):
            softmax = m[t, k] * power(e[t, k]) * (1.0 / totals[t])
            gradient[t, k] = softmax - visits[k] / (m[t, k] * total_m)


@jit()
def clip_loss(logits, text, blank, space, gradient):
    """Minus the log probability of a text (n,), and fill gradient (T, K), which has zeros.

    space: for the states, of (T + 1) · 4 · (n + 2) or more. Returns 0 for a text that has no
    alignment of positive probability, and NaN, as the gradient, where `emit` returns False.
    """
    n_frames, n = len(logits), len(text)
    m, e = np.empty((2, n_frames, logits.shape[1] + 1))
    totals = np.empty(n_frames)
    if not emit(logits, m, e, totals):
        gradient[:] = np.nan
        return np.nan
    repeats = np.sum(text[1:] == text[:-1])  # a blank is between them
    if n_frames == 0 or n + repeats > n_frames:
        return 0.0
    states = space[: (n_frames + 1) * 4 * (n + 2)].reshape(n_frames + 1, 4, n + 2)
    total_m, total_e = forward(text, blank, m, e, states)
    if total_e < NONE / 2:
        return 0.0
    write_gradient(text, blank, m, e, totals, states, total_m, total_e, gradient)
    return np.log(totals).sum() - math.log(total_m) - total_e * LN_2


@jit(
    "void(float32[:,:,::1], int64[::1], int64[::1], int64[::1], int64, float64[::1], "
    "float32[:,:,::1], int64, int64)"
)
def clip_losses(logits, texts, edges, lengths, blank, losses, gradients, first, end):
    """Fill losses (B,) and gradients (B, T, K), which has zeros, of clips `first` to `end` - 1.

    logits: (B, T, K); texts: all characters, edges: (B + 1,) where those of each clip begin, and
    the end; lengths: (B,) frames of each clip.
    """
    size = 0
    for clip in range(first, end):
        size = max(size, (lengths[clip] + 1) * 4 * (edges[clip + 1] - edges[clip] + 2))
    space = np.empty(size)  # once: the first use of memory takes as long as the sums in it
    for clip in range(first, end):
        frames, text = slice(0, lengths[clip]), texts[edges[clip] : edges[clip + 1]]
        losses[clip] = clip_loss(logits[clip, frames], text, blank, space, gradients[clip, frames])
