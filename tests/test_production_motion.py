"""What the flags of demo.py do to motion and sound: rates, smoothing, turns, parts, offsets."""

import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

import demo
from common.errors import run_cli
from config import SAMPLE_RATE
from data_loader import load_wav
from production.motion import SWING_S, Arriving, resampled, smoothed, swinging
from production.sound import load_speech
from rendering.renderer import Camera
from tests.toy import synthetic_checkpoint


def wave_at(times, hertz):
    """A vertex (T, 1, 3) that moves up and down by 1."""
    y = np.sin(2 * np.pi * hertz * np.asarray(times, np.float64))
    return np.stack([0 * y, y, 0 * y], axis=-1)[:, None].astype(np.float32)


@pytest.mark.parametrize("target", [60, 24, Fraction(24_000, 1001), Fraction(30_000, 1001)])
def test_motion_at_other_rates_is_that_of_its_instants(target):
    motion = wave_at(np.arange(90) / 30, 5.0)
    n_frames = 3 * int(target)
    frames = np.array(list(resampled(motion, 30, target, n_frames)))
    exact = wave_at([float(t / target) for t in range(n_frames)], 5.0)
    inner = slice(int(target) // 2, -int(target) // 2)  # the band is narrower at the ends
    assert np.abs(frames - exact)[inner].max() < 0.004
    positions = np.array([float(t * 30 / target) for t in range(n_frames)])
    linear = np.interp(positions, np.arange(90), motion[:, 0, 1])
    assert np.abs(linear - exact[:, 0, 1])[inner].max() > 0.02


def test_the_last_pose_is_held():
    motion = wave_at(np.arange(31) / 30, 1.0)
    frames = list(resampled(motion, 30, 60, 66))
    assert len(frames) == 66
    for frame in frames[60:]:
        np.testing.assert_array_equal(frame, motion[-1])


@pytest.mark.parametrize("target", [15, 24, Fraction(30_000, 1001), 60])
def test_arriving_meshes_are_resampled_as_an_array_with_few_in_memory(target):
    motion = wave_at(np.arange(300) / 30, 3.0)
    n_frames = 10 * int(target)
    arriving, most = Arriving(iter(motion), motion.shape), 0
    frames = []
    for frame in resampled(arriving, 30, target, n_frames):
        frames.append(frame)
        most = max(most, len(arriving.kept))
    np.testing.assert_array_equal(frames, list(resampled(motion, 30, target, n_frames)))
    assert most <= 64 * 30 / target + 2 * 8 * max(30 / target, 1) + 2


def test_smoothing_damps_a_wave_as_a_gaussian_does():
    sigma, hertz = 0.03, 6.0
    motion = wave_at(np.arange(120) / 60, hertz)
    frames = np.array(list(smoothed(iter(motion), 60, sigma)))
    assert frames.shape == motion.shape
    damped = np.exp(-0.5 * (2 * np.pi * hertz * sigma) ** 2) * motion
    np.testing.assert_allclose(frames[20:-20], damped[20:-20], atol=0.01)
    still = np.ones((5, 2, 3), np.float32)  # shorter than the kernel
    np.testing.assert_allclose(list(smoothed(iter(still), 60, 0.2)), still, atol=1e-6)


def test_a_swinging_head_is_at_its_widest_after_a_quarter():
    centre, fps = np.array([1.0, 2.0, 3.0]), Fraction(30_000, 1001)
    mesh = (centre + [[0.0, 0.5, 1.0]]).astype(np.float32)  # in front of the centre
    frames = list(swinging([mesh] * 241, fps, 30.0, centre))
    np.testing.assert_allclose(frames[0], mesh, atol=1e-6)
    angles = [np.degrees(np.arctan2(*(frame[0] - centre)[[0, 2]])) for frame in frames]
    assert max(angles) == pytest.approx(30, abs=0.01) and min(angles) == pytest.approx(-30, abs=0.1)
    assert np.argmax(angles) == round(SWING_S / 4 * float(fps))


@pytest.fixture
def recording(tmp_path):
    wave = 0.1 * np.random.default_rng(1).normal(size=2 * SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    return tmp_path / "a.wav", wave


def loaded(path, *part):
    """All samples of `load_speech`."""
    speech = load_speech(path, None, *part, path.parent)
    return speech.audio.read(0, len(speech.audio))


def test_a_part_of_a_recording_is_what_a_file_of_that_part_gives(recording, tmp_path):
    path, wave = recording
    soundfile.write(tmp_path / "b.wav", wave[8_000:24_000], SAMPLE_RATE, subtype="FLOAT")
    part = loaded(path, 0.5, 1.5, 0)
    np.testing.assert_array_equal(part, load_wav(tmp_path / "b.wav"))
    np.testing.assert_array_equal(loaded(path, 0.0, 99.0, 0), load_wav(path))


def test_lips_follow_or_precede_the_sound(recording):
    path, _ = recording
    sound = load_wav(path)
    for offset, n in ((100, 1600), (-100, -1600)):
        later = loaded(path, 0.0, None, offset)
        assert len(later) == len(sound)
        overlap = slice(max(n, 0), min(n, 0) or None)
        np.testing.assert_array_equal(later[overlap], np.roll(sound, n)[overlap])
        assert not np.delete(later, np.arange(len(sound))[overlap]).any()


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (640, 640)])
@pytest.mark.parametrize("yaw", [0, 90])
def test_the_head_fills_pictures_of_any_shape(size, yaw):
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1.5, 1.5) for z in (-0.5, 0.5)])
    camera = Camera(corners, size, yaw)
    screen = camera.project(camera.view(corners), 1.0)[:, :2]
    assert (screen > 0).all() and (screen < size).all()
    filled = np.ptp(screen, axis=0) / size
    assert 0.75 < filled.max() < 1.0
    middle = (screen.min(axis=0) + screen.max(axis=0)) / 2
    np.testing.assert_allclose(middle, np.array(size) / 2)


