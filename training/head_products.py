"""Losses of whole meshes by products with the vertex head, without the predicted meshes.

The head predicts offsets W x(t) + b of a frame. With y(t), the true offsets less b, and the gram
matrix G = WᵀW of a few columns, the squared error of a frame is

    |W x - y|² = xᵀ G x - 2 xᵀ Wᵀy + |y|²,

and its gradients are 2 (G x - Wᵀy) and 2 (W x xᵀ - y xᵀ). The change of the error between two
frames is the same of changes of x and y. So instead of a prediction, its error and its gradient,
each as large as the truth, and three products of their size, there are two products with the true
offsets, which are made clip by clip in a reused space. On a CPU that saves about half of the time
of a wide mesh. Errors are differences of larger numbers, so what has few columns is float64. The
loss of errors that are a tenth of the motion is exact to 1e-4, of a hundredth to 5e-3.

B batch, T mesh frames, V vertices, M columns of the head, L some vertices.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from layers.fast_linear import product
from layers.reused_space import ReusedSpace
from layers.vertex_head import VertexHead
from speech.features import length_mask
from training.losses import Sizes, share
from training.low_rank import coordinates

ROWS = 256  # of weights whose products are summed before they become float64
FEWEST = 4  # frames for each column of the head from which on this is faster
_SPACE = ReusedSpace()


def saves_time(head: VertexHead, x: Tensor, frames: Tensor) -> bool:
    """Whether `head_losses` is faster than the losses of predicted meshes.

    x: (B, T, D), the head's input; frames: (B,) real ones.
    """
    return x.device.type == "cpu" and int(frames.sum()) >= FEWEST * head.offsets.in_features


def head_losses(
    head: VertexHead, units: float, x: Tensor, batch: dict[str, Any], sizes: Sizes, lips: Tensor,
    loss_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`losses.vertex_loss` and `velocity_loss` of whole clips, () each, and the lips' offsets.

    units: of the data set per metre; x: (B, T or more, D), the head's input; batch: of
    `data_loader.collate`, with vertices (B, T, V, 3), template and frames; lips: (L,) vertices,
    whose predicted offsets (B, T, L, 3) in the data set's unit are returned; loss_scale: factor of
    the errors. Float32 under autocast as well, and so are the gradients.
    """
    truth, frames = batch["vertices"], batch["frames"]
    with torch.autocast(x.device.type, enabled=False):
        x = x[:, : truth.shape[1]].float()
        x = x if head.coefficients is None else head.coefficients(x)
        weight, bias = head.offsets.weight, head.offsets.bias
        if units != 1:
            weight, bias = weight * units, bias * units
        vertex, velocity, lip_offsets = HeadSums.apply(
            x, weight, bias, truth.to(x.dtype), batch["template"].to(x.dtype), frames,
            coordinates(lips),
        )  # fmt: skip
    scale = loss_scale**2 / len(weight)
    vertex = vertex * (scale / max(sizes.frames, 1))
    return vertex, velocity * (scale / max(sizes.pairs, 1)), lip_offsets.unflatten(2, (-1, 3))


