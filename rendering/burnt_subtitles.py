"""Subtitles in the picture: white letters on a dark box, at the bottom of every frame.

ffmpeg's `subtitles` filter (libass) draws the letters. It orders and joins the letters of all
scripts, and takes those that DejaVu Sans lacks from the fonts of the system. Box and letters are
laid over the frames here, so that transparent ones keep straight alpha.
"""

import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from rendering.subtitle_pages import MAX_LINES, Page, font_path, pages_of, text_measure
from rendering.subtitles import Cue
from speech import ffmpeg

FONT_SHARES = 26, 24  # em in a picture's width and in its height, at least
LINE_SHARE = 0.9  # of the width
LINE_EM = 2384 / 2048  # height of a line of DejaVu Sans, ascender to descender
BELOW_EM, PAD_EM = 0.6, 0.25  # below the letters; around them
BOX_ALPHA = 0.65  # of black behind the letters: white on it has 7:1 before a white picture, too
STYLE = "Name, Fontname, Fontsize, PrimaryColour, BorderStyle, Outline, Shadow, Alignment, MarginV"
EVENT = "Layer, Start, End, Style, MarginL, MarginR, MarginV, Text"
NO_LETTER = re.compile(r"failed to find any fallback with glyph 0x([0-9A-Fa-f]+)")


@dataclass(frozen=True)
class Overlay:
    """The letters of a page: coverage (h, w) uint8, compressed, from `top`, `left` of the picture.

    `top` and the shape are those of the box.
    """

    page: Page
    top: int
    left: int
    shape: tuple[int, int]
    data: bytes

    def coverage(self) -> NDArray[np.float32]:
        """(h, w, 1), 0 to 1."""
        letters = np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(*self.shape, 1)
        return letters / np.float32(255)


def draw_overlays(cues: Sequence[Cue], size: tuple[int, int]) -> list[Overlay]:
    """The pages of cues, drawn for pictures of `size` (width, height), in order of time.

    Raises `UserError` for letters that no font of the system has, and for an ffmpeg without libass.
    """
    width, height = size
    em = min(width / FONT_SHARES[0], height / FONT_SHARES[1])
    pages = pages_of(cues, LINE_SHARE * width / em, text_measure())
    if not pages:
        return []
    band = min(round((MAX_LINES * LINE_EM + BELOW_EM + 1.0) * em), height)
    return [
        _overlay(page, letters, height - band, em)
        for page, letters in zip(pages, _letters(pages, width, band, em), strict=True)
    ]


