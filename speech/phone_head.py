"""The CTC head of a frozen speech encoder: phones from the mean of its states.

A frozen transformer has no layer that was trained for our phones, so its head is a small network:
a learnt mean of all states, then residual convolutions over time. `synthetic.pretrain_encoder`
trains it frame by frame; silence is class 0 and the CTC blank.

B batch, A audio frames at 50 Hz, L states, C their width, K phones with silence.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speech.features import mix_states

KERNEL, DROPOUT = 5, 0.1  # frames of a convolution; in training
PHONE_HEAD_FILE = "phone_head.safetensors"  # its weights, beside those of the encoder


class ContextLayer(nn.Module):
    """x + dropout(GELU(conv(LayerNorm(x)))), (B, A, C) to (B, A, C); one frame depends on five."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, A, C); mask: (B, A) bool, True on real frames, None when all are."""
        hidden = self.norm(x)
        if mask is not None:
            hidden = hidden * mask[..., None]
        return x + self.dropout(F.gelu(self.conv(hidden.transpose(1, 2)).transpose(1, 2)))


class PhoneHead(nn.Module):
    """States (B, A, L, C) of an encoder to latents (B, A, C) and phone logits (B, A, K).

    width: of the convolutions.
    """

    def __init__(
        self, n_states: int, d_states: int, n_phones: int, width: int, n_layers: int
    ) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(n_states))
        self.dropout = nn.Dropout(DROPOUT)
        self.project = nn.Linear(d_states, width)
        self.layers = nn.ModuleList(ContextLayer(width, DROPOUT) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.to_phones = nn.Linear(width, n_phones)

    def latents(self, states: Tensor) -> Tensor:
        """The learnt mean (B, A, C) of normalised states (B, A, L, C)."""
        return mix_states(states, self.mix)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, A, K) of latents (B, A, C).

        mask: (B, A) bool, True on real frames, None when all are.
        """
        x = F.gelu(self.project(self.dropout(latents)))  # (B, A, width)
        for layer in self.layers:
            x = layer(x, mask)
        return self.to_phones(self.norm(x))


def phone_head_of(config: Any, n_states: int) -> PhoneHead | None:
    """The untrained head that an encoder's config describes; None where it describes none.

    config: of transformers, with our field `phone_head` = {"width", "n_layers"}; `vocab_size` is K
    and `pad_token_id` the class of silence. Raises `TypeError` for other keys.
    """
    dims = getattr(config, "phone_head", None)
    if dims is None:
        return None
    return PhoneHead(n_states, config.hidden_size, config.vocab_size, **dims)
