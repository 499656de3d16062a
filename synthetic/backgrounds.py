"""Sounds without speech from formulas: breath, laughter, applause, clicks, rain, engines, rooms.

The label of all of them is silence: a network must leave the mouth at rest on what is not speech.
Every sound is a function of (n, rng) that returns (n,) float32 at 16 kHz with an active level of 1
(`speech.augment.active_level`). There is no recorded material; every parameter is drawn at random.
`SOUNDS` lists them by name.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from scipy.signal import oaconvolve

from config import SAMPLE_RATE
from speech.augment import Audio, active_level, apply_response, coloured_noise, hum
from synthetic.music import guitar_chords, place, song, tone

Sound = Callable[[int, Generator], Audio]


def unit_level(sound: np.ndarray) -> Audio:
    """The sound scaled to an active level of 1; silence stays silent."""
    sound = np.asarray(sound, np.float32)
    return sound / np.float32(active_level(sound))


def resonate(
    sound: np.ndarray, centres_hz: Sequence[float], widths_hz: Sequence[float], base: float
) -> np.ndarray:
    """The sound through resonances of gain 1, which add to a flat gain of `base`."""
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    gain = np.full(len(hz), base)
    for centre, width in zip(centres_hz, widths_hz, strict=True):
        gain += 1 / (1 + ((hz - centre) / (width / 2)) ** 2)
    return apply_response(sound, gain)


def band(sound: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """The sound between two frequencies, with slopes of 12 dB per octave."""
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE) + 1e-3
    return apply_response(sound, 1 / np.sqrt((1 + (low_hz / hz) ** 4) * (1 + (hz / high_hz) ** 4)))


def breath(n: int, rng: Generator) -> Audio:
    """One breath of n samples, in or out, through mouth or nose."""
    x = (np.arange(n) + 0.5) / n
    noise = coloured_noise(n, rng, rng.uniform(0.0, 0.6))
    n_formants = rng.choice([1, 2, 3], p=[0.25, 0.35, 0.4])
    centres = rng.uniform([350, 1_100, 2_200], [1_200, 2_200, 4_000])[:n_formants]
    widths = np.exp(rng.uniform(*np.log([80, 700]), (2, n_formants)))
    low_hz, high_hz = rng.uniform(60, 700), rng.uniform(2_500, 8_000)
    start = resonate(noise, centres, widths[0], rng.uniform(0.01, 0.4))
    end = resonate(noise, centres * rng.uniform(0.75, 1.3), widths[1], rng.uniform(0.01, 0.4))
    shaped = band(start * (1 - x) + end * x, low_hz, high_hz)
    rise, fall = rng.uniform(0.3, 3.0, 2)  # swelling inhale, sudden exhale and all between
    envelope = x**rise * (1 - x) ** fall
    flutter = 1 + rng.uniform(0, 0.4) * np.sin(2 * np.pi * rng.uniform(3, 20) * x * n / SAMPLE_RATE)
    return unit_level(shaped * envelope * flutter)


def breaths(n: int, rng: Generator) -> Audio:
    """Breathing: breaths of 0.2 to 1.8 s with pauses, of one strength or of changing ones."""
    spread_db, pause_s, events, first = rng.uniform(0, 12), rng.uniform(0.05, 1.0), [], 0
    first = int(rng.uniform(0, 0.3) * SAMPLE_RATE)
    while first < n:
        sound = breath(int(rng.uniform(0.2, 1.8) * SAMPLE_RATE), rng)
        events.append((first, sound * 10.0 ** (-rng.uniform(0, spread_db) / 20)))
        first += len(sound) + int(rng.uniform(0.3, 1.7) * pause_s * SAMPLE_RATE)
    return unit_level(place(n, events))


def voiced(hz: np.ndarray, rng: Generator, breathiness: float) -> np.ndarray:
    """A vowel-like sound of fundamental hz (n,) with formants of random place and aspiration."""
    harmonics = np.arange(1, 60) ** -rng.uniform(1.0, 1.8)
    source = tone(hz * (1 + 0.01 * rng.standard_normal(len(hz))), len(hz), harmonics, rng)
    source = source / np.abs(source).max() + breathiness * rng.standard_normal(len(hz))
    stretch = rng.uniform(0.9, 1.35)  # vocal tract of a man to a child
    centres = stretch * rng.uniform([350, 1_000, 2_300], [950, 1_900, 3_000])
    return resonate(source, centres, rng.uniform(70, 250, 3), 0.02)


def laughter(n: int, rng: Generator) -> Audio:
    """Bouts of laughter: 3 to 12 bursts at 4 to 6.5 Hz, voiced or breathed, that fall and fade."""
    events, first = [], int(rng.uniform(0, 0.3) * SAMPLE_RATE)
    f0, is_breathy = rng.uniform(130, 480), rng.random() < 0.3
    while first < n:
        bursts, period = rng.integers(3, 13), SAMPLE_RATE / rng.uniform(4.0, 6.5)
        size = int(bursts * period)
        x, phase = np.arange(size) / size, (np.arange(size) / period) % 1.0
        hz = f0 * rng.uniform(0.85, 1.3) * (1.15 - 0.4 * x) * (1.08 - 0.16 * phase)
        duty = rng.uniform(0.3, 0.65)
        gate = np.where(phase < duty, np.sin(np.pi * np.minimum(phase / duty, 1)), 0.0)
        puff = np.where(phase > duty, np.sin(np.pi * (phase - duty) / (1 - duty)), 0.0)
        air = resonate(rng.standard_normal(size), rng.uniform(500, 2_500, 2), [600, 900], 0.1)
        voice = air if is_breathy else voiced(hz, rng, rng.uniform(0.02, 0.3))
        sound = voice / active_level(voice) * gate + rng.uniform(0.05, 0.4) * air * puff
        events.append((first, sound * (1 - rng.uniform(0.2, 0.9) * x)))
        gasp = breath(int(rng.uniform(0.2, 0.6) * SAMPLE_RATE), rng) * rng.uniform(0.05, 0.6)
        events.append((first + size, gasp))
        first += size + len(gasp) + int(rng.uniform(0, 1.0) * SAMPLE_RATE)
    return unit_level(place(n, events))


def coughs(n: int, rng: Generator) -> Audio:
    """Coughs, throat clearings and sneezes: bursts of noise, some with a rough voice."""
    events, first = [], int(rng.uniform(0, 0.4) * SAMPLE_RATE)
    while first < n:
        for _ in range(rng.integers(1, 4)):
            size = int(rng.uniform(0.12, 0.5) * SAMPLE_RATE)
            t = np.arange(size) / SAMPLE_RATE
            noise = resonate(coloured_noise(size, rng, 0.3), rng.uniform(500, 3_000, 3),
                             rng.uniform(200, 900, 3), 0.1)  # fmt: skip
            rough = voiced(rng.uniform(80, 300) * (1 - 0.5 * t / t[-1]), rng, 0.5)
            sound = noise / active_level(noise) + rng.uniform(0, 1) * rough / active_level(rough)
            attack = 1 - np.exp(-t / rng.uniform(0.003, 0.02))
            events.append((first, sound * attack * np.exp(-t / rng.uniform(0.03, 0.2))))
            first += size + int(rng.uniform(0.02, 0.3) * SAMPLE_RATE)
        first += int(rng.uniform(0.3, 2.5) * SAMPLE_RATE)
    return unit_level(place(n, events))


def scatter(n: int, rng: Generator, times_s: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """The sum (n,) of short sounds at times_s (N,), each one of `kernels`, of random strength."""
    firsts = (times_s * SAMPLE_RATE).astype(int)
    firsts = firsts[(firsts >= 0) & (firsts < n)]
    strengths = rng.lognormal(0.0, 0.5, len(firsts))
    choice = rng.integers(len(kernels), size=len(firsts))
    out = np.zeros(n)
    for index, kernel in enumerate(kernels):
        train = np.zeros(n)
        np.add.at(train, firsts[choice == index], strengths[choice == index])
        out += oaconvolve(train, kernel)[:n]
    return out


def impact(rng: Generator, decay_s: float, low_hz: float, high_hz: float) -> np.ndarray:
    """A short knock: decaying noise and two decaying resonances between two frequencies."""
    t = np.arange(max(16, int(7 * decay_s * SAMPLE_RATE))) / SAMPLE_RATE
    hz = np.geomspace(low_hz, high_hz, 3)
    noise = band(rng.standard_normal(len(t)), low_hz, high_hz)
    rings = sum(np.sin(2 * np.pi * rng.uniform(hz[i], hz[i + 1]) * t) for i in range(2))
    return (noise + rng.uniform(0, 0.7) * rings) * np.exp(-t / decay_s)


def event_times(n: int, rng: Generator, per_s: float, regularity: float) -> np.ndarray:
    """Times in seconds of events: a Poisson process at regularity 0, a clock at 1."""
    count = int(1.5 * n / SAMPLE_RATE * per_s) + 8
    steps = (1 - regularity) * rng.exponential(1.0, count) + regularity
    return (np.cumsum(steps) - rng.random()) / per_s


def applause(n: int, rng: Generator) -> Audio:
    """Claps of 1 to 100 people, swelling and fading."""
    people = int(np.exp(rng.uniform(0, np.log(100))))
    times = event_times(n, rng, people * rng.uniform(2.5, 5), 0.9 if people == 1 else 0.0)
    kernels = [impact(rng, rng.uniform(0.002, 0.012), 500, rng.uniform(2_000, 6_000))
               for _ in range(4)]  # fmt: skip
    swell = np.interp(np.arange(n), np.linspace(0, n, 5), rng.uniform(0.3, 1.0, 5))
    return unit_level(scatter(n, rng, times, kernels) * swell)


def keyboard(n: int, rng: Generator) -> Audio:
    """Typing in runs: a press and a softer release for each key."""
    times = event_times(n, rng, rng.uniform(3, 12), rng.uniform(0, 0.6))
    slow = np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * times + rng.uniform(0, 6))
    times = times[slow > rng.uniform(-1.0, 0.2)]
    low_hz = rng.uniform(300, 1_500)
    press, release = (
        [impact(rng, rng.uniform(0.001, 0.008), low_hz, rng.uniform(3_000, 7_500))
         for _ in range(3)] for _ in range(2)
    )  # fmt: skip
    up = scatter(n, rng, times + rng.uniform(0.05, 0.12, len(times)), release)
    return unit_level(scatter(n, rng, times, press) + rng.uniform(0.1, 0.7) * up)


def clicks(n: int, rng: Generator) -> Audio:
    """Rare clicks, pops, knocks, clinks or steps, 0.3 to 4 a second."""
    times = event_times(n, rng, rng.uniform(0.3, 4), rng.uniform(0, 1))
    low_hz = np.exp(rng.uniform(np.log(60), np.log(3_000)))
    kernels = [impact(rng, np.exp(rng.uniform(np.log(0.0005), np.log(0.06))), low_hz,
                      min(low_hz * rng.uniform(1.5, 6), 7_500)) for _ in range(2)]  # fmt: skip
    return unit_level(scatter(n, rng, times, kernels))


def weather(n: int, rng: Generator) -> Audio:
    """Rain or wind: coloured noise in a band that gusts, some with drops."""
    points = max(3, int(n / SAMPLE_RATE * rng.uniform(0.5, 3)) + 2)
    gusts_db = rng.normal(0, rng.uniform(0, 8), points)
    gust = 10.0 ** (np.interp(np.arange(n), np.linspace(0, n, points), gusts_db) / 20)
    low_hz = np.exp(rng.uniform(np.log(30), np.log(2_000)))
    noise = band(coloured_noise(n, rng, rng.uniform(0, 1)), low_hz, low_hz * rng.uniform(3, 40))
    noise = unit_level(noise) * gust
    if rng.random() < 0.4:
        kernels = [impact(rng, rng.uniform(0.001, 0.006), 800, 6_000) for _ in range(3)]
        drops = scatter(n, rng, event_times(n, rng, rng.uniform(10, 200), 0.0), kernels)
        noise = noise + rng.uniform(0.3, 3) * unit_level(drops)
    return unit_level(noise)


def rumble(n: int, rng: Generator) -> Audio:
    """A street or a vehicle: low noise in slow waves, some with an engine."""
    slow = np.interp(np.arange(n), np.linspace(0, n, 2 + n // 32_000),
                     rng.uniform(0.2, 1.0, 2 + n // 32_000))  # fmt: skip
    noise = band(coloured_noise(n, rng, 1.0), 20, rng.uniform(100, 900)) * slow
    return unit_level(unit_level(noise) + rng.choice([0.0, 1.0]) * engine(n, rng))


def engine(n: int, rng: Generator) -> Audio:
    """A motor, fan or saw: a wavering buzz of 25 to 300 Hz and its harmonics, with noise."""
    points = 2 + n // 8_000
    waver = np.interp(np.arange(n), np.linspace(0, n, points), rng.normal(0, 1, points))
    hz = np.exp(rng.uniform(np.log(25), np.log(300))) * 2.0 ** (rng.uniform(0, 0.3) * waver)
    buzz = tone(hz, n, rng.uniform(0.1, 1, 40) * np.arange(1, 41) ** -rng.uniform(0.3, 1.5), rng)
    noise = coloured_noise(n, rng, rng.uniform(0, 1))
    return unit_level(unit_level(buzz) + rng.uniform(0, 2) * noise)


def signals(n: int, rng: Generator) -> Audio:
    """Beeps, rings, sirens or bird calls: short tones that may glide and repeat."""
    events, first = [], int(rng.uniform(0, 0.5) * SAMPLE_RATE)
    base = np.exp(rng.uniform(np.log(250), np.log(5_000)))
    glide, length_s, gap_s = (
        rng.uniform(-1, 1) * rng.choice([0, 1]),
        rng.uniform(0.04, 0.8),
        rng.uniform(0.03, 1.0),
    )
    harmonics = np.arange(1, 9) ** -rng.uniform(1.0, 4.0)
    while first < n:
        size = int(length_s * rng.uniform(0.7, 1.3) * SAMPLE_RATE)
        x = np.linspace(0, 1, size)
        hz = np.minimum(base * 2.0 ** (glide * x + rng.choice([0.0, 4 / 12, 7 / 12])), 7_000)
        events.append((first, tone(hz, size, harmonics, rng) * np.minimum(1, 20 * x * (1 - x))))
        first += size + int(gap_s * rng.uniform(0.5, 1.5) * SAMPLE_RATE)
    return unit_level(place(n, events))


def room(n: int, rng: Generator) -> Audio:
    """Steady noise of a room or a microphone: white to brown, with or without a band."""
    slopes = (0.0, rng.uniform(0.0, 1.0), rng.uniform(1.0, 1.5))
    noise = coloured_noise(n, rng, rng.choice(slopes, p=(0.45, 0.4, 0.15)))
    if rng.random() < 0.3:
        noise = band(noise, rng.uniform(20, 500), rng.uniform(1_000, 8_000))
    return unit_level(noise)


def music(n: int, rng: Generator) -> Audio:
    """A song, a guitar or two songs in turn."""
    if rng.random() < 0.25:
        return unit_level(guitar_chords(n, rng))
    cut = int(rng.integers(n // 4, n)) if rng.random() < 0.3 else n
    return unit_level(np.concatenate([song(cut, rng), song(n - cut, rng)]) if cut < n
                      else song(n, rng))  # fmt: skip


def guitar(n: int, rng: Generator) -> Audio:
    """A guitar alone, strummed or picked."""
    return unit_level(guitar_chords(n, rng))


def mains_hum(n: int, rng: Generator) -> Audio:
    """Mains hum of 50 or 60 Hz."""
    return unit_level(hum(n, rng))


SOUNDS: dict[str, Sound] = {
    "breaths": breaths, "laughter": laughter, "coughs": coughs, "applause": applause,
    "keyboard": keyboard, "clicks": clicks, "weather": weather, "rumble": rumble, "engine": engine,
    "signals": signals, "room": room, "music": music, "guitar": guitar, "hum": mains_hum,
}  # fmt: skip
