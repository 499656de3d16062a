"""Kinds of video files, and pictures with a transparent background."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import trimesh
from PIL import Image

import demo
from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from rendering.renderer import Renderer
from rendering.srgb import linear_to_srgb, srgb_to_linear
from rendering.video import write_video
from tests.toy import synthetic_checkpoint

SIZE = 64
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def frames(channels, n=4):
    """Pictures (64, 64, channels): grey, brighter with time; alpha 0 at the left, 255 right."""
    result = []
    for t in range(n):
        picture = np.full((SIZE, SIZE, channels), 100 + 20 * t, np.uint8)
        if channels == 4:
            picture[..., 3] = 255 * (np.arange(SIZE) >= SIZE // 2)
        result.append(picture)
    return result


def read_back(path, decoder=()):
    """(T, 64, 64, 4) uint8, and what ffmpeg says of the file."""
    command = [FFMPEG, *decoder, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, SIZE, SIZE, 4), done.stderr.decode()


@pytest.mark.parametrize(
    ("kind", "channels", "says", "decoder"),
    [
        ("mov", 4, ("prores (4444)", "yuva444p", "pcm_s16le"), ()),
        ("mov", 3, ("prores (HQ)", "yuv422p10le"), ()),
        ("webm", 4, ("vp9", "opus", "alpha_mode"), ("-c:v", "libvpx-vp9")),
        ("webm", 3, ("vp9", "opus"), ()),
    ],
)
def test_kinds_of_files_keep_pictures_alpha_and_sound(tmp_path, kind, channels, says, decoder):
    sound = tmp_path / "a.wav"
    soundfile.write(sound, 0.1 * np.random.default_rng(1).normal(size=8_000), 16_000)
    contents = []
    for name in "ab":
        path = tmp_path / f"{name}.{kind}"
        write_video(path, frames(channels), 4, 25, sound)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    decoded, text = read_back(path, decoder)
    assert all(word in text for word in says), text
    assert len(decoded) == 4
    levels = decoded[:, 8:-8, SIZE // 2 + 8 : -8, :3].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, [100, 120, 140, 160], atol=3)
    if channels == 4:
        assert decoded[:, :, : SIZE // 2 - 8, 3].max() < 3
        assert decoded[:, :, SIZE // 2 + 8 :, 3].min() > 252


def test_a_folder_of_pictures_holds_them_exactly(tmp_path):
    folder = tmp_path / "100%d_png"
    write_video(folder, frames(4), 4, 25, None)
    assert sorted(path.name for path in folder.iterdir()) == [f"00000{t}.png" for t in range(1, 5)]
    for t, expected in enumerate(frames(4), 1):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"00000{t}.png")), expected)
    with pytest.raises(ValueError, match="expected an ending of mp4"):
        write_video(tmp_path / "a.avi", frames(3), 4, 25)


def test_a_transparent_picture_over_a_colour_is_the_picture_with_that_background():
    ball = trimesh.creation.icosphere(subdivisions=2)
    arguments = {"faces": ball.faces, "template": ball.vertices, "size": 96}
    clear = Renderer(**arguments, background=None).frame(ball.vertices)
    solid = Renderer(**arguments, background=(0, 71, 187)).frame(ball.vertices)
    assert clear.shape == (96, 96, 4) and set(np.unique(clear[..., 3])) == {0, 64, 128, 191, 255}
    alpha = clear[..., 3:] / 255
    behind = srgb_to_linear(np.array([0, 71, 187]) / 255)
    light = alpha * srgb_to_linear(clear[..., :3] / 255) + (1 - alpha) * behind
    assert np.abs(255 * linear_to_srgb(light) - solid).max() < 3
    with pytest.raises(UserError, match="renderer pyrender has none; give --renderer software"):
        Renderer(**arguments, background=None, renderer="pyrender")


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the demo on a fifth of a second; returns (exit code, last line, stderr)."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(1).normal(size=3_200), 16_000)
    checkpoint = synthetic_checkpoint(tmp_path)

    def call(*arguments):
        flags = ["--checkpoint", checkpoint, "--wav_path", tmp_path / "a.wav", "--size", SIZE]
        code = run_cli(demo.main, [str(a) for a in (*flags, *arguments)])
        printed = capsys.readouterr()
        return code, (printed.out.splitlines() or [""])[-1], printed.err

    return call


def test_the_demo_writes_transparent_pictures_and_films(run, tmp_path):
    flags, out = ["--background", "transparent"], tmp_path / "out"
    code, last, error = run(*flags, "--video_format", "png", "--out", out)
    assert code == 0 and last == str(out / "a_png"), error
    pictures = sorted((out / "a_png").iterdir())
    assert len(pictures) == 6 and Image.open(pictures[0]).mode == "RGBA"
    (out / "a_png" / "notes.txt").write_text("mine")
    code, _, error = run(*flags, "--video_format", "png", "--out", out)
    assert code == EXIT_BAD_INPUT and "holds other things than pictures" in error
    code, last, error = run(*flags, "--out", tmp_path / "film.mov")
    assert code == 0 and last == str(tmp_path / "film.mov"), error
    assert read_back(last)[0][:, 0, 0, 3].max() == 0
    for more, words in (
        (["--out", out], "mp4 has no transparency; give --video_format mov, webm, png"),
        (["--out", tmp_path / "a.webm", "--video_format", "mov"], "the ending of --video_format"),
    ):
        code, _, error = run(*flags, *more)
        assert code == EXIT_BAD_INPUT and words in error
