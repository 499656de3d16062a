"""Subtitles of a SubRip file (.srt), for a track of a video or for its picture.

A cue is an optional number, a line "00:00:01,000 --> 00:00:02,500", lines of text and an empty one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from files.texts import read_text

TIME = r"(\d{1,3}):(\d{2}):(\d{2})[,.](\d{3})"
TIMES = re.compile(rf"{TIME}\s*-->\s*{TIME}(\s.*)?")


@dataclass(frozen=True)
class Cue:
    """A text that is shown from `start_ms` to `end_ms`."""

    start_ms: int
    end_ms: int
    text: str


def load_cues(path: Path) -> tuple[Cue, ...]:
    """The cues of an .srt, in order of their start.

    Raises `UserError` with the line for other text and for times that go back, or without a cue.
    """
    cues: list[Cue] = []
    times, texts = None, []
    lines = [line.strip() for line in read_text(path, "--subtitles").split("\n")]
    for number, line in enumerate([*lines, ""], 1):
        match = TIMES.fullmatch(line)
        if times is not None and line and not match:
            texts.append(line)
        elif match or not line:
            if times is not None and texts and not line:
                cues.append(Cue(*times, "\n".join(texts)))
            times, texts = (_times(path, number, match) if match else None), []
            if times is not None and cues and times[0] < cues[-1].start_ms:
                raise UserError(
                    f"--subtitles {path}: line {number}: starts at {_clock(times[0])}, before the "
                    f"subtitle above it ({_clock(cues[-1].start_ms)}); sort the file by time"
                )
        elif not line.isdecimal():
            raise UserError(
                f"--subtitles {path}: line {number}: expected a time such as "
                f"00:00:01,000 --> 00:00:02,500, got {line[:40]!r}"
            )
    if not cues:
        raise UserError(f"--subtitles {path}: no subtitle in it, expected a SubRip file (.srt)")
    return tuple(cues)


def _times(path: Path, number: int, match: re.Match) -> tuple[int, int]:
    values = [int(text) for text in match.groups()[:8]]
    start, end = ((60 * h + m) * 60_000 + 1000 * s + ms
                  for h, m, s, ms in (values[:4], values[4:]))  # fmt: skip
    if end <= start:
        raise UserError(f"--subtitles {path}: line {number}: it ends before it starts")
    return start, end


def part_of(cues: Sequence[Cue], start_s: float, seconds: float) -> list[Cue]:
    """The cues of `seconds` from `start_s` on, in time from there; none reaches beyond the ends."""
    start, length = round(1000 * start_s), round(1000 * seconds)
    moved = (Cue(max(c.start_ms - start, 0), min(c.end_ms - start, length), c.text) for c in cues)
    return [cue for cue in moved if cue.end_ms > cue.start_ms]


def srt_of(cues: Sequence[Cue]) -> str:
    """The text of an .srt."""
    return "".join(
        f"{number}\n{_clock(cue.start_ms)} --> {_clock(cue.end_ms)}\n{cue.text}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def _clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d},{ms:03d}"
