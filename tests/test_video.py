"""Videos: every frame, the sound cut to them, and no partial file after a failure."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from common.errors import UserError
from rendering.video import write_video
from rendering.video_formats import SEARCH


def pictures(n_frames, size=64):
    """Frames whose grey level is 40 plus 10 times their index."""
    return [np.full((size, size, 3), 40 + 10 * t, np.uint8) for t in range(n_frames)]


def tone(path, seconds, channels=1, rate=22_050):
    wave = 0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.tile(wave[:, None], (1, channels)), rate)
    return path


def read_back(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    metadata = next(reader)
    width, height = metadata["size"]
    frames = [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]
    return metadata, frames


def sound_of(path):
    """The sound of a video, (S,) float32 at 16 kHz."""
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-vn", "-ac", "1",
         "-ar", "16000", "-f", "f32le", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    return np.frombuffer(done.stdout, "<f4")


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_video_has_every_frame_and_the_sound_cut_to_their_length(tmp_path, channels):
    path = tmp_path / "a.mp4"
    write_video(path, pictures(20), 20, 25, tone(tmp_path / "a.wav", 3.0, channels))
    metadata, frames = read_back(path)
    assert metadata["codec"] == "h264" and metadata["fps"] == 25 and len(frames) == 20
    levels = [frame.mean() for frame in frames]
    np.testing.assert_allclose(levels, [40 + 10 * t for t in range(20)], atol=2)
    assert len(sound_of(path)) / 16_000 == pytest.approx(0.8, abs=0.025)  # a packet of AAC
    assert np.abs(sound_of(path)).max() > 0.2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.wav"]


def test_libx264_takes_its_settings(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, pictures(3), 3, 30)
    settings = SEARCH.split(":")  # ffmpeg only warns of those that it does not know
    assert all(f" {setting} ".encode() in path.read_bytes() for setting in settings)


def test_a_video_may_have_no_sound(tmp_path):
    write_video(tmp_path / "a.mp4", iter(pictures(3)), 3, 30)
    assert len(read_back(tmp_path / "a.mp4")[1]) == 3


def test_a_failed_video_leaves_no_file(tmp_path):
    path, bad = tmp_path / "a.mp4", tmp_path / "bad.wav"
    bad.write_bytes(b"not audio")
    with pytest.raises(UserError, match=r"bad\.wav: it is text"):
        write_video(path, pictures(9), 9, 30, bad)
    with pytest.raises(UserError, match="ffmpeg cannot write .*a.mp4"):
        write_video(path, pictures(9, size=63), 9, 30)  # odd
    with pytest.raises(ValueError, match="expected 5 frames, got 3"):
        write_video(path, pictures(3), 5, 30)
    with pytest.raises(ValueError, match="frame"):
        write_video(path, [*pictures(2), *pictures(1, size=32)], 3, 30)

    def interrupted():
        yield from pictures(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, interrupted(), 9, 30)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.wav"]
