"""The tables of the coarticulation rules: targets, dominances and decay rates of each phone.

`TARGET` and `ALPHA` are (len(PHONES), len(MOUTH_CHANNELS)): the targets and the dominances alpha of
the Cohen-Massaro model. The values were set by eye on renderings of `synthetic/head.npz` from the
front and from 40 degrees.
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
}
MOUTH_CHANNELS = tuple(LETTERS.values())

# fmt: off
_TARGETS: dict[str, dict[str, float]] = {
    "sil": {},
    "p": dict(J=.10, X=.10, R=.35, L=.24, U=.18), "b": dict(J=.10, X=.10, R=.35, L=.24, U=.18),
    "m": dict(J=.10, X=.10, R=.28, L=.20, U=.14),
    "f": dict(J=.10, X=.05, L=.55, H=.30, S=.12), "v": dict(J=.11, X=.05, L=.48, H=.28, S=.10),
    "th": dict(J=.17, D=.22, H=.08, T=.9), "dh": dict(J=.17, D=.22, H=.08, T=.8),
    "t": dict(J=.13, D=.25, H=.10, S=.12, T=.5), "d": dict(J=.14, D=.25, H=.10, S=.10, T=.5),
    "n": dict(J=.14, D=.22, H=.08, S=.08, T=.5), "l": dict(J=.19, D=.25, H=.10, T=.7),
    "s": dict(J=.06, D=.45, H=.22, S=.30, M=.08, T=.2),
    "z": dict(J=.07, D=.45, H=.22, S=.28, M=.08, T=.2),
    "sh": dict(J=.09, F=.45, P=.35, D=.25, H=.20, W=.15),
    "zh": dict(J=.10, F=.45, P=.35, D=.25, H=.20, W=.15),
    "ch": dict(J=.09, F=.43, P=.35, D=.25, H=.20, W=.12, T=.3),
    "jh": dict(J=.10, F=.42, P=.35, D=.25, H=.18, W=.12, T=.3),
    "k": dict(J=.20, D=.15, H=.08, S=.05), "g": dict(J=.20, D=.15, H=.08, S=.05),
    "ng": dict(J=.20, D=.14, H=.06, S=.05), "hh": dict(J=.25, D=.10),
    "r": dict(J=.14, P=.40, F=.24, D=.08), "w": dict(J=.06, P=.95, F=.10),
    "y": dict(J=.14, S=.30, M=.15, D=.20, H=.10),
    "iy": dict(J=.17, S=.40, M=.28, D=.34, H=.22), "ih": dict(J=.24, S=.24, M=.15, D=.22, H=.12),
    "ey": dict(J=.30, S=.32, M=.20, D=.24, H=.15), "eh": dict(J=.42, S=.25, M=.12, D=.20, H=.12),
    "ae": dict(J=.56, S=.30, M=.14, D=.22, H=.16), "aa": dict(J=.68, D=.12, H=.06),
    "ao": dict(J=.52, F=.28, P=.30, D=.08), "ah": dict(J=.38, D=.14, H=.06),
    "er": dict(J=.22, P=.35, F=.22, D=.08), "uh": dict(J=.25, P=.42, F=.18),
    "uw": dict(J=.11, P=.88, F=.15), "ow": dict(J=.36, P=.55, F=.25),
    "aw": dict(J=.60, D=.10), "ay": dict(J=.62, D=.14, H=.08), "oy": dict(J=.48, F=.28, P=.30),
}
# Diphthongs: first part, second part, share of the first.
DIPHTHONGS = {
    "aw": ("aa", "uw", .55), "ay": ("aa", "ih", .55), "oy": ("ao", "ih", .55),
    "ow": ("ow", "uw", .55), "ey": ("eh", "iy", .45),
}
# Groups of channels with common decay rates (1/s): before the phone (anticipation), after it.
GROUPS = {
    "jaw": ("JW", 14.0, 14.0),
    "closure": ("XRLU", 28.0, 28.0),
    "rounding": ("PF", 7.0, 11.0),  # rounding starts up to 200 ms before the phone
    "spread": ("SMHDK", 12.0, 12.0),
    "tongue": ("T", 20.0, 20.0),
}
# Dominance alpha by class of phone; "all" is every channel; later entries override earlier ones.
_DOMINANCE: tuple[tuple[str, dict[str, float]], ...] = (
    (" ".join(VOWELS), dict(jaw=1.0, rounding=.8, spread=.6, closure=.7, tongue=.5)),
    ("uw ow ao w uh oy", dict(rounding=2.5)),
    ("w uw", dict(rounding=4.0, jaw=3.0, spread=1.5)),
    ("sh zh ch jh", dict(rounding=1.8, jaw=1.6)),
    ("iy ey y", dict(spread=1.0, rounding=3.0)),
    ("p b m", dict(closure=8.0, jaw=2.0, spread=3.0, rounding=.25, tongue=.1)),
    ("f v", dict(closure=6.0, jaw=2.0, H=4.0, D=3.0, rounding=.4)),
    ("s z", dict(jaw=2.5, spread=.9, rounding=.35)),
    ("t d n l th dh", dict(jaw=.8, spread=.6, rounding=.25, tongue=1.5)),
    ("k g ng hh", dict(all=.25)),
    ("r", dict(rounding=1.0)),
    ("sil", dict(all=.7)),
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


def _dominance_table() -> np.ndarray:
    alpha = np.full((len(PHONES), len(LETTERS)), 0.5)
    for phones, row in _DOMINANCE:
        for name, value in row.items():
            letters = "".join(LETTERS) if name == "all" else GROUPS.get(name, (name,))[0]
            for phone in phones.split():
                alpha[PHONE_INDEX[phone], columns(letters)] = value
    return alpha


TARGET, ALPHA = _target_table(), _dominance_table()
