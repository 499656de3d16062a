"""SelfTalk's decoder (Peng et al., ACM MM 2023, arXiv 2306.10799): one Transformer decoder layer.

The layer's queries and its memory are both the projected speech features; every frame attends to
the whole clip. The original has no subject condition, and there is none here.

Differences from the original: the encoder is that of the recipe; heads, feed-forward width and
dropout are those of `ModelConfig`; JambaTalk's final RMSNorm and vertex head follow, the head zero
at initialisation; the lip reader and the loss weights are those of this project.
"""

from torch import Tensor, nn

from config import ModelConfig


class SelfTalkDecoder(nn.Module):
    """Self-attention, cross-attention to the features and a feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.layer = nn.TransformerDecoderLayer(
            c.d_model, c.n_heads, c.d_ff, c.dropout, batch_first=True
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, T, D); mask: (B, T), False on padding. Returns (B, T, D)."""
        padding = None if mask is None else ~mask
        return self.layer(
            x, x, tgt_key_padding_mask=padding, memory_key_padding_mask=padding
        )  # (B, T, D)