class HeadSums(torch.autograd.Function):
    """Sums of the squares of a head's errors and of their differences in time, on a CPU.

    And some of its output, whose gradient is added to that of the whole weight: as one of its own
    it would be as large, and nearly all zero.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, truth: Tensor, template: Tensor,
        frames: Tensor, rows: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The two sums, () each, and the output's rows (B, T, R) of all frames.

        x: (B, T, M); weight: (3V, M); bias: (3V,); truth: (B, T, V, 3); template: (B, V, 3);
        frames: (B,), real ones of each clip; rows: (R,) of the weight.
        """
        truth, base = truth.flatten(2), template.flatten(1) + bias
        mask = length_mask(frames, x.shape[1], x.device)[..., None]
        x64 = torch.where(mask, x.detach().double(), 0.0)
        products, totals = torch.zeros_like(x64), np.zeros((x.shape[1], 2))
        for clip, n in enumerate(frames.tolist()):
            offsets = _true_offsets(truth[clip, :n], base[clip], totals[:n])
            products[clip, :n] = _linear(offsets, weight.T).double()
        z = x64 @ _gram(weight.detach()) - products  # Wᵀ · error
        pairs = mask[:, 1:] & mask[:, :-1]
        vertex = (x64 * (z - products)).sum() + totals[:, 0].sum()
        velocity = (_changes(x64, pairs) * _changes(z - products, pairs)).sum()
        velocity = velocity + totals[:, 1].sum()
        ctx.save_for_backward(x64, z, weight, truth, base, frames, pairs, x, rows)
        some = _linear(x, weight[rows], bias[rows])
        return vertex.clamp(min=0).to(x.dtype), velocity.clamp(min=0).to(x.dtype), some

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, h: Tensor, of_some: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, weight and bias; with d(t) = e(t+1) - e(t), d loss / d e is as in `MeshSums`."""
        x, z, weight, truth, base, frames, pairs, every, rows = ctx.saved_tensors
        g, h = 2 * g.double(), 2 * h.double()
        of_x = g * z + h * _minus_second_difference(z, pairs)
        q = g * x + h * _minus_second_difference(x, pairs)
        dtype = weight.dtype
        of_weight = _linear(weight, (q.flatten(0, 1).T @ x.flatten(0, 1)).to(dtype))
        of_bias = weight @ (g * x.sum((0, 1))).to(dtype)
        of_x, q, g = of_x.to(dtype) + _linear(of_some, weight[rows].T), q.to(dtype), g.to(dtype)
        for clip, n in enumerate(frames.tolist()):
            offsets = _true_offsets(truth[clip, :n], base[clip])
            of_weight.addmm_(offsets.T, q[clip, :n], alpha=-1)
            of_bias.addmv_(offsets.T, -g.expand(n))
        of_some = of_some.flatten(0, 1)
        of_weight.index_add_(0, rows, of_some.T @ every.flatten(0, 1))
        of_bias.index_add_(0, rows, of_some.sum(0))
        return of_x, of_weight, of_bias, None, None, None, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, in float32 by oneDNN: an eighth less time for meshes by the head."""
    linear = product if x.dtype == torch.float32 else F.linear
    return linear(x, weight, bias)


def _gram(weight: Tensor) -> Tensor:
    """WᵀW (M, M) float64 of weights (N, M): products of `ROWS` rows are in their own dtype."""
    gram = weight.new_zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
    for rows in weight.split(ROWS):
        gram += rows.T @ rows
    return gram


def _changes(values: Tensor, pairs: Tensor) -> Tensor:
    """Differences (B, T - 1, M) between neighbouring frames (B, T, M); 0 where not both are real.

    pairs: (B, T - 1, 1) bool.
    """
    return torch.where(pairs, values[:, 1:] - values[:, :-1], 0.0)


def _minus_second_difference(values: Tensor, pairs: Tensor) -> Tensor:
    """d(t-1) - d(t) of the differences d(t) from frame t to the next, (B, T, M)."""
    change = _changes(values, pairs)
    return F.pad(change, (0, 0, 1, 0)) - F.pad(change, (0, 0, 0, 1))


def _true_offsets(truth: Tensor, base: Tensor, totals: np.ndarray | None = None) -> Tensor:
    """Truth (n, 3V) less base (3V,), in a space that the next call overwrites.

    totals: (n, 2) float64, to which the squares of each frame and of its change are added.
    """
    from training.mesh_kernels import take_offsets  # compiled by numba at its first call

    offsets = _SPACE.take(truth.shape, truth.dtype)
    if totals is None:
        return torch.sub(truth, base, out=offsets)
    arrays = (x.contiguous().numpy() for x in (truth, base))
    share(take_offsets, *arrays, outputs=[offsets.numpy(), totals])
    return offsets