def test_zoom_enlarges_and_a_turning_head_stays_in_the_picture():
    plate = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 1.4], [0, 0, -1.4]])
    near, far = (Camera(plate, 200, zoom=zoom) for zoom in (2.0, 1.0))
    assert near.focal_px == 2 * far.focal_px and near.distance == far.distance
    camera = Camera(plate, 200, swing=60)
    for angle in range(-60, 61, 10):
        turned = next(swinging([plate], 1, 0, camera.centre))
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turned = turned @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
        screen = camera.project(camera.view(turned), 1.0)[:, :2]
        assert (screen > 0).all() and (screen < 200).all()


def test_a_video_has_the_exact_rate_the_size_and_the_part_of_the_sound(recording, tmp_path):
    rate = SAMPLE_RATE
    wave = np.concatenate([np.zeros(rate // 2), 0.5 * np.sin(np.arange(rate) * 0.2)])
    soundfile.write(tmp_path / "a.wav", wave, rate)
    checkpoint = synthetic_checkpoint(tmp_path)
    flags = ["--checkpoint", checkpoint, "--wav_path", tmp_path / "a.wav", "--fps", "29.97"]
    flags += ["--size", "96x64", "--start", "0.5", "--end", "1", "--turn", "20", "--zoom", "1.5"]
    flags += ["--smooth", "20", "--blink", "--out", tmp_path / "b.mp4", "--quiet"]
    assert run_cli(demo.main, [str(flag) for flag in flags]) == 0
    assert len(np.load(tmp_path / "b.npy")) == 15  # 14.985 frames
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "b.mp4"), "-f", "s16le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    said = done.stderr.decode()
    assert "96x64" in said and "29.97 fps" in said and "30k tbn" in said
    sound = np.frombuffer(done.stdout, "<i2") / 32768
    assert len(sound) / rate == pytest.approx(0.5, abs=0.04)
    assert np.abs(sound[2000:6000]).max() > 0.4  # the second half of the recording begins
