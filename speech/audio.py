"""Speech files of any format as 16 kHz mono: mixing down, resampling, normalising.

`sound_file` decodes them. S samples at 16 kHz.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import SAMPLE_RATE
from speech.downmix import Levels, Mix
from speech.ffmpeg import listed
from speech.resampling import resample_blocks
from speech.sound_file import Sound, open_sound, say
from speech.stored_speech import Moments, Samples
from speech.timing import MIN_SAMPLES


def read_audio(path: str | Path, audio_track: int | None = None) -> NDArray[np.float32]:
    """Speech (S,) float32 at 16 kHz: the mean of all channels; full scale of the file is 1.

    Reads wav, flac, mp3 and ogg of any rate and channel count with libsndfile, and formats that it
    does not support (m4a, flv, mp4, ...) with the ffmpeg of imageio-ffmpeg. Of a video, time 0 is
    its start: where the sound begins later, silence comes first. audio_track: see
    `sound_file.open_sound`. Channels without signal are left out of the mean, and where the mean
    is silent because channels cancel each other the loudest is taken; both are said on stderr.

    Digital silence is valid. Raises `UserError` for a file that is missing, empty, text, damaged,
    truncated, shorter than 45 ms, longer than 6 hours, has NaN, infinite or huge samples, or is not
    audio.
    """
    samples = store_audio(path, audio_track)
    return samples.read(0, len(samples))


def store_audio(
    path: str | Path, audio_track: int | None = None, folder: Path | None = None
) -> Samples:
    """The samples of `read_audio`, to be read in parts; folder: as for `Samples`.

    Raises `UserError` as `read_audio`, and `OSError` where the folder has no room.
    """
    sound = open_sound(path, audio_track, ffmpeg_rate=SAMPLE_RATE)
    levels = Levels(sound.channels)
    samples = _resampled(map(levels.mean, sound.blocks()), sound, folder)
    mix = levels.mix()
    if mix.reason:
        say(f"warning: audio {sound.path}: {mix.reason}")
        samples = _resampled(map(mix.apply, sound.blocks()), sound, folder)
    if len(samples) < MIN_SAMPLES:
        raise UserError(
            f"audio {sound.path}: {1000 * len(samples) / SAMPLE_RATE:.0f} ms long, expected at "
            f"least {1000 * MIN_SAMPLES // SAMPLE_RATE} ms (one frame); give a longer recording"
        )
    if len(sound.tracks) > 1 and samples.is_silent:
        say(
            f"warning: audio {sound.path}: this track is silent; demo.py --audio_track N takes "
            f"another: {listed(sound.tracks)}"
        )
    return samples


def _resampled(mono: Iterable[NDArray[np.float32]], sound: Sound, folder: Path | None) -> Samples:
    samples = Samples(folder)
    for block in resample_blocks(mono, sound.rate):
        samples.append(block)
    return samples


def speech_mix(path: str | Path, audio_track: int | None = None) -> Mix:
    """The channels of a file that `read_audio` takes the mean of."""
    sound = open_sound(path, audio_track, ffmpeg_rate=SAMPLE_RATE)
    levels = Levels(sound.channels)
    for block in sound.blocks():
        levels.mean(block)
    return levels.mix()


def length_of(path: str | Path) -> Fraction:
    """The exact length of a sound file in seconds; it is decoded only where no header states it.

    Raises `UserError` as `read_audio`.
    """
    sound = open_sound(path)
    n_frames = sound.declared
    if n_frames is None:
        n_frames = sum(map(len, sound.blocks()))
    return Fraction(n_frames, sound.rate)


def normalise(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio` (S,) with zero mean and unit variance, as transformers' Wav2Vec2FeatureExtractor.

    As there, 1e-7 is added to the variance, so digital silence gives zeros.
    """
    moments = Moments(float(audio.mean(dtype=np.float64)), float(audio.var(dtype=np.float64)))
    return (audio - np.float32(moments.mean)) / np.float32(moments.divisor)
