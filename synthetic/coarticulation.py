"""From timed phones to smooth face curves: the rules behind the synthetic corpus.

Cohen and Massaro, "Modeling coarticulation in synthetic visual speech" (1993): every phone has a
target for every channel and a dominance that decays with distance from the phone. The face is the
dominance-weighted mean

    y(t) = sum_s D_s(t) target_s / sum_s D_s(t),     D_s(t) = alpha_s exp(-theta x_s(t)),

where x_s(t) is the time from t to the plateau of phone s. What the mean must not weaken is imposed
afterwards: closed lips on p b m, the lower lip on the teeth on f v, rest in pauses. The curves are
functions of continuous time, so all frame rates sample the same motion.

Symbols: T frames, N phones (after diphthongs are split), C channels.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config import SAMPLE_RATE
from synthetic.phones import PHONE_INDEX, PHONES, VOWELS, Segment
from synthetic.visemes import ALPHA, DECAY, DIPHTHONGS, GROUPS, MOUTH_CHANNELS, TARGET, columns

BROW_CHANNELS = ("browInnerUp", "browOuterUp")
CHANNELS = MOUTH_CHANNELS + BROW_CHANNELS
CHANNEL_INDEX = {channel: index for index, channel in enumerate(CHANNELS)}
CLOSED = 0.06  # gap of the inner lips, in units of jawOpen's, below which they count as closed

LOUDNESS_HZ = 100  # rate of the loudness envelope; value i is the instant (i + 0.5)/100

BILABIALS = ("p", "b", "m")
LABIODENTALS = ("f", "v")


@dataclass(frozen=True)
class Style:
    """A subject's style of speaking; the defaults are neutral."""

    jaw_gain: float = 1.0
    rounding_gain: float = 1.0
    spread_gain: float = 1.0
    smile: float = 0.0  # added to mouthSmile in every frame
    lead_s: float = 0.0  # the face is ahead of the sound by this
    brow_gain: float = 1.0


NEUTRAL = Style()


def style_of(subject: str) -> Style:
    """The style of a subject, derived from a hash of its name, the same on every machine."""
    rng = np.random.default_rng(zlib.crc32(subject.encode()))
    return Style(
        jaw_gain=rng.uniform(0.88, 1.15),
        rounding_gain=rng.uniform(0.85, 1.2),
        spread_gain=rng.uniform(0.85, 1.15),
        smile=rng.uniform(0.0, 0.06),
        lead_s=rng.uniform(-0.01, 0.01),
        brow_gain=rng.uniform(0.6, 1.3),
    )


_PLATEAU = 0.6  # share of the phone's half length over which its dominance is constant
_EDGE_S = 0.045  # rounds the corner of the dominance, so that the velocity is continuous
_UNDERSHOOT_S = 0.09  # vowels shorter than this do not reach their jaw target
_UNDERSHOOTS = VOWELS | {"hh", "l", "k", "g"}
_RAMP_S = 0.06  # time that the lips take into and out of a closure
_PRESS_RAMP_S = 0.12  # the same for pressing the lips, longer because they move further
_SHORTEST_HOLD_S = 0.055  # more than 33 ms: any closure has a frame at 30 fps, whatever the phase
_LIPS_MEET = 1.05  # mouthClose over jawOpen that presses the lips lightly (1.0: they just touch)
_SHUT_PAUSE_S = 0.15  # pauses of at least this length close the mouth
_BLOCK_S, _REACH_S = 8.0, 2.6  # long clips are computed in blocks; beyond the reach D < 1e-6


_JAW, _CLOSE = CHANNEL_INDEX["jawOpen"], CHANNEL_INDEX["mouthClose"]
_ROUNDING, _SPREAD = columns("PF"), columns("SMHDK")
_CONTACT, _PRESS = columns("XHD"), columns("RLUF")  # channels that a contact takes over


class _Score(NamedTuple):
    """The phones of a clip as arrays; gaps and both ends are filled with silence."""

    phone: np.ndarray  # (N,) index into PHONES
    start: np.ndarray  # (N,) seconds
    end: np.ndarray  # (N,) seconds

    def between(self, start_s: float, end_s: float) -> "_Score":
        """The phones that overlap this interval."""
        keep = (self.end > start_s) & (self.start < end_s)
        return _Score(*(column[keep] for column in self))

    def where(self, phones: Iterable[str]) -> "_Score":
        """The segments of these phones."""
        keep = np.isin(self.phone, [PHONE_INDEX[phone] for phone in phones])
        return _Score(*(column[keep] for column in self))


