"""Takes: long recordings made of the pool's clips, with their phones, loudness and noise.

A take has one to three speakers in their rooms, gaps, backgrounds and a microphone, all drawn at
random. Nothing moves a sound in time, so that phones and loudness are those of the clips. The phone
is silence wherever no main voice speaks: in music, breath, noise, reverberation and babble.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from config import SAMPLE_RATE
from synthetic.coarticulation import LOUDNESS_HZ
from synthetic.phones import SILENCE, Segment
from synthetic.speech import SpeechPool
from synthetic.take_plan import Plan, draw_plan
from synthetic.take_sound import LEAST_DB, clean_sound, recorded_sound

QUIET = 0.2  # loudness where nobody speaks: the least value of `coarticulation.loudness`


@dataclass(frozen=True)
class Take:
    """A long recording made of clips of the pool, with the phones and loudness of its voices."""

    audio: np.ndarray  # (S,) float32 at 16 kHz, peak at most 1
    segments: list[Segment]  # contiguous from 0 to the end
    loudness: np.ndarray  # (n,) float32 at LOUDNESS_HZ, of the clean clips; QUIET in gaps
    noise_db: np.ndarray  # (n,) float32 at LOUDNESS_HZ: `take_sound.noise_level`
    names: tuple[str, ...]  # the clips of its voices in order


def draw_take(pool: SpeechPool, rng: Generator, seconds: float, clean: bool = False) -> Take:
    """A random take of round(seconds · 16000) samples, which depends on `rng` alone.

    `clean`: only whole clips and gaps, without any change of their sound.
    """
    plan = draw_plan(pool, rng, round(seconds * SAMPLE_RATE), clean)
    loudness = loudness_of(plan)
    if clean:
        audio, noise_db = clean_sound(plan), np.full_like(loudness, LEAST_DB)
    else:
        audio, noise_db = recorded_sound(plan, pool, rng)
    names = tuple(turn.clip.name for turn in plan.turns)
    return Take(audio, segments_of(plan), loudness, noise_db, names)


def segments_of(plan: Plan) -> list[Segment]:
    """The phones of all turns, with silence between them, from 0 to the end of the take."""
    segments: list[Segment] = []
    for turn in plan.turns:
        low_s, high_s = turn.start / SAMPLE_RATE, turn.end / SAMPLE_RATE
        for phone, start_s, end_s in turn.clip.segments:
            start_s = min(max(turn.take_s(start_s), low_s), high_s)
            end_s = min(max(turn.take_s(end_s), low_s), high_s)
            if phone != SILENCE and end_s > start_s:
                _append(segments, phone, start_s, end_s)
    duration_s = plan.n / SAMPLE_RATE
    clock_s = segments[-1].end_s if segments else 0.0
    if clock_s < duration_s:
        segments.append(Segment(SILENCE, clock_s, duration_s))
    return segments


def _append(segments: list[Segment], phone: str, start_s: float, end_s: float) -> None:
    """Append a phone in place, after silence unless it follows within a microsecond."""
    clock_s = segments[-1].end_s if segments else 0.0
    if start_s - clock_s > 1e-6:
        segments.append(Segment(SILENCE, clock_s, start_s))
        clock_s = start_s
    segments.append(Segment(phone, clock_s, end_s))


def loudness_of(plan: Plan) -> np.ndarray:
    """Loudness of the clean clips at their place in the take: (n,) float32 at LOUDNESS_HZ."""
    times_s = (np.arange(-(-plan.n * LOUDNESS_HZ // SAMPLE_RATE)) + 0.5) / LOUDNESS_HZ
    loudness = np.full(len(times_s), QUIET, np.float32)
    for turn in plan.turns:
        rows = slice(*np.searchsorted(times_s * SAMPLE_RATE, [turn.start, turn.end]))
        clip_s = (times_s[rows] - turn.take_s(0.0)) * turn.speed
        envelope = turn.clip.loudness
        loudness[rows] = np.interp(clip_s * LOUDNESS_HZ - 0.5, np.arange(len(envelope)), envelope)
    return loudness
