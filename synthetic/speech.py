"""The speech pool in memory: random crops of audio with their face curves and phones.

make_corpus.py writes hours of speech as audio and phones; the curves of a crop are computed here.
Speed, room and noise are drawn for every crop, so that no crop repeats. The model is trained on
takes of these clips instead (`synthetic.takes`); crops serve the comparison of front-ends.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.random import Generator

from common.errors import UserError
from config import SAMPLE_RATE
from speech.audio import normalise
from speech.augment import augment
from speech.timing import AUDIO_FPS, HOP, WINDOW, audio_frames
from synthetic.coarticulation import CHANNELS, LOUDNESS_HZ, curves, loudness
from synthetic.phones import PHONE_INDEX, Segment
from synthetic.speech_pool import read_clip, read_index

N_CHANNELS = len(CHANNELS)
SPEED_RANGE = (0.85, 1.2)  # tape speed: tempo, pitch and formants together
NORMAL_SPEED_SHARE = 0.4  # share of the augmented crops whose speed is not changed
MAX_SILENCE_CROP_S = 0.8  # a crop starts at most this long before its clip


@dataclass(frozen=True)
class SpeechClip:
    """One utterance of the pool."""

    name: str
    audio: np.ndarray  # (S,) int16
    segments: list[Segment]
    loudness: np.ndarray  # (n,) envelope at LOUDNESS_HZ
    speaker: str = ""  # engine and settings of the voice


@dataclass(frozen=True)
class Crop:
    """A few seconds for training."""

    name: str
    audio: np.ndarray  # (S,) float32, zero mean, unit variance
    curves: np.ndarray  # (T, N_CHANNELS) float32 at the mesh's rate
    phones: np.ndarray  # (A,) int64 at 50 Hz


SILENT_SHARE = 0.02  # share of crops without speech, so that noise alone moves no lips
SILENT = SpeechClip(
    "silence", np.zeros(SAMPLE_RATE, np.int16), [], np.full(LOUDNESS_HZ, 0.2, np.float32)
)


def clips_of_pool(folder: Path) -> list[dict]:
    """The rows of a pool's index. Raises `UserError` when `folder` has no pool."""
    rows = list(read_index(folder).values())
    if not rows:
        raise UserError(f"{folder}: no speech pool; make one with python -m synthetic.make_corpus")
    return rows


class SpeechPool:
    """All clips of `<folder>/index.jsonl`, audio as int16 in memory (115 MB per hour).

    Raises `UserError` when `folder` has no pool.
    """

    def __init__(self, folder: str | Path) -> None:
        rows = clips_of_pool(Path(folder))
        self.clips = [load_clip(Path(folder), row) for row in rows]
        seconds = np.array([len(clip.audio) / SAMPLE_RATE for clip in self.clips])
        self.weights = seconds / max(seconds.sum(), 1e-9)
        self.by_speaker: dict[str, list[SpeechClip]] = defaultdict(list)
        for clip in self.clips:
            self.by_speaker[clip.speaker].append(clip)

    def pick(self, rng: Generator) -> SpeechClip:
        """A clip drawn with probability proportional to its length."""
        return self.clips[int(rng.choice(len(self.clips), p=self.weights))]

    def crop(self, rng: Generator, seconds: float, fps: int, clean: bool = False) -> Crop:
        """A random crop of `seconds`, augmented unless `clean`; short clips are padded."""
        clip = SILENT if rng.random() < SILENT_SHARE and not clean else self.pick(rng)
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
            audio = augment(audio, rng, self.pick(rng).audio[:n].astype(np.float32))
        return Crop(clip.name, normalise(audio), *self._labels(clip, speed, start_s, seconds, fps))

    def _labels(
        self, clip: SpeechClip, speed: float, start_s: float, seconds: float, fps: int
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


def cut_at_speed(audio: np.ndarray, first: int, n: int, speed: float) -> np.ndarray:
    """(n,) float32 in -1..1: int16 `audio` from sample `first` on, `speed` times as fast.

    It is padded with silence on both sides. The resampling is band-limited (soxr), because linear
    interpolation would leave images of low frequencies among the high ones.
    """
    last = first + int(np.ceil(n * speed)) + 1
    part = audio[max(first, 0) : max(last, 0)].astype(np.float32) / 2**15
    part = np.pad(part, (max(-first, 0), max(last - max(first, 0) - len(part), 0)))
    if speed != 1.0:
        part = soxr.resample(part, speed * SAMPLE_RATE, SAMPLE_RATE, quality="MQ")
    return part[:n]


def load_clip(folder: Path, row: dict) -> SpeechClip:
    """The clip of one row of the index, with its audio."""
    wave, segments = read_clip(folder, row)
    audio = np.round(wave * 2**15).astype(np.int16)
    speaker = f"{row['engine']} {row['speaker']}"
    return SpeechClip(row["name"], audio, segments, loudness(wave), speaker)


def phones_at(segments: list[Segment], times_s: np.ndarray) -> np.ndarray:
    """Index of the phone at each instant, silence outside: (len(times_s),) int64."""
    phones = np.zeros(len(times_s), np.int64)
    for phone, start_s, end_s in segments:
        phones[(times_s >= start_s) & (times_s < end_s)] = PHONE_INDEX[phone]
    return phones
