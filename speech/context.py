"""Convolutions between a speech encoder's features and its transformer.

Pre-trained encoders have none. A small encoder trained here learns much faster with a few residual
convolutions there (benchmarks/RESULTS.md).
"""

from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 5  # frames


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
