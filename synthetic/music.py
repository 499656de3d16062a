"""Music from formulas: plucked strings, sustained and struck tones, drums, chords, songs.

A network that has only been trained on speech opens the mouth on guitar chords. Training therefore
mixes music with speech and labels music alone as silence. There is no recorded material; keys,
tempos, instruments and patterns are drawn at random. Sounds are (n,) float64 at 16 kHz.

Plucked strings: Karplus and Strong, "Digital synthesis of plucked-string and drum timbres" (1983),
with the tuning filter of Jaffe and Smith, "Extensions of the Karplus-Strong plucked-string
algorithm" (1983).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.signal import lfilter

from config import SAMPLE_RATE
from speech.augment import equalise

GUITAR_STRINGS = (40, 45, 50, 55, 59, 64)  # MIDI numbers of the open strings, E2 to E4
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = (
    (0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (1, 4, 0, 0), (5, 3, 0, 4), (0, 3, 0, 4),
    (0, 6, 5, 4), (0, 2, 3, 4), (0, 0, 3, 4),
)  # fmt: skip
BEATS = 16  # of a song's loop: four bars of four beats
TABLE = 16_384  # samples of a wave table


def note_hz(midi: float) -> float:
    """Frequency of a MIDI note number; 69 is 440 Hz."""
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def pluck(
    hz: float, seconds: float, rng: Generator, decay_s: float = 2.0, damping: float = 0.1
) -> np.ndarray:
    """A plucked string.

    decay_s: time in which the fundamental loses 60 dB. damping: 0 to 0.25, loss of the overtones.
    """
    period = SAMPLE_RATE / hz
    whole = int(period)
    lowpass = np.array([damping, 1 - 2 * damping, damping])  # delays by one sample
    taps = np.convolve(lowpass, [1 - (period - whole), period - whole])
    feedback = np.zeros(whole + 3)
    feedback[0] = 1.0
    feedback[whole - 1 :] = -taps * 10.0 ** (-3 / (hz * decay_s))
    excitation = np.zeros(int(seconds * SAMPLE_RATE))
    burst = rng.uniform(-1, 1, min(whole, len(excitation)))
    burst -= np.roll(burst, max(1, int(whole * rng.uniform(0.1, 0.5))))  # where it is plucked
    burst = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.9)], burst)  # finger to plectrum
    excitation[: len(burst)] = burst
    return lfilter([1.0], feedback, excitation)


def tone(hz: float | np.ndarray, n: int, harmonics: np.ndarray, rng: Generator) -> np.ndarray:
    """A periodic tone of n samples.

    hz: constant or (n,) fundamental. harmonics: (K,) amplitudes from the fundamental on; those
    above 7.2 kHz are left out. Phases are random.
    """
    hz = np.broadcast_to(np.asarray(hz, float), (n,))
    harmonics = harmonics[: max(1, int(0.45 * SAMPLE_RATE / hz.max()))]
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    spectrum[1 : len(harmonics) + 1] = harmonics * np.exp(1j * phases)
    table = np.fft.irfft(spectrum, TABLE) * TABLE / 2
    return table[(np.cumsum(hz) * (TABLE / SAMPLE_RATE)).astype(np.int64) % TABLE]


def struck(hz: float, seconds: float, rng: Generator, inharmonic: float = 0.0) -> np.ndarray:
    """A struck string, bar or bell: decaying partials; inharmonic 0 for harmonic ones, to 1."""
    k = np.arange(1, 9)
    stretched = (
        k * np.sqrt(1 + 4e-4 * k**2) * (1 + inharmonic * rng.uniform(-0.25, 0.4, 8) * (k > 1))
    )
    stretched = stretched[stretched * hz < 0.45 * SAMPLE_RATE]
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    decay_s = rng.uniform(0.4, 3.0) / stretched ** rng.uniform(0.3, 1.0)
    amplitude = rng.uniform(0.3, 1.0, len(stretched)) / stretched ** rng.uniform(0.5, 1.5)
    waves = np.sin(2 * np.pi * hz * np.outer(stretched, t)) * np.exp(-6.9 * t / decay_s[:, None])
    return amplitude @ waves


@dataclass(frozen=True)
class Instrument:
    """An instrument whose tones are sustained."""

    harmonics: np.ndarray  # (K,) amplitudes
    attack_s: float
    release_s: float
    vibrato_hz: float
    vibrato_cents: float
    tremolo: float  # depth, 0 to 1
    voices: int  # detuned copies, as in a section of strings
    air: float  # level of the breath noise


def draw_instrument(rng: Generator) -> Instrument:
    """An organ, a string, flute, reed, brass or accordion, or a bare synthesiser."""
    k = np.arange(1, 41)
    kind = rng.choice(["organ", "strings", "flute", "reed", "brass", "whistle", "synthesiser"])
    harmonics = k ** -rng.uniform(0.8, 2.0)
    if kind == "organ":
        harmonics = np.isin(k, [1, 2, 3, 4, 6, 8, 12, 16]) * rng.uniform(0, 1, 40)
    elif kind in ("flute", "whistle"):
        harmonics = rng.uniform(0.02, 0.5 if kind == "flute" else 0.05) ** (k - 1.0)
    elif kind == "reed":
        harmonics = np.where(k % 2, 1.0, rng.uniform(0, 0.3)) / k
    elif kind == "brass":
        harmonics = np.exp(-(((k - rng.uniform(1, 5)) / rng.uniform(2, 8)) ** 2))
    swings = kind in ("strings", "flute", "whistle", "brass") and rng.random() < 0.7
    return Instrument(
        harmonics=np.maximum(harmonics, 1e-4),
        attack_s=float(rng.uniform(0.01, 0.4 if kind == "strings" else 0.08)),
        release_s=float(rng.uniform(0.03, 0.4)),
        vibrato_hz=float(rng.uniform(4.0, 7.5)),
        vibrato_cents=float(rng.uniform(10, 80)) if swings else 0.0,
        tremolo=float(rng.choice([0.0, rng.uniform(0.1, 0.7)])),
        voices=int(rng.choice([1, 1, 2, 3])),
        air=float(rng.uniform(0, 0.1)) if kind in ("flute", "whistle", "reed") else 0.0,
    )


def sustain(instrument: Instrument, hz: float, seconds: float, rng: Generator) -> np.ndarray:
    """A tone of `seconds`, attack and release included."""
    n = max(1, int(seconds * SAMPLE_RATE))
    t = np.arange(n) / SAMPLE_RATE
    swing = np.sin(2 * np.pi * instrument.vibrato_hz * t + rng.uniform(0, 6))
    delayed = np.clip(t / 0.4, 0, 1)  # players begin a tone without vibrato
    curve = hz * 2.0 ** (instrument.vibrato_cents * swing * delayed / 1200)
    spread = 2.0 ** (rng.uniform(-8, 8, instrument.voices) / 1200)
    sound = sum(tone(curve * detune, n, instrument.harmonics, rng) for detune in spread)
    sound *= 1 - instrument.tremolo * (0.5 + 0.5 * swing)
    if instrument.air:
        sound += instrument.air * np.abs(sound).max() * rng.standard_normal(n)
    attack = np.clip(t / instrument.attack_s, 0, 1)
    release = np.clip((t[-1] + 1 / SAMPLE_RATE - t) / instrument.release_s, 0, 1)
    return sound * attack * release


def kick(rng: Generator) -> np.ndarray:
    """A bass drum: a sine that falls to 40 to 60 Hz."""
    t = np.arange(int(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    hz = rng.uniform(40, 60) + rng.uniform(60, 200) * np.exp(-t / 0.03)
    return np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE) * np.exp(-t / rng.uniform(0.05, 0.12))


def snare(rng: Generator) -> np.ndarray:
    """A snare drum or a hand clap: noise with a tone of 150 to 250 Hz."""
    t = np.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.standard_normal(len(t)) * np.exp(-t / rng.uniform(0.02, 0.08))
    body = np.sin(2 * np.pi * rng.uniform(150, 250) * t) * np.exp(-t / 0.05)
    return 0.4 * noise + rng.uniform(0, 0.8) * body


def hat(rng: Generator) -> np.ndarray:
    """A hi-hat or shaker: short noise above 4 kHz."""
    t = np.arange(int(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.diff(rng.standard_normal(len(t) + 2), 2)
    return 0.2 * noise * np.exp(-t / rng.uniform(0.008, 0.05))


def place(n: int, sounds: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """The sum (n,) of sounds, each at its first sample; what lies beyond n is cut."""
    out = np.zeros(n)
    for first, sound in sounds:
        if first < n:
            out[first : first + len(sound)] += sound[: n - first]
    return out


@dataclass(frozen=True)
class Harmony:
    """The key, the four chords and the tempo of a song."""

    key: int  # MIDI number of the tonic, 48 to 59
    scale: tuple[int, ...]
    degrees: tuple[int, ...]  # one chord a bar
    beat_n: int  # samples of a beat

    def pitch(self, step: int) -> int:
        """MIDI number of step `step` of the scale, counted from the tonic."""
        return self.key + 12 * (step // 7) + self.scale[step % 7]

    def chord(self, bar: int) -> list[int]:
        """MIDI numbers of the triad of a bar."""
        return [self.pitch(self.degrees[bar % len(self.degrees)] + step) for step in (0, 2, 4)]


def draw_harmony(rng: Generator) -> Harmony:
    """A random key, scale, progression and a tempo of 66 to 170 beats a minute."""
    return Harmony(
        int(rng.integers(48, 60)),
        SCALES[str(rng.choice(list(SCALES)))],
        PROGRESSIONS[rng.integers(len(PROGRESSIONS))],
        int(60 / rng.uniform(66, 170) * SAMPLE_RATE),
    )


def voicing(chord: list[int]) -> list[int]:
    """The chord on a guitar in low position: for each string its lowest note of the chord."""
    classes = {note % 12 for note in chord}
    return [next(m for m in range(string, string + 12) if m % 12 in classes)
            for string in GUITAR_STRINGS]  # fmt: skip


Event = tuple[int, np.ndarray]  # first sample, sound


class Guitar:
    """Plucked strings of one timbre; each pitch is computed once."""

    def __init__(self, rng: Generator, seconds: float = 2.5) -> None:
        self.rng, self.seconds = rng, seconds
        self.decay_s = rng.uniform(0.8, 6.0)
        self.damping = rng.uniform(0.005, 0.2)
        self.drive = rng.choice([0.0, 0.0, 0.0, rng.uniform(2, 20)])  # of a distorted amplifier
        self.notes: dict[int, np.ndarray] = {}

    def note(self, midi: int) -> np.ndarray:
        """The sound of a pitch, peak 1."""
        if midi not in self.notes:
            sound = pluck(note_hz(midi), self.seconds, self.rng, self.decay_s, self.damping)
            sound *= np.clip((self.seconds - np.arange(len(sound)) / SAMPLE_RATE) / 0.1, 0, 1)
            self.notes[midi] = sound / np.abs(sound).max()
        return self.notes[midi]

    def strum(self, chord: list[int], first: int) -> list[Event]:
        """A chord at sample `first`, up or down, over 5 to 60 ms; low strings may be left out."""
        strings = voicing(chord)[self.rng.integers(0, 3) :]
        step = self.rng.uniform(0.001, 0.012) * SAMPLE_RATE
        order = strings if self.rng.random() < 0.7 else strings[::-1]
        gains = self.rng.uniform(0.5, 1.0, len(order))
        return [(first + int(i * step), gains[i] * self.note(m)) for i, m in enumerate(order)]

    def amplify(self, sound: np.ndarray) -> np.ndarray:
        """The sound through the amplifier."""
        peak = np.abs(sound).max() + 1e-9
        return np.tanh(self.drive * sound / peak) if self.drive else sound / peak


def guitar_chords(n: int, rng: Generator) -> np.ndarray:
    """n samples of a guitar alone, strummed or picked, with rests; peak 1."""
    guitar, harmony, events, first, bar = Guitar(rng), draw_harmony(rng), [], 0, 0
    picked = rng.random() < 0.4
    while first < n:
        chord, step = harmony.chord(bar), rng.uniform(0.3, 2.5) * SAMPLE_RATE
        if picked:
            notes, grid = voicing(chord), step / rng.integers(3, 9)
            events += [(first + int(i * grid), guitar.note(int(rng.choice(notes))))
                       for i in range(int(step / grid))]  # fmt: skip
        else:
            events += guitar.strum(chord, first)
        first, bar = first + int(step), bar + int(rng.random() < 0.7)
    return unit_peak(guitar.amplify(coloured(place(n, events), rng)))


def _strummed(harmony: Harmony, rng: Generator) -> list[Event]:
    guitar, pattern = Guitar(rng, 1.5), rng.random(8) < 0.5
    pattern[0] = True
    events: list[Event] = []
    for bar in range(4):
        for i in np.flatnonzero(pattern):
            first = int((4 * bar + i / 2) * harmony.beat_n)
            events += guitar.strum(harmony.chord(bar), first)
    return events


def _arpeggio(harmony: Harmony, rng: Generator) -> list[Event]:
    order, inharmonic, octave = rng.integers(0, 3, 8), rng.choice([0.0, 1.0]), rng.choice([0, 12])
    is_struck, guitar = rng.random() < 0.5, Guitar(rng, 1.2)
    notes = {}
    for midi in {note + octave for bar in range(4) for note in harmony.chord(bar)}:
        notes[midi] = (struck(note_hz(midi), 1.2, rng, inharmonic) if is_struck
                       else guitar.note(midi))  # fmt: skip
    return [(int((4 * bar + i / 2) * harmony.beat_n), notes[harmony.chord(bar)[order[i]] + octave])
            for bar in range(4) for i in range(8)]  # fmt: skip


def _chords(harmony: Harmony, rng: Generator) -> list[Event]:
    instrument, seconds = draw_instrument(rng), 4 * harmony.beat_n / SAMPLE_RATE
    return [(4 * bar * harmony.beat_n, sustain(instrument, note_hz(note + 12), seconds, rng))
            for bar in range(4) for note in harmony.chord(bar)]  # fmt: skip


def _melody(harmony: Harmony, rng: Generator) -> list[Event]:
    instrument, events, beat, step = draw_instrument(rng), [], 0.0, int(rng.integers(7, 18))
    while beat < BEATS:
        beats = rng.choice([0.5, 1.0, 1.5, 2.0, 4.0], p=[0.3, 0.35, 0.1, 0.15, 0.1])
        if rng.random() < 0.85:  # else a rest
            seconds = beats * harmony.beat_n / SAMPLE_RATE * rng.uniform(0.6, 1.1)
            sound = sustain(instrument, note_hz(harmony.pitch(step)), seconds, rng)
            events.append((int(beat * harmony.beat_n), sound))
        beat, step = beat + beats, int(np.clip(step + rng.integers(-3, 4), 5, 22))
    return events


def _bass(harmony: Harmony, rng: Generator) -> list[Event]:
    guitar, pattern = Guitar(rng, 0.8), rng.random(8) < 0.4
    pattern[0] = True
    return [(int((4 * bar + i / 2) * harmony.beat_n), guitar.note(harmony.chord(bar)[0] - 12))
            for bar in range(4) for i in np.flatnonzero(pattern)]  # fmt: skip


def _drums(harmony: Harmony, rng: Generator) -> list[Event]:
    events: list[Event] = []
    for drum, density in ((kick, 0.3), (snare, 0.25), (hat, rng.uniform(0.3, 1.0))):
        sound, pattern = drum(rng), np.flatnonzero(rng.random(16) < density)  # quarter beats
        events += [(int((4 * bar + i / 4) * harmony.beat_n), sound * rng.uniform(0.6, 1.0))
                   for bar in range(4) for i in pattern]  # fmt: skip
    return events


LAYERS: tuple[Callable[[Harmony, Generator], list[Event]], ...] = (
    _strummed, _arpeggio, _chords, _melody, _bass, _drums,
)  # fmt: skip


def song(n: int, rng: Generator) -> np.ndarray:
    """n samples of a loop of four bars, played by one to four of LAYERS; peak 1."""
    harmony = draw_harmony(rng)
    loop_n = BEATS * harmony.beat_n
    chosen = rng.permutation(len(LAYERS))[: rng.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.25, 0.15])]
    mix = np.zeros(loop_n)
    for layer in chosen:
        part = unit_peak(coloured(place(loop_n, LAYERS[layer](harmony, rng)), rng))
        mix += 10.0 ** (rng.uniform(-12, 0) / 20) * part
    return unit_peak(np.resize(np.roll(mix, -int(rng.integers(loop_n))), n))


def coloured(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """The sound of an instrument with a random body, in half of the cases.

    Its resonances of up to 20 dB are as strong as the formants of a voice.
    """
    return equalise(sound, rng, spread_db=16.0) if rng.random() < 0.5 else sound


def unit_peak(sound: np.ndarray) -> np.ndarray:
    """The sound scaled to a peak of 1; silence stays silent."""
    return sound / (np.abs(sound).max(initial=0.0) + 1e-9)
