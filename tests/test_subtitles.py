"""Subtitles: what is read of an .srt, and the track of a video."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from common.errors import UserError
from rendering.subtitles import Cue, load_cues, part_of, srt_of
from rendering.video import write_video

SRT = """1
00:00:00,500 --> 00:00:01,250
Hello
there.

2
00:00:02,000 --> 00:01:02,000
42

00:59:59.999 --> 01:00:00.000 X1:10
Ümlaut
"""
CUES = (
    Cue(500, 1250, "Hello\nthere."),
    Cue(2000, 62_000, "42"),
    Cue(3_599_999, 3_600_000, "Ümlaut"),
)


def test_cues_are_read_in_any_encoding_with_a_mark_and_written_back(tmp_path):
    path = tmp_path / "a.srt"
    for content in (
        SRT.encode(),
        SRT.replace("\n", "\r\n").encode("utf-16"),
        SRT.encode("utf-8-sig"),
    ):
        path.write_bytes(content)
        assert load_cues(path) == CUES
    path.write_text(srt_of(CUES), encoding="utf-8")
    assert load_cues(path) == CUES


def test_a_part_has_the_cues_of_its_time():
    assert part_of(CUES, 1.0, 2.0) == [Cue(0, 250, "Hello\nthere."), Cue(1000, 2000, "42")]
    assert part_of(CUES, 90.0, 2.0) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("once upon a time", "line 1: expected a time such as 00:00:01,000 --> 00:00:02,500"),
        ("1\n00:00:02,000 --> 00:00:01,000\nx\n", "line 2: it ends before it starts"),
        (
            "1\n00:00:02,000 --> 00:00:03,000\nx\n\n00:00:01,999 --> 00:00:02,500\ny\n",
            "line 5: starts at 00:00:01,999, before the subtitle above it",
        ),
        ("\n\n", "no subtitle in it"),
        ("1\n00:00:02,000 --> 00:00:03,000\n\n", "no subtitle in it"),
    ],
)
def test_other_texts_are_refused_with_their_line(tmp_path, text, words):
    (tmp_path / "a.srt").write_text(text)
    with pytest.raises(UserError, match=r"--subtitles .*a\.srt: " + words):
        load_cues(tmp_path / "a.srt")


@pytest.mark.parametrize("kind", ["mp4", "mov", "webm"])
def test_a_video_has_its_subtitles_beside_its_sound(tmp_path, kind):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(32_000), 16_000)
    path, frames = tmp_path / f"a.{kind}", [np.zeros((64, 64, 3), np.uint8)] * 10
    write_video(path, frames, 10, 10, tmp_path / "a.wav", None, 0.75, CUES)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-map", "0:s", "-f", "srt", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr.decode().split("Stream mapping")[0].count("Stream #") == 3
    (tmp_path / "back.srt").write_bytes(done.stdout)
    assert load_cues(tmp_path / "back.srt") == (Cue(0, 500, "Hello\nthere."),)
