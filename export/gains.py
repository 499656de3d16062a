"""Factors of single curves, as `--gain jawOpen=1.2` gives them."""

import math
from collections.abc import Sequence

from common.errors import UserError
from export.clip import CurveGains
from export.shape_names import ARKIT, arkit_spellings, match, nearest

LIMITS = 0, 10


def parse_gains(texts: Sequence[str]) -> CurveGains:
    """The factors of texts such as "jawOpen=1.2"; of a name without side, both sides.

    The last one for a shape counts. Raises `UserError` for unknown names and for numbers outside
    `LIMITS`.
    """
    gains: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not LIMITS[0] <= factor <= LIMITS[1]:
            raise UserError(
                f"--gain {text}: expected NAME=FACTOR, {LIMITS[0]} to {LIMITS[1]}, such as "
                "jawOpen=1.2"
            )
        shape = match(name, arkit_spellings())
        if shape is None:
            close = nearest(name, ARKIT)
            raise UserError(
                f"--gain {text}: no curve has this name; "
                + (f"the nearest is {close}" if close else "expected a name of ARKit or tongueUp")
            )
        gains |= dict.fromkeys(shape.shapes, factor)
    return tuple(gains.items())
