"""Types of flags: `argparse` calls them with the text of a flag, and adds its name to errors."""

import argparse
import math


def int_argument(text: str) -> int:
    """The whole number in `text`."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number") from None


def float_argument(text: str) -> float:
    """The finite number in `text`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text}: expected a number")
    return number


def size_argument(text: str) -> tuple[int, int]:
    """(width, height) of "800" or "1920x1080"."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text}: expected pixels such as 800 or 1920x1080")
    return int(parts[0]), int(parts[-1])
