"""The sound of a video: the samples that a network hears, at the rate of the recording.

The recording is decoded by `speech.sound_file`, as for the network, and reaches the encoder as
samples. So a video never has another track, start or channel than the face was made for.
"""

from pathlib import Path

from speech.audio import speech_mix
from speech.downmix import Mix
from speech.sound_file import open_sound


def write_samples(
    recording: Path, audio_track: int | None, seconds: float, target: Path, start_s: float = 0.0
) -> list[str]:
    """Write `seconds` of a recording to `target`; return ffmpeg's arguments to read it.

    They begin `start_s` seconds after its start.

    One or two channels stay, more become their mean, and where `speech_mix` leaves channels out
    the sound is that mix. Samples are float32 of the recording's rate. Raises `UserError` as
    `speech.audio.read_audio`, and `OSError` of a full disk.
    """
    sound = open_sound(recording, audio_track)
    mix = speech_mix(recording, audio_track) if sound.channels > 1 else Mix((0,))
    keep = sound.channels <= 2 and not mix.reason
    skipped, missing = round(start_s * sound.rate), round(seconds * sound.rate)
    with target.open("wb") as file:
        for block in sound.blocks():
            samples = (block if keep else mix.apply(block))[skipped : skipped + missing]
            skipped = max(skipped - len(block), 0)
            file.write(samples.astype("<f4").tobytes())
            missing -= len(samples)
            if missing <= 0:
                break
    channels = sound.channels if keep else 1
    return ["-f", "f32le", "-ar", str(sound.rate), "-ac", str(channels), "-i", str(target)]
