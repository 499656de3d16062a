"""Random augmented crops of the speech pool, for the comparison of front-ends.

The curves of a crop are computed here. Speed, room and noise are drawn for every crop, so that no
crop repeats. The model itself is trained on takes (`synthetic.takes`).
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from config import SAMPLE_RATE
from speech.audio import normalise
from speech.augment import augment
from speech.kinds import kind_of
from speech.timing import AUDIO_FPS, HOP, WINDOW, audio_frames
from synthetic.coarticulation import CHANNELS, LOUDNESS_HZ, curves
from synthetic.phones import Segment
from synthetic.pretrain_encoder import Plan
from synthetic.speech import (
    NORMAL_SPEED_SHARE,
    SPEED_RANGE,
    SpeechClip,
    SpeechPool,
    cut_at_speed,
    phones_at,
)

N_CHANNELS = len(CHANNELS)
MAX_SILENCE_CROP_S = 0.8  # a crop starts at most this long before its clip
SILENT_SHARE = 0.02  # share of crops without speech, so that noise alone moves no lips
SILENT = SpeechClip(
    "silence", np.zeros(SAMPLE_RATE, np.int16), [], np.full(LOUDNESS_HZ, 0.2, np.float32)
)
USES = 6  # batches that contain a crop, since encoding it costs far more than a step with it
BUFFER = 256  # crops that batches are drawn from


@dataclass(frozen=True)
class Crop:
    """A few seconds for training."""

    name: str
    audio: np.ndarray  # (S,) float32, zero mean, unit variance
    curves: np.ndarray  # (T, N_CHANNELS) float32 at the mesh's rate
    phones: np.ndarray  # (A,) int64 at 50 Hz


def draw_crop(
    pool: SpeechPool, rng: Generator, seconds: float, fps: int, clean: bool = False
) -> Crop:
    """A random crop of `seconds`, augmented unless `clean`; short clips are padded."""
    clip = SILENT if rng.random() < SILENT_SHARE and not clean else pool.pick(rng)
    is_normal = clean or rng.random() < NORMAL_SPEED_SHARE
    speed = 1.0 if is_normal else float(rng.uniform(*SPEED_RANGE))
    duration_s = len(clip.audio) / SAMPLE_RATE / speed
    slack_s = duration_s - seconds
    start_s = rng.uniform(-MAX_SILENCE_CROP_S, max(slack_s + MAX_SILENCE_CROP_S, 0.0))
    if slack_s > 0:
        start_s = float(np.clip(start_s, 0, slack_s))
    first = round(start_s * speed * SAMPLE_RATE)  # sample of the clip
    start_s = first / speed / SAMPLE_RATE
    n = int(round(seconds * SAMPLE_RATE))
    audio = cut_at_speed(clip.audio, first, n, speed)
    if clip is SILENT:
        audio += 10.0 ** rng.uniform(-4, -1) * rng.standard_normal(n).astype(np.float32)
    if not clean:
        audio = augment(audio, rng, pool.pick(rng).audio[:n].astype(np.float32))
    return Crop(clip.name, normalise(audio), *_labels(clip, speed, start_s, seconds, fps))


def _labels(
    clip: SpeechClip, speed: float, start_s: float, seconds: float, fps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Curves (T, N_CHANNELS) and phones (A,) of a crop that starts at `start_s`."""
    moved = [Segment(p, a / speed - start_s, b / speed - start_s) for p, a, b in clip.segments]
    near = [s for s in moved if s.end_s > -1.0 and s.start_s < seconds + 1.0]
    times = (start_s + (np.arange(int(seconds * LOUDNESS_HZ)) + 0.5) / LOUDNESS_HZ) * speed
    at = times * LOUDNESS_HZ - 0.5
    envelope = np.interp(
        at,
        np.arange(len(clip.loudness)),
        clip.loudness,
        left=clip.loudness.min(),
        right=clip.loudness.min(),
    )
    frames = audio_frames(int(seconds * SAMPLE_RATE))
    lips = curves(near, frames * fps // AUDIO_FPS, fps, loudness=envelope)
    return lips, phones_at(near, (np.arange(frames) * HOP + WINDOW // 2) / SAMPLE_RATE)


class CropBatches(IterableDataset):
    """Infinite random batches of augmented crops.

    encode: the tensors of one crop; those of a batch are stacked. uses: number of batches in which
    a crop is drawn, on average.
    """

    def __init__(
        self,
        pool: SpeechPool,
        encode: Callable[[Crop], tuple[Tensor, ...]],
        plan: Plan,
        uses: int = USES,
    ) -> None:
        self.pool, self.encode, self.plan, self.uses = pool, encode, plan, uses

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rng, batch_size = np.random.default_rng(self.plan.seed), self.plan.batch_size
        buffer: deque = deque(maxlen=batch_size if self.uses == 1 else BUFFER)
        n_encoded = 0
        for step in count(1):
            while n_encoded * self.uses < step * batch_size or len(buffer) < batch_size:
                buffer.append(self.encode(draw_crop(self.pool, rng, self.plan.crop_s, AUDIO_FPS)))
                n_encoded += 1
            chosen = rng.permutation(len(buffer))[:batch_size]
            yield tuple(map(torch.stack, zip(*(buffer[i] for i in chosen), strict=True)))


class FrozenStates:
    """The states of a frozen encoder's body as a function of audio."""

    def __init__(self, body: nn.Module) -> None:
        self.body, self.kind = body, kind_of(body.config.model_type)(body.config)

    @torch.no_grad()
    def __call__(self, audio: np.ndarray) -> Tensor:
        """States (A, L, C) float16 of audio (S,) with zero mean and unit variance."""
        conv = self.kind.convolve(self.body, torch.from_numpy(audio)[None])
        features = self.kind.at_audio_rate(conv, len(audio), None)
        return self.kind.states(self.body, features)[0].half()