def curves(
    segments: Sequence[Segment],
    frames: int,
    fps: float,
    loudness: np.ndarray | None = None,
    style: Style = NEUTRAL,
) -> np.ndarray:
    """Face curves of an utterance: (frames, len(CHANNELS)) float32, 1.0 = the unit's full motion.

    Frame t is the instant t/fps. `segments` are in order of time; gaps between them are silence.
    `loudness` ((n,), from `loudness()`) scales jaw and spread and raises the brows.
    Raises ValueError for unknown phones or segments out of order.
    """
    score = _score(segments)
    times = np.arange(frames) / fps
    result = np.zeros((frames, len(CHANNELS)))
    block = max(1, int(_BLOCK_S * fps))
    for first in range(0, frames, block):
        rows = slice(first, first + block)
        result[rows, : len(MOUTH_CHANNELS)] = _mouth(score, times[rows], loudness, style)
    if loudness is not None:
        result[:, len(MOUTH_CHANNELS) :] = _brows(times, loudness, style)
    return result.astype(np.float32)


def loudness(audio: np.ndarray) -> np.ndarray:
    """Loudness at 100 Hz of (S,) audio at 16 kHz: (n,) float32, 0.2 to 1.3, 1 is a loud vowel."""
    hop = SAMPLE_RATE // LOUDNESS_HZ
    n = -(-len(audio) // hop)
    blocks = np.zeros(n * hop)
    blocks[: len(audio)] = audio
    power = _smooth((blocks.reshape(n, hop) ** 2).mean(1), 0.02)
    decibels = 10.0 * np.log10(power + 1e-10)
    reference = np.percentile(decibels, 85) if n else 0.0
    return np.clip(1.0 + (decibels - reference) / 20.0, 0.2, 1.3).astype(np.float32)


def _score(segments: Sequence[Segment]) -> _Score:
    """Phones as arrays: diphthongs split, gaps and both ends silent, adjacent pauses merged."""
    rows: list[tuple[int, float, float]] = []
    silence = PHONE_INDEX["sil"]
    clock = (segments[0][1] if segments else 0.0) - 1.0
    for phone, start, end in [*segments, ("sil", None, None)]:
        start = clock if start is None else start
        end = start + 1.0 if end is None else end
        if phone not in PHONE_INDEX:
            raise ValueError(f"phone {phone!r}: expected one of {' '.join(PHONES)}")
        if end < start:
            raise ValueError(f"segment {phone} {start:.3f}-{end:.3f} s: it ends before it starts")
        if start < clock - 1e-3:
            raise ValueError(
                f"segment {phone} starts at {start:.3f} s, expected {clock:.3f} s or later"
            )
        if start > clock + 1e-3:
            _append(rows, silence, clock, start)
        if phone in DIPHTHONGS:
            first, second, share = DIPHTHONGS[phone]
            middle = start + share * (end - start)
            rows.append((PHONE_INDEX[first], start, middle))
            rows.append((PHONE_INDEX[second], middle, end))
        else:
            _append(rows, PHONE_INDEX[phone], start, end)
        clock = end
    phones, starts, ends = zip(*rows, strict=True)
    return _Score(np.array(phones), np.array(starts), np.array(ends))


def _append(rows: list[tuple[int, float, float]], phone: int, start: float, end: float) -> None:
    """Add a row in place, or extend the last one when both are silence."""
    if rows and phone == PHONE_INDEX["sil"] == rows[-1][0]:
        rows[-1] = (phone, rows[-1][1], end)
    else:
        rows.append((phone, start, end))


def _mouth(
    score: _Score, times: np.ndarray, loudness: np.ndarray | None, style: Style
) -> np.ndarray:
    """Mouth channels at `times` (T,) seconds: (T, C)."""
    moments = times + style.lead_s
    near = score.between(moments[0] - _REACH_S, moments[-1] + _REACH_S)
    y = _dominance_mean(near, moments)
    if loudness is not None:
        level = _at(times, loudness)[:, None]
        y[:, [_JAW]] *= 0.7 + 0.3 * level
        y[:, _SPREAD] *= 0.8 + 0.2 * level
    y[:, _JAW] *= style.jaw_gain
    y[:, _ROUNDING] *= style.rounding_gain
    y[:, _SPREAD] *= style.spread_gain
    y[:, _CLOSE] = np.minimum(y[:, _CLOSE], y[:, _JAW])  # more would push the lips into each other
    _impose_contact(y, near.where(LABIODENTALS), moments)
    _impose_contact(y, near.where(BILABIALS), moments)  # last, so that nothing reopens the lips
    y *= 1.0 - _pause_weight(near, moments)[:, None]
    y[:, CHANNEL_INDEX["mouthSmile"]] += style.smile
    return y


def _dominance_mean(score: _Score, times: np.ndarray) -> np.ndarray:
    """The Cohen-Massaro mean at `times` (T,): (T, C)."""
    if not len(score.phone):
        return np.zeros((len(times), len(MOUTH_CHANNELS)))
    target, alpha, centre, half = _weights(score)
    tau = times[:, None] - centre  # (T, N)
    x = np.maximum(np.abs(tau) - half, 0.0)
    x *= x / (x + _EDGE_S)
    y = np.empty((len(times), len(MOUTH_CHANNELS)))
    for letters, before, after in GROUPS.values():
        group = columns(letters)
        rate = np.where(tau < 0, before, after) * DECAY[score.phone, group[0]]
        decay = np.exp(-rate * x)
        pull = decay @ (alpha[:, group] * target[:, group])
        y[:, group] = pull / (decay @ alpha[:, group] + 1e-6)
    return y


def _weights(score: _Score) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Targets (N, C), dominances (N, C), centres (N,), half plateaus (N,) of the phones."""
    duration = score.end - score.start
    target, alpha = TARGET[score.phone], ALPHA[score.phone]
    short = np.isin(score.phone, [PHONE_INDEX[phone] for phone in _UNDERSHOOTS])
    reach = np.where(short, np.clip(duration / _UNDERSHOOT_S, 0.55, 1.15), 1.0)
    target[:, _JAW] *= reach
    silent = score.phone == PHONE_INDEX["sil"]
    alpha = alpha * np.where(silent, np.minimum(1.0, duration / 0.12), 1.0)[:, None]
    bilabial = np.isin(score.phone, [PHONE_INDEX[phone] for phone in BILABIALS])
    centre = score.start + np.where(bilabial, 0.45, 0.5) * duration  # closed before the burst
    half = duration / 2
    half = np.where(silent, half - np.minimum(0.4 * half, 0.04), _PLATEAU * half)
    return target, alpha, centre, half


def _impose_contact(y: np.ndarray, score: _Score, times: np.ndarray) -> None:
    """Impose, in place on `y` (T, C), the lip contact of these consonants for 55 to 100 ms."""
    if not len(score.phone):
        return
    duration = score.end - score.start
    centre = score.start + 0.45 * duration
    hold = np.clip(0.6 * duration, _SHORTEST_HOLD_S, 0.1)
    away = np.abs(times[:, None] - centre) - hold / 2  # (T, N)
    target, w = _contact_target(score, away, _PRESS_RAMP_S)
    y[:, _PRESS] += w * (target[:, _PRESS] - y[:, _PRESS])
    target, w = _contact_target(score, away, _RAMP_S)
    jaw = np.minimum(y[:, [_JAW]], 1.3 * target[:, [_JAW]])
    y[:, [_JAW]] += w * (jaw - y[:, [_JAW]])
    y[:, _CONTACT] += w * (target[:, _CONTACT] - y[:, _CONTACT])
    if PHONES[score.phone[0]] in BILABIALS:
        shut = _LIPS_MEET * y[:, [_JAW]]
        y[:, [_CLOSE]] += w * (shut - y[:, [_CLOSE]])


def _contact_target(
    score: _Score, away: np.ndarray, ramp_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Targets (T, C) of the contacts and their weight (T, 1), 0 to 1.

    away: (T, N), seconds from the hold of each consonant, negative inside it.
    """
    weight = _smoothstep(1.0 - away / ramp_s)
    share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)
    return share @ TARGET[score.phone], weight.max(1, keepdims=True)


