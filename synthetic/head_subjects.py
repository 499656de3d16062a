"""The twelve subjects: mixtures of MakeHuman's targets, with colours and hair.

Only `build_head.py` uses this.
"""

from dataclasses import dataclass

from synthetic.head_paint import Palette


@dataclass(frozen=True)
class Recipe:
    """A subject as a mixture of MakeHuman's targets, each share 0 to 1.

    origin: name -> share; female: share of the female shape; old: share of the old shape; local:
    further targets with their weights; hair: one of `STYLES`.
    """

    origin: dict[str, float]
    female: float
    old: float = 0.0
    palette: Palette | None = None
    hair: str = "short"
    local: tuple[tuple[str, float], ...] = ()


BLUE, GREEN, HAZEL = (0.36, 0.46, 0.50), (0.38, 0.45, 0.36), (0.45, 0.36, 0.22)
BROWN, DARK = (0.34, 0.22, 0.13), (0.22, 0.14, 0.09)
FAIR = Palette((0.81, 0.63, 0.54), (0.69, 0.43, 0.41), (0.23, 0.17, 0.14), BLUE)
PALE = Palette((0.85, 0.69, 0.61), (0.70, 0.46, 0.44), (0.42, 0.34, 0.26), GREEN)
SANDY = Palette((0.80, 0.62, 0.52), (0.66, 0.43, 0.39), (0.33, 0.25, 0.18), GREEN)
LIGHT = Palette((0.83, 0.67, 0.55), (0.70, 0.44, 0.41), (0.10, 0.085, 0.08), BROWN)
TAN = Palette((0.76, 0.58, 0.46), (0.62, 0.40, 0.36), (0.12, 0.10, 0.09), BROWN)
OLIVE = Palette((0.67, 0.49, 0.38), (0.56, 0.35, 0.32), (0.13, 0.10, 0.09), HAZEL)
AMBER = Palette((0.60, 0.42, 0.32), (0.52, 0.32, 0.29), (0.10, 0.08, 0.07), BROWN)
UMBER = Palette((0.44, 0.29, 0.22), (0.43, 0.25, 0.23), (0.08, 0.065, 0.06), DARK)
SIENNA = Palette((0.50, 0.34, 0.26), (0.49, 0.28, 0.26), (0.08, 0.065, 0.06), DARK)

SUBJECTS = {
    "ada": Recipe({"caucasian": 1.0}, 1.0, palette=FAIR, hair="tied"),
    "ben": Recipe({"caucasian": 1.0}, 0.0, palette=SANDY),
    "chidi": Recipe({"african": 1.0}, 0.0, palette=UMBER, hair="shaved"),
    "mei": Recipe({"asian": 1.0}, 1.0, palette=LIGHT, hair="tied"),
    "omar": Recipe({"caucasian": 0.5, "african": 0.5}, 0.05, 0.25, palette=OLIVE),
    "zola": Recipe({"african": 1.0}, 1.0, palette=SIENNA, hair="round"),
    "kenji": Recipe({"asian": 1.0}, 0.0, 0.2, palette=TAN),
    "greta": Recipe({"caucasian": 1.0}, 0.9, 0.35, palette=PALE, hair="tied"),
    "lina": Recipe({"caucasian": 0.5, "asian": 0.5}, 0.9, palette=LIGHT),
    "theo": Recipe({"caucasian": 0.7, "african": 0.3}, 0.1, palette=TAN),
    "nora": Recipe({"caucasian": 0.6, "african": 0.4}, 1.0, 0.1, palette=OLIVE, hair="round"),
    "ravi": Recipe({"asian": 0.5, "caucasian": 0.5}, 0.1, 0.15, palette=AMBER, hair="shaved"),
}
