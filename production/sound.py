"""The part of a recording that is spoken, and how lips and sound lie to each other."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import SAMPLE_RATE
from production.prosody import Prosody, prosody_of
from speech.audio import normalise, read_audio
from speech.timing import MIN_SAMPLES


@dataclass(frozen=True, eq=False)
class Speech:
    """audio: (S,) float32 at 16 kHz for the network; prosody: that of the whole recording."""

    audio: NDArray[np.float32]
    prosody: Prosody


def load_speech(
    path: Path, audio_track: int | None, start_s: float, end_s: float | None, lip_offset_ms: int
) -> Speech:
    """Speech from `start_s` to `end_s`; its audio has zero mean and unit variance.

    end_s: None, or beyond the end: to the end. lip_offset_ms: by how much the lips follow the sound
    (positive) or precede it; the sound for the network is moved, with silence at the open end.
    Raises `UserError` as `read_audio`, and where less than 45 ms are left.
    """
    audio = read_audio(path, audio_track)
    end = None if end_s is None else round(end_s * SAMPLE_RATE)
    part = audio[round(start_s * SAMPLE_RATE) : end]
    if len(part) < MIN_SAMPLES:
        raise UserError(
            f"audio {path}: {len(audio) / SAMPLE_RATE:.2f} s long, --start and --end leave "
            f"{1000 * len(part) / SAMPLE_RATE:.0f} ms, expected at least "
            f"{1000 * MIN_SAMPLES // SAMPLE_RATE} ms"
        )
    moved_part = moved(normalise(part), round(lip_offset_ms * SAMPLE_RATE / 1000))
    return Speech(moved_part, prosody_of(audio))


def moved(audio: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """`audio` (S,) later by `samples`, or earlier if negative, with zeros where nothing is."""
    if not samples:
        return audio
    result = np.zeros_like(audio)
    if samples > 0:
        result[samples:] = audio[:-samples]
    else:
        result[:samples] = audio[-samples:]
    return result
