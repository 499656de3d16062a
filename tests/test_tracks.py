"""Videos with several audio tracks, late sound, many channels; face and video get one sound."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from common.errors import UserError
from rendering.sound_track import write_samples
from rendering.video import write_video
from speech.audio import read_audio

RATE = 16_000
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
VIDEO = ["-f", "lavfi", "-i", "color=size=16x16:rate=25:duration=2"]


def bursts(start_s: float, level: float = 0.3, channels: int = 1) -> np.ndarray:
    """2 s (S, channels) of silence, with 0.5 s of noise from `start_s` on."""
    sound = np.zeros((2 * RATE, channels), np.float32)
    first = round(start_s * RATE)
    sound[first : first + RATE // 2] = np.random.default_rng(0).normal(0, level, (RATE // 2, 1))
    return sound


def make(path: Path, *arguments: str, **sounds: np.ndarray) -> Path:
    """A file of the sounds (S, channels) with ffmpeg's arguments."""
    inputs = []
    for name, sound in sounds.items():
        soundfile.write(path.with_name(f"{name}.wav"), sound, RATE, subtype="FLOAT")
        inputs += ["-i", str(path.with_name(f"{name}.wav"))]
    subprocess.run([FFMPEG, "-v", "error", "-y", *inputs, *arguments, str(path)], check=True)
    return path


def onset_s(audio: np.ndarray) -> float:
    """Seconds until the sound is as loud as a tenth of its peak."""
    return int(np.argmax(np.abs(audio) > 0.1 * np.abs(audio).max())) / RATE


def muxed(recording: Path, track: int | None, seconds: float = 2.0) -> np.ndarray:
    """The sound (S, channels) of a video that was made for a recording, at 16 kHz."""
    path = recording.with_name("made.mp4")
    frames = [np.full((64, 64, 3), 99, np.uint8)] * round(25 * seconds)
    write_video(path, frames, len(frames), 25, recording, track)
    return decoded(path)


