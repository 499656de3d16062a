"""Mixture of experts after a Mamba block: the MoE-Mamba layer (arXiv 2401.04081) of the decoder.

A router sends each frame to its `top_k` most probable experts and the layer adds up their outputs,
weighted by the router's probabilities. Frames are gathered per expert, without a (frames × frames)
dispatch tensor, so cost and memory grow linearly with the number of frames. Routing is not random
and experts have no capacity limit, so evaluation is deterministic and frames do not depend on each
other. (The release drops second experts at random, even in evaluation, discards the balance loss,
and its dispatch tensors grow with the square of the clip's length.)

Glossary:
    gates       weights of the chosen experts, one row per frame
    balance     n_experts · Σ_e f_e · P_e (Switch Transformer, arXiv 2101.03961, equation 4): f_e
                the share of frames whose first choice is e, P_e the router's mean probability of
                e; 1 for an even spread, n_experts when one expert gets all frames
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import NORM_EPS
from layers.fast_dropout import Dropout
from layers.mamba import MLP, Mamba, MambaState
from layers.rms_norm import RMSNorm


class TopKRouter(nn.Module):
    """Chooses `top_k` of `n_experts` for each frame."""

    def __init__(self, d_model: int, n_experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(f"top_k {top_k} is not between 1 and n_experts {n_experts}")
        self.n_experts, self.top_k = n_experts, top_k
        self.gate = nn.Linear(d_model, n_experts, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return gates (B, T, n_experts), zero for experts not chosen, and balance losses (B,).

        x: (B, T, d_model).  mask: (B, T) bool, True on real frames; only they count.
        Probabilities are float32. Chosen gates are scaled to sum to 1. A single chosen expert
        keeps its probability instead (as in Switch), or the router would get no gradient.
        """
        probabilities = F.softmax(self.gate(x).float(), dim=-1)  # (B, T, n_experts)
        chosen, experts = probabilities.topk(self.top_k, dim=-1)  # (B, T, top_k), best first
        if self.top_k > 1:
            chosen = chosen / chosen.sum(-1, keepdim=True)
        gates = torch.zeros_like(probabilities).scatter(-1, experts, chosen)
        return gates.to(x.dtype), balance_loss(probabilities, experts[..., 0], mask)


def balance_loss(probabilities: Tensor, first: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return n_experts · Σ_e f_e · P_e of each clip, (B,), over its real frames.

    probabilities: (B, T, n_experts).  first: (B, T) int64, each frame's most probable expert.
    mask: (B, T) bool. f counts first choices only (GShard, arXiv 2006.16668, algorithm 1): counting
    all top_k would make the loss constant where top_k equals n_experts, as in the paper (2 of 2).
    One loss per clip, so that a clip's loss and gradient do not depend on the rest of the batch.
    """
    n_experts = probabilities.shape[-1]
    if mask is None:
        mask = torch.ones_like(first, dtype=torch.bool)
    weights = mask.to(probabilities.dtype)[..., None]
    frames = weights.sum(1).clamp(min=1)  # (B, 1)
    share = (F.one_hot(first, n_experts) * weights).sum(1) / frames  # (B, n_experts)
    mean = (probabilities * weights).sum(1) / frames
    return n_experts * (share * mean).sum(-1)


class MixtureOfExperts(nn.Module):
    """`n_experts` MLPs; each frame uses `top_k` of them."""

    def __init__(
        self, d_model: int, d_ff: int, n_experts: int = 2, top_k: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.router = TopKRouter(d_model, n_experts, top_k)
        self.experts = nn.ModuleList(MLP(d_model, d_ff, dropout) for _ in range(n_experts))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y (B, T, d_model) and the clips' balance losses (B,).

        x: (B, T, d_model).  mask: (B, T) bool, True on real frames.
        """
        gates, balance = self.router(x, mask)
        if self.router.top_k == self.router.n_experts:
            outputs = [gates[..., e, None] * expert(x) for e, expert in enumerate(self.experts)]
            return torch.stack(outputs).sum(0), balance
        return self._route(x.flatten(0, 1), gates.flatten(0, 1)).view_as(x), balance

    def _route(self, x: Tensor, gates: Tensor) -> Tensor:
        """x: (frames, d_model).  gates: (frames, n_experts).  Each expert gets its own frames."""
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            frames = gates[:, e].nonzero()[:, 0]  # (frames of this expert,)
            y = y.index_add(0, frames, gates[frames, e, None] * expert(x[frames]))
        return y


class MoEMambaLayer(nn.Module):
    """x + Mamba(RMSNorm(x)), then + MixtureOfExperts(RMSNorm(x)) (the paper's MoE-Mamba layer)."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        n_experts: int = 2,
        top_k: int = 2,
        d_state: int = 8,
        d_conv: int = 8,
        expand: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.mamba_norm = RMSNorm(d_model, eps=NORM_EPS)
        self.mamba = Mamba(d_model, d_state, d_conv, expand)
        self.moe_norm = RMSNorm(d_model, eps=NORM_EPS)
        self.moe = MixtureOfExperts(d_model, d_ff, n_experts, top_k, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (B, T, d_model) and the clips' balance losses (B,).

        x: (B, T, d_model).  mask: (B, T) bool, True on real frames; padding at the end only.
        """
        x = x + self.dropout(self.mamba(self.mamba_norm(x), mask))
        y, balance = self.moe(self.moe_norm(x), mask)
        return x + self.dropout(y), balance

    def step(self, x: Tensor, state: MambaState | None, n: int) -> tuple[Tensor, MambaState]:
        """As `Mamba.step`, for the whole layer."""
        y, state = self.mamba.step(self.mamba_norm(x), state, n)
        x = x + y
        return x + self.moe(self.moe_norm(x))[0], state
