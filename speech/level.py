"""A slow automatic level: soft and loud speakers of one recording reach the encoder equally loud.

The level of a recording is its mean absolute amplitude under a Hann window of 4 s, and audio is
divided by it. The result does not depend on the gain of the recording. At one instant it depends
only on the 2 s before and after it, so a clip inside an hour of speech is scaled as it is alone.

B batch, S samples at 16 kHz, N blocks of 10 ms.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from config import SAMPLE_RATE

BLOCK = SAMPLE_RATE // 100  # samples of which one amplitude is computed
REACH = 200  # blocks before and after an instant that its level depends on
FLOOR = 1e-3  # added to the level, in the unit of the audio, so that digital silence stays zero


def even_level(audio: Tensor) -> Tensor:
    """Audio (B, S) with a mean absolute amplitude of about 1 in every stretch of 4 s.

    audio: (B, S) float32, zero mean and unit variance over the clip. Before and after it, silence
    is assumed.
    """
    audio = audio.float()
    blocks = F.pad(audio, (0, -audio.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))  # (B, N, BLOCK)
    window = torch.hann_window(2 * REACH + 1, periodic=False, device=audio.device)
    amplitude = blocks.abs().mean(2)[:, None]  # (B, 1, N)
    with torch.autocast(audio.device.type, enabled=False):
        level = F.conv1d(amplitude, (window / window.sum())[None, None], padding=REACH)[:, 0]
    scaled = blocks / (between_blocks(level) + FLOOR)
    return scaled.flatten(1)[:, : audio.shape[1]]


def between_blocks(values: Tensor) -> Tensor:
    """Values (B, N) at the centres of blocks, linearly interpolated: (B, N, BLOCK)."""
    left = torch.cat([values[:, :1], values[:, :-1]], dim=1)
    right = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
    offset = (torch.arange(BLOCK, device=values.device) - (BLOCK - 1) / 2) / BLOCK  # -0.5 to 0.5
    before, after = offset.clamp(max=0), offset.clamp(min=0)
    rises = (values - left)[..., None] * before + (right - values)[..., None] * after
    return values[..., None] + rises
