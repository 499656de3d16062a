"""The training losses as pure functions, and their weighted sum.

Paper, section 3.5 (after SelfTalk): 1000 vertex + 1000 velocity + 0.001 latent + 0.0001 CTC. Ours
adds the routers' balance loss, which the release computes and throws away.
T mesh frames, V vertices; a mask (B, T) is True on real frames; sums run in float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from config import TrainConfig


def vertex_loss(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over the coordinates of real frames; (B, T, V, 3) each, result ()."""
    return masked_mean((prediction.float() - truth.float()).square(), mask)


def velocity_loss(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of the differences between neighbouring frames; 0 for a single frame."""
    if prediction.shape[1] < 2:
        return prediction.new_zeros(())
    error = prediction.float() - truth.float()
    pairs = None if mask is None else mask[:, 1:] & mask[:, :-1]
    return masked_mean((error[:, 1:] - error[:, :-1]).square(), pairs)


def latent_loss(lips: Tensor, audio: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared distance of the lip reader's features from the teacher's: (B, A, C) each."""
    return masked_mean((lips.float() - audio.float()).square(), mask)


def ctc_loss(logits: Tensor, texts: list[Tensor], lengths: Tensor, blank: int) -> Tensor:
    """CTC of logits (B, A, K) against one (n,) text a clip, per character; impossible clips are 0.

    lengths: (B,) frames of each clip.
    """
    targets = torch.cat(texts)
    sizes = torch.tensor([len(text) for text in texts], device=logits.device)
    if not len(targets):
        return logits.new_zeros((), dtype=torch.float32)
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # (A, B, K)
    return F.ctc_loss(log_probs, targets, lengths, sizes, blank=blank, zero_infinity=True)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, T, ...) values over the frames where mask (B, T) is True."""
    if mask is None:
        return values.mean()
    weights = mask.float().view(*mask.shape, *([1] * (values.ndim - 2)))
    per_frame = values[0, 0].numel()
    return (values * weights).sum() / (mask.sum() * per_frame).clamp(min=1)


def total_loss(parts: dict[str, Tensor], config: TrainConfig) -> Tensor:
    """Weighted sum of the parts named vertex, velocity, lips, latent, ctc, balance (if there)."""
    weights = {
        "vertex": config.w_vertex,
        "velocity": config.w_velocity,
        "latent": config.w_latent,
        "ctc": config.w_ctc,
        "balance": config.w_balance,
        "lips": config.w_lips,
    }
    return sum(weights[name] * value for name, value in parts.items())
