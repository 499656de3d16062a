"""Autograd for the kernels of `ctc_kernels`. B clips, T frames, K characters with the blank."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from layers.scan_numba import on_threads
from training import ctc_kernels


class CTC(torch.autograd.Function):
    """Minus the log probability of each clip's text, (B,) float32, on a CPU.

    0, with gradient 0, where a text is longer than its clip allows. Forward computes the gradient
    by the logits, too: it shares most of its work with the loss.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, lengths: Tensor, sizes: Tensor, blank: int
    ) -> Tensor:
        """logits: (B, T, K) float32, any scale; targets: texts of all clips, one after the other;
        lengths, sizes: (B,) frames and characters of each clip."""
        _check(logits, targets, lengths, sizes)
        edges = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes.numpy(), out=edges[1:])
        losses, gradients = np.zeros(len(logits)), np.zeros(logits.shape, np.float32)
        arrays = (
            logits.detach().contiguous().numpy(), targets.long().contiguous().numpy(), edges,
            lengths.long().contiguous().numpy(), blank, losses, gradients,
        )  # fmt: skip
        on_threads(lambda _, *clips: ctc_kernels.clip_losses(*arrays, *clips), len(logits))
        ctx.save_for_backward(torch.from_numpy(gradients))
        return torch.from_numpy(losses).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the logits."""
        (gradients,) = ctx.saved_tensors
        return gradients * outer[:, None, None], None, None, None, None


def _check(logits: Tensor, targets: Tensor, lengths: Tensor, sizes: Tensor) -> None:
    """Raise ValueError where a kernel would read outside of an array."""
    n_clips, n_frames, n_characters = logits.shape
    if not len(lengths) == len(sizes) == n_clips:
        raise ValueError(f"expected {n_clips} lengths and texts, got {len(lengths)}, {len(sizes)}")
    if not 0 <= int(lengths.min()) <= int(lengths.max()) <= n_frames:
        raise ValueError(f"expected lengths from 0 to {n_frames}, got {lengths.tolist()}")
    if not 0 <= int(targets.min()) <= int(targets.max()) < n_characters:
        raise ValueError(
            f"expected characters from 0 to {n_characters - 1}, got {int(targets.min())} to "
            f"{int(targets.max())}"
        )
