"""The Transformer layer: grouped-query attention with learnt rotary positions (LRL-RoPE).

Attention runs over all frames in both directions. It gives the causal Mamba layers around it access
to future frames, as lips round before the vowel sounds. LRL-RoPE is Algorithm 1 of the JambaTalk
paper (arXiv 2408.01627). Grouped-query attention is Ainslie et al. 2023 (arXiv 2305.13245):
`n_kv_heads` key and value heads, each shared by n_heads / n_kv_heads query heads.

Glossary:
    d_head    d_model / n_heads, width of one head
    rank      r, width of the low-rank correction of the rotary table
    theta     rotary frequencies, 10000^(-2i / d_head) for i = 0 .. d_head/2 - 1
"""

import torch
from torch import Tensor, nn

from layers import NORM_EPS, attention
from layers.fast_dropout import Dropout
from layers.fast_gelu import Gelu
from layers.rms_norm import RMSNorm

ROTARY_BASE = 10_000.0  # RoFormer (arXiv 2104.09864), equation 15


class LowRankRotary(nn.Module):
    """LRL-RoPE: the rotary table plus a learnt low-rank correction of it (paper, Algorithm 1).

    base = [sin, cos](pos · theta);  (Δsin, Δcos) = base · W1ᵀ · W2ᵀ;  pairs of neighbouring
    channels are rotated by sin + Δsin, cos + Δcos. W2 is zero at initialisation, so training
    starts from plain RoPE; rank 0 is plain RoPE (RoFormer), without W1 and W2. The release
    initialises W2 at random and rotates before the head split, so that its frequencies span all
    heads; here every head has the full range of frequencies.
    """

    def __init__(self, d_head: int, rank: int = 16) -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"d_head {d_head} is odd: rotary positions need pairs of channels")
        self.d_head, self.rank = d_head, rank
        if rank:
            self.w1 = nn.Linear(d_head, rank, bias=False)
            self.w2 = nn.Linear(rank, d_head, bias=False)
            nn.init.zeros_(self.w2.weight)

    def table(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return sin' and cos', each (T, d_head / 2), for frames 0 .. T - 1, at least float32."""
        weights = self.w1.weight.dtype if self.rank else torch.float32
        dtype = torch.promote_types(weights, torch.float32)  # positions exceed half precision
        index = torch.arange(0, self.d_head, 2, dtype=dtype, device=device)
        theta = ROTARY_BASE ** (-index / self.d_head)  # (d_head / 2,)
        angle = torch.arange(frames, dtype=dtype, device=device)[:, None] * theta
        base = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (T, d_head)
        if self.rank:
            base = base + self.w2(self.w1(base.to(weights)))
        sin, cos = base.chunk(2, dim=-1)
        return sin, cos

    def rotate(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Return x (B, H, T, d_head) with each pair of channels rotated, in x's dtype."""
        sin, cos = (part.to(x.dtype) for part in table)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return q (B, H, T, d_head) and k (B, H_kv, T, d_head) rotated by their positions."""
        table = self.table(q.shape[-2], q.device)
        return self.rotate(q, table), self.rotate(k, table)


class GroupedQueryAttention(nn.Module):
    """Self-attention over all frames; n_heads query heads share n_kv_heads key and value heads."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        rope_rank: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of n_heads {n_heads}")
        if n_heads % n_kv_heads:
            raise ValueError(f"n_heads {n_heads} is not a multiple of n_kv_heads {n_kv_heads}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.d_head = d_model // n_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.d_head)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.d_head)
        self.out_proj = nn.Linear(d_model, d_model)
        self.rotary = LowRankRotary(self.d_head, rope_rank)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, T, d_model).  mask: (B, T) bool, True on real frames.  Returns (B, T, d_model)."""
        q = self._split(self.q_proj(x), self.n_heads)  # (B, H, T, d_head)
        k = self._split(self.k_proj(x), self.n_kv_heads)  # (B, H_kv, T, d_head)
        v = self._split(self.v_proj(x), self.n_kv_heads)
        q, k = self.rotary(q, k)
        y = attend_grouped(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, past: Tensor) -> Tensor:
        """Outputs (B, T, d_model) of frames x (B, T, d_model) that also attend to earlier ones.

        past: (B, P, d_model), the P frames before x. Positions count from the first of them.
        """
        frames = torch.cat([past, x], dim=1)
        k = self._split(self.k_proj(frames), self.n_kv_heads)
        v = self._split(self.v_proj(frames), self.n_kv_heads)
        q = self._split(self.q_proj(x), self.n_heads)
        sin, cos = self.rotary.table(frames.shape[1], x.device)
        begin = past.shape[1]
        q = self.rotary.rotate(q, (sin[begin:], cos[begin:]))
        y = attend_grouped(q, self.rotary.rotate(k, (sin, cos)), v)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads · d_head) -> (B, heads, T, d_head)."""
        return x.unflatten(-1, (heads, self.d_head)).transpose(1, 2)


def attend_grouped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Return softmax(q·kᵀ / sqrt(d_head))·v, (B, H, T, d_head).

    q: (B, H, T, d_head).  k, v: (B, H_kv, T, d_head); query head h uses head h // (H / H_kv).
    mask: (B, T) bool, True on the frames that may be attended to.
    """
    shared_by = q.shape[1] // k.shape[1]
    k, v = (heads.repeat_interleave(shared_by, dim=1) for heads in (k, v))
    keys = None if mask is None else mask[:, None, None]  # (B, 1, 1, T)
    return attention.attend(q, k, v, keys, dropout)


class TransformerLayer(nn.Module):
    """x + attention(RMSNorm(x)), then + MLP(RMSNorm(x))."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        n_heads: int,
        n_kv_heads: int,
        rope_rank: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(d_model, eps=NORM_EPS)
        self.attention = GroupedQueryAttention(d_model, n_heads, n_kv_heads, rope_rank, dropout)
        self.mlp_norm = RMSNorm(d_model, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, d_ff), Gelu(), Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, T, d_model).  mask: (B, T) bool, True on real frames.  Returns (B, T, d_model)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def step(self, x: Tensor, past: Tensor | None, n: int, reach: int) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, d_model) of T frames x (B, T, d_model), and the state behind the first n.

        past: the state of the frames before x: up to `reach` of them, (B, P, d_model), normalised
        as attention reads them; None where there are none. Frames attend to these and to all of x.
        """
        frames = self.attention_norm(x)
        past = frames[:, :0] if past is None else past
        x = x + self.attention.step(frames, past)
        kept = torch.cat([past, frames[:, :n]], dim=1)[:, -reach:]
        return x + self.mlp(self.mlp_norm(x)), kept
