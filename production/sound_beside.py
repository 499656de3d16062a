"""The sound of a recording as a file beside an animation."""

import sys
import wave
from pathlib import Path

import numpy as np

from common.whole_file import whole_file
from speech.sound_file import open_sound

FULL_SCALE = 32_767  # of 16 bits


def write_sound(
    path: Path, recording: Path, audio_track: int | None, start_s: float, end_s: float | None
) -> None:
    """Write the part of a recording from `start_s` to `end_s` to a .wav of 16 bits.

    Its rate is that of the recording, as are one or two channels; of more, the mean is written.
    Raises `UserError` as `speech.audio.read_audio`, `OSError` of the disk.
    """
    sound = open_sound(recording, audio_track)
    first = round(start_s * sound.rate)
    end = sys.maxsize if end_s is None else round(end_s * sound.rate)
    n_channels, place = sound.channels if sound.channels <= 2 else 1, 0
    with whole_file(path) as partial, wave.open(str(partial), "wb") as file:
        file.setparams((n_channels, 2, sound.rate, 0, "NONE", ""))
        for block in sound.blocks():
            part = block[max(first - place, 0) : max(end - place, 0)]
            place += len(block)
            if n_channels < sound.channels:
                part = part.mean(axis=1)
            values = np.round(FULL_SCALE * np.clip(part, -1.0, 1.0)).astype("<i2")
            file.writeframesraw(values.tobytes())
