"""Weight norm and gradients of a wide grouped convolution on a CPU, in float32.

torch's take twice as long for the positional convolution of wav2vec 2.0 (128 taps, 16 groups of 64
channels, 120 frames).

B clips, G groups, C channels of a group (as many in as out), K taps, T frames, L frames with
padding.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from layers.reused_space import ReusedSpace

NO_ROWS, NO_FACTORS = np.empty((0, 0), np.float32), np.empty(0, np.float32)


class NormedWeight(torch.autograd.Function):
    """directions · norms / |directions|, with a norm for each tap.

    Salimans and Kingma 2016 (arXiv 1602.07868), equations 2 and 3.
    """

    @staticmethod
    def forward(ctx: Any, norms: Tensor, directions: Tensor) -> Tensor:
        """norms: (1, 1, K); directions: (G · C, C, K)."""
        from layers.positional_kernels import scale_taps  # compiled by numba at its first import

        rows = _rows(directions)
        sizes = np.sqrt(_sums(rows, rows))  # (K,)
        factors = norms.detach().view(-1).numpy() / sizes
        weight = torch.empty_like(directions, memory_format=torch.contiguous_format)
        scale_taps(rows, _narrow(factors), NO_ROWS, NO_FACTORS, _rows(weight))
        ctx.save_for_backward(norms, directions)
        ctx.sizes = sizes
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of norms and directions."""
        from layers.positional_kernels import scale_taps

        norms, directions = ctx.saved_tensors
        rows, outer, sizes = _rows(directions), _rows(gradient), ctx.sizes
        by_norms = _sums(rows, outer) / sizes
        factors = norms.detach().view(-1).numpy() / sizes
        along = -factors * by_norms / sizes
        by_directions = torch.empty_like(directions, memory_format=torch.contiguous_format)
        scale_taps(outer, _narrow(factors), rows, _narrow(along), _rows(by_directions))
        return torch.from_numpy(_narrow(by_norms)).view_as(norms), by_directions


class GroupedConvolution(torch.autograd.Function):
    """F.conv1d with groups and padding of K / 2, and its gradients as matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """x: (B, G · C, T); weight: (G · C, C, K); bias: (G · C,). Returns (B, G · C, T')."""
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return F.conv1d(x, weight, bias, padding=weight.shape[2] // 2, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias.

        With the windows X (B · T', C · K) of a group's input, its output is X Wᵀ: so the gradient
        of W is that of the output, transposed, times X, and that of X is the output's times W.
        """
        from layers.positional_kernels import add_windows

        x, weight = ctx.saved_tensors
        groups, taps, before = ctx.groups, weight.shape[2], weight.shape[2] // 2
        n_clips, _, n_out = gradient.shape
        padded = F.pad(x.detach(), (before, before))  # (B, G · C, L)
        by_padded = padded.new_zeros(padded.shape) if ctx.needs_input_grad[0] else None
        by_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        windows = _SPACE.take((n_clips, n_out, weight[0].numel()), torch.float32)
        flat = windows.view(n_clips * n_out, -1)
        parts = zip(weight.chunk(groups), by_weight.chunk(groups), strict=True)
        for group, (part, by_part) in enumerate(parts):
            mine = slice(group * len(part), (group + 1) * len(part))
            outer = gradient[:, mine].transpose(1, 2).reshape(n_clips * n_out, -1)  # (B · T', C)
            rows = padded[:, mine].unfold(2, taps, 1).transpose(1, 2)  # (B, T', C, K)
            windows.view(rows.shape).copy_(rows)
            torch.mm(outer.T, flat, out=by_part.view(len(part), -1))
            if by_padded is not None:
                torch.mm(outer, part.detach().reshape(len(part), -1), out=flat)
                for clip, clip_windows in zip(by_padded, windows, strict=True):
                    add_windows(clip_windows.numpy(), taps, clip[mine].numpy())
        by_x = None if by_padded is None else by_padded[..., before : before + x.shape[2]]
        return by_x, by_weight, gradient.sum((0, 2)), None


_SPACE = ReusedSpace()


def _rows(weight: Tensor) -> np.ndarray:
    """(G · C · C, K) of a weight (G · C, C, K)."""
    return weight.detach().contiguous().view(-1, weight.shape[-1]).numpy()


def _sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(K,) float64 sums of a · b, each (n, K)."""
    from layers.positional_kernels import tap_sums

    sums = np.zeros(a.shape[1])
    tap_sums(a, b, sums)
    return sums


def _narrow(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)
