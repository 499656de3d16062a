"""Animations: frames and rates, arrays and files, what is saved, and the page docs/python.md."""

import functools
import os
import re
import warnings
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch

import demo
from common.errors import UserError, run_cli
from config import BUNDLED_MODEL
from jambatalk import Checkpoint, load_checkpoint
from rendering import renderer
from rendering.animation import resample_motion
from speech.audio import normalise
from speech.recording import as_samples, check_normalised, load_recording
from speech.timing import covering_frames
from synthetic.head import load_head
from tests.toy import synthetic_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FPS = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return synthetic_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def checkpoint(path) -> Checkpoint:
    return load_checkpoint(path)


@pytest.fixture
def wave(rng):
    """0.7 s of noise (N,) float64 at 44.1 kHz."""
    return 0.1 * rng.standard_normal(30_870)


@pytest.fixture
def small_pictures(monkeypatch):
    """Videos of 64 x 64 pixels, to save time."""
    monkeypatch.setattr(renderer, "Renderer", functools.partial(renderer.Renderer, size=64))


@pytest.mark.parametrize(
    ("samples", "fps", "frames"), [(16_000, 30, 30), (16_001, 30, 31), (1_600, 25, 3), (1, 60, 1)]
)
def test_frames_cover_the_sound(samples, fps, frames):
    assert covering_frames(samples, fps) == frames


def test_other_rates_interpolate_linearly_and_hold_the_end():
    ramp = np.arange(4, dtype=np.float32).reshape(4, 1, 1)  # frame t is at t
    double = np.ravel(list(resample_motion(iter(ramp), 30, 60, 9)))
    np.testing.assert_allclose(double, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3, 3])
    slower = np.ravel(list(resample_motion(iter(ramp), 30, 20, 3)))
    np.testing.assert_allclose(slower, [0, 1.5, 3])
    np.testing.assert_array_equal(list(resample_motion(iter(ramp), 30, 30, 4)), ramp)


def test_an_animation_equals_what_the_demo_writes(checkpoint, path, tmp_path, wave):
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.stack([wave, wave / 2], axis=1), 44_100)
    animation = checkpoint.animate(wav, subject="ben")
    flags = ["--checkpoint", path, "--wav_path", wav, "--subject", "ben", "--no_video"]
    flags += ["--out", tmp_path / "out"]
    assert run_cli(demo.main, [str(flag) for flag in flags]) == 0
    head = load_head()
    np.testing.assert_array_equal(animation.vertices, np.load(tmp_path / "out/a.npy"))
    assert animation.vertices.dtype == np.float32 and animation.fps == FPS
    assert animation.subject == "ben" and animation.dataset.metres_per_unit == 1.0
    np.testing.assert_array_equal(animation.template, head.templates["ben"])
    np.testing.assert_array_equal(animation.faces, head.faces)


def test_an_animation_at_another_rate_is_interpolated_linearly(checkpoint, wave):
    model_rate, slower = (checkpoint.animate(wave, fps=n, sample_rate=44_100) for n in (None, 24))
    assert slower.fps == 24 and len(slower.vertices) == 17
    expected = model_rate.vertices[1] + 0.25 * (model_rate.vertices[2] - model_rate.vertices[1])
    np.testing.assert_allclose(slower.vertices[1], expected, atol=1e-6)  # 1.25 frames


def test_several_recordings_give_what_each_gives_alone(checkpoint, tmp_path, wave):
    for name, samples in (("a", wave), ("b", wave[::-1])):
        soundfile.write(tmp_path / f"{name}.wav", samples, 44_100)
    paths = [tmp_path / "a.wav", str(tmp_path / "b.wav")]
    together = checkpoint.animate(paths, subject="ada")
    assert isinstance(together, list) and len(together) == 2
    for one, alone in zip(together, paths, strict=True):
        expected = checkpoint.animate(alone, subject="ada").vertices
        np.testing.assert_array_equal(one.vertices, expected)
    assert np.abs(together[0].vertices - together[1].vertices).max() > 0
    assert checkpoint.animate([]) == []


