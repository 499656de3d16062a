"""Degraded copies of recordings, the same on every machine: noise and rooms depend on the name.

The phones stay those of the clean recording. The rules take its loudness, too.
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from scipy.signal import butter, fftconvolve, resample_poly, sosfilt

from benchmarks.non_speech import music
from benchmarks.real_speech import Clip
from config import SAMPLE_RATE
from synthetic.phones import SILENCE, Segment

NOISE_DB = 10.0  # level of speech over noise
MUSIC_DB = 10.0
BABBLE_DB = 10.0
N_BABBLERS = 4
REVERBERATION_S = 1.2  # time in which the room's sound falls by 60 dB
DIRECT_DB = -3.0  # level of the direct sound over the room's
CLIPPED_SHARE = 0.3  # of the samples of speech
TELEPHONE_HZ = (300, 3400)
SPEED = (5, 4)  # faster and higher by 5/4

Degrade = Callable[[Clip, np.random.Generator, Sequence[Clip]], np.ndarray]


def degraded(clips: Sequence[Clip], kind: str) -> list[Clip]:
    """Copies of the clips, degraded in one of the ways of KINDS."""
    copies = []
    for clip in clips:
        rng = np.random.default_rng(zlib.crc32(f"{kind} {clip.name}".encode()))
        if kind == "speed x1.25":
            copies.append(faster(clip))
        else:
            audio = KINDS[kind](clip, rng, clips).astype(np.float32)
            copies.append(dataclasses.replace(clip, audio=audio, clean=clip.audio))
    return copies


def faster(clip: Clip) -> Clip:
    """The clip at 1.25 times its tempo and pitch, resampled with a band limit."""
    up, down = SPEED
    audio = resample_poly(clip.audio, down, up).astype(np.float32)
    segments = tuple(Segment(p, a * down / up, b * down / up) for p, a, b in clip.segments)
    return dataclasses.replace(clip, audio=audio, segments=segments)


def _telephone(clip: Clip, rng: np.random.Generator, clips: Sequence[Clip]) -> np.ndarray:
    """8 kHz, 300 to 3400 Hz, 8 bits by the mu-law (ITU-T G.711)."""
    band = butter(6, TELEPHONE_HZ, "bandpass", fs=SAMPLE_RATE, output="sos")
    narrow = resample_poly(sosfilt(band, clip.audio), 1, 2)
    peak = max(np.abs(narrow).max(), 1e-6)
    code = np.round(127 * np.log1p(255 * np.abs(narrow) / peak) / np.log(256))
    decoded = np.sign(narrow) * peak * (256 ** (code / 127) - 1) / 255
    return resample_poly(decoded, 2, 1)[: len(clip.audio)]


def _noise(clip: Clip, rng: np.random.Generator, clips: Sequence[Clip]) -> np.ndarray:
    return _mixed(clip, rng.normal(size=len(clip.audio)), NOISE_DB)


def _music(clip: Clip, rng: np.random.Generator, clips: Sequence[Clip]) -> np.ndarray:
    return _mixed(clip, music(rng, len(clip.audio)), MUSIC_DB)


def _babble(clip: Clip, rng: np.random.Generator, clips: Sequence[Clip]) -> np.ndarray:
    """Other clips of the set, repeated, at equal levels; the clip itself reversed if it is alone"""
    others = [other.audio for other in clips if other.name != clip.name] or [clip.audio[::-1]]
    total = np.zeros(len(clip.audio))
    for i in rng.choice(len(others), N_BABBLERS):
        start = rng.integers(len(others[i]))
        voice = np.resize(np.roll(others[i], -start), len(total))
        total += voice / max(_rms(voice), 1e-6)
    return _mixed(clip, total, BABBLE_DB)


def _reverberation(clip: Clip, rng: np.random.Generator, clips: Sequence[Clip]) -> np.ndarray:
    """The direct sound and exponentially decaying noise."""
    times = np.arange(int(REVERBERATION_S * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.normal(size=len(times)) * 10 ** (-3 * times / REVERBERATION_S)
    room *= 10 ** (-DIRECT_DB / 20) / np.linalg.norm(room)
    room[0] = 1.0
    wet = fftconvolve(clip.audio, room)[: len(clip.audio)]
    return wet / max(np.abs(wet).max(), 1e-6) * 0.7


def _clipping(clip: Clip, rng: np.random.Generator, clips: Sequence[Clip]) -> np.ndarray:
    limit = max(np.quantile(np.abs(_speech(clip)), 1 - CLIPPED_SHARE), 1e-6)
    return 0.7 * np.clip(clip.audio / limit, -1, 1)


def _gain(factor: float) -> Degrade:
    return lambda clip, rng, clips: factor * clip.audio


KINDS: dict[str, Degrade | None] = {
    "telephone": _telephone,
    "white noise": _noise,
    "music": _music,
    "babble": _babble,
    "reverberation": _reverberation,
    "clipping": _clipping,
    "speed x1.25": None,  # changes the phones, too: `faster`
    "gain x0.05": _gain(0.05),
    "gain x5": _gain(5.0),
}


def _speech(clip: Clip) -> np.ndarray:
    """The samples of the clip's phones."""
    parts = [
        clip.audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
        for phone, start, end in clip.segments
        if phone != SILENCE
    ]
    return np.concatenate(parts)


def _mixed(clip: Clip, noise: np.ndarray, decibels: float) -> np.ndarray:
    """The clip's sound with noise that is softer than its speech by this."""
    gain = _rms(_speech(clip)) / max(_rms(noise), 1e-9) * 10 ** (-decibels / 20)
    return clip.audio + gain * noise


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
