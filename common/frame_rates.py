"""Frame rates as exact fractions: 29.97 frames a second are 30000/1001.

Cameras of the NTSC family record at 1000/1001 of a whole rate. Counts of frames are computed with
these fractions, never with rounded decimals.
"""

import re
from fractions import Fraction
from typing import Any

from common.errors import UserError

NTSC = Fraction(1000, 1001)
NTSC_RATES = (24, 30, 48, 60, 120)  # times NTSC: 23.976, 29.97, 47.952, 59.94, 119.88
ROUNDED = 0.005  # a decimal this near to an NTSC rate is that rate: 23.98, 29.97, 59.94
LIMITS = (1, 1000)  # frames a second, of data
FPS_LIMITS = (1, 240)  # of videos and files that are written
WRITTEN = re.compile(r"\d{1,9}(\.\d{1,6})?|\d{1,9}/[1-9]\d{0,8}")


def parse_rate(value: Any, where: str) -> Fraction:
    """A frame rate from a number or a text such as 25, 29.97 or "30000/1001".

    Decimals near an NTSC rate become that rate. where: names the value in the message. Raises
    `UserError` for anything that is no rate from 1 to 1000.
    """
    text = str(value).strip()
    if not isinstance(value, bool) and WRITTEN.fullmatch(text):
        rate = _snapped(Fraction(text))
        if LIMITS[0] <= rate <= LIMITS[1]:
            return rate
    raise UserError(
        f"{where}: expected frames a second from {LIMITS[0]} to {LIMITS[1]}, such as 25, 29.97 or "
        f'"30000/1001", got {text[:40]!r}'
    )


def _snapped(rate: Fraction) -> Fraction:
    if rate.denominator == 1:
        return rate
    near = (nominal * NTSC for nominal in NTSC_RATES)
    return next((ntsc for ntsc in near if abs(rate - ntsc) <= ROUNDED), rate)


def stored_rate(rate: Fraction) -> int | str:
    """A rate as JSON has it: 30, or "30000/1001"."""
    return rate.numerator if rate.denominator == 1 else str(rate)


def rate_text(rate: Fraction) -> str:
    """A rate for people: 30, or 29.97 (30000/1001)."""
    return str(rate) if rate.denominator == 1 else f"{float(rate):.5g} ({rate})"
