"""FaceFormer's decoder (Fan et al., CVPR 2022, arXiv 2112.05329): autoregressive, frame by frame.

The input of a frame is the predicted motion of the frame before plus the subject's style vector and
the periodic position; that of the first frame is the style alone. Training is autoregressive as
well, as in the paper: the network is fed with its own predictions, not with true motion.

Sizes of the original are those of the released code (github.com/EvelynFan/FaceFormer:
faceformer.py, main.py): one layer, 4 heads, width 64 for VOCASET and 128 for BIWI, feed-forward
width twice as large, dropout 0.1, Adam (1e-4), one clip a step, 100 epochs.

Differences from the original: the encoder is that of the recipe; width, heads, feed-forward width
and dropout are those of `ModelConfig`; the period is one second of frames (30 at 30 fps, 25 at 25,
as the original's for VOCASET and BIWI). With `vertex_rank`, the motion that is fed back is the
vertex head's coefficients instead of all vertices. Cross-attention has one key, and there is less
dropout (`biased_attention`). JambaTalk's final RMSNorm stands before the vertex head. Long clips
are predicted in the windows of `JambaTalk.stream`, each starting with the style alone, which bounds
the cost of the attention. A subject that was not trained gets the mean of all styles; the
original's test predicts with each training subject's style. The original's loss is the vertex loss
alone: w_velocity, w_latent, w_ctc and w_lips 0.
"""

import torch
from torch import Tensor, nn

from baselines.biased_attention import BiasedDecoderLayer, periodic_positions, temporal_bias
from baselines.conditioning import ConditionedDecoder, Given, motion_width, n_styles
from config import ModelConfig


class FaceFormerDecoder(ConditionedDecoder):
    """One biased decoder layer that is fed with the motion it predicted."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.period = c.fps
        self.style = nn.Linear(n_styles(c), c.d_model, bias=False)
        self.motion = nn.Linear(motion_width(c), c.d_model)
        self.layer = BiasedDecoderLayer(c.d_model, c.n_heads, c.d_ff, self.period, c.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, given: Given) -> Tensor:
        """Outputs (B, T, D) of speech x (B, T, D); padding lies behind all real frames, so that
        causal attention never reaches it."""
        n_frames, d_model = x.shape[1:]
        style = self.style(given.styles)[:, None]  # (B, 1, D)
        positions = periodic_positions(n_frames, d_model, self.period).to(x)
        bias = temporal_bias(n_frames, self.period, self.layer.n_heads).to(x.device)
        frame, past, outputs = style, None, []
        for t in range(n_frames):
            y, past = self.layer(
                frame + positions[t], x[:, t : t + 1], bias[:, t : t + 1, : t + 1], past
            )
            outputs.append(y)
            frame = self.motion(given.motion_of(y)) + style
        return torch.cat(outputs, dim=1)  # (B, T, D)
