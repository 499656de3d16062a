"""The `numba` backend: the kernels of `scan_numba_kernels` on torch's tensors, for autograd.

CPU only, float32 inside. Symbols as in `selective_scan`; B clips, T frames.
"""

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
NO_STATE = np.empty((0, 0, 0), F32)
THREAD_ELEMENTS = 1 << 16  # of `on_parts` per thread; as below
THREAD_STATES = 1 << 17  # B · T · d_inner · N per thread; less is slower than one thread


class NumbaScan(torch.autograd.Function):
    """The scan with its softplus, skip and gate, on a CPU; float32 inside.

    u, delta: (B, T, d_inner).  A: (N, d_inner).  B, C: (B, T, N).  D, delta_bias: (d_inner,) or
    None.  z: (B, T, d_inner) or None.  Returns y (B, T, d_inner) in u's dtype and the last state
    (B, N, d_inner) in float32.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        """Shapes as above; keeps the states between chunks where a gradient is needed."""
        inputs = _arrays(u, delta, A, B, C, D, z, delta_bias)
        (clips, frames, channels), n_state = u.shape, len(A)
        chunks = -(-frames // CHUNK) if any(ctx.needs_input_grad) else 0
        y = np.empty(u.shape, F32)
        starts = np.empty((chunks, clips, n_state, channels), F32)
        last = np.empty((clips, n_state, channels), F32)

        def run(_: int, first: int, end: int) -> None:
            scan_numba_kernels.forward(
                *inputs, delta_softplus, NO_STATE, y, starts, last, first, end
            )

        _share(run, u.shape, n_state)
        ctx.delta_softplus = delta_softplus
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, torch.from_numpy(starts))
        return torch.from_numpy(y).to(u.dtype), torch.from_numpy(last)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        """Gradients of the tensors of `forward`, in their dtypes."""
        *tensors, starts = ctx.saved_tensors
        inputs, starts = _arrays(*tensors), starts.numpy()
        u, A, z = inputs[0], inputs[2], inputs[6]
        grad_y, grad_last = (x.float().numpy() for x in (grad_y, grad_last))
        grad_u, grad_delta, grad_z = np.empty_like(u), np.empty_like(u), np.empty(z.shape, F32)
        n_threads = _threads(u.shape, len(A))
        sums = [np.zeros((n_threads, *inputs[i].shape), F32) for i in (2, 3, 4, 5, 7)]
        kernel = scan_numba_kernels.backward()

        def run(thread: int, first: int, end: int) -> None:
            grad_A, grad_B, grad_C, grad_D, grad_bias = (total[thread] for total in sums)
            kernel(
                *inputs, ctx.delta_softplus, starts, grad_y, grad_last, grad_u, grad_delta,
                grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, first, end,
            )  # fmt: skip

        _share(run, u.shape, len(A))
        grad_A, grad_B, grad_C, grad_D, grad_bias = (
            total[0] if n_threads == 1 else total.sum(axis=0) for total in sums
        )
        grads = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias)
        return *(
            None if x is None else torch.from_numpy(grad).to(x.dtype)
            for x, grad in zip(tensors, grads, strict=True)
        ), None  # fmt: skip


def continued_scan(
    state: Tensor, n: int, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    z: Tensor, delta_bias: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y (B, T, d_inner) and the state (B, N, d_inner) behind n of T frames, without gradient.

    state: (B, N, d_inner) before the first frame. Others as of `NumbaScan`, with softplus.
    """
    u, delta, A, B, C, D, z, bias = _arrays(u, delta, A, B, C, D, z, delta_bias)
    jobs, starts = len(u) * -(-u.shape[2] // LANES), np.empty((0, *state.shape), F32)
    before, outputs, states = state.float().contiguous().numpy(), [], []
    for rows in (slice(0, n), slice(n, None)):
        some = [np.ascontiguousarray(x[:, rows]) for x in (u, delta, B, C)]
        y, last = np.empty(some[0].shape, F32), np.empty(state.shape, F32)
        scan_numba_kernels.forward(
            some[0], some[1], A, some[2], some[3], D, z[:, rows], bias, True, before, y, starts,
            last, 0, jobs,
        )  # fmt: skip
        outputs.append(y)
        states.append(last)
        before = last
    return torch.from_numpy(np.concatenate(outputs, axis=1)), torch.from_numpy(states[0])


def _arrays(*tensors: Tensor | None) -> list[NDArray]:
    """The scan's tensors as float32 arrays for the kernels.

    A missing D or bias becomes zeros, a missing z an empty array. Contiguous float32 tensors are
    not copied; half precision is.
    """
    u, delta, A, B, C, D, z, bias = (x if x is None else x.detach().float() for x in tensors)
    zeros = u.new_zeros(u.shape[-1])
    z = u.new_empty(0, 0, 0) if z is None else z  # the kernels accept strides in z alone
    D, bias = (zeros if x is None else x for x in (D, bias))
    contiguous = [x.contiguous().numpy() for x in (u, delta, A, B, C, D)]
    return [*contiguous, z.numpy(), bias.contiguous().numpy()]


def _threads(shape: Sequence[int], n_state: int) -> int:
    """Number of threads for a scan of u (B, T, d_inner), at most torch's number of threads."""
    jobs = shape[0] * -(-shape[2] // LANES)
    useful = math.prod(shape) * n_state // THREAD_STATES
    return max(1, min(torch.get_num_threads(), jobs, useful))


def _share(run: Callable[[int, int, int], None], shape: Sequence[int], n_state: int) -> None:
    """Call run(thread, first job, end job) on threads that together process all jobs."""
    on_threads(run, shape[0] * -(-shape[2] // LANES), _threads(shape, n_state))


def on_threads(run: Callable[[int, int, int], None], jobs: int, n: int | None = None) -> None:
    """Call run(thread, first job, end job) on n threads, by default as many as torch uses."""
    n = min(torch.get_num_threads(), jobs) if n is None else n
    if n == 1:
        run(0, 0, jobs)
        return
    edges = [i * jobs // n for i in range(n + 1)]
    list(_pool(os.getpid(), n).map(run, range(n), edges[:-1], edges[1:]))


def on_parts(write: Callable[..., None], *inputs: Tensor) -> Tensor:
    """What write(first place, *arrays, out) writes to out, for tensors of one shape on a CPU.

    It gets flat arrays, in parts on as many threads as are useful.
    """
    flat = [x.detach().contiguous() for x in inputs]
    out = torch.empty_like(flat[0])
    arrays, size = [x.view(-1).numpy() for x in (*flat, out)], out.numel()

    def run(_: int, first: int, end: int) -> None:
        write(first, *(array[first:end] for array in arrays))

    on_threads(run, size, min(torch.get_num_threads(), size // THREAD_ELEMENTS + 1))
    return out


@cache
def _pool(_process: int, n_threads: int) -> ThreadPoolExecutor:
    """The thread pool of this process; a forked child cannot use its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="scan")
