"""Subtitles as pages of at most two lines that fit the picture, for `rendering.burnt_subtitles`.

Widths are those of DejaVu Sans, the font that matplotlib brings along, in em (its size). A letter
that it lacks counts as one em if it is wide (Chinese, Japanese, Korean) and as `OTHER_EM` else.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rendering.subtitles import Cue

MAX_LINES = 2
LONGEST_EM = 24.0  # about 42 letters, the usual limit of subtitles
OTHER_EM = 0.7
STEPS = 12  # of the search for the narrowest lines
MARKUP = re.compile(r"</?(?:i|b|u|s|font|c|v|lang|ruby|rt)\b[^>]*>|\{\\[^}]*\}", re.IGNORECASE)
FONT_FILE = "fonts/ttf/DejaVuSans.ttf"  # in matplotlib's data folder

Measure = Callable[[str], float]


@dataclass(frozen=True)
class Page:
    """Lines that are shown together from `start_ms` to `end_ms`."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def font_path() -> Path:
    """The file of DejaVu Sans."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / FONT_FILE


def text_measure() -> Measure:
    """A function that returns the width of a text in em."""
    from matplotlib.ft2font import FT2Font

    font, widths = FT2Font(str(font_path())), {}
    font.set_size(font.units_per_EM, 72)  # a point is then a unit of the font

    def width(char: str) -> float:
        if char not in widths:
            if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # above others; not shown
                widths[char] = 0.0
            elif font.get_char_index(ord(char)):
                advance = font.load_char(ord(char)).linearHoriAdvance / 65536
                widths[char] = advance / font.units_per_EM
            else:
                widths[char] = 1.0 if _is_wide(char) else OTHER_EM
        return widths[char]

    return lambda text: sum(map(width, text))


def pages_of(cues: Sequence[Cue], line_em: float, measure: Measure) -> list[Page]:
    """Pages whose lines are at most `line_em` wide, in order and without overlap.

    Texts of one time stand one below the other. A text of more than two lines is shown in parts,
    each for its share of the letters. Marks such as <i> are left out. measure: see `text_measure`.
    """
    limit = min(line_em, LONGEST_EM)
    instants = sorted({ms for cue in cues for ms in (cue.start_ms, cue.end_ms)})
    pages: list[Page] = []
    for start_ms, end_ms in zip(instants[:-1], instants[1:], strict=True):
        shown = [cue.text for cue in cues if cue.start_ms < end_ms and cue.end_ms > start_ms]
        lines = wrap(shown, limit, measure)
        pages += _in_parts(lines, start_ms, end_ms)
    return pages


def _in_parts(lines: list[str], start_ms: int, end_ms: int) -> list[Page]:
    """The pages of the lines of one text."""
    parts = [tuple(lines[i : i + MAX_LINES]) for i in range(0, len(lines), MAX_LINES)]
    letters = [sum(map(len, part)) for part in parts]
    pages, before = [], 0
    for part, count in zip(parts, letters, strict=True):
        first, last = (
            start_ms + (end_ms - start_ms) * done // sum(letters)
            for done in (before, before + count)
        )
        pages.append(Page(first, last, part))
        before += count
    return pages


def wrap(texts: Sequence[str], limit: float, measure: Measure) -> list[str]:
    """The lines of texts that are shown together, none wider than `limit` em; [] without letters.

    Their own lines are kept where at most two are there and both fit, else a line for each text is
    tried. Otherwise the lines are as few as possible, of about the same width, and a word that is
    wider than a line is cut.
    """
    own = [[_plain(line) for line in MARKUP.sub("", text).split("\n")] for text in texts]
    own = [[line for line in lines if line] for lines in own]
    joined = [" ".join(lines) for lines in own if lines]
    for lines in (sum(own, []), joined):
        if len(lines) <= MAX_LINES and all(measure(line) <= limit for line in lines):
            return lines
    units = _units(" ".join(joined), limit, measure)
    best = _fill(units, limit, measure)
    low, high = limit / 2, limit
    for _ in range(STEPS):
        middle = (low + high) / 2
        filled = _fill(units, middle, measure)
        fits = len(filled) == len(best) and all(measure(line) <= middle for line in filled)
        low, high, best = (low, middle, filled) if fits else (middle, high, best)
    return best


def _plain(line: str) -> str:
    """A line with single spaces and without control characters."""
    return " ".join(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", line).split())


def _units(text: str, limit: float, measure: Measure) -> list[tuple[str, str]]:
    """(space before, letters) of all that a line break may not cut.

    These are words, and single wide letters with the closing punctuation that follows.
    """
    units: list[tuple[str, str]] = []
    for space, word in re.findall(r"(\s*)(\S+)", text):
        piece = ""
        for char in word:
            closes = unicodedata.category(char) in ("Pe", "Pf", "Po") or unicodedata.combining(char)
            is_break = piece and not closes and (_is_wide(char) or _is_wide(piece[-1]))
            if is_break or measure(piece + char) > limit:
                units.append((space, piece))
                space, piece = "", ""
            piece += char
        units.append((space, piece))
    return [unit for unit in units if unit[1]]


def _fill(units: list[tuple[str, str]], limit: float, measure: Measure) -> list[str]:
    """Lines with as many units as fit into `limit` em."""
    lines: list[str] = []
    for space, letters in units:
        if lines and measure(lines[-1] + space + letters) <= limit:
            lines[-1] += space + letters
        else:
            lines.append(letters)
    return lines


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF"