def decoded(path: Path) -> np.ndarray:
    command = [FFMPEG, "-v", "info", "-i", str(path), "-vn", "-ar", str(RATE), "-f", "f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    channels = 2 if b"stereo" in done.stderr else 1
    return np.frombuffer(done.stdout, "<f4").reshape(-1, channels)


def test_the_track_flagged_default_is_heard_and_muxed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    maps = ["-map", "0:a", "-map", "1:a", "-c:a", "flac", "-disposition:a:1", "default"]
    maps += ["-disposition:a:0", "0"]
    path = make(tmp_path / "x.mkv", *maps, a=bursts(0.3), b=bursts(1.2))
    for track, expected in ((None, 1.2), (1, 0.3)):
        assert onset_s(read_audio(path, track)) == pytest.approx(expected, abs=0.002)
        assert onset_s(muxed(path, track)[:, 0]) == pytest.approx(expected, abs=0.01)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "track 2 of its 2 audio tracks is used: 1 (flac" in lines[0]
    with pytest.raises(UserError, match="no audio track 3, it has 2: 1 .*; correct --audio_track"):
        read_audio(path, 3)


def test_a_silent_track_beside_others_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = make(tmp_path / "x.mka", "-map", "0:a", "-map", "1:a", "-c:a", "flac",
                a=np.zeros((RATE, 1)), b=bursts(0.2))  # fmt: skip
    assert not read_audio(path, 1).any()
    assert "this track is silent; demo.py --audio_track N takes another" in capsys.readouterr().err
    assert read_audio(path, 2).any()


def test_sound_that_starts_late_keeps_its_place(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", bursts(0.1), RATE)
    path = tmp_path / "x.mp4"
    command = [FFMPEG, "-v", "error", *VIDEO, "-itsoffset", "0.6", "-i", str(tmp_path / "a.wav")]
    subprocess.run([*command, "-c:v", "mpeg4", "-c:a", "aac", str(path)], check=True)
    audio = read_audio(path)
    assert onset_s(audio) == pytest.approx(0.7, abs=0.02)
    assert not audio[: RATE // 2].any()
    assert onset_s(muxed(path, None)[:, 0]) == pytest.approx(onset_s(audio), abs=0.01)


def test_sound_that_starts_late_in_a_transport_stream_keeps_its_place(tmp_path: Path) -> None:
    """There ffmpeg begins to count with the chosen track, not with the first."""
    soundfile.write(tmp_path / "a.wav", bursts(0.1), RATE)
    path = tmp_path / "x.ts"
    command = [FFMPEG, "-v", "error", *VIDEO, "-itsoffset", "0.6", "-i", str(tmp_path / "a.wav")]
    subprocess.run([*command, "-c:v", "mpeg2video", "-c:a", "aac", str(path)], check=True)
    assert onset_s(read_audio(path)) == pytest.approx(0.7, abs=0.02)


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    path = make(tmp_path / "x.mp4", *VIDEO, "-c:v", "mpeg4")
    with pytest.raises(UserError, match="no sound track in it, only Video"):
        read_audio(path)


@pytest.mark.parametrize("channels", [2, 6, 11, 32])
def test_identical_channels_sound_as_loud_as_one(channels: int, tmp_path: Path) -> None:
    """In wav for libsndfile and in mka for ffmpeg, heard and in the video."""
    sound = bursts(0.4, 0.1, channels)
    paths = [tmp_path / "a.wav", make(tmp_path / "x.mka", "-c:a", "pcm_f32le", a=sound)]
    for path in paths:
        np.testing.assert_allclose(read_audio(path), sound[:, 0], atol=1e-6)
        arguments = write_samples(path, None, 1.0, tmp_path / "samples")
        n_kept = 2 if channels == 2 else 1
        assert arguments[arguments.index("-ac") + 1] == str(n_kept)
        samples = np.fromfile(tmp_path / "samples", "<f4").reshape(-1, n_kept)
        np.testing.assert_allclose(samples, sound[:RATE, :n_kept], atol=1e-6)


def test_the_level_of_a_video_is_that_of_the_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", bursts(0.4, 0.1, 6), RATE)
    level = muxed(tmp_path / "a.wav", None)[round(0.5 * RATE) : round(0.8 * RATE)].std()
    assert level == pytest.approx(0.1, rel=0.1)


def test_channels_that_cancel_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    left = bursts(0.4, 0.1)
    soundfile.write(tmp_path / "a.wav", np.hstack([-0.9 * left, left]), RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), left[:, 0])
    assert "cancel each other, their mean is 26 dB softer" in capsys.readouterr().err
    assert onset_s(muxed(tmp_path / "a.wav", None)[:, 0]) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("hum", [0.0, 5e-4])
def test_a_dead_channel_does_not_halve_the_sound(
    hum: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Nothing or faint noise in one of two channels, beside a constant offset."""
    voice = bursts(0.4, 0.1)
    dead = np.random.default_rng(1).normal(0.02, hum, voice.shape)
    soundfile.write(tmp_path / "a.wav", np.hstack([dead, voice]), RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), voice[:, 0])
    assert "silent in channel 1 of 2; the others are used" in capsys.readouterr().err
    assert muxed(tmp_path / "a.wav", None).shape[1] == 1


@pytest.mark.parametrize("second", [0.03, 1.0])
def test_a_softer_or_independent_second_voice_stays_in_the_mean(
    second: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """30 dB softer is no dead channel; independent sounds do not cancel each other."""
    generator = np.random.default_rng(2)
    sound = generator.normal(0, 0.1, (RATE, 2)).astype(np.float32) * np.float32([1, second])
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), sound.mean(axis=1))
    assert not capsys.readouterr().err


def test_the_same_frames_and_sound_give_the_same_bytes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", bursts(0.2, 0.1, 2), 44_100)
    frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, iter(frames), 9, 30, tmp_path / "a.wav")
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
