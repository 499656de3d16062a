"""VOCA's encoder (Cudeiro et al., CVPR 2019, arXiv 1905.03079): convolutions over windows.

Every frame sees a window of 16 feature frames around it. Four convolutions over time (kernel 3,
stride 2; 32, 32, 64, 64 channels) reduce it to one. The subject's style weights are appended to the
features of every frame, and to the result of the convolutions. Two fully connected layers follow.

These sizes, the 128 units with tanh and the window of frames t - 8 to t + 7 are those of the
released code (github.com/TimoBolkart/voca: utils/speech_encoder.py, utils/audio_handler.py).

Differences from the original: the features are those of the recipe's encoder, projected to D, in
place of DeepSpeech's 29 characters; they are not batch-normalised first; the window's 16 frames are
mesh frames (the original has 60 a second, most recipes here 30); the convolutions are padded at the
start of the window, the original's at its end; the second fully connected layer has D outputs, the
input of the final RMSNorm and of the vertex head, in place of 50 components that are initialised by
PCA (`vertex_rank` heads start from principal components, too). A subject that was not trained gets
equal weights instead of a chosen subject's. The original's loss is the vertex loss plus 10 times
the velocity loss: w_velocity 10 w_vertex; w_latent, w_ctc and w_lips 0. It trains with Adam (1e-4)
on 64 pairs of frames for 100 epochs (config_parser.py).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.conditioning import ConditionedDecoder, Given, n_styles
from config import ModelConfig

WINDOW = 16  # frames (paper, section 4)
CHANNELS = (32, 32, 64, 64)  # of the convolutions
HIDDEN = 128  # units of the first fully connected layer


class VOCADecoder(ConditionedDecoder):
    """Frame t depends on the features of frames t - 8 to t + 7; zeros stand beyond the clip."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        styles = n_styles(config)
        widths = (config.d_model + styles, *CHANNELS)
        self.convolutions = nn.Sequential()
        for width, channels in zip(widths, CHANNELS, strict=False):
            self.convolutions.append(nn.Conv1d(width, channels, 3, stride=2, padding=1))
            self.convolutions.append(nn.ReLU())
        self.connected = nn.Sequential(
            nn.Linear(CHANNELS[-1] + styles, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, config.d_model)
        )

    def forward(self, x: Tensor, mask: Tensor | None, given: Given) -> Tensor:
        """Outputs (B, T, D) of speech x (B, T, D)."""
        styles = given.styles.to(x.dtype)[:, None].expand(-1, x.shape[1], -1)  # (B, T, N)
        frames = torch.cat([x, styles], dim=2)  # (B, T, D + N)
        if mask is not None:
            frames = frames * mask[..., None]
        padded = F.pad(frames, (0, 0, WINDOW // 2, WINDOW // 2 - 1))
        windows = padded.unfold(1, WINDOW, 1)  # (B, T, D + N, 16)
        reduced = self.convolutions(windows.flatten(0, 1))  # (B·T, 64, 1)
        reduced = reduced.view(*x.shape[:2], -1)  # (B, T, 64)
        return self.connected(torch.cat([reduced, styles], dim=2))
