"""Autograd for the kernels of `causal_conv_kernels`. B clips, T frames, C channels, K taps."""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layers import causal_conv_kernels
from layers.scan_numba import on_threads


class CausalConv(torch.autograd.Function):
    """silu(causal depthwise convolution), (B, T, C) float32 on a CPU."""

    @staticmethod
    def forward(ctx, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """u: (B, T, C), any strides; weight: (C, K), the last tap for the frame itself."""
        y = np.empty(u.shape, np.float32)
        arrays = _arrays(u, weight, bias)
        on_threads(lambda _, *clips: causal_conv_kernels.forward(*arrays, y, *clips), len(u))
        ctx.save_for_backward(u, weight, bias)
        return torch.from_numpy(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of u, weight and bias."""
        u, weight, bias = ctx.saved_tensors
        arrays, grad_y = _arrays(u, weight, bias), grad_y.numpy()
        n_threads = min(torch.get_num_threads(), len(u))
        grad_u = np.zeros(u.shape, np.float32)
        grad_taps = np.zeros((n_threads, *weight.shape[::-1]), np.float32)
        grad_bias = np.zeros((n_threads, len(bias)), np.float32)

        def run(thread: int, *clips: int) -> None:
            causal_conv_kernels.backward(
                *arrays, grad_y, grad_u, grad_taps[thread], grad_bias[thread], *clips
            )

        on_threads(run, len(u))
        sums = grad_taps.sum(0).T, grad_bias.sum(0)
        return torch.from_numpy(grad_u), *(torch.from_numpy(np.ascontiguousarray(s)) for s in sums)


def _arrays(u: Tensor, weight: Tensor, bias: Tensor) -> tuple[np.ndarray, ...]:
    """Input, taps (K, C) and bias for the kernels."""
    u, weight, bias = (x.detach() for x in (u, weight, bias))
    return u.numpy(), weight.T.contiguous().numpy(), bias.contiguous().numpy()
