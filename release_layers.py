"""The steps of the public release's decoder: `release` applies them in its order.

What they compute was found from the release's numbers, not from its code; it differs from the
paper, and from `mamba`, `moe` and `transformer`, in this:

    n(x) = x / (|x| · sqrt(D)), a norm without gain that leaves vectors of length 1 / sqrt(D)
    a step M is one bare Mamba block, without norm and without residual (`mamba.Mamba`)
    a step E is x + MoE(n(Mamba(n(x)) + n(x))); experts are w2·relu(w1·x), without bias
    the step A normalises after its residuals, has as many key heads as query heads, and turns
    queries and keys before the heads are split, so that frequencies span all of them

The release drops second experts at random even when it predicts; here all are kept, so that
prediction is deterministic. Parameter names are the release's. B batch, T mesh frames, D decoder
width, E experts, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba import Mamba
from transformer import ROTARY_BASE, attend

EXPERT_GROWTH = 4  # an expert's inner width / D


def scaled_norm(x: Tensor) -> Tensor:
    """x (..., D) with length 1 / sqrt(D), no gain (zeta's SimpleRMSNorm)."""
    return F.normalize(x, dim=-1) * x.shape[-1] ** -0.5


class Router(nn.Module):
    """(B, T, D) to the weights of the experts (B, T, E), which sum to 1 a frame."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.w_gating = nn.Parameter(torch.zeros(d_model, n_experts))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w_gating).softmax(-1)


class Experts(nn.Module):
    """E networks w2·relu(w1·x), D to 4·D to D, whose outputs are added up by weight."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(n_experts, d_model, EXPERT_GROWTH * d_model))
        self.w2 = nn.Parameter(torch.zeros(n_experts, EXPERT_GROWTH * d_model, d_model))

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """x: (B, T, D).  gates: (B, T, E).  Returns (B, T, D); memory is linear in T."""
        weights = zip(self.w1, self.w2, gates.unbind(-1), strict=True)
        return sum(gate[..., None] * (F.relu(x @ w1) @ w2) for w1, w2, gate in weights)


class Mixture(nn.Module):
    """Every expert for every frame, weighted by the router."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.gate = Router(d_model, n_experts)
        self.experts = Experts(d_model, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x, self.gate(x))


class MoEMamba(nn.Module):
    """A step E: (B, T, D) to the same."""

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int, n_experts: int):
        super().__init__()
        self.mamba = Mamba(d_model, d_state, d_conv, expand)
        self.moe = Mixture(d_model, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        inner = scaled_norm(x)  # (B, T, D)
        return x + self.moe(scaled_norm(self.mamba(inner) + inner))


class FullWidthRotary(nn.Module):
    """LRL-RoPE over all D channels: a rotary table plus its learnt low-rank correction."""

    def __init__(self, d_model: int, rank: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(d_model, rank, bias=False), nn.Linear(rank, d_model, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) with each pair of neighbouring channels turned by its frame's angle."""
        frames, width = x.shape[1:]
        index = torch.arange(0, width, 2, device=x.device).float()
        theta = ROTARY_BASE ** (-index / width)  # (D / 2,)
        angle = torch.arange(frames, device=x.device).float()[:, None] * theta  # (T, D / 2)
        base = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (T, D)
        sin, cos = (base + self.proj(base)).chunk(2, dim=-1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class AttentionLayer(nn.Module):
    """The step A: (B, T, D) to the same; norms stand after the residuals."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, rank: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.lrl_rope = FullWidthRotary(d_model, rank)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.lrl_rope(self.q_proj(x)), self.lrl_rope(self.k_proj(x))
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)) for part in (q, k, self.v_proj(x)))
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (B, H, T, D / H)
        x = self.norm1(x + self.out_proj(y.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))
