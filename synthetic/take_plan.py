"""Who speaks when in a take: clips of the pool in sequence, with gaps and stretches of no speech.

Times are samples at 16 kHz.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from config import SAMPLE_RATE
from synthetic.phones import SILENCE
from synthetic.speech import NORMAL_SPEED_SHARE, SPEED_RANGE, SpeechClip, SpeechPool

VOICES = ((1, 2, 3), (0.5, 0.33, 0.17))  # number of speakers and its probability
NO_SPEECH_SHARE = 0.06  # of the takes
STRETCH_SHARE = 0.27  # of the takes with speech: one or two stretches without speech
STRETCH_S = (2.0, 6.0)
WIDE_SPEED_SHARE = 0.1  # of the clips with changed speed
WIDE_SPEED_RANGE = (0.8, 1.3)
CONNECTED_SHARE = 0.2  # of the gaps have no length
LONG_GAP_SHARE = 0.08  # of the gaps last 3 to 6 s
GAP_S, LONG_GAP_S = (0.05, 2.5), (3.0, 6.0)
TRIMMED_SHARE = 0.6  # of the clips lose the silence at their ends, but for `MARGIN_S`
MARGIN_S = (0.02, 0.1)
LATE_START_SHARE = 0.3  # of the takes begin in the middle of a clip


@dataclass(frozen=True)
class Turn:
    """A clip or a part of it, placed in a take."""

    clip: SpeechClip
    voice: int  # 0 to 2
    first: int  # sample of the clip that is heard first
    start: int  # sample of the take at which it begins
    n: int  # samples of the take that it lasts
    speed: float

    @property
    def end(self) -> int:
        """Sample of the take after its last."""
        return self.start + self.n

    def take_s(self, clip_s: float) -> float:
        """The time of the take at which the time `clip_s` of the clip is heard, in seconds."""
        return self.start / SAMPLE_RATE + (clip_s - self.first / SAMPLE_RATE) / self.speed


@dataclass(frozen=True)
class Plan:
    """The turns of a take of n samples and its stretches (first, last) without speech."""

    n: int
    turns: list[Turn]
    stretches: list[tuple[int, int]]


class Voices:
    """The speakers of a take; a speaker who has no clip left is replaced by another."""

    def __init__(self, pool: SpeechPool, rng: Generator, n_voices: int) -> None:
        self.pool, self.rng = pool, rng
        self.clips: list[list[SpeechClip]] = [[] for _ in range(n_voices)]

    def next_clip(self, voice: int) -> SpeechClip:
        """Another clip of a voice."""
        if not self.clips[voice]:
            of_speaker = self.pool.by_speaker[self.pool.pick(self.rng).speaker]
            order = self.rng.permutation(len(of_speaker))
            self.clips[voice] = [of_speaker[i] for i in order]
        return self.clips[voice].pop()


def draw_plan(pool: SpeechPool, rng: Generator, n: int, clean: bool = False) -> Plan:
    """A random plan of n samples; `clean`: whole clips at their speed, no stretches."""
    if not clean and rng.random() < NO_SPEECH_SHARE:
        return Plan(n, [], _tiles(n, rng))
    n_voices = int(rng.choice(VOICES[0], p=VOICES[1]))
    voices, voice = Voices(pool, rng, n_voices), int(rng.integers(n_voices))
    stretch_at: set[int] = set()
    if not clean and rng.random() < STRETCH_SHARE:
        stretch_at = set(rng.integers(0, max(2, n // (5 * SAMPLE_RATE)), 2).tolist())
    turns: list[Turn] = []
    stretches: list[tuple[int, int]] = []
    cursor = _gap(rng)
    is_late = not clean and rng.random() < LATE_START_SHARE
    while cursor < n:
        if len(turns) in stretch_at:
            stretch_at.remove(len(turns))
            last = min(n, cursor + int(rng.uniform(*STRETCH_S) * SAMPLE_RATE))
            stretches.append((cursor, last))
            cursor = last
            continue
        turn = _draw_turn(voices, rng, voice, cursor, clean)
        if is_late and not turns and not stretches:
            turn = _started_late(turn, rng)
        turns.append(_ended_by(turn, n))
        cursor = turn.end + _gap(rng)
        if rng.random() < 0.5:
            voice = int(rng.integers(n_voices))
    return Plan(n, [turn for turn in turns if turn.n > 0], stretches)


def _draw_turn(voices: Voices, rng: Generator, voice: int, start: int, clean: bool) -> Turn:
    clip = voices.next_clip(voice)
    first, last = 0, len(clip.audio)
    if clean:
        return Turn(clip, voice, first, start, last, 1.0)
    spoken = [segment for segment in clip.segments if segment.phone != SILENCE]
    if spoken and rng.random() < TRIMMED_SHARE:
        before_s, after_s = rng.uniform(*MARGIN_S, 2)
        first = max(first, int((spoken[0].start_s - before_s) * SAMPLE_RATE))
        last = min(last, int((spoken[-1].end_s + after_s) * SAMPLE_RATE))
    speed = _draw_speed(rng)
    return Turn(clip, voice, first, start, int((last - first) / speed), speed)


def _draw_speed(rng: Generator) -> float:
    if rng.random() < NORMAL_SPEED_SHARE:
        return 1.0
    is_wide = rng.random() < WIDE_SPEED_SHARE
    return float(rng.uniform(*(WIDE_SPEED_RANGE if is_wide else SPEED_RANGE)))


def _started_late(turn: Turn, rng: Generator) -> Turn:
    """The turn from a random moment on, as the first sound of the take."""
    lost = int(rng.uniform(0, 0.7) * turn.n)
    first = turn.first + int(lost * turn.speed)
    return Turn(turn.clip, turn.voice, first, 0, turn.n - lost, turn.speed)


def _ended_by(turn: Turn, n: int) -> Turn:
    """The turn without what lies beyond sample n of the take."""
    kept = min(turn.n, n - turn.start)
    return Turn(turn.clip, turn.voice, turn.first, turn.start, kept, turn.speed)


def _gap(rng: Generator) -> int:
    """Samples between two turns: none, 0.05 to 2.5 s (short ones are frequent) or 3 to 6 s."""
    kind = rng.random()
    if kind < CONNECTED_SHARE:
        return 0
    if kind < CONNECTED_SHARE + LONG_GAP_SHARE:
        return int(rng.uniform(*LONG_GAP_S) * SAMPLE_RATE)
    return int(np.exp(rng.uniform(*np.log(GAP_S))) * SAMPLE_RATE)


def _tiles(n: int, rng: Generator) -> list[tuple[int, int]]:
    """Stretches of 3 to 20 s that fill n samples."""
    edges = [0]
    while edges[-1] < n:
        edges.append(min(n, edges[-1] + int(rng.uniform(3, 20) * SAMPLE_RATE)))
    return list(zip(edges[:-1], edges[1:], strict=True))
