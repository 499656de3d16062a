"""What the lips do on single phones, predicted and by the rules.

Tables: p b m by duration and by the next phone, false closures of consonants that stand away from
labials and pauses, the lower lip on f v, narrow lips on w, "oo", "ow", sh, ch, jh, the pinched
"ee", and the opening of open vowels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.intervals import Figure, pooled, ratio
from benchmarks.measures import Lips
from benchmarks.real_speech import Clip
from synthetic.coarticulation import BILABIALS, CHANNEL_INDEX, LABIODENTALS
from synthetic.phones import SILENCE, VOWELS

FPS = 30  # frame rate of the predictors
OTHER_CONSONANTS = ("t", "d", "n", "k", "g", "s", "z", "l", "hh", "ng", "th", "dh")
LABIALS = (*BILABIALS, *LABIODENTALS, "w")
NARROW = ("w", "uw", "ow", "sh", "ch", "jh")
OPEN_VOWELS = ("ae", "aa", "ao", "ah", "aw", "ay", "eh")
MARGIN_S = 0.01  # a phone's interval is extended by this at both ends (the aligner's step)
AWAY_S = 0.12  # the rules close the lips up to 0.1 s beside a labial; the aligner errs by 20 ms
SHORT_S, MEDIUM_S = 0.045, 0.065  # limits of the classes of p b m by duration
LEAST_ROLL = 0.1  # where the rules roll the lip or narrow the mouth by less, nothing is compared
LEAST_NARROWING = 1.0  # mm
PINCHED = -0.5  # mm, width of an "ee" below this is pinched, where the rules are wider than this
_ROLL = CHANNEL_INDEX["mouthRollLower"]


class Spell(NamedTuple):
    """One phone of a clip and its frames."""

    phone: str
    after: str  # the next phone; "sil" at the end
    duration_s: float
    frames: slice
    free: bool  # no labial, pause or end of the clip beside it or within AWAY_S


class Event(NamedTuple):
    """What the lips do in one phone, in one row of a table."""

    table: str
    row: str
    hit: float  # 1: the lips of the predictor do what the table asks
    rules_hit: float
    mm: float = float("nan")
    rules_mm: float = float("nan")


class PhoneRow(NamedTuple):
    """A row of a table: share of n phones in which the lips do what the table asks."""

    table: str
    row: str
    n: int
    share: Figure
    rules_share: float
    mm: float  # mean of the predictor, NaN in tables without lengths
    rules_mm: float


def spells(clip: Clip, n_frames: int) -> Iterator[Spell]:
    """The phones of a clip that lie in its first n_frames frames at 30 fps; pauses are left out."""
    segments = clip.segments
    phones = [SILENCE, *(segment.phone for segment in segments), SILENCE]
    blocking = [s for s in segments if s.phone in LABIALS or s.phone == SILENCE]
    for i, (phone, start, end) in enumerate(segments):
        if phone == SILENCE or start * FPS > n_frames - 1:
            continue
        first = max(0, int(np.ceil((start - MARGIN_S) * FPS)))
        last = min(n_frames - 1, int(np.floor((end + MARGIN_S) * FPS)))
        near = {phones[i], phones[i + 2]} & {SILENCE, *LABIALS}
        before, after = start - AWAY_S, end + AWAY_S
        near |= {s.phone for s in blocking if before < s.end_s and s.start_s < after}
        inside = segments[0].start_s <= before and after <= segments[-1].end_s
        frames = slice(min(first, last), last + 1)
        yield Spell(phone, phones[i + 2], end - start, frames, inside and not near)


def smallest_gap(lips: Lips, spell: Spell) -> float:
    """Smallest aperture in a phone minus the threshold of closed lips, mm; < 0: closed."""
    return float(lips.aperture[spell.frames].min() - lips.closed)


def events(spell: Spell, predicted: Lips, rules: Lips) -> Iterator[Event]:
    """The events of one phone in all tables."""
    phone, both = spell.phone, (predicted, rules)
    if phone in BILABIALS or (phone in OTHER_CONSONANTS and spell.free):
        shut = [float(smallest_gap(lips, spell) < 0) for lips in both]
        if phone not in BILABIALS:
            yield Event("false closures", phone, *shut)
        else:
            yield Event("p b m shut", phone, *shut)
            yield Event("p b m shut", f"{phone} {_duration_class(spell.duration_s)}", *shut)
            yield Event("p b m shut", f"{phone} before a {_class(spell.after)}", *shut)
    if phone in LABIODENTALS:
        roll = [float(lips.curves[spell.frames, _ROLL].max()) for lips in both]
        if roll[1] >= LEAST_ROLL:
            yield Event("f v rolled", phone, float(roll[0] >= roll[1] / 2), 1.0)
    if phone in NARROW:
        narrowing = [float(-lips.width[spell.frames].min()) for lips in both]
        if narrowing[1] >= LEAST_NARROWING:
            half = float(narrowing[0] >= narrowing[1] / 2)
            yield Event("narrowed", phone, half, 1.0, *narrowing)
    if phone == "iy":
        width = [float(np.median(lips.width[spell.frames])) for lips in both]
        if width[1] >= PINCHED:
            yield Event("ee pinched", phone, float(width[0] < PINCHED), 0.0, *width)
    if phone in OPEN_VOWELS:
        opening = [float(lips.aperture[spell.frames].max()) for lips in both]
        yield Event("open vowels", phone, *opening, *opening)


def _duration_class(duration_s: float) -> str:
    if duration_s < SHORT_S:
        return f"< {1000 * SHORT_S:.0f} ms"
    if duration_s <= MEDIUM_S:
        return f"{1000 * SHORT_S:.0f}-{1000 * MEDIUM_S:.0f} ms"
    return f"> {1000 * MEDIUM_S:.0f} ms"


def _class(phone: str) -> str:
    return "pause" if phone == SILENCE else "vowel" if phone in VOWELS else "consonant"


def phone_rows(clips: Sequence[Sequence[Event]]) -> list[PhoneRow]:
    """The rows of all tables, from the events of each clip; sorted by table and name.

    The share of open vowels is the ratio of the openings' sums.
    """
    rows = []
    names = sorted({(event.table, event.row) for of_clip in clips for event in of_clip})
    for table, row in names:
        of_row = [
            np.array([e[2:] for e in of_clip if (e.table, e.row) == (table, row)]).reshape(-1, 4)
            for of_clip in clips
        ]
        every = np.concatenate(of_row)
        weight = (lambda v: v[:, 1].sum()) if table == "open vowels" else len
        sums = [np.array([values[:, 0].sum(), weight(values)]) for values in of_row if len(values)]
        rules = 1.0 if table == "open vowels" else float(every[:, 1].mean())
        mm, rules_mm = every[:, 2:].mean(axis=0)
        rows.append(PhoneRow(table, row, len(every), pooled(ratio, sums), rules, mm, rules_mm))
    return rows