def _pause_weight(score: _Score, times: np.ndarray) -> np.ndarray:
    """Weight of the rest position in pauses, 0 to 1: (T,)."""
    pauses = score.where(("sil",))
    if not len(pauses.phone):
        return np.zeros(len(times))
    duration = np.maximum(pauses.end - pauses.start, 1e-6)
    strength = _smoothstep((duration - 0.6 * _SHUT_PAUSE_S) / (0.4 * _SHUT_PAUSE_S))
    shutting = np.minimum(0.15, 0.6 * duration)
    opening = np.minimum(0.10, 0.4 * duration)
    into = _smoothstep((times[:, None] - pauses.start) / shutting)
    out = _smoothstep((pauses.end - times[:, None]) / opening)
    weight = (strength * np.minimum(into, out)).max(1)
    known = (times > score.start[0]) & (times < score.end[-1])
    return np.where(known, weight, 1.0)


def _brows(times: np.ndarray, loudness: np.ndarray, style: Style) -> np.ndarray:
    """Brow channels (T, 2): raised on accents of loudness."""
    accent = np.clip(_smooth(loudness, 0.12) - _smooth(loudness, 0.8) - 0.05, 0.0, 0.5)
    lift = style.brow_gain * _at(times, _smooth(accent, 0.06))
    return np.stack([0.5 * lift, 0.8 * lift], axis=1)


def _at(times: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    """A 100 Hz envelope interpolated linearly at `times` (T,) seconds."""
    return np.interp(times, (np.arange(len(envelope)) + 0.5) / LOUDNESS_HZ, envelope)


def _smooth(values: np.ndarray, sigma_s: float) -> np.ndarray:
    """A 100 Hz envelope smoothed by a Gaussian, renormalised at the edges."""
    reach = int(3 * sigma_s * LOUDNESS_HZ)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma_s * LOUDNESS_HZ)) ** 2)
    blurred = np.convolve(values, kernel)[reach : reach + len(values)]
    return blurred / np.convolve(np.ones(len(values)), kernel)[reach : reach + len(values)]


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)
