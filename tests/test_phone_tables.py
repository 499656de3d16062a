"""Events on single phones: which consonants stand alone, and what counts as a hit."""

import numpy as np
import pytest

from benchmarks.measures import Lips
from benchmarks.phone_tables import events, phone_rows, spells
from benchmarks.real_speech import Clip
from synthetic.coarticulation import CHANNEL_INDEX, CHANNELS
from synthetic.phones import Segment

T = 60  # frames: 2 s


def clip_of(phones: str, duration_s: float = 0.1) -> Clip:
    segments = (
        Segment(p, duration_s * i, duration_s * (i + 1)) for i, p in enumerate(phones.split())
    )
    return Clip("made_up", "librivox", np.zeros(32_000, np.float32), tuple(segments), "")


def lips(aperture: float = 5.0, width: float = 0.0, roll: float = 0.0) -> Lips:
    """Lips that do not move; mm, and the value of mouthRollLower."""
    curves = np.zeros((T, len(CHANNELS)))
    curves[:, CHANNEL_INDEX["mouthRollLower"]] = roll
    track = np.full(T, aperture)
    return Lips(track, track, np.full(T, width), track, np.zeros(T - 2), curves, closed=1.0)


def test_consonants_beside_labials_and_pauses_are_not_free():
    phones = "sil t aa t aa iy t iy ae m t aa s aa ey n"
    free = [spell.free for spell in spells(clip_of(phones), T) if spell.phone in "tsn"]
    # beside a pause; 0.2 s after it; 0.2 s before m; beside m; 0.2 s after m; at the end
    assert free == [False, True, True, False, True, False]
    short = clip_of("aa iy t iy m aa", 0.05)
    assert not next(s for s in spells(short, T) if s.phone == "t").free  # 50 ms from the m


def test_phones_after_the_last_frame_and_pauses_are_left_out():
    assert [s.phone for s in spells(clip_of("aa sil t iy"), 8)] == ["aa", "t"]


@pytest.mark.parametrize(
    ("phones", "predicted", "rules", "table", "hits"),
    [
        ("p aa", lips(0.9), lips(1.1), "p b m shut", (1.0, 0.0)),
        ("aa t iy", lips(1.1), lips(0.9), "false closures", None),  # the ends are near
        ("aa iy ae t iy ae aa", lips(0.9), lips(1.1), "false closures", (1.0, 0.0)),
        ("v", lips(roll=0.2), lips(roll=0.5), "f v rolled", (0.0, 1.0)),
        ("f", lips(roll=0.3), lips(roll=0.5), "f v rolled", (1.0, 1.0)),
        ("w", lips(width=-2), lips(width=-4.1), "narrowed", (0.0, 1.0)),
        ("sh", lips(width=-2), lips(width=-3.9), "narrowed", (1.0, 1.0)),
        ("uw", lips(width=-2), lips(width=-0.9), "narrowed", None),  # the rules do not narrow
        ("iy", lips(width=-1), lips(width=2), "ee pinched", (1.0, 0.0)),
        ("iy", lips(width=-1), lips(width=-1), "ee pinched", None),
    ],
)
def test_hits(phones, predicted, rules, table, hits):
    of_clip = [e for s in spells(clip_of(phones), T) for e in events(s, predicted, rules)]
    of_table = [(e.hit, e.rules_hit) for e in of_clip if e.table == table]
    assert of_table[:1] == ([] if hits is None else [hits])


def test_rows_pool_the_events_of_all_clips():
    predicted, rules = lips(4.0), lips(8.0)
    of_clips = [
        [e for s in spells(clip_of(phones, d), T) for e in events(s, predicted, rules)]
        for phones, d in (("aa m iy", 0.04), ("m ae aa m t", 0.1))
    ]
    rows = {(row.table, row.row): row for row in phone_rows(of_clips)}
    assert rows["p b m shut", "m"].n == 3 and rows["p b m shut", "m < 45 ms"].n == 1
    assert rows["p b m shut", "m before a vowel"].n == 2
    assert rows["p b m shut", "m before a consonant"].n == 1
    opening = rows["open vowels", "aa"]
    assert opening.n == 2 and opening.share.value == 0.5
    assert (opening.mm, opening.rules_mm) == (4.0, 8.0)
