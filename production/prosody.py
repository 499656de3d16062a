"""Phrases and accents of speech, from the loudness and pitch of a recording.

Phrases are stretches of sound between pauses. Accents are syllables that are louder and higher than
those around them. Both depend on the recording alone, and not on its level. Music and noise as loud
as speech count as speech.

S samples at 16 kHz, n values at 100 Hz: value i is the instant (i + 0.5) / 100.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from config import SAMPLE_RATE
from speech.stored_speech import Samples

PROSODY_HZ = 100
HOP = SAMPLE_RATE // PROSODY_HZ
PART_SAMPLES = 64 * SAMPLE_RATE  # read at once
SPEECH_DB = 25.0  # below the loudest: the least level of speech
FLOOR_DB = 6.0  # above the background: the same
CONTRAST_DB = 12.0  # between background and the loudest; less is no speech but steady sound
PAUSE_S = 0.2  # shorter silences do not end a phrase: a closure of p or t has up to 0.15 s
LEAST_PHRASE_S = 0.15  # shorter sounds are clicks
PITCH_HZ = 60.0, 400.0  # of voices
PITCH_RATE = SAMPLE_RATE // 4  # samples a second of the sound in which pitch is measured
PITCH_WINDOW = 160  # samples: two periods of a pitch of 50 Hz
PITCH_FFT = 512
PITCH_BLOCK = 4096  # frames at once
VOICED = 0.5  # least normalised autocorrelation of a voiced frame
SYLLABLE_S = 0.06  # standard deviation of the smoothing within a syllable
CONTEXT_S = 0.6  # the same of what an accent is compared with
DB_EACH, SEMITONES_EACH = 6.0, 3.0  # rises that count as one unit of prominence
LEAST_PROMINENCE = 0.45  # units of an accent
FULL_PROMINENCE = 1.8  # units of an accent of strength 1
ACCENT_GAP_S = 0.4  # between accents; the stronger of two is kept


@dataclass(frozen=True, eq=False)
class Prosody:
    """phrases: (P, 2) start and end in seconds. accents: (K, 2) seconds and strength 0 to 1.

    Both in order of time. samples: of the recording at 16 kHz.
    """

    phrases: NDArray[np.float64]
    accents: NDArray[np.float64]
    samples: int

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return self.samples / SAMPLE_RATE


def prosody_of(audio: NDArray[np.float32] | Samples) -> Prosody:
    """Phrases and accents of audio (S,) at any level. Of `Samples`, a few are in memory at once."""
    level = level_db(audio)
    phrases = phrases_of(level)
    return Prosody(phrases, accents_of(audio, level, phrases), len(audio))


def parts_of(audio: NDArray[np.float32] | Samples) -> Iterator[NDArray[np.float32]]:
    """Consecutive parts (n,) of audio (S,), n = `PART_SAMPLES` but in the last."""
    for start in range(0, len(audio), PART_SAMPLES):
        stop = min(start + PART_SAMPLES, len(audio))
        yield audio.read(start, stop) if isinstance(audio, Samples) else audio[start:stop]


def level_db(audio: NDArray[np.float32] | Samples) -> NDArray[np.float64]:
    """Level (n,) in decibels of blocks of 10 ms, a little smoothed; n = S / 160, rounded up."""
    powers = [np.zeros(0)]
    for part in parts_of(audio):
        whole = len(part) // HOP
        blocks, rest = part[: whole * HOP].reshape(whole, HOP), part[whole * HOP :]
        powers.append(np.einsum("bs,bs->b", blocks, blocks) / HOP)
        if len(rest):
            powers.append(np.square(rest, dtype=np.float64).sum(keepdims=True) / HOP)
    return 10 * np.log10(smooth(np.concatenate(powers), 0.015) + 1e-12)


def phrases_of(level: NDArray) -> NDArray[np.float64]:
    """(P, 2) start and end of the phrases in seconds; level: (n,) dB."""
    low, high = np.percentile(level, (5, 95)) if len(level) else (0.0, 0.0)
    if high - low < CONTRAST_DB:
        return np.zeros((0, 2))
    loud = level > max(high - SPEECH_DB, low + FLOOR_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(np.int8)))
    starts, ends = edges[::2] / PROSODY_HZ, edges[1::2] / PROSODY_HZ
    joined = starts[1:] - ends[:-1] < PAUSE_S
    starts, ends = starts[np.append(True, ~joined)], ends[np.append(~joined, True)]
    phrases = np.stack([starts, ends], axis=1)
    return phrases[ends - starts >= LEAST_PHRASE_S]


def accents_of(audio: NDArray | Samples, level: NDArray, phrases: NDArray) -> NDArray[np.float64]:
    """(K, 2) instants of the accents in seconds, and their strengths 0 to 1."""
    if not len(phrases):
        return np.zeros((0, 2))
    times = (np.arange(len(level)) + 0.5) / PROSODY_HZ
    phrase = np.searchsorted(phrases[:, 0], times) - 1
    inside = (phrase >= 0) & (times < phrases[np.maximum(phrase, 0), 1])
    usual = level[inside].mean()
    loudness = np.where(inside, np.clip(level - usual, -3 * DB_EACH, 3 * DB_EACH), 0.0) / DB_EACH
    prominence = loudness + np.where(inside, semitones(audio, len(level)), 0.0) / SEMITONES_EACH
    rise = smooth(prominence, SYLLABLE_S) - smooth(prominence, CONTEXT_S)
    peaks = 1 + np.flatnonzero((rise[1:-1] > rise[:-2]) & (rise[1:-1] >= rise[2:]))
    peaks = peaks[inside[peaks] & (rise[peaks] >= LEAST_PROMINENCE)]
    kept = np.sort(apart(peaks, rise[peaks], round(ACCENT_GAP_S * PROSODY_HZ)))
    strength = np.minimum(rise[kept] / FULL_PROMINENCE, 1.0)
    return np.stack([times[kept], strength], axis=1)


def apart(peaks: NDArray, heights: NDArray, gap: int) -> NDArray[np.int64]:
    """Those of the peaks that are `gap` or more from all higher ones that are kept."""
    kept, blocked = [], np.zeros(int(peaks.max(initial=0)) + gap, bool)
    for peak in peaks[np.argsort(-heights, kind="stable")]:
        if not blocked[peak]:
            kept.append(peak)
            blocked[max(peak - gap + 1, 0) : peak + gap] = True
    return np.array(kept, np.int64)


def semitones(audio: NDArray | Samples, n: int) -> NDArray[np.float64]:
    """Pitch (n,) in semitones above the median of the recording; 0 where there is no voice."""
    pitch = pitch_hz(audio)[:n]
    voiced = pitch > 0
    result = np.zeros(n)
    if voiced.any():
        heights = 12 * np.log2(pitch[voiced] / np.median(pitch[voiced]))
        # Between voiced frames the line; an octave error of a single frame is cut off.
        result = np.interp(np.arange(n), np.flatnonzero(voiced), np.clip(heights, -9, 9))
    return result


def pitch_hz(audio: NDArray | Samples) -> NDArray[np.float64]:
    """Pitch at 100 Hz, 0 where there is no voice: the largest normalised autocorrelation."""
    fours = [part[: len(part) // 4 * 4].reshape(-1, 4).mean(axis=1) for part in parts_of(audio)]
    low_rate = np.concatenate([np.zeros(0, np.float32), *fours])  # 4 kHz
    hop = PITCH_RATE // PROSODY_HZ
    low_rate = np.pad(low_rate, (PITCH_WINDOW - hop) // 2)
    if len(low_rate) < PITCH_WINDOW:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(low_rate, PITCH_WINDOW)[::hop]
    parts = [frames[i : i + PITCH_BLOCK] for i in range(0, len(frames), PITCH_BLOCK)]
    return np.concatenate([_pitch_of(part) for part in parts])


def _pitch_of(frames: NDArray) -> NDArray[np.float64]:
    """Pitch of frames (n, PITCH_WINDOW)."""
    window = np.hanning(PITCH_WINDOW)
    # The autocorrelation of the window itself is divided out (Boersma 1993, "Accurate short-term
    # analysis of the fundamental frequency").
    own = np.fft.irfft(np.abs(np.fft.rfft(window, PITCH_FFT)) ** 2)[:PITCH_WINDOW]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    products = np.fft.irfft(np.abs(np.fft.rfft(frames, PITCH_FFT)) ** 2)[:, :PITCH_WINDOW]
    ratios = products / (products[:, :1] + 1e-12) * (own[0] / own)
    low, high = (round(PITCH_RATE / hertz) for hertz in PITCH_HZ[::-1])
    lags = low + ratios[:, low : high + 1].argmax(axis=1)
    rows, inside = np.arange(len(frames)), (lags > low) & (lags < high)  # a peak, not a slope
    before, best, after = (ratios[rows, lags + step] for step in (-1, 0, 1))
    bend = before - 2 * best + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0)
    return np.where(inside & (best >= VOICED), PITCH_RATE / (lags + np.clip(shift, -1, 1)), 0.0)


def smooth(values: NDArray, sigma_s: float) -> NDArray[np.float64]:
    """Values (n,) at 100 Hz smoothed by a Gaussian of three standard deviations to either side."""
    reach = max(1, round(3 * sigma_s * PROSODY_HZ))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma_s * PROSODY_HZ)) ** 2)
    padded = np.pad(np.asarray(values, np.float64), reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
