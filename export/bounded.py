"""Least squares with bounds for many frames at once. T frames, C columns."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 512  # frames solved together: 512 systems of 53 columns need 11 MB
SWEEPS = 10  # of coordinate descent at most, which find most of the columns that end at a bound
MAX_STEPS = 1000
TOLERANCE = 1e-9  # accepted slope at a bound, in units of a column


def bounded_solution(
    gram: NDArray[np.float64], product: NDArray[np.float64], upper: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The x (T, C) with 0 <= x <= upper that minimises |A x - y|^2 in every frame.

    gram: (C, C) A^T A, positive definite; product: (T, C) A^T y; upper: (C,).

    The primal active-set method (Nocedal and Wright, "Numerical Optimization", 2nd ed., algorithm
    16.3), one step for all frames at once, started by coordinate descent.
    """
    blocks = [
        _solve_block(gram, product[i : i + BLOCK], upper) for i in range(0, len(product), BLOCK)
    ]
    return np.concatenate(blocks)


def _solve_block(gram: NDArray, product: NDArray, upper: NDArray) -> NDArray:
    x = np.clip(np.linalg.solve(gram, product.T).T, 0.0, upper)
    held = (x <= 0.0) | (x >= upper)
    for _ in range(SWEEPS):
        for k in range(len(gram)):
            x[:, k] += (product[:, k] - x @ gram[k]) / gram[k, k]
            x[:, k] = np.clip(x[:, k], 0.0, upper[k])
        before, held = held, (x <= 0.0) | (x >= upper)
        if np.array_equal(held, before):
            break
    rows = np.arange(len(x))  # frames that are not optimal yet
    for _ in range(MAX_STEPS):
        x[rows], held[rows], done = _step(gram, product[rows], upper, x[rows], held[rows])
        rows = rows[~done]
        if not len(rows):
            break
    return x


def _step(
    gram: NDArray, product: NDArray, upper: NDArray, x: NDArray, held: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """(x (T, C), held (T, C), done (T,)) after a step to the minimum of the columns not held.

    A step that meets a bound ends there and holds that column. At the minimum the held column
    with the largest inward slope is let go; without one the frame is done.
    """
    free = ~held
    system = np.where(free[:, :, None] & free[:, None, :], gram, np.eye(len(gram)))
    slope = np.where(free, product - x @ gram, 0.0)
    move = np.linalg.solve(system, slope[:, :, None])[:, :, 0]
    end = np.where(move < 0, 0.0, upper)
    share = np.full_like(x, np.inf)  # of the move, up to the bound of each column
    np.divide(end - x, move, out=share, where=free & (move != 0))
    column, frame = share.argmin(axis=1), np.arange(len(x))
    length = np.minimum(share[frame, column], 1.0)
    x = np.clip(x + length[:, None] * move, 0.0, upper)
    held = held.copy()
    blocked = length < 1.0
    held[frame[blocked], column[blocked]] = True
    x[frame[blocked], column[blocked]] = end[frame[blocked], column[blocked]]

    inward = (product - x @ gram) / np.diag(gram)
    inward = np.where(held, np.where(x <= 0.0, inward, -inward), 0.0)
    column = inward.argmax(axis=1)
    loose = ~blocked & (inward[frame, column] > TOLERANCE)
    held[frame[loose], column[loose]] = False
    return x, held, ~blocked & ~loose
