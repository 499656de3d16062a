"""Attention in prediction on a CPU that multiplies bfloat16 matrices in hardware.

Products take half of their time in float32. Their inputs and scores are rounded to bfloat16, by
2^-9 of each at most; the softmax between them is float32. What all keys have in common changes
each score of a frame by the same number, which softmax does not see; without it, scores and what
they are rounded by are smaller.
"""

import math

import torch
from torch import Tensor

from layers.reused_space import ReusedSpace
from layers.scan_numba import on_threads

SCORES = 2**22  # numbers that are kept at once; all scores of a long clip would fill the memory
_SPACE = ReusedSpace()


@torch.no_grad()
def attend_coarse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ / sqrt(d))·v, (B, H, T, d) float32, for q, k, v of that shape, without mask."""
    n_frames, scale = q.shape[2], math.log2(math.e) * q.shape[-1] ** -0.5
    parts = q * scale, k - k.mean(2, keepdim=True), v
    all_q, all_k, all_v = (x.bfloat16().contiguous().flatten(0, 1) for x in parts)  # (B·H, T, d)
    out = torch.empty(all_q.shape)
    heads = max(SCORES // n_frames**2, 1)  # of a block
    rows = max(SCORES // (heads * n_frames), 1)
    blocks = (x.split(heads) for x in (all_q, all_k, all_v, out))
    for q, k, v, y in zip(*blocks, strict=True):
        for some, result in zip(q.split(rows, 1), y.split(rows, 1), strict=True):
            result.copy_(_outputs(some, k, v))
    return out.unflatten(0, parts[0].shape[:2])


def _outputs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(h, t, d) of some frames and heads: q (h, t, d), k and v (h, T, d), all bfloat16."""
    from layers import softmax_kernels  # compiled by numba at its first import

    scores = _SPACE.take((len(q), q.shape[1], k.shape[1]), torch.bfloat16)
    torch.bmm(q, k.mT, out=scores)  # of powers of two
    rows = scores.view(torch.uint16).flatten(0, 1).numpy()
    on_threads(lambda _, first, end: softmax_kernels.softmax2(rows, first, end), len(rows))
    return torch.bmm(scores, v)
