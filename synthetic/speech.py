"""The speech pool in memory: clips of audio with the times of their phones.

make_corpus.py writes hours of speech; takes are made of its clips (`synthetic.takes`).
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.random import Generator

from common.errors import UserError
from config import SAMPLE_RATE
from synthetic.coarticulation import loudness
from synthetic.phones import PHONE_INDEX, Segment
from synthetic.speech_pool import read_clip, read_index

SPEED_RANGE = (0.85, 1.2)  # tape speed: tempo, pitch and formants together
NORMAL_SPEED_SHARE = 0.4  # share of the turns whose speed is not changed


@dataclass(frozen=True)
class SpeechClip:
    """One utterance of the pool."""

    name: str
    audio: np.ndarray  # (S,) int16
    segments: list[Segment]
    loudness: np.ndarray  # (n,) envelope at LOUDNESS_HZ
    speaker: str = ""  # engine and settings of the voice


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
