"""Several recordings in one run of demo.py: names, what is skipped, what fails, what is printed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

import demo
import jambatalk
from common.errors import EXIT_BAD_INPUT, EXIT_PARTLY, UserError, run_cli
from config import SAMPLE_RATE
from production.jobs import find_recordings, names_of
from tests.toy import synthetic_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny network for the synthetic head whose faces move at random."""
    return synthetic_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    """Runs the demo; returns (exit code, lines of stdout, stderr)."""

    def call(*arguments, out="out"):
        flags = ["--checkpoint", checkpoint, "--out", tmp_path / out, "--size", 64, *arguments]
        code = run_cli(demo.main, [str(a) for a in flags])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return call


@pytest.fixture
def takes(tmp_path):
    """A folder with a.flac, a.wav, b.wav, which is no sound, c.wav, and a text."""
    folder = tmp_path / "takes"
    folder.mkdir()
    for seed, name in enumerate(("a.flac", "a.wav", "c.wav")):
        noise(folder / name, seed)
    (folder / "b.wav").write_bytes(b"no sound " * 99)
    (folder / "notes.txt").write_text("not a recording")
    return folder


def noise(path, seed, seconds=0.2):
    wave = 0.1 * np.random.default_rng(seed).normal(size=round(seconds * SAMPLE_RATE))
    soundfile.write(path, wave, SAMPLE_RATE)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def loads(monkeypatch):
    """A list that grows with each model that is loaded."""
    real, loaded = jambatalk.load_checkpoint, []

    def load(*arguments):
        loaded.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(jambatalk, "load_checkpoint", load)
    return loaded


def test_a_folder_is_made_with_one_model_and_without_its_bad_file(
    run, takes, tmp_path, monkeypatch
):
    loaded = loads(monkeypatch)
    code, lines, error = run("--wav_path", takes, noise(tmp_path / "d.wav", 9))
    assert code == EXIT_PARTLY and len(loaded) == 1
    made = ["a.flac", "a.wav", "c", "d"]
    assert names(tmp_path / "out") == sorted(f"{n}.{e}" for n in made for e in ("mp4", "npy"))
    assert lines[-1] == f"5 recordings: 4 made, 0 skipped, 1 failed: {takes / 'b.wav'}"
    assert [line for line in lines if line.endswith(".mp4")] == [
        str(tmp_path / "out" / f"{name}.mp4") for name in made
    ]
    errors = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "b.wav: it is text" in errors[0]
    motions = [np.load(tmp_path / "out" / f"{name}.npy") for name in made[:2]]
    assert np.abs(motions[0] - motions[1]).max() > 1e-6

    code, lines, _ = run("--wav_path", takes, tmp_path / "d.wav", "missing.wav")
    assert code == EXIT_PARTLY and len(loaded) == 1  # everything is there
    assert lines[-1].startswith("6 recordings: 0 made, 4 skipped, 2 failed: ")
    assert f"a.wav: skipped, {tmp_path / 'out/a.wav.mp4'} is newer; --overwrite" in lines[1]


def test_results_are_made_again_where_recording_flags_or_files_have_changed(run, takes, tmp_path):
    (takes / "b.wav").unlink()
    flags, out = ["--wav_path", takes, "--no_video"], tmp_path / "out"

    def summary(*more):
        return run(*flags, *more)[1][-1]

    assert summary() == "3 recordings: 3 made, 0 skipped, 0 failed"
    assert summary() == "3 recordings: 0 made, 3 skipped, 0 failed"
    assert summary("--overwrite") == "3 recordings: 3 made, 0 skipped, 0 failed"
    assert summary("--subject", "ben") == "3 recordings: 3 made, 0 skipped, 0 failed"
    flags += ["--subject", "ben"]
    with (out / "a.wav.npy").open("rb+") as file:
        file.truncate(99)
    (out / "c.npy").unlink()
    later = (out / "a.flac.npy").stat().st_mtime_ns + 10**9
    os.utime(takes / "a.flac", ns=(later, later))
    assert summary() == "3 recordings: 3 made, 0 skipped, 0 failed"
    with (out / ".demo.jsonl").open("r+") as file:
        file.truncate(20)  # a kill while the first line was written
    assert summary() == "3 recordings: 3 made, 0 skipped, 0 failed"


