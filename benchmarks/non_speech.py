"""Sounds without speech, and a voice that becomes softer: the lips should rest, and should go on.

The sounds are synthesised, the same on every machine. With --asterisk some recordings are added:
its tones, its screaming monkeys and its silence.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.signal import butter, sosfilt

from benchmarks.measures import Lips
from benchmarks.real_speech import LIBRIVOX_FOLDER, read_recording
from config import SAMPLE_RATE

SOUND_S = 6.0
SOFTER_DB = (-6, -12, -18, -24, -30)
FIRST_VOICE_S = 3.0
FIRST_VOICE = "sense_and_sensibility_0890.flac"  # a recording of the dev half
RECORDED = (
    "ascending-2tone", "beep", "beeperr", "descending-2tone", "confbridge-join",
    "confbridge-leave", "tt-monkeys", "silence/5",
)  # fmt: skip
_CHORDS = (
    (82.4, 123.5, 164.8, 207.7, 246.9, 329.6),
    (110.0, 164.8, 220.0, 277.2, 329.6),
    (146.8, 220.0, 293.7, 370.0),
    (98.0, 123.5, 146.8, 196.0, 246.9, 392.0),
)  # Hz; E A D G
_N = int(SOUND_S * SAMPLE_RATE)


class Rest(NamedTuple):
    """What the lips do in a sound without speech."""

    frames: int
    open_frames: int  # with a gap above the threshold of closed lips
    largest_mm: float


def rest(lips: Lips) -> Rest:
    """Count the open frames of a clip without speech."""
    is_open = lips.aperture > lips.closed
    return Rest(len(is_open), int(is_open.sum()), float(lips.aperture.max(initial=0.0)))


def sounds(asterisk: str | Path | None = None) -> dict[str, np.ndarray]:
    """Name -> audio (S,) float32 at 16 kHz of 6 s, and the recordings that are in `asterisk`."""
    audio = {name: make(np.random.default_rng(7)) for name, make in _SOUNDS.items()}
    audio |= {f"room {level} dB": _level(pink(np.random.default_rng(8)), level)
              for level in (-60, -50, -42, -35)}  # fmt: skip
    audio |= {f"hum {level} dB": _level(mains(), level) for level in (-50, -35)}
    if asterisk is not None:
        files = {name: Path(asterisk) / f"{name}.g722" for name in RECORDED}
        audio |= {n: read_recording(file) for n, file in files.items() if file.is_file()}
    return {name: sound.astype(np.float32) for name, sound in audio.items()}


def softer_voices() -> dict[int, np.ndarray]:
    """Decibels -> 3 s of a voice, then the same 3 s softer by that: (S,) float32 at 16 kHz."""
    first = read_recording(LIBRIVOX_FOLDER / FIRST_VOICE)[: int(FIRST_VOICE_S * SAMPLE_RATE)]
    return {db: np.concatenate([first, first * np.float32(10 ** (db / 20))]) for db in SOFTER_DB}


def second_over_first(lips: Lips) -> float:
    """Mean opening of the second half of a clip over that of the first; 1.0 for `softer_voices`."""
    middle = len(lips.aperture) // 2
    opening = np.maximum(lips.aperture, 0)
    first = opening[:middle].mean()
    return float(opening[middle:].mean() / first) if first > 0 else float("nan")


def guitar(rng: np.random.Generator, n: int = _N, first_s: float = 0.2) -> np.ndarray:
    """Strummed chords of plucked strings: (n,). Karplus and Strong (1983)."""
    sound = np.zeros(n + SAMPLE_RATE * 3)
    for i, start_s in enumerate(np.arange(first_s, n / SAMPLE_RATE, 1.1)):
        for k, pitch in enumerate(_CHORDS[i % len(_CHORDS)]):
            start = int((start_s + 0.018 * k) * SAMPLE_RATE)
            string = _plucked(pitch, 2.5, rng)
            sound[start : start + len(string)] += string
    return _peak(sound[:n])


def _plucked(pitch_hz: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A burst of noise, then each period is the mean of two neighbours of the one before."""
    period = round(SAMPLE_RATE / pitch_hz - 0.5)
    periods = np.zeros((int(seconds * pitch_hz), period))
    periods[0] = rng.uniform(-1, 1, period)
    last = 0.0  # sample before the first one of the period before
    for before, now in zip(periods, periods[1:], strict=False):
        now[:] = 0.498 * (before + np.r_[last, before[:-1]])
        last = before[-1]
    return periods.ravel()


