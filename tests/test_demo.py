"""The demo from recording to files with a tiny untrained network, and its error messages."""

import os
import signal
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch

import demo
import production.run
from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from config import SAMPLE_RATE
from jambatalk import Checkpoint, JambaTalk, load_checkpoint
from production.jobs import Job, bundled_recording, check_job
from speech.timing import covering_frames
from synthetic.head import load_head
from tests.toy import full_disk, synthetic_checkpoint

FPS = 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny network for the synthetic head whose faces move at random."""
    return synthetic_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    """Runs the demo; returns (exit code, the last line printed, stderr, the folder --out)."""

    def call(*arguments):
        out = tmp_path / "made" / "out"
        defaults = ["--checkpoint", checkpoint, "--out", out, "--size", 64]
        code = run_cli(demo.main, [str(a) for a in (*defaults, *arguments)])
        printed = capsys.readouterr()
        return code, (printed.out.splitlines() or [""])[-1], printed.err, out

    return call


def error_line(result):
    """The only error line of a run that failed and left no file behind."""
    code, _, error, out = result
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert code == EXIT_BAD_INPUT and len(lines) == 1, error
    assert not out.exists() or list(out.iterdir()) == []
    return lines[0]


def first_frame(path):
    """(64, 64, 3) float of a video."""
    reader = imageio_ffmpeg.read_frames(str(path))
    next(reader)  # the metadata
    return np.frombuffer(next(reader), np.uint8).reshape(64, 64, 3).astype(float)


def noise(path, seconds, rate=SAMPLE_RATE, channels=1, **options):
    wave = 0.1 * np.random.default_rng(1).normal(size=(round(seconds * rate), channels))
    soundfile.write(path, wave, rate, **options)
    return path


def test_a_recording_becomes_video_and_vertices(run, checkpoint, tmp_path):
    wav = noise(tmp_path / "two.words.wav", 0.7, 44_100, channels=2)
    code, last, error, out = run("--wav_path", wav, "--subject", "ben")
    assert code == 0, error
    assert sorted(p.name for p in out.iterdir()) == ["two.words.mp4", "two.words.npy"]
    assert last == str(out / "two.words.mp4")
    vertices = np.load(out / "two.words.npy")
    template = load_head().templates["ben"]
    assert vertices.shape == (21, *template.shape) and vertices.dtype == np.float32

    from data_loader import load_wav

    model, _ = load_checkpoint(checkpoint)
    with torch.inference_mode():
        expected = model.predict(
            torch.from_numpy(load_wav(wav)), torch.from_numpy(template)
        ).numpy()
    np.testing.assert_array_equal(vertices[: len(expected)], expected)
    for frame in vertices[len(expected) :]:
        np.testing.assert_array_equal(frame, expected[-1])  # the last pose is held
    reader = imageio_ffmpeg.read_frames(str(out / "two.words.mp4"))
    metadata = next(reader)
    assert metadata["size"] == (64, 64) and metadata["fps"] == FPS and len(list(reader)) == 21


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.wav"])
def test_other_audio_formats_and_rates_are_read(run, tmp_path, name):
    code, last, error, out = run("--wav_path", noise(tmp_path / name, 0.5, 22_050), "--no_video")
    assert code == 0, error
    assert last == str(out / "a.npy") and [p.name for p in out.iterdir()] == ["a.npy"]
    assert len(np.load(out / "a.npy")) in (15, 16)  # mp3 pads


def test_the_bundled_recording_is_the_default(run):
    recording = bundled_recording()
    code, last, error, out = run("--no_video")
    assert code == 0, error
    assert last == str(out / f"{recording.stem}.npy")
    seconds = soundfile.info(recording).duration
    assert len(np.load(last)) == int(np.ceil(seconds * FPS))


def test_a_template_of_the_same_topology_is_animated(run, tmp_path):
    head = load_head()
    face = 1.5 * head.templates["ada"]
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*v) for v in face]
    lines += ["f {} {} {}".format(*(f + 1)) for f in head.faces]
    (tmp_path / "me.obj").write_text("\n".join(lines))
    wav = noise(tmp_path / "a.wav", 0.4)
    code, last, error, _ = run("--wav_path", wav, "--template", tmp_path / "me.obj", "--no_video")
    assert code == 0, error
    assert np.abs(np.load(last) - face).max() < 0.1  # metres: motion about this face


def test_yaw_turns_the_picture_and_not_the_vertices(run, tmp_path):
    wav = noise(tmp_path / "a.wav", 0.2)
    frames, motion = [], []
    for flags in ([], ["--yaw", -45]):
        code, last, error, out = run("--wav_path", wav, *flags)
        assert code == 0, error
        frames.append(first_frame(last))
        motion.append(np.load(out / "a.npy"))
    np.testing.assert_array_equal(*motion)
    assert np.abs(frames[0] - frames[1]).mean() > 5


def test_a_file_of_an_earlier_run_is_replaced_and_named(checkpoint, tmp_path, capsys):
    wav = noise(tmp_path / "a.wav", 0.2)
    for printed in (False, True):
        flags = ["--checkpoint", checkpoint, "--out", tmp_path, "--wav_path", wav, "--no_video"]
        demo.main([str(flag) for flag in flags])
        line = f"{tmp_path / 'a.npy'} exists and will be replaced"
        assert (line in capsys.readouterr().out) is printed


@pytest.fixture
def jaw_opens(monkeypatch):
    """The network predicts a jaw that is half open."""
    opened = 0.5 * load_head().units["jawOpen"]

    def meshes(self, audio, template, fps, subject):
        return iter([template + opened] * covering_frames(len(audio), fps))

    monkeypatch.setattr(Checkpoint, "meshes", meshes)


def test_exports_stand_beside_the_vertices(run, jaw_opens, tmp_path):
    wav = noise(tmp_path / "a.wav", 0.2)
    code, last, error, out = run("--wav_path", wav, "--no_video", "--export", "arkit", "vrm")
    assert code == 0, error
    assert sorted(p.name for p in out.iterdir()) == ["a.csv", "a.json", "a.npy", "a.vrm.json"]
    assert last == str(out / "a.npy")
    rows = (out / "a.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert float(rows[1].split(",")[rows[0].split(",").index("JawOpen")]) == pytest.approx(0.5)


def test_motion_that_the_units_cannot_hold_is_not_exported(run, monkeypatch, tmp_path):
    def meshes(self, audio, template, fps, subject):
        return iter([template * 1.1] * covering_frames(len(audio), fps))

    monkeypatch.setattr(Checkpoint, "meshes", meshes)
    wav = noise(tmp_path / "a.wav", 0.2)
    code, _, error, out = run("--wav_path", wav, "--no_video", "--export", "arkit")
    assert code == EXIT_BAD_INPUT and "clip a: curves miss its vertices by " in error
    assert [path.name for path in out.iterdir()] == ["a.npy"]  # the prediction is kept
    (out / "a.npy").unlink()
    result = run("--wav_path", tmp_path / "a.wav", "--no_video", "--export", "maya")
    assert "argument --export: invalid choice: 'maya'" in error_line(result)


def test_blinks_move_the_eyelids_only(run, tmp_path):
    wav = noise(tmp_path / "a.wav", 4.0)
    still, blinking = (
        np.load(run("--wav_path", wav, "--no_video", *flags)[1]) for flags in ([], ["--blink"])
    )
    moved = np.abs(blinking - still).max(axis=(0, 2)) > 1e-6
    head = load_head()
    shut = head.units["eyeBlinkLeft"] + head.units["eyeBlinkRight"]
    np.testing.assert_array_equal(moved, np.abs(shut).max(axis=1) > 1e-6)


def test_life_is_in_the_picture_and_in_files_only_where_it_is_asked_for(run, tmp_path):
    wav, vertices, pictures = noise(tmp_path / "a.wav", 0.1), {}, {}
    for flags in (["--no-life"], ["--quiet"], ["--life", "--no_video"]):
        code, last, error, out = run("--wav_path", wav, *flags)
        assert code == 0, error
        vertices[flags[0]] = np.load(out / "a.npy")
        pictures[flags[0]] = None if "--no_video" in flags else first_frame(last)
    np.testing.assert_array_equal(vertices["--quiet"], vertices["--no-life"])
    crown = load_head().templates["ada"][:, 1].argmax()
    moved = (vertices["--life"] - vertices["--no-life"])[:, crown]
    assert np.abs(moved).max() > 5e-4
    assert np.abs(pictures["--quiet"] - pictures["--no-life"]).max() > 20


def test_exported_curves_have_the_life_of_the_vertices(run, monkeypatch, tmp_path):
    def meshes(self, audio, template, fps, subject):  # the jaw half open
        jaw = template + 0.5 * load_head().units["jawOpen"]
        return iter([jaw] * covering_frames(len(audio), fps))

    monkeypatch.setattr(Checkpoint, "meshes", meshes)
    wav = noise(tmp_path / "a.wav", 4.0)
    _, _, error, out = run("--wav_path", wav, "--no_video", "--life", "--export", "arkit")
    assert error == ""
    rows = [row.split(",") for row in (out / "a.csv").read_text().splitlines()]
    table = {name: np.array(column, float) for name, *column in zip(*rows, strict=True)
             if name != "Timecode"}  # fmt: skip
    np.testing.assert_allclose(table["JawOpen"], 0.5, atol=1e-3)
    assert table["EyeBlinkLeft"].max() > 0.9
    assert (table["EyeLookInLeft"] + table["EyeLookInRight"]).max() > 0.05
    assert 0.1 < np.degrees(np.abs(table["HeadYaw"])).max() < 6


def test_bad_recordings_are_refused_in_one_line(run, tmp_path):
    complete = noise(tmp_path / "complete.wav", 1.0).read_bytes()
    files = {
        "empty.wav": (b"", "empty"),
        "truncated.wav": (complete[:9_000], "truncated"),
        "text.wav": (b"this is not audio " * 99, "text.wav"),
        "header.wav": (complete[:44], "header.wav"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        assert words in error_line(run("--wav_path", tmp_path / name))
    assert "no such file" in error_line(run("--wav_path", tmp_path / "missing.wav"))
    (tmp_path / "empty").mkdir()
    assert "no recording in this folder" in error_line(run("--wav_path", tmp_path / "empty"))
    noise(tmp_path / "short.wav", 0.02)
    assert "20 ms" in error_line(run("--wav_path", tmp_path / "short.wav"))
    wave = np.full(8_000, np.nan)
    soundfile.write(tmp_path / "nan.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    assert "NaN" in error_line(run("--wav_path", tmp_path / "nan.wav"))


def test_silence_short_clips_and_eight_channels_are_accepted(run, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8_000), SAMPLE_RATE)
    noise(tmp_path / "tenth.wav", 0.1)
    noise(tmp_path / "eight.wav", 0.5, 48_000, channels=8)
    for name, frames in (("silence", 15), ("tenth", 3), ("eight", 15)):
        code, last, error, out = run("--wav_path", tmp_path / f"{name}.wav")
        assert code == 0, error
        vertices = np.load(out / f"{name}.npy")
        assert len(vertices) == frames and np.isfinite(vertices).all()
        assert len(list(imageio_ffmpeg.read_frames(last))) == frames + 1  # and the metadata


def test_the_error_for_an_unknown_subject_lists_the_known_ones(run, tmp_path):
    wav = noise(tmp_path / "a.wav", 0.5)
    line = error_line(run("--wav_path", wav, "--subject", "nobody"))
    assert "nobody" in line and ", ".join(load_head().templates) in line


def test_a_template_of_another_topology_names_both_counts(run, tmp_path):
    wav = noise(tmp_path / "a.wav", 0.5)
    (tmp_path / "tri.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    line = error_line(run("--wav_path", wav, "--template", tmp_path / "tri.obj"))
    assert "3 vertices" in line and str(len(load_head().colors)) in line
    assert "process=False" in line


def write_face(path, vertices):
    """An .obj of `vertices` (V, 3) without faces."""
    path.write_text("".join("v {:.7g} {:.7g} {:.7g}\n".format(*v) for v in vertices))
    return path


def test_a_template_in_another_unit_is_refused_before_anything_is_predicted(
    run, tmp_path, monkeypatch
):
    def never(*_):
        raise AssertionError("predicted in spite of an error")
        yield

    monkeypatch.setattr(Checkpoint, "meshes", never)
    wav, ada = noise(tmp_path / "a.wav", 0.5), load_head().templates["ada"]  # in metres
    for scale, fix in ((1000, "0.001"), (100, "0.01"), (0.001, "1000"), (5.4, "0.19")):
        face = write_face(tmp_path / "me.obj", scale * ada)
        line = error_line(run("--wav_path", wav, "--template", face))
        assert line.endswith(f"another unit; multiply its vertices by {fix}")
        size = np.ptp(ada, axis=0).max()
        assert f"{scale * size:.4g} across" in line and f"about {size:.4g}" in line
    flat = write_face(tmp_path / "me.obj", 0 * ada)
    assert "at one point" in error_line(run("--wav_path", wav, "--template", flat))


def test_a_template_in_another_order_is_refused_and_one_at_another_position_is_not(run, tmp_path):
    wav, ada = noise(tmp_path / "a.wav", 0.3), load_head().templates["ada"]
    shuffled = write_face(tmp_path / "me.obj", np.random.default_rng(0).permutation(ada))
    assert "another order" in error_line(run("--wav_path", wav, "--template", shuffled))
    aside = write_face(tmp_path / "me.obj", ada + [3.0, 0.0, 0.0])
    code, _, error, _ = run("--wav_path", wav, "--template", aside, "--no_video")
    assert code == 0, error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fps", "0"], "--fps 0: expected 1 to 240"),
        (["--fps", "29.97.1"], "--fps 29.97.1: expected 1 to 240"),
        (["--size", "800x"], "--size: 800x: expected pixels such as 800 or 1920x1080"),
        (["--size", "96x63"], "even number"),
        (["--zoom", "nan"], "--zoom: nan: expected a number"),
        (["--zoom", "9"], "--zoom 9.0: expected 0.2 to 8"),
        (["--start", "2", "--end", "2"], "--start 2 --end 2.0: expected seconds"),
        (["--start", "99"], "--start and --end leave 0 ms, expected at least 45 ms"),
        (["--yaw", "120"], "--yaw 120: expected -90 to 90"),
        (["--size", "801"], "even number"),
        (["--background", "nice"], "expected #rrggbb"),
        (["--renderer", "crayon"], "renderer 'crayon': expected"),
        (["--subject", "ada", "--template", "x.ply"], "give one of them"),
        (["--checkpoint", "missing.safetensors"], "no such file"),
        (["--out", __file__], "is not a folder"),
        pytest.param(
            ["--out", "/proc/nowhere"],
            "--out /proc/nowhere: folder /proc: cannot be written",
            marks=pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc here"),
        ),
    ],
)
def test_wrong_flags_are_refused(run, arguments, words):
    assert words in error_line((*run(*arguments)[:3], Path("nowhere")))


def test_the_recording_is_never_replaced(run, tmp_path):
    video = tmp_path / "made" / "out" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"precious")
    link = tmp_path / "a.mp4"
    os.link(video, link)
    for name in (video, link):  # the file itself, and another name of it
        code, _, error, _ = run("--wav_path", name)
        assert code == EXIT_BAD_INPUT and "would replace the recording" in error
        assert video.read_bytes() == b"precious"


def test_a_file_that_is_not_a_model_is_refused(run, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    line = error_line(run("--checkpoint", tmp_path / "x.safetensors"))
    assert "x.safetensors: not a model file" in line
    torch.save({"generators": {}, "epoch": 1}, tmp_path / "last.pt")
    assert "a training state" in error_line(run("--checkpoint", tmp_path / "last.pt"))


def test_a_renderer_that_cannot_draw_fails_before_the_prediction(run, tmp_path, monkeypatch):
    from rendering import renderer

    def refuse(*_):
        raise UserError("renderer gpu: no OpenGL 3.3 context")

    def never(*_):
        raise AssertionError("predicted in spite of an error")
        yield

    monkeypatch.setitem(renderer.RENDERERS, "software", refuse)
    monkeypatch.setattr(Checkpoint, "meshes", never)
    wav = noise(tmp_path / "a.wav", 0.5)
    assert "no OpenGL" in error_line(run("--wav_path", wav, "--renderer", "software"))


def test_motion_that_is_not_finite_is_refused(run, tmp_path, monkeypatch):
    def broken(model, audio, template, subject):
        yield torch.stack([template, torch.full_like(template, torch.nan)])

    monkeypatch.setattr(JambaTalk, "stream", broken)
    wav = noise(tmp_path / "a.wav", 0.5)
    assert "not finite" in error_line(run("--wav_path", wav))


def test_an_interrupted_run_leaves_no_files(run, tmp_path, monkeypatch):
    from rendering import renderer

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(renderer.Renderer, "frame", interrupt)
    code, _, _, out = run("--wav_path", noise(tmp_path / "a.wav", 0.5))
    assert code == 130 and list(out.iterdir()) == []


@pytest.mark.parametrize("kind", ["mp4", "png"])
def test_ctrl_c_keeps_what_was_made_under_another_name(run, tmp_path, monkeypatch, kind):
    from rendering import renderer

    real, n_drawn = renderer.Renderer.frame, []

    def frame(self, vertices):
        n_drawn.append(1)
        if len(n_drawn) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, vertices)

    wav = noise(tmp_path / "a.wav", 2.0)
    flags = ["--wav_path", wav, "--video_format", kind]
    monkeypatch.setattr(renderer.Renderer, "frame", frame)
    code, _, error, out = run(*flags)
    assert code == 130
    video = {"mp4": "a.part.mp4", "png": "a.part_png"}[kind]
    assert sorted(path.name for path in out.iterdir()) == sorted(["a.part.npy", video])
    vertices = np.load(out / "a.part.npy")
    assert 12 <= len(vertices) <= 20 < 60
    assert f"of 2.0 s; what was made is in {out / video} and {out / 'a.part.npy'}" in error
    if kind == "png":
        assert len(list((out / video).iterdir())) == len(vertices)
        return
    reader = imageio_ffmpeg.read_frames(str(out / video))
    assert next(reader)["duration"] == pytest.approx(len(vertices) / FPS, abs=0.2)
    assert len(list(reader)) == len(vertices)
    assert run(*flags)[0] == 0  # the handler of Ctrl-C is gone
    np.testing.assert_array_equal(np.load(out / "a.npy")[: len(vertices)], vertices)


def test_two_runs_into_one_folder_at_the_same_time_do_not_mix(checkpoint, tmp_path, monkeypatch):
    """The second run starts while the first one draws, writes the same names, and ends first."""
    from rendering import renderer

    wav, real, subjects = noise(tmp_path / "a.wav", 0.2), renderer.Renderer.frame, ["ben"]

    def speak(subject):
        flags = ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--size", 64]
        arguments = [*flags, "--wav_path", wav, "--subject", subject]
        return run_cli(demo.main, [str(a) for a in arguments])

    def frame(self, *arguments):
        if subjects:
            assert speak(subjects.pop()) == 0
        return real(self, *arguments)

    assert speak("ada") == 0
    alone = np.load(tmp_path / "out" / "a.npy")
    monkeypatch.setattr(renderer.Renderer, "frame", frame)
    assert speak("ada") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), alone)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "a.npy"]


def files_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_same_recording_gives_the_same_bytes_also_while_another_demo_writes_them(
    run, tmp_path, monkeypatch
):
    wav = noise(tmp_path / "a.wav", 0.2)
    code, _, error, out = run("--wav_path", wav)
    assert code == 0, error
    expected, draw, n_drawn = files_of(out), production.run.draw, []
    assert expected.keys() == {"a.mp4", "a.npy"}

    def draw_after_another_demo(*arguments):
        n_drawn.append(1)
        if len(n_drawn) == 1:
            assert run("--wav_path", wav)[0] == 0
            assert expected.items() <= files_of(out).items()
        draw(*arguments)

    monkeypatch.setattr(production.run, "draw", draw_after_another_demo)
    assert run("--wav_path", wav)[0] == 0 and len(n_drawn) == 2
    assert files_of(out) == expected


def test_a_recording_with_a_name_of_the_largest_length_is_written(run, tmp_path):
    stem = "か" * 83  # 249 bytes; with .wav 253 of the 255 that a name may have
    code, _, error, out = run("--wav_path", noise(tmp_path / f"{stem}.wav", 0.2))
    assert code == 0, error
    assert {path.name for path in out.iterdir()} == {f"{stem}.npy", f"{stem}.mp4"}


def test_a_full_disk_leaves_the_files_of_an_earlier_demo(run, tmp_path):
    wav = noise(tmp_path / "a.wav", 0.2)
    out = run("--wav_path", wav, "--no_video")[3]
    before = files_of(out)
    with full_disk(100_000):
        code, _, error, _ = run("--wav_path", wav, "--no_video")
    assert code == EXIT_BAD_INPUT and f"--out {out}: cannot be written (File too large)" in error
    assert files_of(out) == before


def test_a_recording_whose_results_would_have_too_long_names_is_refused_at_once(tmp_path):
    wav = tmp_path / f"{'x' * 252}.au"  # 255 bytes
    wav.write_bytes(b"sound")
    with pytest.raises(UserError, match="its results cannot have this name .*rename"):
        check_job(Job(wav, tmp_path / "out" / f"{wav.stem}.npy", None), {})
