"""Names of facial shapes as characters have them, and the shapes that they stand for.

A name is read as words: at capital letters, digits and everything that is no letter. Case and
separators do not count: "eyeBlinkLeft", "EyeBlink_L", "eye_blink.l" and "L_EyeBlink" are one shape.
Words before it are left out ("blendShape1.", "Mesh|", "A25_"), unless they are a shape themselves:
"mouthClose_jawOpen" is a correction of both, which no curve drives. A single letter is a vowel only
where it is the whole name or follows a word of `BEFORE_VOWELS`, as in "Fcl_MTH_A".
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from export.curves import EXTRA
from export.live_link import ARKIT_UNITS
from export.visemes import OCULUS, SILENCE, VRM
from synthetic.head import SIDES

ARKIT = (*ARKIT_UNITS, EXTRA)
OF_MOUTH = ("jaw", "mouth", "tongue", "cheekPuff")  # beginnings of ARKit's names
DIRECTIONS = ("jaw", "mouth")  # jawLeft and jawRight are opposite, not the halves of a unit
BLINKS = ("blink", "eyeclose", "eyesclose", "eyesclosed")  # of VRM, VRoid and Ready Player Me
VRCHAT = {"ih": "I", "oh": "O", "ou": "U"}  # its visemes, where Oculus has other names
VOWELS = {  # of VRM 1.0 and 0.x, and of MikuMikuDance
    "aa": "aa a あ", "ih": "ih i い", "ou": "ou u う", "ee": "ee e え", "oh": "oh o お",
}  # fmt: skip
BEFORE_VOWELS = {"mth", "mouth", "v", "viseme", "vowel", "phoneme", "lipsync"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
COPY = re.compile(r"\.\d{3}$")  # Blender's ending of the second object of a name
MAX_NAME = 200  # characters; what is before them is left out
SIMILAR = 0.75  # least ratio of `difflib` for a name that is like another
HALF, ALIAS, PAIR = 100, 200, 300  # ranks; those of one kind differ by the words left out


@dataclass(frozen=True)
class Match:
    """What a name stands for.

    shapes: one, or the left and right one that it moves together. rank: 0 for the best spelling;
    of several names for a shape, those of the lowest rank are meant.
    """

    shapes: tuple[str, ...]
    rank: int = 0


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case."""
    return [word.lower() for word in WORD.findall(COPY.sub("", name[-MAX_NAME:]))]


@cache
def arkit_spellings() -> Mapping[str, Match]:
    """Spelling without separators -> ARKit's unit; also names of halves and of pairs of units."""
    table: dict[str, Match] = {}
    for unit in ARKIT:
        side = next((side for side in SIDES if unit.endswith(side)), "")
        stem = unit.removesuffix(side)
        if not side:
            halves = (text for half in SIDES for text in _sided(stem, half))
            table |= dict.fromkeys(halves, Match((unit,), HALF)) | {stem.lower(): Match((unit,))}
            continue
        pair = tuple(stem + half for half in SIDES)
        others = BLINKS if stem == "eyeBlink" else ()
        for other in (stem, *others):
            rank = 0 if other == stem else ALIAS
            table |= dict.fromkeys(_sided(other, side), Match((unit,), rank))
            if stem not in DIRECTIONS:
                table[other.lower()] = Match(pair, PAIR + rank)
    return table


def _sided(stem: str, side: str) -> Iterable[str]:
    stem, side = stem.lower(), side.lower()
    return stem + side, stem + side[0], side + stem, side[0] + stem


@cache
def viseme_spellings() -> Mapping[str, Match]:
    """Spelling -> viseme of Oculus Lipsync."""
    names = {name.lower(): name for name in (SILENCE, *OCULUS)} | VRCHAT
    return {spelling: Match((name,)) for spelling, name in names.items()}


@cache
def vowel_spellings() -> Mapping[str, Match]:
    """Spelling -> vowel of VRM."""
    return {text: Match((name,)) for name in VRM for text in VOWELS[name].split()}


def match(name: str, spellings: Mapping[str, Match]) -> Match | None:
    """What `name` stands for, by the rule of this module; None for an unknown name."""
    words = words_of(name)
    for left_out in range(len(words)):
        spelling = "".join(words[left_out:])
        if spelling not in spellings:
            continue
        before = words[:left_out]
        if any("".join(before[i:]) in arkit_spellings() for i in range(left_out)):
            return None
        is_letter = len(spelling) == 1 and spelling.isascii()
        if is_letter and before and before[-1] not in BEFORE_VOWELS:
            return None
        found = spellings[spelling]
        return Match(found.shapes, found.rank + left_out)
    return None


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is spelled most like `name`; None where none is like it."""
    spelled = {"".join(words_of(other)): other for other in names}
    close = difflib.get_close_matches("".join(words_of(name)), spelled, 1, SIMILAR)
    return spelled[close[0]] if close else None


def is_known(name: str) -> bool:
    """Whether `name` stands for a shape of any kind."""
    kinds = arkit_spellings, viseme_spellings, vowel_spellings
    return any(match(name, spellings()) is not None for spellings in kinds)
