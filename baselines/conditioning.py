"""What a decoder may be given beside the speech features: styles of subjects, true motion.

B batch, T mesh frames, D decoder width, N training subjects, M width of a motion: the rank of the
vertex head, or 3V where its rank is 0.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import ModelConfig


class Given(NamedTuple):
    """What a `ConditionedDecoder` is given beside the speech features."""

    styles: Tensor  # (B, N) weights of the training subjects' styles, each row sums to 1
    motion_of: Callable[[Tensor], Tensor]  # a decoder's output (B, T, D) to motion (B, T, M)
    motion: Tensor | None = None  # (B, T, M) true motion, in training alone


class ConditionedDecoder(nn.Module):
    """A decoder that is called as `decoder(x, mask, given)`, given: `Given`.

    x: (B, T, D); mask: (B, T) bool, False on padding, None without padding. It returns (B, T, D),
    or that and a loss (B,) of its own.
    """

    needs_motion = False  # whether `given.motion` is used in training
    own_loss = "balance"  # name of the loss that `forward` returns; its weight is w_<name>

    def set_progress(self, share: float) -> None:
        """Called before each step of a training, for decoders whose training has stages.

        share: of all steps of the run that are done, 0 to 1.
        """


def n_styles(config: ModelConfig) -> int:
    """N: the training subjects of a model; 1 where they are not known."""
    return max(len(config.subjects), 1)


def motion_width(config: ModelConfig) -> int:
    """M, see above."""
    return config.vertex_rank or 3 * config.n_vertices


def style_weights(names: Sequence[str | None], config: ModelConfig) -> Tensor:
    """(B, N) weights for B subjects: 1 at a training subject, 1/N everywhere for any other name.

    The mean of all styles is what an unseen subject gets. VOCA and FaceFormer let the user choose
    the training subject whose style is used.
    """
    n = n_styles(config)
    rows = torch.full((len(names), n), 1 / n, device="cpu")
    for row, name in zip(rows, names, strict=True):
        if name in config.subjects:
            row.zero_()[config.subjects.index(name)] = 1
    return rows


def make_given(
    x: Tensor,
    config: ModelConfig,
    motion_of: Callable[[Tensor], Tensor],
    styles: Tensor | None,
    motion: Tensor | None,
) -> Given:
    """What a decoder is given for speech x (B, T, D); styles None: equal weights.

    motion: (B, T or fewer, M); zeros are appended, which stand on frames without a loss.
    """
    if styles is None:
        styles = style_weights([None] * len(x), config).to(x.device)
    if motion is not None:
        motion = F.pad(motion, (0, 0, 0, x.shape[1] - motion.shape[1]))
    return Given(styles, motion_of, motion)
