"""Mesh losses of low-rank motion without the meshes.

A vertex head of rank r predicts offsets W c(t) + b. Takes of the speech pool move by a few fixed
displacements, D y(t). With z = (c, 1, -y) and R = [W, b, D], the squared error of a frame is
|W c + b - D y|² = zᵀ (RᵀR) z: numbers of about 40 by 40 instead of 18,000 coordinates a frame. This
is exact, gradients included.

B batch, T mesh frames, V vertices, r rank of the head, K displacements, L some vertices.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from layers.vertex_head import VertexHead
from speech.features import length_mask
from training.losses import Sizes


class LowRankMotion(NamedTuple):
    """Predicted and true motion of a batch: coefficients and displacements."""

    coefficients: Tensor  # (B, T, r) c of the prediction
    weight: Tensor  # (3V, r) W
    bias: Tensor  # (3V,) b
    curves: Tensor  # (B, T, K) y of the truth
    basis: Tensor  # (3V, K) D

    @classmethod
    def of(
        cls, head: VertexHead, units: float, coefficients: Tensor, curves: Tensor, basis: Tensor
    ) -> "LowRankMotion":
        """The motion of a head whose output is multiplied by `units`; basis: (K, V, 3)."""
        weight, bias = head.offsets.weight * units, head.offsets.bias * units
        n_frames = curves.shape[1]
        return cls(coefficients[:, :n_frames], weight, bias, curves, basis.flatten(1).T)

    def losses(self, frames: Tensor, sizes: Sizes, loss_scale: float) -> tuple[Tensor, Tensor]:
        """`losses.vertex_loss` and `losses.velocity_loss` of the meshes, () each.

        frames: (B,) real ones; loss_scale: factor of the errors. Computed in float64, since small
        errors are differences of large offsets.
        """
        sides = torch.cat([self.weight, self.bias[:, None], self.basis], dim=1).double()
        gram = sides.T @ sides
        ones = self.curves.new_ones(*self.curves.shape[:2], 1)
        z = torch.cat([self.coefficients, ones, -self.curves], dim=2).double()
        mask = length_mask(frames, z.shape[1], z.device)
        change = z[:, 1:] - z[:, :-1]
        scale = loss_scale**2 / len(self.weight)
        vertex = ((z @ gram * z).sum(2) * mask).sum() * (scale / max(sizes.frames, 1))
        moved = (change @ gram * change).sum(2) * (mask[:, 1:] & mask[:, :-1])
        velocity = moved.sum() * (scale / max(sizes.pairs, 1))
        return vertex.float(), velocity.float()

    def predicted(self, vertices: Tensor) -> Tensor:
        """Predicted offsets (B, T, L, 3) of some vertices (L,)."""
        rows = coordinates(vertices)
        flat = self.coefficients @ self.weight[rows].T + self.bias[rows]
        return flat.unflatten(2, (-1, 3))

    def true(self, vertices: Tensor) -> Tensor:
        """True offsets (B, T, L, 3) of some vertices (L,)."""
        return (self.curves @ self.basis[coordinates(vertices)].T).unflatten(2, (-1, 3))


def coordinates(vertices: Tensor) -> Tensor:
    """The rows (3L,) of vertices (L,) in an array of 3V coordinates."""
    return (3 * vertices[:, None] + torch.arange(3, device=vertices.device)).flatten()
