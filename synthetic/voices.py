"""Speech with known phone times from the installed engines: `speak` makes one utterance.

An engine has a `name`, `offset_s` (added to its phone times), `unavailable()` (why it cannot run,
else ""), `draw_speaker(rng)` (the parameters of a pseudo-speaker) and `synthesize(text, speaker,
rng)`. Common steps are done here: correction of the phone times, a change of tape speed that makes
further speakers, silence around the words, level, resampling to 16 kHz, forced alignment.
"""

import json
import random
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from common.errors import UserError
from config import SAMPLE_RATE
from synthetic.alignment import refine
from synthetic.classic_voices import EspeakVoices, FestivalVoices, FliteVoices
from synthetic.neural_voices import HibariVoices, KokoroVoices, missing_package
from synthetic.phones import SILENCE, Segment, transform_segments

ENGINES: dict[str, Any] = {
    engine.name: engine
    for engine in (HibariVoices, KokoroVoices, FliteVoices, EspeakVoices, FestivalVoices)
}
TAPE_SPEEDS = {"hibari": (1.0, 1.0), "kokoro": (0.93, 1.08)}  # other engines: TAPE_SPEED
TAPE_SPEED = (0.85, 1.2)
TAPE_SHARE = 0.6  # share of the speakers whose tape speed is changed
SILENCE_S = (0.1, 0.8)  # before and after the words
PEAK = (0.25, 0.9)
FLOOR_DB = (-80.0, -62.0)  # white noise, since no recording has digital silence
FADE_S = 0.01


@dataclass
class Utterance:
    """One spoken text.

    audio: (S,) float32 at 16 kHz, peak below 1; segments: contiguous, from 0 to the end of the
    audio; speaker: the parameters of the pseudo-speaker as JSON.
    """

    audio: np.ndarray
    segments: list[Segment]
    text: str
    engine: str
    speaker: str

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return len(self.audio) / SAMPLE_RATE

    @staticmethod
    def speaker_name(speaker: dict[str, Any]) -> str:
        """The `speaker` field of this pseudo-speaker's utterances."""
        return json.dumps(speaker, sort_keys=True)


def missing_engines() -> dict[str, str]:
    """Engine name -> why it cannot run, for the engines that cannot run here."""
    reasons = {name: _unavailable(name) for name in ENGINES}
    return {name: reason for name, reason in reasons.items() if reason}


def require_engine(name: str) -> None:
    """Raise `UserError` when the name is unknown or the engine cannot run; loads nothing."""
    if name not in ENGINES:
        raise UserError(f"engine {name!r}: expected one of {', '.join(ENGINES)}")
    reason = _unavailable(name)
    if reason:
        raise UserError(f"engine {name} cannot run: {reason}")


def _unavailable(name: str) -> str:
    return ENGINES[name].unavailable() or missing_package("pocketsphinx")


@cache
def load_engine(name: str) -> Any:
    """The engine, loaded once per process. Raises `UserError` like `require_engine`."""
    require_engine(name)
    return ENGINES[name]()


def draw_speaker(engine_name: str, rng: random.Random) -> dict[str, Any]:
    """A new pseudo-speaker of the engine."""
    speaker = load_engine(engine_name).draw_speaker(rng)
    low, high = TAPE_SPEEDS.get(engine_name, TAPE_SPEED)
    is_changed = rng.random() < TAPE_SHARE
    return speaker | {"tape": round(rng.uniform(low, high), 2) if is_changed else 1.0}


def speak(
    engine_name: str, text: str, rng: random.Random, speaker: dict[str, Any] | None = None
) -> Utterance:
    """`text` spoken by `speaker` (parameters from `draw_speaker`), or by one drawn from `rng`.

    Raises `UserError` when the engine is unknown or cannot run.
    """
    speaker = draw_speaker(engine_name, rng) if speaker is None else speaker
    engine = load_engine(engine_name)
    samples, rate, segments = engine.synthesize(text, speaker, rng)
    ratio = Fraction(SAMPLE_RATE, rate) / Fraction(speaker["tape"]).limit_denominator(100)
    audio = resample_poly(samples.astype(np.float64), ratio.numerator, ratio.denominator)
    scale = float(ratio) * rate / SAMPLE_RATE
    offset_s = engine.offset_s * scale
    segments = transform_segments(segments, offset_s, len(audio) / SAMPLE_RATE, scale)
    audio, segments = set_silence(audio, segments, rng.uniform(*SILENCE_S), rng.uniform(*SILENCE_S))
    audio = audio * rng.uniform(*PEAK) / max(np.abs(audio).max(), 1e-6)
    noise = np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(audio))
    audio = audio + noise * 10 ** (rng.uniform(*FLOOR_DB) / 20)
    audio = np.clip(audio, -1, 1).astype(np.float32)
    return Utterance(
        audio,
        refine(audio, segments),
        text,
        engine_name,
        Utterance.speaker_name(speaker),
    )


def set_silence(
    audio: np.ndarray, segments: list[Segment], before_s: float, after_s: float
) -> tuple[np.ndarray, list[Segment]]:
    """Audio (S,) at 16 kHz with `before_s` of silence before the words and `after_s` after them.

    The audio is cut or padded, cuts are faded, and the segments are shifted accordingly. Raises
    ValueError when no segment is speech.
    """
    spoken = [segment for segment in segments if segment.phone != SILENCE]
    if not spoken:
        raise ValueError("no segment is speech")
    begin = round((spoken[0].start_s - before_s) * SAMPLE_RATE)
    end = round((spoken[-1].end_s + after_s) * SAMPLE_RATE)
    cut = audio[max(begin, 0) : end].copy()
    fade = np.linspace(0, 1, round(FADE_S * SAMPLE_RATE))
    cut[: len(fade)] *= fade[: len(cut)]
    cut[-len(fade) :] *= fade[::-1][-len(cut) :]
    padded = np.pad(cut, (max(-begin, 0), max(end - len(audio), 0)))
    duration_s = len(padded) / SAMPLE_RATE
    return padded, transform_segments(segments, -begin / SAMPLE_RATE, duration_s)