def music(rng: np.random.Generator, n: int = _N) -> np.ndarray:
    """A bass, arpeggios of harmonic tones, a guitar, a drum and a cymbal at 120 beats/min: (n,)."""
    sound = 0.5 * guitar(rng, n, 0.0)
    for i, start in enumerate(range(0, n, SAMPLE_RATE // 4)):
        chord = _CHORDS[i // 8 % len(_CHORDS)]
        _add(sound, start, 0.25 * _tone(2 * chord[i % len(chord)], 0.4))
        if i % 2 == 0:
            _add(sound, start, 0.4 * _tone(chord[0] / 2, 0.5))
            _add(sound, start, 0.7 * _decay(0.05, 0.2) * np.sin(2 * np.pi * 60 * _times(0.2)))
        _add(sound, start, 0.15 * _decay(0.02, 0.1) * _band(rng.normal(size=1600), 5000, 7900))
    return _peak(sound)


def _tone(pitch_hz: float, seconds: float) -> np.ndarray:
    times = _times(seconds)
    waves = [np.sin(2 * np.pi * k * pitch_hz * times) / k for k in range(1, 7)]
    return np.minimum(1, times / 0.01) * _decay(seconds / 3, seconds) * np.sum(waves, axis=0)


def breath(rng: np.random.Generator) -> np.ndarray:
    """Three loud breaths of 1 s, noise with two broad resonances: (S,)."""
    noise = rng.normal(size=_N)
    coloured = _band(noise, 400, 1500) + 0.6 * _band(noise, 1800, 4500)
    rise = np.clip(np.sin(2 * np.pi * np.arange(_N) / SAMPLE_RATE / 2), 0, None)  # 1 s of 2
    return _peak(coloured * rise)


def laughter(rng: np.random.Generator) -> np.ndarray:
    """Bursts of a breathy voice at 5 Hz with falling pitch, in two bouts: (S,)."""
    times = np.arange(_N) / SAMPLE_RATE
    bout = (times % 3) < 1.8
    pitch = 320 - 60 * (times % 3)
    pulses = np.diff(np.floor(np.cumsum(pitch) / SAMPLE_RATE), prepend=0.0)
    source = 6 * pulses + 0.3 * rng.normal(size=_N)
    voice = sum(_band(source, f - 90, f + 90) for f in (750, 1300, 2600))
    return _peak(voice * bout * np.clip(np.sin(2 * np.pi * 5 * times), 0, None) ** 2)


def claps(rng: np.random.Generator) -> np.ndarray:
    """Ten claps, bursts of noise that decay within 30 ms: (S,)."""
    sound = np.zeros(_N)
    for start_s in np.arange(0.4, SOUND_S - 0.3, 0.55):
        burst = _decay(0.008, 0.06) * _band(rng.normal(size=len(_times(0.06))), 700, 3500)
        _add(sound, int(start_s * SAMPLE_RATE), burst)
    return _peak(sound)


def pink(rng: np.random.Generator, n: int = _N) -> np.ndarray:
    """Noise with a power of 1/f, the sound of a quiet room: (n,)."""
    spectrum = np.fft.rfft(rng.normal(size=n))
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 30.0)
    return np.fft.irfft(spectrum / np.sqrt(frequency), n)


def mains() -> np.ndarray:
    """Mains hum: 50 Hz and its harmonics: (S,)."""
    times = np.arange(_N) / SAMPLE_RATE
    return sum(np.sin(2 * np.pi * 50 * k * times + k) / k for k in (1, 2, 3, 4, 6, 8))


_SOUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "guitar": guitar,
    "music": music,
    "breath": breath,
    "laughter": laughter,
    "claps": claps,
    "white noise": lambda rng: 0.1 * rng.normal(size=_N),
    "silence": lambda rng: np.zeros(_N),
}


def _times(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _decay(constant_s: float, seconds: float) -> np.ndarray:
    return np.exp(-_times(seconds) / constant_s)


def _add(sound: np.ndarray, start: int, part: np.ndarray) -> None:
    """Add `part` to `sound` in place, cut at its end."""
    sound[start : start + len(part)] += part[: len(sound) - start]


def _band(sound: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    return sosfilt(butter(2, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE, output="sos"), sound)


def _peak(sound: np.ndarray) -> np.ndarray:
    return 0.7 * sound / np.abs(sound).max()


def _level(sound: np.ndarray, decibels: float) -> np.ndarray:
    """The sound with this RMS, relative to full scale."""
    return sound * 10 ** (decibels / 20) / np.sqrt(np.mean(sound**2))
