"""Rooms, microphones and lines: random changes of clean audio that leave the lips as they are.

A network trained on clean synthetic speech turns worse on people; what differs first is the way
from the mouth to the file. Every function takes and returns (S,) float32 audio at 16 kHz; the
randomness comes from the generator that is passed in, so a seed gives the same clip again.
"""

import numpy as np
from numpy.random import Generator
from scipy.signal import fftconvolve, istft, stft

from config import SAMPLE_RATE

MU = 255.0  # ITU-T G.711 mu-law


def rms(audio: np.ndarray) -> float:
    """Root mean square, never zero."""
    return float(np.sqrt(np.mean(np.square(audio), dtype=np.float64)) + 1e-8)


def equalise(audio: np.ndarray, rng: Generator, spread_db: float = 8.0) -> np.ndarray:
    """A smooth random frequency response: gains drawn at 8 points, 60 Hz to 8 kHz."""
    points_hz = np.geomspace(60.0, SAMPLE_RATE / 2, 8)
    gains_db = rng.normal(0.0, spread_db / 2, 8) + rng.normal(0.0, 3.0) * np.linspace(-1, 1, 8)
    frequencies = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    gain = np.interp(np.log(frequencies + 1.0), np.log(points_hz), gains_db)
    return apply_response(audio, 10.0 ** (gain / 20))


def band_limit(audio: np.ndarray, rng: Generator) -> np.ndarray:
    """A high-pass at 20 to 350 Hz and a low-pass at 2.8 to 8 kHz, as telephones and codecs have."""
    low_hz = rng.choice([rng.uniform(20, 120), rng.uniform(120, 350)])
    high_hz = rng.choice([rng.uniform(2_800, 4_000), rng.uniform(4_000, 8_000)])
    frequencies = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    high_pass = 1 / (1 + (low_hz / (frequencies + 1e-3)) ** 4)
    low_pass = 1 / (1 + (frequencies / high_hz) ** 16)
    return apply_response(audio, np.sqrt(high_pass * low_pass))


def apply_response(audio: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Multiply the spectrum by a real (S // 2 + 1,) response: no delay."""
    return np.fft.irfft(np.fft.rfft(audio) * response, len(audio)).astype(np.float32)


def reverberate(audio: np.ndarray, rng: Generator) -> np.ndarray:
    """A room: direct sound plus decaying noise, RT60 0.08 to 0.7 s, direct-to-room 0 to 18 dB."""
    rt60_s = rng.uniform(0.08, 0.7)
    n = int(min(rt60_s, 0.6) * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10.0 ** (-3 * np.arange(n) / SAMPLE_RATE / rt60_s)
    tail[: int(rng.uniform(0.001, 0.008) * SAMPLE_RATE)] = 0  # first reflection
    tail *= 10.0 ** (-rng.uniform(0, 18) / 20) / (np.linalg.norm(tail) + 1e-8)
    room = np.concatenate([[1.0], tail]).astype(np.float32)
    return fftconvolve(audio, room)[: len(audio)].astype(np.float32)


def add_noise(audio: np.ndarray, rng: Generator, babble: np.ndarray | None = None) -> np.ndarray:
    """Coloured noise (slope 0 to -12 dB per octave), hum or other voices, 5 to 40 dB down."""
    n = len(audio)
    kind = rng.random()
    if babble is not None and len(babble) and kind < 0.2:
        noise = np.resize(babble, n) * 1.0
        snr_db = rng.uniform(12, 30)
    elif kind < 0.3:
        hum_hz, t = rng.choice([50.0, 60.0]), np.arange(n) / SAMPLE_RATE
        noise = sum(np.sin(2 * np.pi * hum_hz * k * t + rng.uniform(0, 6)) / k for k in range(1, 8))
        snr_db = rng.uniform(12, 40)
    else:
        spectrum = np.fft.rfft(rng.standard_normal(n))
        frequencies = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
        spectrum /= np.maximum(frequencies, 40.0) ** rng.uniform(0.0, 1.0)
        noise = np.fft.irfft(spectrum, n)
        snr_db = rng.uniform(5, 40)
    scale = rms(audio) / rms(noise) * 10.0 ** (-snr_db / 20)
    return (audio + scale * noise).astype(np.float32)


def mu_law(audio: np.ndarray) -> np.ndarray:
    """Eight-bit mu-law companding there and back (ITU-T G.711)."""
    peak = np.abs(audio).max() + 1e-8
    compressed = np.sign(audio) * np.log1p(MU * np.abs(audio) / peak) / np.log1p(MU)
    steps = np.round(compressed * 127) / 127
    return (np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU * peak).astype(np.float32)


def lossy_codec(audio: np.ndarray, rng: Generator) -> np.ndarray:
    """What low-rate mp3 does: spectral bins far below their frame's peak are dropped or coarse."""
    _, _, spectrum = stft(audio, nperseg=512, noverlap=256)
    magnitude = np.abs(spectrum)
    floor = magnitude.max(0, keepdims=True) * 10.0 ** (-rng.uniform(26, 50) / 20)
    tilt = np.linspace(0.3, 2.0, len(magnitude))[:, None]
    kept = np.where(magnitude > floor * tilt, spectrum, 0)
    coarse = 1 + rng.uniform(0, 0.2) * rng.standard_normal(kept.shape)
    _, out = istft(kept * coarse, nperseg=512, noverlap=256)
    return np.resize(out, len(audio)).astype(np.float32)


def clip_peaks(audio: np.ndarray, rng: Generator) -> np.ndarray:
    """An overdriven input: peaks cut at 25 to 90 % of the maximum."""
    limit = np.abs(audio).max() * rng.uniform(0.25, 0.9)
    return np.clip(audio, -limit, limit)


def drift_gain(audio: np.ndarray, rng: Generator) -> np.ndarray:
    """A speaker moving about: gain wandering by a few dB over seconds."""
    n_points = max(2, len(audio) // SAMPLE_RATE + 1)
    gains_db = rng.normal(0, 3.0, n_points)
    curve = np.interp(np.arange(len(audio)), np.linspace(0, len(audio), n_points), gains_db)
    return (audio * 10.0 ** (curve / 20)).astype(np.float32)


def augment(audio: np.ndarray, rng: Generator, babble: np.ndarray | None = None) -> np.ndarray:
    """One random way from the mouth to the file; one clip in ten stays clean.

    audio: (S,) float32; babble: another clip or None. Returns (S,) float32, not normalised.
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
