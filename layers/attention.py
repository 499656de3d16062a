"""Scaled dot-product attention with the kernel that is fast on the device at hand.

That is torch's own, except for bfloat16 on a CPU. There torch's flash kernel takes twice as long as
in float32, and with dropout it falls back to a slow path that keeps every attention map. So on a
CPU q, k and v are cast to float32; with dropout, scores and softmax are float32 and the product
with v is bfloat16. Both are at least as exact as the bfloat16 kernel. In float32 with dropout,
torch's has no kernel at all; its steps are taken here, with the dropout of `fast_dropout`.

B batch, H heads, T frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.fast_dropout import dropout as drop
from layers.fast_gelu import trains_fast

NAME = "by_device"  # name of `attend` in transformers' registry of attention functions


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Return softmax(q·kᵀ · scale)·v, (B, H, T, d_head).

    q, k, v: (B, H, T, d_head).  mask: broadcasts to (B, H, T, T); bool, True on the frames that may
    be attended to, or floating, added to the scores.  scale: 1 / sqrt(d_head) if None.
    """
    coarse = _autocast_dtype(q) == torch.bfloat16
    fast = dropout > 0 and trains_fast(q)
    if q.device.type != "cpu" or not (coarse or fast):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    with torch.autocast("cpu", enabled=False):
        mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
        if dropout == 0.0:
            precise = (x.float() for x in (q, k, v))
            return F.scaled_dot_product_attention(*precise, mask, scale=scale).bfloat16()
        q = q.float() * (q.shape[-1] ** -0.5 if scale is None else scale)
        scores = q @ k.float().transpose(-1, -2)  # (B, H, T, T)
        if mask is not None:
            allowed = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if allowed else scores + mask
        shares = drop(scores.softmax(-1), dropout)
        return shares.bfloat16() @ v.bfloat16() if coarse else shares @ v


def _autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch's kernel would compute for `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def use_in(body: nn.Module) -> None:
    """Make a Wav2Vec2Model of transformers use `attend`, with the masks of its "sdpa"."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, dropout: float = 0.0, **_others: object,
    ) -> tuple[Tensor, None]:  # fmt: skip
        y = attend(query, key, value, attention_mask, dropout, scaling)
        return y.transpose(1, 2).contiguous(), None  # (B, T, H, d_head)

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    body.set_attn_implementation(NAME)
