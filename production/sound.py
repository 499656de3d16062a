"""The part of a recording that is spoken, and how lips and sound lie to each other."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import UserError
from config import SAMPLE_RATE
from production.prosody import Prosody, prosody_of
from speech.audio import store_audio
from speech.stored_speech import Samples, StoredSpeech
from speech.timing import MIN_SAMPLES


@dataclass(frozen=True, eq=False)
class Speech:
    """audio: (S,) at 16 kHz for the network; samples: the whole recording."""

    audio: StoredSpeech
    samples: Samples

    @cached_property
    def prosody(self) -> Prosody:
        """That of the whole recording."""
        return prosody_of(self.samples)


def load_speech(
    path: Path,
    audio_track: int | None,
    start_s: float,
    end_s: float | None,
    lip_offset_ms: int,
    folder: Path,
) -> Speech:
    """Speech from `start_s` to `end_s`; its audio has zero mean and unit variance.

    end_s: None, or beyond the end: to the end. lip_offset_ms: by how much the lips follow the sound
    (positive) or precede it; the sound for the network is moved, with silence at the open end.
    folder: for the samples of a long recording. Raises `UserError` as `read_audio`, and where less
    than 45 ms are left; `OSError` where the folder has no room.
    """
    samples = store_audio(path, audio_track, folder)
    start = round(start_s * SAMPLE_RATE)
    stop = len(samples) if end_s is None else min(round(end_s * SAMPLE_RATE), len(samples))
    if stop - start < MIN_SAMPLES:
        raise UserError(
            f"audio {path}: {len(samples) / SAMPLE_RATE:.2f} s long, --start and --end leave "
            f"{1000 * max(stop - start, 0) / SAMPLE_RATE:.0f} ms, expected at least "
            f"{1000 * MIN_SAMPLES // SAMPLE_RATE} ms"
        )
    delay = round(lip_offset_ms * SAMPLE_RATE / 1000)
    return Speech(StoredSpeech(samples, start, stop, delay), samples)
