"""FaceFormer's decoder layer: biased causal self-attention, periodic positions, aligned speech.

Fan et al., CVPR 2022 (arXiv 2112.05329), section 3.2; CodeTalker uses the same layer. The layer
computes a whole sequence, or frame by frame with the keys and values of earlier frames kept; both
give the same results.

Differences from the original (github.com/EvelynFan/FaceFormer, faceformer.py): there is no dropout
on the attention weights and on the sum of input and position. On BIWI, a frame of the original
attends to the two 50 Hz features of its time; here the two are folded into one vector.

Glossary:
    p       period in frames
    m       slope of a head, as in ALiBi (arXiv 2108.12409)
    bias    -m · floor((i - j) / p) for frame i attending to frame j <= i, minus infinity for j > i
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def periodic_positions(n_frames: int, d_model: int, period: int) -> Tensor:
    """Sinusoidal positions (T, D) of the frame numbers modulo `period` (paper, equation 4)."""
    position = torch.arange(n_frames)[:, None] % period
    angle = position * torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000) / d_model))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]


def head_slopes(n_heads: int) -> Tensor:
    """(H,) slopes 2^(-8 h / H), h = 1 .. H: ALiBi's for a power of two, used for any number."""
    return 2 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)


def temporal_bias(n_frames: int, period: int, n_heads: int) -> Tensor:
    """Bias (H, T, T) of query frame i (second last dimension) to key frame j (last)."""
    frame = torch.arange(n_frames)
    distance = frame[:, None] - frame
    bias = -head_slopes(n_heads)[:, None, None] * (distance // period)
    return bias.masked_fill(distance < 0, -math.inf)


class Past(NamedTuple):
    """Keys and values (B, H, P, D/H) of the P frames before a step."""

    keys: Tensor
    values: Tensor


class BiasedDecoderLayer(nn.Module):
    """Self-attention, speech and a feed-forward network, each added and normalised (post-norm).

    The alignment bias of the cross-attention lets frame t attend to the speech features of frame t
    alone. Features are folded here, so that each frame has exactly one. The softmax over one key is
    1: what remains of the cross-attention are its value and output projections.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, period: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.n_heads, self.period = n_heads, period
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.speech = nn.Sequential(nn.Linear(d_model, d_model), nn.Linear(d_model, d_model))
        self.mlp = nn.Sequential(
            nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, speech: Tensor, bias: Tensor, past: Past | None = None
    ) -> tuple[Tensor, Past]:
        """Outputs (B, T, D) of T frames, and the keys and values of these and of the past.

        x: (B, T, D); speech: (B, T, D), that of the same frames; bias: (H, T, P + T), rows of
        `temporal_bias`; past: of the P frames before x, None where there are none.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.n_heads, -1)).transpose(1, 2).chunk(3, dim=1)
        if past is not None:
            k, v = torch.cat([past.keys, k], dim=2), torch.cat([past.values, v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))  # (B, H, T, D/H)
        x = self.norms[0](x + self.dropout(self.out(y.transpose(1, 2).flatten(2))))
        x = self.norms[1](x + self.dropout(self.speech(speech)))
        return self.norms[2](x + self.dropout(self.mlp(x))), Past(k, v)