def test_shards_share_the_recordings_and_a_folder(run, takes, tmp_path):
    (takes / "b.wav").unlink()
    flags, out = ["--wav_path", takes, "--no_video"], tmp_path / "out"
    lines = [run(*flags, "--shard", f"{n}/2")[1] for n in (2, 1)]
    assert [each[-1] for each in lines] == [
        "shard 2of2: 1 recordings: 1 made, 0 skipped, 0 failed",
        "shard 1of2: 2 recordings: 2 made, 0 skipped, 0 failed",
    ]
    assert names(out) == ["a.flac.npy", "a.wav.npy", "c.npy"]
    records = [".demo-1of2.jsonl", ".demo-2of2.jsonl"]
    assert sorted(path.name for path in out.glob(".*")) == records
    assert run(*flags)[1][-1] == "3 recordings: 0 made, 3 skipped, 0 failed"
    code, lines, _ = run(*flags, "--shard", "4/4")
    assert code == 0 and lines == ["shard 4of4: 0 recordings: 0 made, 0 skipped, 0 failed"]
    for wrong in ("0/2", "3/2", "1", "1/2/3", "a/2"):
        code, _, error = run(*flags, "--shard", wrong)
        assert code == EXIT_BAD_INPUT and f"--shard {wrong}: expected N/M" in error


def test_a_record_of_the_former_format_still_counts(run, takes, tmp_path):
    (takes / "b.wav").unlink()
    flags, out = ["--wav_path", takes, "--no_video"], tmp_path / "out"
    run(*flags)
    entries = [json.loads(line) for line in (out / ".demo.jsonl").read_text().split("\n") if line]
    former = {
        entry["name"]: {key: entry[key] for key in ("recording", "flags", "files")}
        for entry in entries
    }
    (out / ".demo.json").write_text(json.dumps(former))
    (out / ".demo.jsonl").unlink()
    assert run(*flags)[1][-1] == "3 recordings: 0 made, 3 skipped, 0 failed"