def burnt(
    frames: Iterable[NDArray], overlays: Sequence[Overlay], fps: Fraction | int
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames (H, W, 3 or 4) uint8 with the overlay of each instant t / fps over frame t.

    Pictures (H, W, 4) have straight alpha, also afterwards. Frames are not changed in place.
    """
    waiting, current, coverage = list(reversed(overlays)), None, None
    for t, frame in enumerate(frames):
        ms = 1000 * t / fps
        while waiting and waiting[-1].page.start_ms <= ms:
            current = waiting.pop()
            coverage = current.coverage()
        if current is not None and ms < current.page.end_ms:
            frame = frame.copy()
            (height, width), top, left = current.shape, current.top, current.left
            part = frame[top : top + height, left : left + width]
            part[:] = _over(part, coverage)
        yield frame


def _over(part: NDArray, coverage: NDArray) -> NDArray[np.uint8]:
    """The box and its letters over a part (h, w, 3 or 4) of a picture."""
    alpha = part[..., 3:] / np.float32(255) if part.shape[2] == 4 else np.float32(1)
    # premultiplied: black takes its share of what is behind, then white does
    light = part[..., :3] * alpha * (1 - BOX_ALPHA) * (1 - coverage) + 255 * coverage
    if part.shape[2] == 3:
        return np.round(light).astype(np.uint8)
    alpha = 1 - (1 - alpha) * (1 - BOX_ALPHA) * (1 - coverage)  # never 0 in the box
    return np.round(np.dstack([light / alpha, 255 * alpha])).astype(np.uint8)


def _overlay(page: Page, letters: NDArray, above: int, em: float) -> Overlay:
    """The overlay of a page from the band (h, W) of its letters; above: rows above the band."""
    pad, bottom = round(PAD_EM * em), letters.shape[0] - round((BELOW_EM - PAD_EM) * em)
    top = bottom - round(len(page.lines) * LINE_EM * em) - 2 * pad
    rows, columns = (np.flatnonzero(letters.any(axis=axis)) for axis in (1, 0))
    top, bottom = max(min(top, *rows[:1]), 0), max(bottom, *rows[-1:] + 1)
    left = max(columns[0] - 2 * pad, 0)
    right = min(columns[-1] + 1 + 2 * pad, letters.shape[1])
    box = letters[top:bottom, left:right]
    return Overlay(page, above + int(top), int(left), box.shape, zlib.compress(box.tobytes(), 1))


def _letters(
    pages: Sequence[Page], width: int, height: int, em: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield the coverage (height, width) of every page, drawn by ffmpeg as one frame of a video."""
    source = f"color=black@0:s={width}x{height}:r=1,format=rgba"
    arguments = ["-loglevel", "warning", "-f", "lavfi", "-i", source]
    arguments += ["-vf", "subtitles=pages.ass:fontsdir=.:alpha=1,extractplanes=a"]
    arguments += ["-frames:v", str(len(pages)), "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        shutil.copy(font_path(), folder)
        (Path(folder) / "pages.ass").write_text(_ass(pages, width, height, em), encoding="utf-8")
        process = ffmpeg.start(
            arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            for _ in pages:
                frame = process.stdout.read(width * height)
                if len(frame) < width * height:
                    break
                yield np.frombuffer(frame, np.uint8).reshape(height, width)
        finally:
            process.stdout.close()
            process.wait()
        errors.seek(0)
        _check(process.returncode, errors.read().decode(errors="replace"), pages)


def _check(code: int, messages: str, pages: Sequence[Page]) -> None:
    """Raise `UserError` for what ffmpeg says about letters and filters; code: its exit code."""
    if missing := NO_LETTER.search(messages):
        letter = chr(int(missing[1], 16))
        line = next((line for page in pages for line in page.lines if letter in line), "")
        raise UserError(
            f"--burn_subtitles: no font of this system has {letter!r} (U+{ord(letter):04X}) in "
            f"{line!r}; install a font of that script, such as one of Noto"
        )
    if code:
        raise UserError(
            f"--burn_subtitles: ffmpeg {ffmpeg.find_ffmpeg()} cannot draw subtitles; it needs "
            "libass, which that of pip install imageio-ffmpeg has"
        )


def _ass(pages: Sequence[Page], width: int, height: int, em: float) -> str:
    """A file of Advanced SubStation Alpha: page i is shown in second i."""
    below = round(BELOW_EM * em)
    style = f"page,DejaVu Sans,{LINE_EM * em:.2f},&H00FFFFFF,1,0,0,2,{below}"
    return "\n".join(
        [
            *("[Script Info]", "ScriptType: v4.00+", f"PlayResX: {width}", f"PlayResY: {height}"),
            *("WrapStyle: 2", "[V4+ Styles]", f"Format: {STYLE}", f"Style: {style}"),
            *("[Events]", f"Format: {EVENT}"),
            *(
                f"Dialogue: 0,{_clock(i)},{_clock(i + 1)},page,0,0,0,{_escaped(page.lines)}"
                for i, page in enumerate(pages)
            ),
        ]
    )


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.00"


def _escaped(lines: Sequence[str]) -> str:
    r"""Lines as libass takes them: {} begins a command and \n a line, so they are escaped."""
    plain = (re.sub(r"\\", "\\\\\u2060", line) for line in lines)  # a word joiner, without width
    return r"\N".join(re.sub(r"([{}])", r"\\\1", line) for line in plain)
