"""A slow automatic level: soft and loud speakers of one recording reach the encoder equally loud.

The level of a recording is its mean absolute amplitude under a Hann window of 4 s, and audio is
divided by it. The result does not depend on the gain of the recording. At one instant it depends
only on the 2 s before and after it, so a clip inside an hour of speech is scaled as it is alone.

B batch, S samples at 16 kHz, N blocks of 10 ms.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from config import SAMPLE_RATE
from speech.clip_audio import ClipAudio

BLOCK = SAMPLE_RATE // 100  # samples of which one amplitude is computed
REACH = 200  # blocks before and after an instant that its level depends on
PIECE = 4096  # blocks of a long clip that are computed at once, 41 s
STEADY_SAMPLES = 4800  # of the beginning that `is_steady` is asked about, 0.3 s
STEADY_BLOCK = 480  # samples of which it takes one loudness
STEADY_RATIO = 2.0  # of the loudest to the softest, at most
FLOOR = 1e-3  # added to the level, in the unit of the audio, so that digital silence stays zero


def is_steady(sound: Tensor) -> bool:
    """Whether a sound (S,) stays equally loud, as the noise of a room does and speech does not."""
    loudness = sound.unfold(0, STEADY_BLOCK, STEADY_BLOCK).abs().mean(1)
    return bool(loudness.max() <= STEADY_RATIO * loudness.min())


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


class EvenLevel:
    """`even_level` of a clip of any length, read in ranges that move forwards.

    The level is computed over `PIECE` blocks at once, and those that their ends depend on.
    """

    def __init__(self, audio: ClipAudio) -> None:
        self.n_samples, self.pieces = len(audio), even_pieces(audio)
        self.kept, self.first = next(self.pieces), 0  # samples from `first` on

    def read(self, start: int, stop: int) -> Tensor:
        """Samples (stop - start,); zero outside of the clip."""
        while self.first + len(self.kept) < min(stop, self.n_samples):
            unused = min(max(start - self.first, 0), len(self.kept))
            self.kept = torch.cat([self.kept[unused:], next(self.pieces)])
            self.first += unused
        return ClipAudio(self.kept).read(start - self.first, stop - self.first)


def even_pieces(audio: ClipAudio) -> Iterator[Tensor]:
    """Consecutive pieces (n,) of `even_level` of a clip, n at most `PIECE` blocks."""
    n_blocks, around = -(-len(audio) // BLOCK), REACH + 1
    for start in range(0, n_blocks, PIECE):
        stop = min(start + PIECE, n_blocks)
        low, high = max(start - around, 0), min(stop + around, n_blocks)
        part = even_level(audio.read(low * BLOCK, high * BLOCK)[None])[0]
        yield part[(start - low) * BLOCK : min(stop * BLOCK, len(audio)) - low * BLOCK]


def between_blocks(values: Tensor) -> Tensor:
    """Values (B, N) at the centres of blocks, linearly interpolated: (B, N, BLOCK)."""
    left = torch.cat([values[:, :1], values[:, :-1]], dim=1)
    right = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
    offset = (torch.arange(BLOCK, device=values.device) - (BLOCK - 1) / 2) / BLOCK  # -0.5 to 0.5
    before, after = offset.clamp(max=0), offset.clamp(min=0)
    rises = (values - left)[..., None] * before + (right - values)[..., None] * after
    return values[..., None] + rises
