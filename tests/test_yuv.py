"""Pictures as planes of YUV, compared with ffmpeg's conversion and with the standard."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from rendering.video import write_video
from rendering.yuv import yuv_of

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
BT709 = "scale=out_color_matrix=bt709:out_range=tv"


def planes_of_ffmpeg(picture):
    height, width, _ = picture.shape
    command = [FFMPEG, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-i", "-", "-vf", BT709, "-pix_fmt", "yuv420p"]
    command += ["-f", "rawvideo", "-"]
    done = subprocess.run(command, input=picture.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8)


@pytest.mark.parametrize("levels", [2, 256])
def test_planes_are_those_of_ffmpeg(rng, levels):
    # Noise, and pixels of 0 and 255 alone: no picture is harder.
    picture = (rng.integers(0, levels, (66, 94, 3)) * (255 // (levels - 1))).astype(np.uint8)
    difference = yuv_of(picture).astype(int) - planes_of_ffmpeg(picture)
    assert abs(difference).max() <= 1
    assert abs(difference).mean() < 0.05


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        # BT.709: Y' = 16 + 219 · (0.2126, 0.7152, 0.0722), Cb = 128 + 224 · (B' - Y') / 1.8556
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (63, 102, 240)),
        ((0, 255, 0), (173, 42, 26)),
        ((0, 0, 255), (32, 240, 118)),
    ],
)
def test_flat_colours_have_the_codes_of_the_standard(colour, expected):
    planes = yuv_of(np.full((12, 10, 3), colour, np.uint8))
    for plane, code in zip(np.split(planes, [120, 150]), expected, strict=True):
        np.testing.assert_array_equal(plane, code)


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match="picture 6 x 3: expected even sides"):
        yuv_of(np.zeros((3, 6, 3), np.uint8))


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_videos_say_how_their_colours_are_coded(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write_video(path, [np.full((64, 64, 3), 99, np.uint8)] * 2, 2, 25)
    done = subprocess.run([FFMPEG, "-i", path], capture_output=True, text=True, check=False)
    assert "yuv420p(tv, bt709" in done.stderr
