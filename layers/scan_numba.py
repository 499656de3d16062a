"""The selective scan on a CPU for autograd: `scan_kernels` on torch's tensors and threads."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from layers import scan_numba_kernels
from layers.scan_numba_kernels import CHUNK, LANES

F32 = np.float32
THREAD_STATES = 1 << 17  # B · T · d_inner · N that are worth a thread of their own


class CompiledScan(torch.autograd.Function):
    """The scan with its softplus, skip and gate, on a CPU; float32 inside.

    u, delta: (B, T, d_inner).  A: (N, d_inner).  B, C: (B, T, N).  D, delta_bias: (d_inner,) or
    None.  z: (B, T, d_inner) or None.  Returns y (B, T, d_inner) in u's dtype and the last state
    (B, N, d_inner) in float32.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, softened):
        inputs = _arrays(u, delta, A, B, C, D, z, delta_bias)
        (clips, frames, channels), n_state = u.shape, len(A)
        chunks = -(-frames // CHUNK) if any(ctx.needs_input_grad) else 0
        y = np.empty(u.shape, F32)
        starts = np.empty((chunks, clips, n_state, channels), F32)
        last = np.empty((clips, n_state, channels), F32)

        def run(_: int, first: int, end: int) -> None:
            scan_numba_kernels.forward(*inputs, softened, y, starts, last, first, end)

        _share(run, u.shape, n_state)
        ctx.softened = softened
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, torch.from_numpy(starts))
        return torch.from_numpy(y).to(u.dtype), torch.from_numpy(last)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        *given, starts = ctx.saved_tensors
        inputs, starts = _arrays(*given), starts.numpy()
        u, A, z = inputs[0], inputs[2], inputs[6]
        grad_y, grad_last = (x.float().numpy() for x in (grad_y, grad_last))
        grad_u, grad_delta, grad_z = np.empty_like(u), np.empty_like(u), np.empty(z.shape, F32)
        n_threads = _threads(u.shape, len(A))
        sums = [np.zeros((n_threads, *inputs[i].shape), F32) for i in (2, 3, 4, 5, 7)]
        kernel = scan_numba_kernels.backward()

        def run(thread: int, first: int, end: int) -> None:
            grad_A, grad_B, grad_C, grad_D, grad_bias = (total[thread] for total in sums)
            kernel(
                *inputs, ctx.softened, starts, grad_y, grad_last, grad_u, grad_delta,
                grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, first, end,
            )  # fmt: skip

        _share(run, u.shape, len(A))
        grad_A, grad_B, grad_C, grad_D, grad_bias = (
            total[0] if n_threads == 1 else total.sum(axis=0) for total in sums
        )
        found = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias)
        return *(
            None if x is None else torch.from_numpy(grad).to(x.dtype)
            for x, grad in zip(given, found, strict=True)
        ), None  # fmt: skip


def _arrays(*given: Tensor | None) -> list[NDArray]:
    """The scan's tensors as the kernels want them; D and bias of zeros, z empty where not given.

    Float32 in order is taken as it is; half precision is widened, for the time of a call.
    """
    u, delta, A, B, C, D, z, bias = (x if x is None else x.detach().float() for x in given)
    none = u.new_zeros(u.shape[-1])
    z = u.new_empty(0, 0, 0) if z is None else z  # read with its strides, the rest in order
    D, bias = (none if x is None else x for x in (D, bias))
    plain = [x.contiguous().numpy() for x in (u, delta, A, B, C, D)]
    return [*plain, z.numpy(), bias.contiguous().numpy()]


def _threads(shape: Sequence[int], n_state: int) -> int:
    """Threads that a scan of u (B, T, d_inner) is worth, of those that torch may use."""
    jobs = shape[0] * -(-shape[2] // LANES)
    worth = math.prod(shape) * n_state // THREAD_STATES
    return max(1, min(torch.get_num_threads(), jobs, worth))


def _share(run: Callable[[int, int, int], None], shape: Sequence[int], n_state: int) -> None:
    """Call run(thread, first job, end) on threads, so that together they do all jobs."""
    jobs, n = shape[0] * -(-shape[2] // LANES), _threads(shape, n_state)
    if n == 1:
        run(0, 0, jobs)
        return
    edges = [i * jobs // n for i in range(n + 1)]
    list(_pool(os.getpid(), n).map(run, range(n), edges[:-1], edges[1:]))


@cache
def _pool(_process: int, n_threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="scan")
