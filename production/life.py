"""Blinks, glances and head motion that no recording states: rules, drawn at random, not learnt.

`live(prosody, seed)` draws the events of a whole recording. `Life.at(times)` is the motion at any
instants, so that frame rates and parts of a recording sample one motion. The numbers and their
sources are in docs/life.md. No rule shows an emotion.

Angles are degrees, right-handed about the axes of the head: yaw to its own left, pitch down, roll
to its own right (the crown towards the right shoulder). T instants, B blinks, G fixations.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from production.prosody import Prosody

# Blinks: Bentivoglio et al. 1997 (rates, log-normal intervals), Sforza et al. 2008 (closing is
# faster than opening), Nakano and Kitazawa 2010 (at the end of phrases).
SPEAKING_RATE, RESTING_RATE = 22.0, 17.0  # a minute
BLINK_SPREAD = 0.45  # standard deviation of the logarithm of an interval
BLINK_GAP_S = 1.0, 8.0  # least and greatest interval
TO_PHRASE_END_S = 1.2  # a blink that is due so near the end of a phrase moves there
AFTER_PHRASE_S = 0.2  # at most; where in the pause it begins
CLOSING_S, SHUT_S, OPENING_S = 0.075, 0.040, 0.150  # shut for a frame at 25 fps
BLINK_LENGTHS = 0.85, 1.15  # factor of closing and opening

# Gaze: Carpenter 1988 (duration of saccades), Rogers et al. 2018 (eyes and mouth of the other),
# Kendon 1967 (away when a turn begins).
SACCADE_S, SACCADE_S_EACH = 0.021, 0.0022  # duration, and more for each degree
FACE_POINTS = (-1.5, -0.3), (1.5, -0.3), (0.0, 1.8)  # yaw, pitch: the other's eyes and mouth
FACE_CHANCES = 0.4, 0.4, 0.2
FIXATION_JITTER = 0.3  # standard deviation, degrees
FIXATION_S, FIXATION_SPREAD = 1.3, 0.6  # mean, standard deviation of the logarithm
FIXATION_GAP_S = 0.3, 5.0
AWAY_CHANCE = 0.3  # at the start of a phrase after a pause of AWAY_PAUSE_S, but not of the first
AWAY_PAUSE_S = 0.5
AWAY_DEGREES = 4.0, 7.0
AWAY_S = 0.5, 1.1

# Head: Hadar et al. 1983 (more motion in speech than in pauses), Alexanderson et al. 2013 (nods
# peak at stressed syllables), Munhall et al. 2004 (motion follows pitch and loudness).
NOD_DEGREES = 1.0, 3.0  # from the highest to the lowest point, of accents of strength 0 and 1
NOD_CHANCE = 0.8
NOD_RISE_S, NOD_DROP_S, NOD_RETURN_S = 0.24, 0.30, 0.42
NOD_LIFT = 0.3  # share of a nod that lies above where it begins
NOD_ASIDE = 0.3  # of a nod: most by which it also turns and tilts the head
POSTURE_DEGREES = 2.4, 0.8, 1.2  # standard deviations of yaw, pitch, roll
POSTURE_LIMIT = 1.8  # standard deviations
POSTURE_MOVE_S = 0.9
POSTURE_HOLD_S = 1.6, 3.4  # in a long phrase
REST_SHARE = 0.35  # of a posture that is left in a pause of REST_PAUSE_S
REST_PAUSE_S = 0.8
SWAY_DEGREES = 0.45, 0.35, 0.3  # amplitudes of yaw, pitch, roll at rest
SWAY_HZ = 0.07, 0.33
SWAY_WAVES = 3  # of each axis
SPEAKING_SWAY = 1.6  # of the sway at rest
WARM_UP_S = 0.6  # in which the sway grows and fades with speech


@dataclass(frozen=True, eq=False)
class Steps:
    """Values that move from one to the next: at `start_s[k]`, in `length_s[k]`, to `value[k]`.

    start_s, length_s: (N,) seconds, the moves do not overlap; value: (N, C); before the first
    move the value is 0.
    """

    start_s: NDArray[np.float64]
    length_s: NDArray[np.float64]
    value: NDArray[np.float64]

    def at(self, times: NDArray) -> NDArray[np.float64]:
        """(T, C) the values at times (T,); a move is a half cosine."""
        values = np.concatenate([np.zeros((1, self.value.shape[1])), self.value])
        if not len(self.start_s):
            return np.zeros((len(times), values.shape[1]))
        step = np.searchsorted(self.start_s, times, side="right")
        latest = np.maximum(step - 1, 0)
        share = np.clip((times - self.start_s[latest]) / self.length_s[latest], 0.0, 1.0)
        before = values[np.maximum(step - 1, 0)]
        return before + _ease(share)[:, None] * (values[step] - before)


@dataclass(frozen=True, eq=False)
class Life:
    """The events of a recording, in order of time; seconds and degrees.

    blinks: (B, 3) start, closing time, opening time. gaze: Steps of yaw and pitch in the room.
    posture, nods: Steps of yaw, pitch, roll. speech: Steps of 0 and 1.
    waves: (3, SWAY_WAVES, 3) amplitude, Hz and phase of the sway about each axis.
    """

    blinks: NDArray[np.float64]
    gaze: Steps
    posture: Steps
    nods: Steps
    speech: Steps
    waves: NDArray[np.float64]

    def at(self, times: NDArray) -> "Motion":
        """The motion at times (T,) in seconds of the recording."""
        head = self.posture.at(times) + self.nods.at(times) + self._sway(times)
        # The eyes keep their target while the head turns.
        return Motion(self._closure(times), self.gaze.at(times) - head[:, :2], head)

    def _closure(self, times: NDArray) -> NDArray[np.float64]:
        if not len(self.blinks):
            return np.zeros(len(times))
        start, closing, opening = _latest(self.blinks, times).T
        after = times - start
        shut = _ease(after / closing) * (1.0 - _ease((after - closing - SHUT_S) / opening))
        return np.where(after >= 0, shut, 0.0)

    def _sway(self, times: NDArray) -> NDArray[np.float64]:
        sway = np.zeros((len(times), 3))
        for axis, waves in enumerate(self.waves):
            for amplitude, hertz, phase in waves:
                sway[:, axis] += amplitude * np.sin(2 * np.pi * hertz * times + phase)
        return sway * (1.0 + (SPEAKING_SWAY - 1.0) * self.speech.at(times))


@dataclass(frozen=True, eq=False)
class Motion:
    """What life adds to T frames.

    closure: (T,) of the lids, 0 as predicted to 1 shut. eyes: (T, 2) yaw and pitch in the head,
    head: (T, 3) yaw, pitch and roll; degrees.
    """

    closure: NDArray[np.float64]
    eyes: NDArray[np.float64]
    head: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.closure)


def live(prosody: Prosody, seed: int) -> Life:
    """Draw the life of a recording: the same for the same prosody and seed.

    Each kind of motion has its own generator, seeded with `seed`, the length of the recording and
    its number. So recordings differ from their first second on.
    """
    rngs = [np.random.default_rng([seed, prosody.samples, kind]) for kind in range(5)]
    return Life(
        blinks=_blinks(prosody, rngs[0]),
        gaze=_gaze(prosody, rngs[1]),
        posture=_postures(prosody, rngs[2]),
        nods=_nods(prosody, rngs[3]),
        speech=_speech(prosody),
        waves=_waves(rngs[4]),
    )


def _blinks(prosody: Prosody, rng: Generator) -> NDArray[np.float64]:
    rows, ends = [], prosody.phrases[:, 1]
    last = -rng.uniform(0.0, 60.0 / RESTING_RATE)  # the recording begins between two blinks
    while True:
        rate = SPEAKING_RATE if _is_spoken(prosody, last) else RESTING_RATE
        start = last + _log_normal(rng, 60.0 / rate, BLINK_SPREAD, BLINK_GAP_S)
        first = max(last + BLINK_GAP_S[0], start - TO_PHRASE_END_S)
        near = ends[slice(*np.searchsorted(ends, [first, start + TO_PHRASE_END_S]))]
        delay, lengths = rng.uniform(0.0, AFTER_PHRASE_S), rng.uniform(*BLINK_LENGTHS, size=2)
        if len(near):
            start = near[np.abs(near - start).argmin()] + delay
        if start >= prosody.duration_s:
            return np.array(rows).reshape(-1, 3)
        if start >= 0.0:
            rows.append((start, *(lengths * (CLOSING_S, OPENING_S))))
        last = start


def _gaze(prosody: Prosody, rng: Generator) -> Steps:
    """Fixations of the other's face, and away from it when some phrases begin."""
    away = _gazes_away(prosody, rng)
    starts, targets, clock = [-1.0], [_face_point(rng)], 0.0  # the first one has begun
    while clock < prosody.duration_s:
        clock += _log_normal(rng, FIXATION_S, FIXATION_SPREAD, FIXATION_GAP_S)
        target = _face_point(rng)
        if away and clock >= away[0][0] - FIXATION_GAP_S[0]:
            begin, length, direction = away.pop(0)
            starts.append(max(begin, starts[-1] + FIXATION_GAP_S[0]))
            targets.append(direction)
            clock = starts[-1] + length
        starts.append(clock)
        targets.append(target)
    values = np.array(targets)
    sizes = np.linalg.norm(np.diff(values, axis=0, prepend=0.0), axis=1)
    return Steps(np.array(starts), SACCADE_S + SACCADE_S_EACH * sizes, values)


