"""The transformer's input of a clip of any length, whose convolutions are computed in chunks.

Frames of a chunk are those of the whole clip: what they depend on is computed with them, and what
is normalised over time gets its mean and variance from a first pass over the clip. A clip of one
chunk is convolved as a whole.

N frames at any rate, A audio frames at 50 Hz, C0 feature width, C channels.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from speech.clip_audio import ClipAudio
from speech.features import resample_part
from speech.timing import AUDIO_FPS, HOP, WINDOW, audio_frames

if TYPE_CHECKING:
    from speech.encoder_kind import EncoderKind

CHUNK = 14 * AUDIO_FPS  # audio frames that are computed at once, as many as one window has
AROUND = 8  # frames that are computed on each side in addition, and dropped


class TimeMoments(NamedTuple):
    """Mean and variance (C,) of `n` frames, float32."""

    mean: Tensor
    variance: Tensor
    n: int


def moments_over_time(parts: Iterable[Tensor]) -> TimeMoments:
    """The moments of consecutive parts (n, C) of a clip, combined in float64.

    See `speech.stored_speech.moments_of`.
    """
    n, mean, squares = 0, 0.0, 0.0
    for part in parts:
        part_variance, part_mean = torch.var_mean(part.double(), dim=0, correction=0)
        share = len(part) / (n + len(part))
        squares = squares + len(part) * part_variance + n * share * (part_mean - mean) ** 2
        mean = mean + (part_mean - mean) * share
        n += len(part)
    return TimeMoments(mean.float(), (squares / n).float(), n)


class ChunkReader:
    """Reads the transformer's input of one clip, range after range.

    Call it with start and stop at `rate` Hz, in ranges that move forwards.
    """

    def __init__(self, kind: "EncoderKind", body: nn.Module, audio: ClipAudio, rate: int) -> None:
        self.kind, self.body, self.audio, self.rate = kind, body, audio, rate
        self.n_frames = audio_frames(len(audio))
        self.moments: TimeMoments | None = None
        values = kind.values_over_time(body, audio) if self.n_frames > CHUNK else None
        if values is not None:
            self.moments = moments_over_time(values)
        self.first, self.kept = 0, self._chunk(0)  # audio frames (1, n, C0) from `first` on

    def __call__(self, start: int, stop: int) -> Tensor:
        """Features (1, stop - start, C0)."""
        needed = min(stop * AUDIO_FPS // self.rate + 2, self.n_frames)
        while (end := self.first + self.kept.shape[1]) < needed:
            unused = min(max(start * AUDIO_FPS // self.rate - 1 - self.first, 0), end - self.first)
            self.kept = torch.cat([self.kept[:, unused:], self._chunk(end)], dim=1)
            self.first += unused
        return resample_part(self.kept, self.first, (start, stop), self.n_frames, self.rate)

    def _chunk(self, start: int) -> Tensor:
        """Audio frames (1, n, C0) from `start` on, n at most `CHUNK`."""
        stop = min(start + CHUNK, self.n_frames)
        low, high = max(start - AROUND, 0), stop + AROUND
        end = (high - 1) * HOP + WINDOW if high < self.n_frames else len(self.audio)
        part = self.audio.read(low * HOP, end)[None]
        frames = self.kind.convolve_batch(self.body, part, None, self.moments)
        return frames[:, start - low : stop - low]
