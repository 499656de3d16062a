"""The sums of the mesh losses and their gradient as numba kernels: every mesh is read once.

P prediction (B, T or more, N) and Q truth (B, T, N), N coordinates of a frame, both float32 or both
float64; the error is P - Q. Neither errors nor their differences are stored: they are computed
where they are needed, because a pass over memory costs more. A thread takes a part of every clip.
"""

import numpy as np

from common.numba_jit import compiled

PART = 512  # coordinates that are summed in the dtype of the meshes; such sums are added in float64


@compiled(fastmath={"contract", "reassoc", "nsz"})
def add_squares(P, Q, frames, thread, n_threads, totals):
    """Fill totals (B, T, 2): squares of a frame's errors, and of their change since the last."""
    zero = np.zeros(1, P.dtype)[0]
    for clip in range(len(frames)):
        n = frames[clip]
        for t in range(thread * n // n_threads, (thread + 1) * n // n_threads):
            before = max(t - 1, 0)  # of the first frame itself: no change
            for start in range(0, P.shape[2], PART):
                vertex, velocity = zero, zero
                for i in range(start, min(start + PART, P.shape[2])):
                    error = P[clip, t, i] - Q[clip, t, i]
                    change = error - (P[clip, before, i] - Q[clip, before, i])
                    vertex += error * error
                    velocity += change * change
                totals[clip, t, 0] += vertex
                totals[clip, t, 1] += velocity


@compiled(fastmath={"contract"})
def write_gradient(P, Q, frames, g, h, thread, n_threads, gradient):
    """Fill gradient (as P): g e(t) + h (d(t-1) - d(t)), d(t) = e(t+1) - e(t), 0 at both ends.

    Frames behind those of a clip have none.
    """
    for clip in range(len(frames)):
        n, n_all = frames[clip], P.shape[1]
        for t in range(thread * n_all // n_threads, (thread + 1) * n_all // n_threads):
            if t >= n:
                gradient[clip, t] = 0
                continue
            before, after = max(t - 1, 0), min(t + 1, n - 1)
            for i in range(P.shape[2]):
                error = P[clip, t, i] - Q[clip, t, i]
                came = error - (P[clip, before, i] - Q[clip, before, i])
                goes = (P[clip, after, i] - Q[clip, after, i]) - error
                gradient[clip, t, i] = g * error + h * (came - goes)


@compiled(fastmath={"contract", "reassoc", "nsz"})
def take_offsets(Q, base, thread, n_threads, offsets, totals):
    """Fill offsets (T, N) with truth Q (T, N) less base (N,); add to totals (T, 2) squares of each
    frame's offsets and of their change since the last."""
    zero = np.zeros(1, Q.dtype)[0]
    n = len(Q)
    for t in range(thread * n // n_threads, (thread + 1) * n // n_threads):
        before = max(t - 1, 0)  # of the first frame itself: no change
        for start in range(0, Q.shape[1], PART):
            vertex, velocity = zero, zero
            for i in range(start, min(start + PART, Q.shape[1])):
                value = Q[t, i] - base[i]
                change = Q[t, i] - Q[before, i]
                offsets[t, i] = value
                vertex += value * value
                velocity += change * change
            totals[t, 0] += vertex
            totals[t, 1] += velocity