def test_the_result_of_another_recording_is_kept(run, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        noise(tmp_path / name / "a.wav", 1)
    assert run("--wav_path", tmp_path / "x", "--no_video")[0] == 0
    code, _, error = run("--wav_path", tmp_path / "y", "--no_video")
    assert code == EXIT_PARTLY
    assert f"a.npy is the result of {tmp_path / 'x/a.wav'}; name another --out" in error
    assert run("--wav_path", tmp_path / "y", "--no_video", "--overwrite")[0] == 0
    code, lines, _ = run("--wav_path", tmp_path / "x", tmp_path / "y", "--no_video", out="both")
    assert code == 0 and names(tmp_path / "both") == ["x_a.wav.npy", "y_a.wav.npy"]


def test_an_error_that_all_recordings_share_ends_the_run(run, takes, tmp_path):
    code, _, error = run("--wav_path", takes, "--subject", "nobody")
    assert code == EXIT_BAD_INPUT and "nobody" in error
    code, _, error = run("--wav_path", takes, out="takes")
    assert code == EXIT_BAD_INPUT and "would be taken for recordings" in error
    assert run("--wav_path", takes, out="film.mp4")[0] == EXIT_BAD_INPUT
    assert not (tmp_path / "out").exists()


def test_results_of_one_name_get_the_ending_then_the_folder():
    def given(*texts):
        return names_of([Path("/r") / text for text in texts])

    assert given("a.wav", "b.wav") == ["a", "b"]
    assert given("a.wav", "A.mp3", "b.wav") == ["a.wav", "A.mp3", "b"]
    assert given("x/a.wav", "y/a.wav", "y/a.mp3") == ["x_a.wav", "y_a.wav", "a.mp3"]
    assert given("a.wav.mp3", "a.wav", "a.mp3") == ["a.wav.mp3", "r_a.wav", "a.mp3"]
    with pytest.raises(UserError, match="x/a.wav and /r/2/x/a.wav: their results would have one"):
        given("1/x/a.wav", "2/x/a.wav")


def test_a_recording_that_is_named_twice_is_made_once(takes):
    found = find_recordings([takes / "a.wav", takes, takes / ".." / "takes" / "c.wav"])
    assert [path.name for path in found] == ["a.wav", "a.flac", "b.wav", "c.wav"]


def test_out_may_be_the_file_of_one_recording(run, tmp_path):
    wav = noise(tmp_path / "a.wav", 1)
    code, lines, _ = run("--wav_path", wav, out="film.mp4")
    assert code == 0 and lines[-1] == str(tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").is_file() and (tmp_path / "film.npy").is_file()
    code, lines, _ = run("--wav_path", wav, "--no_video", out="motion.npy")
    assert code == 0 and lines[-1] == str(tmp_path / "motion.npy")
    assert "expected .mp4 without --no_video" in run("--wav_path", wav, out="motion2.npy")[2]
    assert "expected .npy with --no_video" in run("--wav_path", wav, "--no_video", out="b.mp4")[2]
    assert names(tmp_path) == ["a.wav", "film.mp4", "film.npy", "motion.npy"]


def test_quiet_prints_the_results_only(run, takes, tmp_path):
    (takes / "b.wav").unlink()
    code, lines, error = run("--wav_path", takes, "--no_video", "--quiet")
    assert code == 0 and error == ""
    assert lines == [str(tmp_path / f"out/{name}.npy") for name in ("a.flac", "a.wav", "c")]


def test_no_progress_bar_is_printed_into_a_pipe(run, tmp_path):
    code, lines, error = run("--wav_path", noise(tmp_path / "a.wav", 1), "--no_video")
    assert code == 0 and error == "" and len(lines) == 2


def test_subtitles_belong_to_one_video(run, takes, tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,100\nHello\n")
    flags = ["--subtitles", tmp_path / "a.srt"]
    for more, words in (
        (["--wav_path", takes], "expected one recording and its video"),
        (["--no_video"], "expected one recording and its video"),
        (["--video_format", "png"], "png has no track of subtitles; add --burn_subtitles"),
    ):
        code, _, error = run(*flags, *more)
        assert code == EXIT_BAD_INPUT and words in error
    code, lines, error = run(*flags, "--wav_path", takes / "c.wav")
    assert code == 0 and b"Hello" in (tmp_path / "out" / "c.mp4").read_bytes()


def test_subtitles_are_drawn_into_pictures(run, takes, tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,200\nHello\n")
    flags = ["--wav_path", takes / "c.wav", "--video_format", "png", "--burn_subtitles"]
    code, _, error = run(*flags)
    assert code == EXIT_BAD_INPUT and "--burn_subtitles: draws those of --subtitles" in error
    code, lines, error = run(*flags, "--subtitles", tmp_path / "a.srt", "--size", 256)
    below = [imread(tmp_path / f"out/c_png/00000{n}.png")[-5, 128] for n in (1, 6)]
    assert code == 0
    np.testing.assert_allclose(below[1], 0.35 * below[0], atol=0.05)  # the box below the letters


def test_subtitles_after_the_end_are_those_of_another_recording(run, takes, tmp_path):
    text = "1\n00:00:00,000 --> 00:00:00,100\nHello\n\n2\n00:00:09,000 --> 00:00:10,000\nyou\n"
    (tmp_path / "a.srt").write_text(text)
    flags = ["--wav_path", takes / "c.wav", "--subtitles", tmp_path / "a.srt"]
    late = "begin after the end of the recording (9.00 s, expected less than 0.20 s)"
    code, _, error = run(*flags)
    assert code == 0 and f"warning: --subtitles: 1 of 2 {late}" in error
    (tmp_path / "a.srt").write_text(text[text.index("2\n") :])
    code, _, error = run(*flags)
    assert code == EXIT_BAD_INPUT and f"--subtitles: 1 of 1 {late}" in error