def _gazes_away(prosody: Prosody, rng: Generator) -> list[tuple[float, float, tuple]]:
    """(start in seconds, length in seconds, (yaw, pitch)) of the glances away."""
    found: list[tuple[float, float, tuple]] = []
    for (start, _), pause in zip(prosody.phrases, _pauses_before(prosody), strict=True):
        chance, length, angle = rng.uniform(), rng.uniform(*AWAY_S), rng.uniform(*AWAY_DEGREES)
        side, lift = rng.choice((-1.0, 1.0)), rng.uniform(-0.5, 0.3)
        apart = not found or start - found[-1][0] > AWAY_S[1] + 1.0
        if AWAY_PAUSE_S <= pause < math.inf and chance < AWAY_CHANCE and apart:
            found.append((start, length, (side * angle * math.cos(lift), angle * math.sin(lift))))
    return found


def _pauses_before(prosody: Prosody) -> NDArray[np.float64]:
    """(P,) seconds of silence before each phrase; before the first, without end."""
    starts, ends = prosody.phrases.T
    return starts - np.concatenate([[-np.inf], ends])[: len(starts)]


def _postures(prosody: Prosody, rng: Generator) -> Steps:
    """A new posture at the start of each phrase and now and then in it, and rest in pauses."""
    starts, values = [], []

    def move(time_s: float, value: NDArray) -> None:
        if not starts or time_s >= starts[-1] + POSTURE_MOVE_S:
            starts.append(time_s)
            values.append(value)

    followed_by = np.append(_pauses_before(prosody)[1:], np.inf)
    for (start, end), pause in zip(prosody.phrases, followed_by, strict=False):
        clock = start - POSTURE_MOVE_S / 3
        while clock < end:
            draw = np.clip(rng.normal(size=3), -POSTURE_LIMIT, POSTURE_LIMIT)
            move(clock, draw * POSTURE_DEGREES)
            clock += rng.uniform(*POSTURE_HOLD_S)
        if pause >= REST_PAUSE_S and values:
            move(max(end, starts[-1] + POSTURE_MOVE_S), REST_SHARE * values[-1])
    lengths = np.full(len(starts), POSTURE_MOVE_S)
    return Steps(np.array(starts), lengths, np.array(values).reshape(-1, 3))


