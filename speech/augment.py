"""Augmentation of clean speech: rooms, microphones, noise and codecs, drawn at random.

A network trained on clean synthetic speech alone performs worse on recordings of people, and the
recording conditions are the first difference. No change moves a sound in time, so the lip motion
stays valid. Every function takes and returns audio (S,) float32 at 16 kHz; `rng` is the only source
of randomness.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import istft, oaconvolve, stft

from config import SAMPLE_RATE

MU = 255.0  # ITU-T G.711 mu-law
HEAVY_ROOM_SHARE = 0.2  # of the reverberant clips
HARD_CLIP_SHARE = 0.25  # of the clipped clips
LEVEL_BLOCK = 320  # samples of the blocks of `active_level`: 20 ms
ACTIVE_DB = 20.0  # blocks down to this far below the loudest are active

Audio = NDArray[np.float32]  # (S,)


def rms(audio: Audio) -> float:
    """Root mean square of (S,) samples plus 1e-8, so that it can be divided by."""
    return float(np.sqrt(np.mean(np.square(audio), dtype=np.float64)) + 1e-8)


def active_level(audio: Audio) -> float:
    """RMS of (S,) audio over its active blocks of 20 ms, plus 1e-8.

    Active blocks are at most 20 dB softer than the 95th percentile of the blocks, so pauses do not
    lower the level. A steady sound has its RMS as active level.
    """
    whole = len(audio) // LEVEL_BLOCK * LEVEL_BLOCK
    if not whole:
        return rms(audio)
    power = np.square(audio[:whole].reshape(-1, LEVEL_BLOCK), dtype=np.float64).mean(1)
    loud = power[power > 1e-5 * power.max()]
    if not len(loud):
        return 1e-8
    active = power[power >= np.percentile(loud, 95) * 10.0 ** (-ACTIVE_DB / 10)]
    return float(np.sqrt(active.mean()) + 1e-8)


def equalise(audio: Audio, rng: Generator, spread_db: float = 8.0) -> Audio:
    """Apply a smooth random frequency response: gains drawn at 8 points from 60 Hz to 8 kHz.

    spread_db: two standard deviations of the gain at a point, without a common tilt of 3 dB.
    """
    points_hz = np.geomspace(60.0, SAMPLE_RATE / 2, 8)
    gains_db = rng.normal(0.0, spread_db / 2, 8) + rng.normal(0.0, 3.0) * np.linspace(-1, 1, 8)
    frequencies = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    gain = np.interp(np.log(frequencies + 1.0), np.log(points_hz), gains_db)
    return apply_response(audio, 10.0 ** (gain / 20))


def band_limit(audio: Audio, rng: Generator) -> Audio:
    """Apply a high-pass at 20 to 350 Hz and a low-pass at 2.8 to 8 kHz, as telephones do."""
    low_hz = rng.choice([rng.uniform(20, 120), rng.uniform(120, 350)])
    high_hz = rng.choice([rng.uniform(2_800, 4_000), rng.uniform(4_000, 8_000)])
    frequencies = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    high_pass = 1 / (1 + (low_hz / (frequencies + 1e-3)) ** 4)
    low_pass = 1 / (1 + (frequencies / high_hz) ** 16)
    return apply_response(audio, np.sqrt(high_pass * low_pass))


def apply_response(audio: Audio, response: NDArray) -> Audio:
    """Multiply the spectrum by a real response (S // 2 + 1,), without delay."""
    return np.fft.irfft(np.fft.rfft(audio) * response, len(audio)).astype(np.float32)


def reverberate(audio: Audio, rng: Generator) -> Audio:
    """Add a room: decaying noise after the direct sound.

    The reverberation time RT60 is 0.08 to 0.7 s and the direct sound 0 to 18 dB louder than the
    room; in `HEAVY_ROOM_SHARE` of the cases 0.7 to 1.2 s and -4 to 6 dB.
    """
    is_heavy = rng.random() < HEAVY_ROOM_SHARE
    rt60_s = rng.uniform(0.7, 1.2) if is_heavy else rng.uniform(0.08, 0.7)
    direct_db = rng.uniform(-4, 6) if is_heavy else rng.uniform(0, 18)
    n = int(min(rt60_s, 0.9) * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10.0 ** (-3 * np.arange(n) / SAMPLE_RATE / rt60_s)
    tail[: int(rng.uniform(0.001, 0.008) * SAMPLE_RATE)] = 0  # first reflection
    tail *= 10.0 ** (-direct_db / 20) / (np.linalg.norm(tail) + 1e-8)
    room = np.concatenate([[1.0], tail]).astype(np.float32)
    return oaconvolve(audio.astype(np.float32), room)[: len(audio)].astype(np.float32)


def coloured_noise(n: int, rng: Generator, slope: float) -> Audio:
    """Gaussian noise (n,) whose amplitude falls as frequency ** -slope above 40 Hz, RMS 1.

    A slope of 0 is white noise, 0.5 pink (-3 dB per octave), 1 brown.
    """
    noise = rng.standard_normal(n, dtype=np.float32)
    if slope:
        frequencies = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 40.0)
        noise = apply_response(noise, frequencies**-slope)
    return (noise / rms(noise)).astype(np.float32)


def hum(n: int, rng: Generator) -> Audio:
    """Mains hum (n,) of 50 or 60 Hz with seven harmonics of random phase, RMS 1."""
    hum_hz, t = rng.choice([50.0, 60.0]), np.arange(n) / SAMPLE_RATE
    noise = sum(np.sin(2 * np.pi * hum_hz * k * t + rng.uniform(0, 6)) / k for k in range(1, 8))
    return (noise / rms(noise)).astype(np.float32)


def add_noise(audio: Audio, rng: Generator, babble: Audio | None = None) -> Audio:
    """Add coloured noise (slope 0 to -6 dB per octave), hum or `babble`, 5 to 40 dB softer.

    babble: other voices (N,), repeated to S; None for none.
    """
    n = len(audio)
    kind = rng.random()
    if babble is not None and len(babble) and kind < 0.2:
        noise, snr_db = np.resize(babble, n), rng.uniform(12, 30)
    elif kind < 0.3:
        noise, snr_db = hum(n, rng), rng.uniform(12, 40)
    else:
        noise, snr_db = coloured_noise(n, rng, rng.uniform(0.0, 1.0)), rng.uniform(5, 40)
    scale = rms(audio) / rms(noise) * 10.0 ** (-snr_db / 20)
    return (audio + scale * noise).astype(np.float32)


def mu_law(audio: Audio) -> Audio:
    """Encode as eight-bit mu-law and decode (ITU-T G.711)."""
    peak = np.abs(audio).max() + 1e-8
    compressed = np.sign(audio) * np.log1p(MU * np.abs(audio) / peak) / np.log1p(MU)
    steps = np.round(compressed * 127) / 127
    return (np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU * peak).astype(np.float32)


def lossy_codec(audio: Audio, rng: Generator) -> Audio:
    """Imitate low-rate mp3: drop spectral bins far below their frame's peak, coarsen the others."""
    _, _, spectrum = stft(audio, nperseg=512, noverlap=256)
    magnitude = np.abs(spectrum)
    floor = magnitude.max(0, keepdims=True) * 10.0 ** (-rng.uniform(26, 50) / 20)
    tilt = np.linspace(0.3, 2.0, len(magnitude))[:, None]
    audible = np.where(magnitude > floor * tilt, spectrum, 0)
    coarse = 1 + rng.uniform(0, 0.2) * rng.standard_normal(audible.shape)
    _, out = istft(audible * coarse, nperseg=512, noverlap=256)
    return np.resize(out, len(audio)).astype(np.float32)


def clip_peaks(audio: Audio, rng: Generator) -> Audio:
    """Clip peaks at 25 to 90 % of the maximum, as an overdriven input; a share at 10 to 25 %."""
    is_hard = rng.random() < HARD_CLIP_SHARE
    limit = np.abs(audio).max() * (rng.uniform(0.1, 0.25) if is_hard else rng.uniform(0.25, 0.9))
    return np.clip(audio, -limit, limit)


def drift_gain(audio: Audio, rng: Generator) -> Audio:
    """Vary the gain by a few dB over seconds, as a speaker who moves."""
    n_points = max(2, len(audio) // SAMPLE_RATE + 1)
    gains_db = rng.normal(0, 3.0, n_points)
    curve = np.interp(np.arange(len(audio)), np.linspace(0, len(audio), n_points), gains_db)
    return (audio * 10.0 ** (curve / 20)).astype(np.float32)


def augment(audio: Audio, rng: Generator, babble: Audio | None = None) -> Audio:
    """Apply a random selection of the changes above, in random strength; one clip in ten is clean.

    babble: other voices (N,) for `add_noise`, or None. Half of the clips change sign. Returns
    audio (S,) that is not normalised.
    """
    if rng.random() < 0.1:
        return audio
    if rng.random() < 0.5:
        audio = drift_gain(audio, rng)
    if rng.random() < 0.6:
        audio = equalise(audio, rng)
    if rng.random() < 0.5:
        audio = reverberate(audio, rng)
    if rng.random() < 0.7:
        audio = add_noise(audio, rng, babble)
    if rng.random() < 0.4:
        audio = band_limit(audio, rng)
    if rng.random() < 0.25:
        audio = lossy_codec(audio, rng)
    if rng.random() < 0.1:
        audio = mu_law(audio)
    if rng.random() < 0.1:
        audio = clip_peaks(audio, rng)
    return -audio if rng.random() < 0.5 else audio