def test_a_bad_recording_in_a_list_is_found_before_any_prediction(checkpoint, tmp_path, wave):
    soundfile.write(tmp_path / "a.wav", wave, 44_100)
    without_network = Checkpoint(None, checkpoint.spec)  # a prediction would fail
    with pytest.raises(UserError, match=r"missing\.wav: no such file"):
        without_network.animate([tmp_path / "a.wav", tmp_path / "missing.wav"])


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_samples_of_any_rate_give_the_motion_of_their_file(checkpoint, tmp_path, wave, rate):
    samples = np.stack([wave, wave[::-1]], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = checkpoint.animate(tmp_path / "a.wav").vertices
    for given in (samples, torch.from_numpy(samples), samples.astype(np.float64)):
        np.testing.assert_array_equal(
            checkpoint.animate(given, sample_rate=rate).vertices, expected
        )


def test_int16_samples_have_a_full_scale_of_32768(wave):
    pcm = np.round(wave * 32768).astype(np.int16)
    np.testing.assert_array_equal(as_samples(pcm), (pcm / 32768).astype(np.float32))
    audio = load_recording(torch.from_numpy(pcm), 16_000).audio
    np.testing.assert_allclose(audio, normalise(wave.astype(np.float32)), atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros(16_000), None, "samples need their rate"),
        (np.zeros(16_000), 3_999, "sample_rate 3999: expected whole Hz from 4,000"),
        (np.zeros(16_000), 22_050.5, "sample_rate 22050.5"),
        (np.zeros(16_000), float("inf"), "sample_rate inf: expected whole Hz"),
        (np.zeros(16_000), "16000", "sample_rate 16000: expected whole Hz"),
        (np.zeros(16_000, np.int32), 16_000, "expected floating or int16, got int32"),
        (np.zeros((2, 16_000)), 16_000, r"got \(2, 16000\); transpose"),
        (np.zeros((16_000, 0)), 16_000, r"got \(16000, 0\)"),
        (np.zeros((160, 10, 10)), 16_000, r"got \(160, 10, 10\)"),
        (np.full(16_000, np.nan), 16_000, "16000 of 16000 are NaN or infinite"),
        (np.zeros(719), 16_000, "719 at 16000 Hz are 44.9 ms, expected at least 45 ms"),
        (np.zeros(100), 16_000, "100 at 16000 Hz are 6.2 ms, expected at least 45 ms"),
        (1.5, 16_000, "expected a path, an array or a tensor, got float"),
        ("a.wav", 16_000, "sample_rate 16000 with the file a.wav: leave it out"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(checkpoint, samples, rate, words):
    with pytest.raises(ValueError, match=words):
        checkpoint.animate(samples, sample_rate=rate)


def test_frame_rates_and_faces_that_cannot_be_used_are_refused(checkpoint, wave):
    for fps in (0, 241, 29.97, float("nan"), float("inf"), "30"):
        with pytest.raises(ValueError, match=f"fps {fps}: expected a whole number from 1 to 240"):
            checkpoint.animate(wave, sample_rate=44_100, fps=fps)
    ada = load_head().templates["ada"]
    with pytest.raises(ValueError, match="give one of them"):
        checkpoint.animate(wave, subject="ada", template=ada, sample_rate=44_100)
    with pytest.raises(UserError, match=r"template: shape \(3,\), expected \(V, 3\)"):
        checkpoint.animate(wave, template=ada[0], sample_rate=44_100)
    with pytest.raises(UserError, match="template: 4 vertices, expected"):
        checkpoint.animate(wave, template=ada[:4], sample_rate=44_100)
    with pytest.raises(UserError, match=r"multiply its vertices by 0\.001"):
        checkpoint.animate(wave, template=1000 * ada, sample_rate=44_100)
    with pytest.raises(UserError, match="subject nobody: not in the model's templates: ada"):
        checkpoint.animate(wave, subject="nobody", sample_rate=44_100)


def test_a_template_may_be_an_array(checkpoint, wave):
    face = 1.2 * load_head().templates["ada"].astype(np.float64)
    animation = checkpoint.animate(wave, template=face, sample_rate=44_100)
    assert animation.subject == "template" and animation.template.dtype == np.float32
    assert np.abs(animation.vertices - face).max() < 0.1


def test_predict_says_what_audio_it_expects(checkpoint, wave):
    model, template = checkpoint.model, torch.from_numpy(load_head().templates["ada"])
    raw = torch.from_numpy(wave.astype(np.float32))
    audio = torch.from_numpy(normalise(raw.numpy()))
    expected = r"audio: expected a float32 tensor \(S,\), 16 kHz, zero mean and unit variance"
    for wrong, got in (
        ("a.wav", "got str; load_checkpoint"),
        (wave, "got ndarray"),
        (raw[None], r"got \(1, 30870\) float32"),
        ((raw * 32768).short(), r"got \(30870,\) int16"),
    ):
        with pytest.raises(ValueError, match=f"{expected}.*{got}"):
            model.predict(wrong, template)
    with pytest.raises(ValueError, match="got mean .*, variance 1.*; use data_loader.load_wav"):
        model.predict(32768 * raw, template)
    with pytest.raises(ValueError, match="got mean 1"):
        model.predict(audio + 1, template)
    with pytest.raises(ValueError, match="variance nan"):
        model.predict(raw * torch.nan, template)
    with pytest.raises(ValueError, match="719 samples, expected at least 720"):
        model.predict(audio[:719], template)
    shape = r"template: expected a tensor of shape \(6045, 3\), got"
    with pytest.raises(ValueError, match=rf"{shape} \(6044, 3\)"):
        model.predict(audio, template[1:])
    with pytest.raises(ValueError, match=f"{shape} ndarray"):
        model.predict(audio, template.numpy())
    with pytest.raises(ValueError, match=r"expected a float32 tensor \(B, S\)"):
        model(raw, template[None])


def test_raw_samples_warn_and_silence_does_not(wave):
    with pytest.warns(UserWarning, match="not normalised, or nearly silent"):
        check_normalised(torch.from_numpy(wave))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_normalised(torch.zeros(800))
        check_normalised(torch.from_numpy(normalise(wave.astype(np.float32))))


def test_a_video_of_samples_has_their_sound(checkpoint, tmp_path, wave, small_pictures):
    animation = checkpoint.animate(wave, sample_rate=44_100)
    assert animation.save(tmp_path / "new/x.npy") == tmp_path / "new/x.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "new/x.npy"), animation.vertices)
    animation.save(str(tmp_path / "new/x.mp4"))
    assert sorted(os.listdir(tmp_path / "new")) == ["x.mp4", "x.npy"]
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "new/x.mp4"))
    facts = next(reader)
    assert facts["fps"] == FPS and len(list(reader)) == 21 == len(animation.vertices)
    sound = load_recording(tmp_path / "new/x.mp4").audio
    n = min(len(sound), len(animation.recording.audio))
    assert np.corrcoef(sound[:n], animation.recording.audio[:n])[0, 1] > 0.5  # AAC of noise


