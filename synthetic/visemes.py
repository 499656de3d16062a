"""The tables of the coarticulation rules: targets, dominances and decay rates of each phone.

`TARGET`, `ALPHA` and `DECAY` are (len(PHONES), len(MOUTH_CHANNELS)): the targets and the dominances
alpha of the Cohen-Massaro model, and factors of the groups' decay rates theta. The values were set
by eye on renderings of `synthetic/head.npz` from the front and from 40 degrees.
"""

import numpy as np

from synthetic.phones import PHONE_INDEX, PHONES, VOWELS

# Letters of the mouth channels in the tables below.
LETTERS = {
    "J": "jawOpen",
    "X": "mouthClose",
    "P": "mouthPucker",
    "F": "mouthFunnel",
    "R": "mouthPress",
    "L": "mouthRollLower",
    "U": "mouthRollUpper",
    "S": "mouthStretch",
    "M": "mouthSmile",
    "H": "mouthUpperUp",
    "D": "mouthLowerDown",
    "K": "mouthShrugUpper",
    "W": "jawForward",
    "T": "tongueUp",
    "O": "tongueOut",
}
MOUTH_CHANNELS = tuple(LETTERS.values())

# fmt: off
_TARGETS: dict[str, dict[str, float]] = {
    "sil": {},
    "p": dict(J=.10, X=.10, R=.50, L=.54, U=.45), "b": dict(J=.10, X=.10, R=.50, L=.52, U=.43),
    "m": dict(J=.10, X=.10, R=.38, L=.36, U=.32),
    "f": dict(J=.11, X=.08, L=.74, H=.38, S=.10), "v": dict(J=.12, X=.08, L=.70, H=.36, S=.08),
    "th": dict(J=.24, D=.30, H=.14, T=.84, O=.48), "dh": dict(J=.22, D=.28, H=.12, T=.84, O=.46),
    "t": dict(J=.15, D=.30, H=.14, S=.12, T=1.1, O=.20),
    "d": dict(J=.16, D=.30, H=.14, S=.10, T=1.1, O=.20),
    "n": dict(J=.17, D=.27, H=.12, S=.08, T=1.1, O=.20),
    "l": dict(J=.22, D=.28, H=.12, T=1.2, O=.20),
    "s": dict(J=.03, D=.48, H=.26, S=.30, M=.08, T=.35),
    "z": dict(J=.04, D=.48, H=.26, S=.28, M=.08, T=.35),
    "sh": dict(J=.08, F=.40, P=.45, D=.28, H=.20, W=.15),
    "zh": dict(J=.09, F=.40, P=.45, D=.28, H=.20, W=.15),
    "ch": dict(J=.08, F=.38, P=.45, D=.28, H=.20, W=.12, T=.4),
    "jh": dict(J=.09, F=.38, P=.45, D=.28, H=.20, W=.12, T=.4),
    "k": dict(J=.20, D=.20, H=.10, S=.05), "g": dict(J=.20, D=.20, H=.10, S=.05),
    "ng": dict(J=.20, D=.18, H=.08, S=.05), "hh": dict(J=.25, D=.10),
    "r": dict(J=.15, P=.36, F=.26, D=.08), "w": dict(J=.16, X=.16, P=.96, F=.34),
    "y": dict(J=.14, S=.32, M=.16, D=.22, H=.12),
    "iy": dict(J=.17, S=.42, M=.30, D=.36, H=.22), "ih": dict(J=.24, S=.24, M=.15, D=.22, H=.12),
    "ey": dict(J=.30, S=.32, M=.20, D=.24, H=.15), "eh": dict(J=.42, S=.25, M=.12, D=.20, H=.12),
    "ae": dict(J=.56, S=.30, M=.14, D=.22, H=.16), "aa": dict(J=.68, D=.12, H=.06),
    "ao": dict(J=.46, X=.18, P=.45, F=.50), "ah": dict(J=.38, D=.14, H=.06),
    "er": dict(J=.22, P=.32, F=.24, D=.08), "uh": dict(J=.25, P=.40, F=.22),
    "uw": dict(J=.22, X=.22, P=.88, F=.50), "ow": dict(J=.36, X=.25, P=.60, F=.56),
    "aw": dict(J=.60, D=.10), "ay": dict(J=.62, D=.14, H=.08),
    "oy": dict(J=.46, X=.18, P=.45, F=.50),
}
# Diphthongs: first part, second part, share of the first.
DIPHTHONGS = {
    "aw": ("aa", "uw", .55), "ay": ("aa", "ih", .55), "oy": ("ao", "ih", .55),
    "ow": ("ow", "uw", .55), "ey": ("eh", "iy", .45),
}
# Groups of channels with common decay rates (1/s): before the phone (anticipation), after it.
GROUPS = {
    "jaw": ("JW", 14.0, 14.0),
    "closure": ("X", 22.0, 22.0),
    "press": ("RLU", 16.0, 16.0),
    "rounding": ("PF", 5.5, 8.5),  # rounding starts up to 200 ms before the phone
    "spread": ("SMHDK", 11.0, 11.0),
    "tongue": ("TO", 26.0, 26.0),
}
# Dominance alpha by class of phone; "all" is every channel; later entries override earlier ones.
_DOMINANCE: tuple[tuple[str, dict[str, float]], ...] = (
    (" ".join(VOWELS), dict(jaw=1.4, rounding=.8, spread=.6, closure=.7, press=.7, tongue=2.0)),
    ("uw ow ao w uh oy", dict(rounding=2.5, X=2.0)),
    ("w uw", dict(rounding=7.0, jaw=3.5, spread=4.0)),
    ("sh zh ch jh", dict(rounding=3.0, jaw=4.5, spread=1.2)),
    ("iy ey y", dict(spread=4.0, rounding=14.0)),
    ("p b m", dict(closure=8.0, press=8.0, jaw=2.0, spread=3.0, rounding=.25, tongue=.1)),
    ("f v", dict(closure=6.0, press=6.0, jaw=2.0, H=4.0, D=3.0, rounding=.4)),
    ("s z", dict(jaw=7.0, spread=1.2, rounding=.35)),
    ("t d n l", dict(jaw=.8, spread=.6, rounding=.25, tongue=6.0)),
    ("th dh", dict(jaw=1.5, spread=1.2, rounding=.25, tongue=6.0)),
    ("k g ng hh", dict(all=.25)),
    ("r", dict(rounding=1.0)),
    ("sil", dict(all=.7)),
)
# Factors of the decay rates: the lips spread and open late, so that rounding is anticipated up to
# the spread vowel but does not pinch it.
_DECAY: tuple[tuple[str, dict[str, float]], ...] = (
    ("iy ey y", dict(rounding=4.0, spread=1.4)),
    ("w uw", dict(rounding=1.3, spread=1.6)),
)
# fmt: on


def columns(letters: str) -> list[int]:
    """Indices of the channels with these letters in MOUTH_CHANNELS."""
    return [list(LETTERS).index(letter) for letter in letters]


def _target_table() -> np.ndarray:
    target = np.zeros((len(PHONES), len(LETTERS)))
    for phone, row in _TARGETS.items():
        target[PHONE_INDEX[phone], columns("".join(row))] = list(row.values())
    return target


def _table_by_class(
    classes: tuple[tuple[str, dict[str, float]], ...], default: float
) -> np.ndarray:
    table = np.full((len(PHONES), len(LETTERS)), default)
    for phones, row in classes:
        for name, value in row.items():
            letters = "".join(LETTERS) if name == "all" else GROUPS.get(name, (name,))[0]
            for phone in phones.split():
                table[PHONE_INDEX[phone], columns(letters)] = value
    return table


TARGET = _target_table()
ALPHA, DECAY = _table_by_class(_DOMINANCE, 0.5), _table_by_class(_DECAY, 1.0)
