"""The root mean square norm (Zhang and Sennrich 2019, arXiv 1910.07467) of the decoder.

torch has a gradient of it in one piece on a GPU only. On a CPU it has those of six operations; as
kernels, forward and backward take 0.2 to 0.6 of their time. C channels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layers.fast_gelu import trains_fast
from layers.scan_numba import THREAD_ELEMENTS, on_threads


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm over the last dimension, with its parameters; it needs `eps` and a weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) for x (..., C)."""
        if trains_fast(x) and self.weight.dtype == torch.float32:
            return TrainedNorm.apply(x, self.weight, self.eps)
        return super().forward(x)


class TrainedNorm(torch.autograd.Function):
    """The norm with its gradients, of float32 tensors on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x: (..., C); weight: (C,)."""
        from layers import norm_kernels  # compiled by numba at its first import

        x, weight = x.contiguous(), weight.contiguous()
        y, factors = torch.empty_like(x), x.new_empty(x.shape[:-1].numel())
        arrays = _rows(x), weight.numpy(), eps, _rows(y), factors.numpy()
        n = len(factors)
        on_threads(lambda _, *rows: norm_kernels.forward(*arrays, *rows), n, _threads(x))
        ctx.save_for_backward(x, weight, factors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of x and of the weight."""
        from layers import norm_kernels

        x, weight, factors = ctx.saved_tensors
        of_x, n_threads = torch.empty_like(x), _threads(x)
        of_weight = x.new_zeros(n_threads, len(weight))
        arrays = weight.numpy(), factors.numpy(), _rows(gradient.contiguous()), _rows(of_x)

        def run(thread: int, *rows: int) -> None:
            norm_kernels.backward(_rows(x), *arrays, of_weight[thread].numpy(), *rows)

        on_threads(run, len(factors), n_threads)
        return of_x, of_weight.sum(0), None


def _rows(x: Tensor) -> np.ndarray:
    """x (..., C) as an array (n, C)."""
    return x.detach().view(-1, x.shape[-1]).numpy()


def _threads(x: Tensor) -> int:
    """Threads that are useful for x (..., C), at most one for each frame."""
    useful = x.numel() // THREAD_ELEMENTS + 1
    return max(1, min(torch.get_num_threads(), useful, x.shape[:-1].numel()))
