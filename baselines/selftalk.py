"""SelfTalk's decoder (Peng et al., ACM MM 2023, arXiv 2306.10799): one Transformer decoder layer.

The layer's queries and its memory are both the projected speech features; every frame attends to
the whole clip. The original has no subject condition, and there is none here.

Sizes of the original are those of the released code (github.com/psyai-net/SelfTalk_release:
SelfTalk.py, main.py): one layer without positions and without a mask, 4 heads, width 512 for
VOCASET and 1024 for BIWI, feed-forward width twice as large, dropout 0.1, Adam (1e-4), one clip a
step, 100 epochs. The weights of its losses (1000 vertices, 1000 velocity, 0.001 latent, 0.0001 CTC)
are the defaults of `TrainConfig`.

Differences from the original: the encoder is that of the recipe; width, heads, feed-forward width
and dropout are those of `ModelConfig`; JambaTalk's final RMSNorm and vertex head follow, the head
zero at initialisation, as the original's; the lip reader is that of this project.
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
