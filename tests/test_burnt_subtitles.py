"""Subtitles in the picture: lines, pages, what is drawn over a frame."""

import zlib

import numpy as np
import pytest

from common.errors import UserError
from rendering.burnt_subtitles import Overlay, burnt, draw_overlays
from rendering.subtitle_pages import Page, pages_of, text_measure, wrap
from rendering.subtitles import Cue

LONG = "Had he married a more amiable woman he might have been made still more respectable"


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["aa\nbb"], ["aa", "bb"]),
        (["<i>aa</i>  {\\an8}bb\r"], ["aa bb"]),
        (["aa\nbb", "cc"], ["aa bb", "cc"]),
        (["aaa bb cc dd ee"], ["aaa bb", "cc dd ee"]),  # not "aaa bb cc", "dd ee"
        (["abcdefghijkl"], ["abcdefghij", "kl"]),
        (["日本語。日本語。日本語。"], ["日本語。日本", "語。日本語。"]),
        ([" ", "\n"], []),
    ],
)
def test_texts_become_lines_of_at_most_ten_letters(texts: list[str], lines: list[str]) -> None:
    assert wrap(texts, 10, len) == lines


def test_a_long_text_is_shown_in_parts_of_two_lines_each_for_its_letters() -> None:
    cues = [Cue(1000, 2000, "aaaaaa bbbbbb cccccc dddddd eeeeee ffffff gggg")]
    assert pages_of(cues, 6, len) == [
        Page(1000, 1300, ("aaaaaa", "bbbbbb")),
        Page(1300, 1600, ("cccccc", "dddddd")),
        Page(1600, 1900, ("eeeeee", "ffffff")),
        Page(1900, 2000, ("gggg",)),
    ]


def test_texts_of_one_time_are_shown_together() -> None:
    pages = pages_of([Cue(0, 500, "one"), Cue(300, 900, "two")], 9, len)
    assert pages == [Page(0, 300, ("one",)), Page(300, 500, ("one", "two")),
                     Page(500, 900, ("two",))]  # fmt: skip


def test_widths_are_those_of_the_font() -> None:
    """Advances of DejaVu Sans in units of 1/2048 em: m 1995, i 569; accents and marks have none."""
    measure = text_measure()
    assert measure("mi") == pytest.approx((1995 + 569) / 2048)
    assert measure("i\u0301\u200b") == pytest.approx(569 / 2048) and measure("語") == 1.0


@pytest.fixture
def overlay() -> Overlay:
    """A box of 2 by 2 pixels with letters in its left column, from 100 to 200 ms."""
    letters = np.uint8([[255, 0], [255, 0]])
    return Overlay(Page(100, 200, ("l",)), 4, 3, (2, 2), zlib.compress(letters.tobytes()))


def test_a_box_darkens_the_picture_behind_the_letters_while_they_are_shown(overlay) -> None:
    frames = [np.full((8, 6, 3), 200, np.uint8)] * 4
    drawn = list(burnt(frames, [overlay], 10))
    assert [np.array_equal(frame, frames[0]) for frame in drawn] == [True, False, True, True]
    assert drawn[1][4, 2:6, 0].tolist() == [200, 255, 70, 200]  # 0.35 of 200
    assert drawn[1][3, 3, 0] == drawn[1][6, 3, 0] == 200


def test_transparent_pictures_get_straight_alpha(overlay) -> None:
    """Before nothing the box is black of alpha 0.65; over half of a red it lets 0.35 through."""
    frame = np.zeros((8, 6, 4), np.uint8)
    frame[5, 4] = [255, 0, 0, 51]  # red of alpha 0.2
    drawn = list(burnt([frame] * 2, [overlay], 10))[1]
    assert drawn[4, 3].tolist() == [255, 255, 255, 255]
    assert drawn[4, 4].tolist() == [0, 0, 0, 166]
    alpha = 1 - 0.8 * 0.35
    assert drawn[5, 4].tolist() == [round(255 * 0.2 * 0.35 / alpha), 0, 0, round(255 * alpha)]
    assert drawn[4, 2].tolist() == [0, 0, 0, 0]


def test_ffmpeg_draws_white_letters_in_all_their_lines() -> None:
    first, second = draw_overlays([Cue(0, 1000, LONG), Cue(1000, 2000, "{2} \\N")], (520, 288))
    assert len(first.page.lines) == 2 and second.page.lines == ("{2} \\N",)
    for overlay in (first, second):
        letters, (height, width) = overlay.coverage()[..., 0], overlay.shape
        assert letters.max() == 1 and letters[:, [0, -1]].max() == 0
        assert overlay.left + width / 2 == pytest.approx(260, abs=4)
        assert overlay.top + height < 288 and height == pytest.approx(
            12 * (2 * 0.25 + len(overlay.page.lines) * 2384 / 2048), abs=3
        )
    braces = draw_overlays([Cue(0, 1000, "2 N")], (520, 288))[0]
    assert braces.shape[1] < second.shape[1]  # they are drawn, not obeyed


def test_a_letter_without_a_font_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no font of this system has .* \(U\+10FFF0\) in 'x .*'"):
        draw_overlays([Cue(0, 1000, "x \U0010fff0")], (520, 288))
