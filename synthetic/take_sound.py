"""The sound of a take: voices in rooms, backgrounds, stretches without speech, a microphone.

Levels are active levels (`speech.augment.active_level`). Backgrounds are measured against the
softest turn, so that no labelled phone is far below the noise. The level of the noise is returned
with the sound: losses weigh closures otherwise where they are hard to hear.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.ndimage import uniform_filter1d

from config import SAMPLE_RATE
from speech.augment import (
    Audio,
    active_level,
    band_limit,
    clip_peaks,
    drift_gain,
    equalise,
    lossy_codec,
    mu_law,
    reverberate,
)  # fmt: skip
from synthetic.backgrounds import SOUNDS, breath, impact, unit_level
from synthetic.coarticulation import LOUDNESS_HZ
from synthetic.speech import SpeechPool, cut_at_speed
from synthetic.take_plan import Plan, Turn

EASY_SHARE = 0.12  # of the takes have no background and no microphone
MAX_SOFTER_DB = 30.0  # of a speaker than another one
MIN_TURN_S = 0.3  # shorter turns do not set the level of backgrounds
BREATH_SHARE, SMACK_SHARE = 0.35, 0.06  # of the turns after a gap of at least MIN_BREATH_GAP_S
MIN_BREATH_GAP_S = 0.3
FLOOR_SHARE = 0.7  # of the takes have noise of a room or a microphone of this ratio throughout
FLOOR_DB = (30.0, 75.0)
BABBLE = "babble"
N_BACKGROUNDS = ((0, 1, 2, 3), (0.18, 0.5, 0.24, 0.08))  # and their probability
# Kind -> (probability, ranges of the speech-to-background ratio in dB, one of which is drawn).
BACKGROUNDS: dict[str, tuple[float, tuple[tuple[float, float], ...]]] = {
    "room": (0.44, ((4, 15), (15, 40))),
    BABBLE: (0.16, ((8, 16), (8, 25))),
    "music": (0.19, ((5, 15), (5, 25))),
    "hum": (0.05, ((12, 40),)),
    "keyboard": (0.04, ((0, 30),)),
    "rumble": (0.06, ((0, 25),)),
    "weather": (0.04, ((5, 30),)),
    "engine": (0.03, ((8, 30),)),
    "clicks": (0.02, ((0, 30),)),
    "applause": (0.01, ((8, 30),)),
}
SILENT = "silence"
# Kind -> probability in a stretch without speech.
STRETCHES: dict[str, float] = {
    "music": 0.2, "guitar": 0.15, "breaths": 0.15, "laughter": 0.08, "coughs": 0.04,
    "applause": 0.05, "keyboard": 0.03, "clicks": 0.04, "signals": 0.04, "room": 0.06,
    "hum": 0.02, "weather": 0.02, "engine": 0.02, "rumble": 0.02, BABBLE: 0.03, SILENT: 0.05,
}  # fmt: skip
NOISE_S = 0.3  # over which `noise_level` is a mean
LEAST_DB, MOST_DB = -60.0, 20.0  # of `noise_level`
# Level of a stretch against the loudest turn, in dB: (probability, range).
STRETCH_LEVELS = ((0.6, (-10.0, 6.0)), (0.28, (-35.0, -10.0)), (0.12, (-60.0, -35.0)))


@dataclass(frozen=True)
class Levels:
    """Active levels of the softest and the loudest turn."""

    softest: float
    loudest: float


def clean_sound(plan: Plan) -> Audio:
    """The clips and gaps of a plan, unchanged: (n,)."""
    audio = np.zeros(plan.n, np.float32)
    for turn in plan.turns:
        audio[turn.start : turn.end] = _cut(turn)
    return audio


def recorded_sound(plan: Plan, pool: SpeechPool, rng: Generator) -> tuple[Audio, Audio]:
    """The plan as a recording with everything that `rng` draws, and how noisy it is.

    Returns the sound (n,), peak 0.9 or silence, and its `noise_level`, (m,) at LOUDNESS_HZ.
    """
    is_easy = rng.random() < EASY_SHARE
    tracks, voices = _voice_tracks(plan, rng, is_easy)
    levels = _levels(plan, tracks)
    audio = tracks.sum(0)
    if not is_easy:
        if rng.random() < FLOOR_SHARE:
            audio = mix_at(
                audio, SOUNDS["room"](plan.n, rng), levels.softest, rng.uniform(*FLOOR_DB)
            )
        for _ in range(rng.choice(N_BACKGROUNDS[0], p=N_BACKGROUNDS[1])):
            audio += _background(plan.n, pool, rng, levels)
    for first, last in plan.stretches:
        _fill_stretch(audio, first, last, pool, rng, levels)
    noise_db = noise_level(voices, audio - voices, levels.softest)
    audio = vary_level(audio, rng)
    if not is_easy:
        audio = _microphone(audio, rng)
    if rng.random() < 0.5:
        audio = -audio
    return (0.9 * audio / (np.abs(audio).max() + 1e-9)).astype(np.float32), noise_db


def noise_level(voices: Audio, rest: Audio, softest: float) -> Audio:
    """Level of rooms and backgrounds over that of the voices in dB, LEAST_DB to MOST_DB: (m,).

    voices: (n,) direct sound of all voices; rest: (n,) all other sound; softest: the level that
    voices have at least, so that noise counts in their pauses, too. Powers are means over
    `NOISE_S`; value i is the instant (i + 0.5) / LOUDNESS_HZ.
    """
    of_voices = np.maximum(_power(voices), softest**2)
    ratio = np.maximum(_power(rest), 1e-12) / of_voices
    return np.clip(10 * np.log10(ratio), LEAST_DB, MOST_DB).astype(np.float32)


def _power(sound: Audio) -> np.ndarray:
    """Mean square of (n,) sound over `NOISE_S`: (m,) float64 at LOUDNESS_HZ."""
    block = SAMPLE_RATE // LOUDNESS_HZ
    padded = np.pad(sound, (0, -len(sound) % block)).reshape(-1, block)
    power = np.square(padded, dtype=np.float64).mean(1)
    return uniform_filter1d(power, round(NOISE_S * LOUDNESS_HZ), mode="nearest")


def mix_at(audio: Audio, noise: Audio, level: float, snr_db: float) -> Audio:
    """`audio` + `noise` (both (S,)), which is scaled to snr_db below `level`."""
    gain = level / active_level(noise) * 10.0 ** (-snr_db / 20)
    return (audio + gain * noise).astype(np.float32)


def _cut(turn: Turn) -> Audio:
    return cut_at_speed(turn.clip.audio, turn.first, turn.n, turn.speed)


def _voice_tracks(plan: Plan, rng: Generator, is_easy: bool) -> tuple[np.ndarray, Audio]:
    """One track for each voice, in its room, at its level: (voices, n); the sum of their direct
    sound, without rooms: (n,)."""
    n_voices = 1 + max((turn.voice for turn in plan.turns), default=0)
    tracks = np.zeros((n_voices, plan.n), np.float32)
    previous = 0
    for turn in plan.turns:
        track = tracks[turn.voice]
        gain = 10.0 ** (rng.normal(0, 2) / 20)
        track[turn.start : turn.end] = gain * unit_level(_cut(turn))
        if turn.start - previous >= MIN_BREATH_GAP_S * SAMPLE_RATE:
            _take_breath(track, previous, turn.start, rng)
        previous = turn.end
    softer_db = rng.choice([rng.uniform(0, 6), rng.uniform(0, MAX_SOFTER_DB)], n_voices)
    softer_db[rng.integers(n_voices)] = 0.0
    voices = np.zeros(plan.n, np.float32)
    for voice in range(n_voices):
        track = tracks[voice]
        if not is_easy and rng.random() < 0.6:
            track = equalise(track, rng)
        direct = track  # `reverberate` adds a room to it and leaves it at its level
        if not is_easy and rng.random() < 0.55:
            track = reverberate(track, rng)
        gain = 10.0 ** (-softer_db[voice] / 20)
        voices += direct * np.float32(gain / active_level(track))
        tracks[voice] = unit_level(track) * gain
    return tracks, voices


def _take_breath(track: Audio, previous: int, start: int, rng: Generator) -> None:
    """Add a breath or a smack of the lips, in place, to the gap before a turn of level 1."""
    end = start - int(rng.uniform(0.01, 0.15) * SAMPLE_RATE)
    if rng.random() < BREATH_SHARE:
        n = min(int(rng.uniform(0.15, 0.9) * SAMPLE_RATE), end - previous)
        track[end - n : end] += breath(n, rng) * np.float32(10.0 ** (rng.uniform(-40, 0) / 20))
    if rng.random() < SMACK_SHARE:
        smack = unit_level(impact(rng, rng.uniform(0.001, 0.008), 500, 4_000))[: end - previous]
        gain = np.float32(10.0 ** (rng.uniform(-30, 0) / 20))
        track[end - len(smack) : end] += gain * smack


def _levels(plan: Plan, tracks: np.ndarray) -> Levels:
    """The levels of the turns in the tracks; 1 where there are none."""
    long_turns = [turn for turn in plan.turns if turn.n >= MIN_TURN_S * SAMPLE_RATE]
    levels = [active_level(tracks[turn.voice, turn.start : turn.end]) for turn in long_turns]
    return Levels(min(levels, default=1.0), max(levels, default=1.0))


def _background(n: int, pool: SpeechPool, rng: Generator, levels: Levels) -> Audio:
    """A background over the whole take or a part of it: (n,)."""
    kinds = list(BACKGROUNDS)
    shares = np.array([BACKGROUNDS[kind][0] for kind in kinds])
    kind = str(rng.choice(kinds, p=shares / shares.sum()))
    ranges = BACKGROUNDS[kind][1]
    snr_db = rng.uniform(*ranges[rng.integers(len(ranges))])
    first, last = 0, n
    if rng.random() < 0.3:
        first, last = np.sort(rng.integers(0, n, 2))
        last = min(n, max(last, first + SAMPLE_RATE))
    sound = _faded(_sound(kind, last - first, pool, rng), rng.uniform(0.01, 1.0))
    out = np.zeros(n, np.float32)
    out[first:last] = mix_at(out[first:last], sound, levels.softest, snr_db)
    return out


def _fill_stretch(
    audio: Audio, first: int, last: int, pool: SpeechPool, rng: Generator, levels: Levels
) -> None:
    """Put a sound without speech, or digital silence, in place into a stretch of the audio."""
    kinds = list(STRETCHES)
    shares = np.array([STRETCHES[kind] for kind in kinds])
    kind = str(rng.choice(kinds, p=shares / shares.sum()))
    if kind == SILENT:
        audio[first:last] = 0.0
        return
    index = rng.choice(len(STRETCH_LEVELS), p=[share for share, _ in STRETCH_LEVELS])
    level_db = rng.uniform(*STRETCH_LEVELS[index][1])
    sound = _sound(kind, last - first, pool, rng)
    if rng.random() < 0.3:
        sound = reverberate(sound, rng)
    sound = _faded(sound, rng.uniform(0.01, 0.4))
    audio[first:last] = mix_at(audio[first:last], sound, levels.loudest, -level_db)


def _sound(kind: str, n: int, pool: SpeechPool, rng: Generator) -> Audio:
    return _babble(n, pool, rng) if kind == BABBLE else SOUNDS[kind](n, rng)


def _babble(n: int, pool: SpeechPool, rng: Generator) -> Audio:
    """Two to six other voices at once, in a room: (n,)."""
    mix = np.zeros(n, np.float32)
    for _ in range(rng.integers(2, 7)):
        parts, length = [], -int(rng.integers(0, 2 * SAMPLE_RATE))
        while length < n:
            audio = pool.pick(rng).audio.astype(np.float32)
            parts.append(audio[max(0, -length) :] if not parts else audio)
            length += len(audio)
        voice = np.concatenate(parts)[:n]
        mix[: len(voice)] += unit_level(voice) * np.float32(10.0 ** (rng.normal(0, 3) / 20))
    return unit_level(reverberate(mix, rng) if rng.random() < 0.7 else mix)


def _faded(sound: Audio, seconds: float) -> Audio:
    """The sound with linear ramps at both ends."""
    edge = np.arange(len(sound)) / (seconds * SAMPLE_RATE)
    return (sound * np.minimum(1.0, np.minimum(edge, edge[::-1]))).astype(np.float32)


def vary_level(audio: Audio, rng: Generator) -> Audio:
    """Change the gain slowly in a share of the takes, and in steps of up to 20 dB in another."""
    if rng.random() < 0.35:
        audio = drift_gain(audio, rng)
    if rng.random() < 0.2:
        steps = np.sort(rng.integers(0, len(audio), rng.integers(1, 4)))
        gains_db = rng.uniform(-20, 0, len(steps) + 1)
        knots = np.maximum.accumulate(np.stack([steps, steps + SAMPLE_RATE // 50], 1).ravel())
        curve_db = np.interp(np.arange(len(audio)), knots, np.repeat(gains_db, 2)[1:-1])
        audio = (audio * 10.0 ** (curve_db / 20)).astype(np.float32)
    return audio


def _microphone(audio: Audio, rng: Generator) -> Audio:
    """A random selection of frequency response, telephone band, codecs and clipping."""
    changes = ((0.3, equalise), (0.3, band_limit), (0.2, lossy_codec), (0.12, clip_peaks))
    for share, change in changes:
        if rng.random() < share:
            audio = change(audio, rng)
    return mu_law(audio) if rng.random() < 0.08 else audio
