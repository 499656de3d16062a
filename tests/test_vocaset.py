"""VOCASET's raw files, fabricated small in their exact layout, to prepared clips."""

import io
import os
import pickle
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError, run_cli
from config import PROJECT_ROOT
from tests.toy import full_disk
from vocaset import process_voca_data
from vocaset.process_voca_data import main, process
from vocaset.streamed_pickle import StreamedPickleReader

V, RATE, FPS = 7, 22_000, 60
SUBJECTS = ("FaceTalk_170725_00137_TA", "FaceTalk_170728_03272_TA")


@pytest.fixture
def raw(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Four raw files of two subjects with two sentences each; rows of the meshes are shuffled."""
    folder = tmp_path / "raw"
    folder.mkdir()
    frames = {(s, q): 61 + 10 * i + j for i, s in enumerate(SUBJECTS) for j, q in enumerate((1, 2))}
    rows = iter(rng.permutation(sum(frames.values())).tolist())
    verts = rng.normal(size=(sum(frames.values()), V, 3)).astype(np.float32)
    index: dict = {}
    audio: dict = {}
    for (subject, number), n in frames.items():
        sentence = f"sentence{number:02d}"
        index.setdefault(subject, {})[sentence] = {frame: next(rows) for frame in range(n)}
        sound = rng.integers(-30_000, 30_000, RATE * n // FPS).astype(np.int16)
        audio.setdefault(subject, {})[sentence] = {"audio": sound, "sample_rate": RATE}
    np.save(folder / "data_verts.npy", verts)
    dump(folder / "subj_seq_to_idx.pkl", index)
    dump(folder / "raw_audio_fixed.pkl", audio)
    dump(folder / "templates.pkl", {s: rng.normal(size=(V, 3)) for s in SUBJECTS})
    return folder


def dump(path: Path, content: object, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def content(path: Path) -> dict:
    return pickle.loads(path.read_bytes())


def test_every_clip_is_converted_unchanged(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reports: list[str] = []
    assert process(raw, out, reports.append) == 4
    assert reports == []
    verts, index = np.load(raw / "data_verts.npy"), content(raw / "subj_seq_to_idx.pkl")
    for subject, sentences in content(raw / "raw_audio_fixed.pkl").items():
        for sentence, clip in sentences.items():
            rows = [row for _, row in sorted(index[subject][sentence].items())]
            stored = np.load(out / "vertices_npy" / f"{subject}_{sentence}.npy")
            assert stored.dtype == np.float32 and stored.shape == (len(rows), V * 3)
            np.testing.assert_array_equal(stored.reshape(-1, V, 3), verts[rows])
            wav, rate = soundfile.read(out / "wav" / f"{subject}_{sentence}.wav", dtype="int16")
            assert rate == RATE
            np.testing.assert_array_equal(wav, clip["audio"])
    assert (out / "templates.pkl").read_bytes() == (raw / "templates.pkl").read_bytes()
    assert not list(out.rglob("*partial*"))


def test_audio_and_frames_are_cut_to_the_shorter_and_reported(raw: Path, tmp_path: Path) -> None:
    subject, out = SUBJECTS[0], tmp_path / "out"
    audio = content(raw / "raw_audio_fixed.pkl")
    long, short = audio[subject]["sentence01"], audio[subject]["sentence02"]
    long["audio"] = np.concatenate([long["audio"], np.zeros(RATE // 2, np.int16)])
    short["audio"] = short["audio"][: RATE // 2]  # 30 frames of 62
    dump(raw / "raw_audio_fixed.pkl", audio)
    reports: list[str] = []
    process(raw, out, reports.append)
    assert reports == [
        f"{subject}_sentence01: audio cut by 0.500 s to the shorter",
        f"{subject}_sentence02: frames cut by 0.533 s to the shorter",
    ]
    assert len(np.load(out / "vertices_npy" / f"{subject}_sentence02.npy")) == 30
    assert soundfile.info(out / "wav" / f"{subject}_sentence01.wav").frames == 22_367  # 61/60 s


def test_missing_frames_are_interpolated_and_reported(raw: Path, tmp_path: Path) -> None:
    subject, out = SUBJECTS[1], tmp_path / "out"
    index, verts = content(raw / "subj_seq_to_idx.pkl"), np.load(raw / "data_verts.npy")
    rows = index[subject]["sentence01"]
    del rows[5], rows[6]
    dump(raw / "subj_seq_to_idx.pkl", index)
    reports: list[str] = []
    process(raw, out, reports.append)
    assert [line.split(": ")[1][:20] for line in reports] == ["2 frames missing in "]
    stored = np.load(out / "vertices_npy" / f"{subject}_sentence01.npy").reshape(-1, V, 3)
    expected = verts[rows[4]] / 3 + verts[rows[7]] * 2 / 3
    np.testing.assert_allclose(stored[6], expected, atol=1e-6)
    for frame in range(10, 20):
        del rows[frame]
    dump(raw / "subj_seq_to_idx.pkl", index)
    with pytest.raises(UserError, match="sentence01 lacks 10 frames in a row, expected at most 6"):
        process(raw, tmp_path / "again", reports.append)


def test_frames_that_begin_late_drop_the_sound_before_them(raw: Path, tmp_path: Path) -> None:
    subject, out = SUBJECTS[0], tmp_path / "out"
    index = content(raw / "subj_seq_to_idx.pkl")
    for frame in range(6):
        del index[subject]["sentence01"][frame]
    dump(raw / "subj_seq_to_idx.pkl", index)
    process(raw, out, [].append)
    wav, _ = soundfile.read(out / "wav" / f"{subject}_sentence01.wav", dtype="int16")
    sound = content(raw / "raw_audio_fixed.pkl")[subject]["sentence01"]["audio"]
    np.testing.assert_array_equal(wav, sound[RATE // 10 :])


def test_the_same_command_continues_a_stopped_run(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process(raw, out, [].append)
    unchanged = out / "vertices_npy" / f"{SUBJECTS[0]}_sentence01.npy"
    removed = out / "wav" / f"{SUBJECTS[1]}_sentence02.wav"
    before, sound = unchanged.stat().st_mtime_ns, removed.read_bytes()
    removed.unlink()
    assert process(raw, out, [].append) == 1
    assert removed.read_bytes() == sound and unchanged.stat().st_mtime_ns == before
    assert process(raw, out, [].append) == 0


def test_clips_are_made_again_when_the_raw_files_change(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    process(raw, out, [].append)
    verts = np.load(raw / "data_verts.npy") + 1
    np.save(raw / "data_verts.npy", verts)  # of the same size
    real, n_written = process_voca_data.write_clip, 0

    def write_clip(*args) -> None:
        nonlocal n_written
        n_written += 1
        if n_written > 1:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(process_voca_data, "write_clip", write_clip)
        with pytest.raises(KeyboardInterrupt):  # stopped after the first clip
            process(raw, out, [].append)
    assert process(raw, out, [].append) == 4
    rows = content(raw / "subj_seq_to_idx.pkl")[SUBJECTS[1]]["sentence02"]
    stored = np.load(out / "vertices_npy" / f"{SUBJECTS[1]}_sentence02.npy")
    np.testing.assert_array_equal(
        stored.reshape(-1, V, 3), verts[[row for _, row in sorted(rows.items())]]
    )
    assert process(raw, out, [].append) == 0


def test_clips_without_a_record_are_used_as_they_are(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process(raw, out, [].append)
    (out / "raw_files.json").unlink()
    np.save(raw / "data_verts.npy", np.load(raw / "data_verts.npy") + 1)
    assert process(raw, out, [].append) == 0
    for damaged in ("{", "[]", "\xff"):
        (out / "raw_files.json").write_text(damaged, encoding="latin-1")
        assert process(raw, out, [].append) == 4


def test_clips_with_half_of_their_data_are_left_out_and_named(raw: Path, tmp_path: Path) -> None:
    audio, index = content(raw / "raw_audio_fixed.pkl"), content(raw / "subj_seq_to_idx.pkl")
    del audio[SUBJECTS[0]]["sentence01"], index[SUBJECTS[1]]["sentence02"]
    dump(raw / "raw_audio_fixed.pkl", audio)
    dump(raw / "subj_seq_to_idx.pkl", index)
    reports: list[str] = []
    assert process(raw, tmp_path / "out", reports.append) == 2
    assert reports == [
        f"{SUBJECTS[0]}_sentence01: left out, no audio in raw_audio_fixed.pkl",
        f"{SUBJECTS[1]}_sentence02: left out, no frames in subj_seq_to_idx.pkl",
    ]


def test_missing_raw_files_are_named_with_their_source(raw: Path, tmp_path: Path) -> None:
    (raw / "data_verts.npy").unlink()
    (raw / "templates.pkl").unlink()
    with pytest.raises(
        UserError, match="data_verts.npy, templates.pkl missing.*voca.is.tue.mpg.de"
    ):
        main(["--raw", str(raw), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_prepared_folder_needs_no_raw_files(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FaceFormer's layout: wav/ and vertices_npy/ in vocaset/ itself."""
    monkeypatch.setattr(process_voca_data, "PROJECT_ROOT", tmp_path)
    process(raw, tmp_path / "vocaset", [].append)
    main([])
    assert f"{tmp_path / 'vocaset'} is already prepared" in capsys.readouterr().out
    (tmp_path / "vocaset/wav").rename(tmp_path / "vocaset/sound")
    with pytest.raises(UserError, match="missing; sign in at https://voca.is.tue.mpg.de"):
        main([])


def test_a_truncated_mesh_file_is_named(raw: Path, tmp_path: Path) -> None:
    path = raw / "data_verts.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="data_verts.npy: not a complete .npy"):
        process(raw, tmp_path / "out", [].append)


@pytest.mark.parametrize("style", ["script", "module"])
def test_the_command_runs_as_a_script_and_as_a_module(
    style: str, raw: Path, tmp_path: Path
) -> None:
    what = (
        ["vocaset/process_voca_data.py"]
        if style == "script"
        else ["-m", "vocaset.process_voca_data"]
    )
    command = [sys.executable, *what, "--raw", str(raw), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 clips written" in done.stdout.splitlines()[-1]
    broken = subprocess.run(
        [sys.executable, *what, "--raw", str(tmp_path)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert broken.returncode == 2
    assert broken.stderr.startswith("error: ") and broken.stderr.count("\n") == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_streamed_arrays_equal_those_of_pickle(protocol: int, rng: np.random.Generator) -> None:
    clips = {
        "a": rng.integers(-9, 9, (100_001,)).astype(">i2"),
        "b": rng.normal(size=(2, 5)),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "empty": np.zeros(0, np.int16),
    }
    clips["a again"] = clips["a"]
    dumped = io.BytesIO(pickle.dumps({"s": clips, "rate": np.int64(22_000)}, protocol=protocol))
    with tempfile.TemporaryFile() as scratch:
        loaded = StreamedPickleReader(dumped, scratch).load()
        assert loaded["rate"] == 22_000
        for name, array in clips.items():
            np.testing.assert_array_equal(loaded["s"][name].read(), array, err_msg=name)


class _Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def test_the_streaming_unpickler_runs_no_code_either(raw: Path, tmp_path: Path) -> None:
    dump(raw / "raw_audio_fixed.pkl", {"x": _Attack()})
    with pytest.raises(UserError, match="raw_audio_fixed.pkl.*only numpy arrays"):
        process(raw, tmp_path / "out", [].append)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_streaming_needs_the_memory_of_about_one_clip(protocol: int, tmp_path: Path) -> None:
    clip_bytes, n_clips = 1_000_000, 20
    audio = {i: {"audio": np.full(clip_bytes // 2, i, np.int16)} for i in range(n_clips)}
    dump(tmp_path / "x.pkl", audio, protocol)
    del audio
    with (tmp_path / "x.pkl").open("rb") as file, tempfile.TemporaryFile() as scratch:
        tracemalloc.start()
        loaded = StreamedPickleReader(file, scratch).load()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert loaded[n_clips - 1]["audio"].read()[-1] == n_clips - 1
    # At protocol 0 a byte is written as \x00: three copies of a line four times the clip.
    assert peak < (14 if protocol == 0 else 5) * clip_bytes < n_clips * clip_bytes


@pytest.mark.parametrize("n_bytes, name", [(10, "out/templates.pkl"), (9_000, "out")])
def test_a_full_disk_is_reported_in_one_line_and_nothing_is_lost(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], n_bytes: int, name: str
) -> None:
    out = tmp_path / "out"
    process(raw, out)
    (out / "vertices_npy" / f"{SUBJECTS[0]}_sentence01.npy").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with full_disk(n_bytes):
        assert run_cli(main, ["--raw", str(raw), "--out", str(out)]) == 2
    line = f"error: {tmp_path / name}: cannot be written (File too large); free some space\n"
    assert capsys.readouterr().err.endswith(line)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert process(raw, out) == 1