def _nods(prosody: Prosody, rng: Generator) -> Steps:
    """Nods whose lowest point is at an accent; of two that would overlap, the first.

    The head rises a little, drops to the accent, turned and tilted a little, and comes back.
    """
    starts, values, free = [], [], -math.inf
    for peak, strength in prosody.accents:
        chance, aside = rng.uniform(), NOD_ASIDE * rng.uniform(-1.0, 1.0, size=2)
        start = peak - NOD_DROP_S - NOD_RISE_S
        if chance < NOD_CHANCE and start >= free:
            low, high = NOD_DEGREES
            size = low + strength * (high - low)
            drop = np.array([aside[0], 1.0 - NOD_LIFT, aside[1]])
            starts += [start, start + NOD_RISE_S, peak]
            values += [(0.0, -size * NOD_LIFT, 0.0), size * drop, np.zeros(3)]
            free = peak + NOD_RETURN_S
    lengths = np.resize((NOD_RISE_S, NOD_DROP_S, NOD_RETURN_S), len(starts))
    return Steps(np.array(starts), lengths, np.array(values).reshape(-1, 3))


def _speech(prosody: Prosody) -> Steps:
    """1 in phrases, 0 in pauses that are long enough for the sway to fade."""
    edges: list[tuple[float, float]] = []
    for start, end in prosody.phrases:
        if edges and start - edges[-1][0] < 2 * WARM_UP_S:
            edges.pop()
        else:
            edges.append((start - WARM_UP_S, 1.0))
        edges.append((max(end, edges[-1][0] + WARM_UP_S), 0.0))
    table = np.array(edges).reshape(-1, 2)
    return Steps(table[:, 0], np.full(len(table), WARM_UP_S), table[:, 1:])


def _waves(rng: Generator) -> NDArray[np.float64]:
    waves = np.empty((3, SWAY_WAVES, 3))
    waves[..., 0] = np.array(SWAY_DEGREES)[:, None] / math.sqrt(SWAY_WAVES)
    waves[..., 1] = np.exp(rng.uniform(*np.log(SWAY_HZ), size=(3, SWAY_WAVES)))
    waves[..., 2] = rng.uniform(0.0, 2 * np.pi, size=(3, SWAY_WAVES))
    return waves


def _face_point(rng: Generator) -> tuple[float, float]:
    yaw, pitch = FACE_POINTS[rng.choice(len(FACE_POINTS), p=FACE_CHANCES)]
    return yaw + FIXATION_JITTER * rng.normal(), pitch + FIXATION_JITTER * rng.normal()


def _log_normal(rng: Generator, mean: float, spread: float, limits: tuple[float, float]) -> float:
    """A draw with this mean before it is clipped; spread: of its logarithm."""
    return float(np.clip(mean * math.exp(spread * rng.normal() - spread**2 / 2), *limits))


def _is_spoken(prosody: Prosody, time_s: float) -> bool:
    phrase = int(np.searchsorted(prosody.phrases[:, 0], time_s, side="right")) - 1
    return phrase >= 0 and time_s < prosody.phrases[phrase, 1] + AWAY_PAUSE_S


def _latest(events: NDArray, times: NDArray) -> NDArray[np.float64]:
    """(T, C) the last of the events (N, C) that has begun at each time; else the first."""
    return events[np.maximum(np.searchsorted(events[:, 0], times, side="right") - 1, 0)]


def _ease(share: NDArray) -> NDArray[np.float64]:
    """From 0 at 0 to 1 at 1, as a half cosine; constant outside."""
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(share, 0.0, 1.0))