def test_files_that_cannot_be_saved_are_refused(checkpoint, tmp_path, wave):
    soundfile.write(tmp_path / "a.wav", wave, 44_100)
    animation = checkpoint.animate(tmp_path / "a.wav")
    with pytest.raises(UserError, match=r"x\.avi: expected a name that ends in \.npy or \.mp4"):
        animation.save(tmp_path / "x.avi")
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.wav").read_bytes())
    with pytest.raises(UserError, match="would replace the recording"):
        checkpoint.animate(tmp_path / "a.mp4").save(tmp_path / "a.mp4")
    (tmp_path / "x.npy").mkdir()
    with pytest.raises(UserError, match=r"output .*x\.npy: cannot be written"):
        animation.save(tmp_path / "x.npy")


def test_the_bundled_model_is_the_default():
    assert load_checkpoint().spec == load_checkpoint(BUNDLED_MODEL).spec


def test_every_block_of_the_page_runs_as_printed(tmp_path, monkeypatch, capsys, small_pictures):
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 8
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) == blocks[:1]
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "audio missing.wav: no such file" in printed and "samples need their rate" in printed
    assert (tmp_path / "ada.npy").is_file() and (tmp_path / "ada.mp4").is_file()
    covered = len(names["animation"].vertices)
    assert 0 < names["n_frames"] == len(names["vertices"]) <= covered
    np.testing.assert_array_equal(
        names["vertices"], names["animation"].vertices[: names["n_frames"]]
    )
    np.testing.assert_array_equal(names["result"].vertices.shape, names["wide"].vertices.shape)
    assert len(names["noise"].vertices) == names["noise"].fps
