"""Attention in prediction on a CPU that multiplies bfloat16 matrices in hardware.

Products take half of their time in float32. Scores and shares are rounded to bfloat16, by 2^-9 of
each at most; the softmax between them is float32. What all keys have in common changes each score
of a frame by the same number, which softmax does not see; without it, scores and what they are
rounded by are smaller.
"""

import math

import torch
from torch import Tensor

from layers.reused_space import ReusedSpace
from layers.scan_numba import on_threads

_SPACE = ReusedSpace()


@torch.no_grad()
def attend_coarse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ / sqrt(d))·v, (B, H, T, d) float32, for q, k, v of that shape, without mask."""
    from layers import softmax_kernels  # compiled by numba at its first import

    shape, scale = q.shape, math.log2(math.e) * q.shape[-1] ** -0.5
    parts = q * scale, k - k.mean(2, keepdim=True), v
    q, k, v = (x.bfloat16().contiguous().flatten(0, 1) for x in parts)  # (B·H, T, d)
    scores = _SPACE.take((len(q), shape[2], shape[2]), torch.bfloat16)
    torch.bmm(q, k.mT, out=scores)  # of powers of two
    rows = scores.view(torch.uint16).flatten(0, 1).numpy()
    on_threads(lambda _, first, end: softmax_kernels.softmax2(rows, first, end), len(rows))
    return torch.bmm(scores, v).float().view(shape)
