"""BIWI's raw files, fabricated small in their documented layout, to prepared clips."""

import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from BIWI.frames import normalise, parse_vl, surface_area
from BIWI.prepared import default_root, place, prepared_templates
from BIWI.process_biwi_data import main, process
from BIWI.raw import find_raw
from common import whole_file
from common.errors import UserError, run_cli
from config import BIWI, BIWI_6, PROJECT_ROOT
from files import archives
from files.meshes import load_mesh, load_region
from tests.toy import full_disk, leftover

# A pyramid on a square: V = 5, F = 6.
SCAN = np.array([[0, 0, 0], [60, 0, 0], [60, 60, 0], [0, 60, 0], [30, 30, 50]], np.float32)
FACES = np.array([[0, 2, 1], [0, 3, 2], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]], np.int32)
RATE, FPS, T = 44_100, 25, 7
CLIPS = ("F2_e01", "F2_e02", "M3_e01")


def vl(vertices: np.ndarray, count: str = "<u4") -> bytes:
    head = np.array([len(vertices)], count).tobytes() if count else b""
    return head + vertices.astype("<f4").tobytes()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def frames_of(clip: str) -> np.ndarray:
    """(T, V, 3) float32 in the corpus's millimetres: the top of the pyramid rises."""
    frames = np.repeat(SCAN[None], T, axis=0)
    frames[:, 4, 2] += np.arange(T) + 3 * CLIPS.index(clip)
    return frames


def members(clip: str) -> dict[str, bytes]:
    return {f"frame_{i:03d}.vl": vl(frame) for i, frame in enumerate(frames_of(clip), start=1)}


@pytest.fixture
def raw(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two subjects, three clips; a neutral sentence and an archive of textures beside them."""
    folder = tmp_path / "raw"
    (folder / "rigid_scans").mkdir(parents=True)
    (folder / "audio").mkdir()
    corners = "".join("f {0}/{0} {1}/{1} {2}/{2}\n".format(*(face + 1)) for face in FACES)
    points = "".join("v {} {} {}\nvt 0 0\n".format(*v) for v in SCAN)
    for subject in ("F2", "M3"):
        (folder / f"rigid_scans/{subject}.obj").write_text(points + corners)
    for clip in CLIPS:
        subject, sentence = clip.split("_")
        write_tar(folder / f"faces/{subject}/{sentence}.tar", members(clip))
        sound = rng.uniform(-0.5, 0.5, T * RATE // FPS)
        soundfile.write(folder / f"audio/{clip}_cut.wav", sound, RATE)
    write_tar(folder / "faces/F2/e01.tgz", {"frame_001.png": b"texture"}, "w:gz")
    write_tar(folder / "faces/F2/01.tar", members("F2_e01"))
    return folder


def stored(out: Path, clip: str) -> np.ndarray:
    return np.load(out / f"vertices_npy/{clip}.npy")


def test_a_rectangle_is_normalised_as_by_hand() -> None:
    # 2 x 8 in the plane z = 5: centre (1, 4, 5), area 16, so everything is divided by 4.
    rectangle = np.array([[0, 0, 5], [2, 0, 5], [2, 8, 5], [0, 8, 5]], np.float32)
    result = normalise(rectangle, np.array([[0, 1, 2], [0, 2, 3]]))
    expected = [[-0.25, 1, 0], [0.25, 1, 0], [0.25, -1, 0], [-0.25, -1, 0]]  # y is turned over
    np.testing.assert_allclose(result, expected, atol=1e-7)
    with pytest.raises(ValueError, match="surface area 0.0"):
        normalise(np.zeros((3, 3)), np.array([[0, 1, 2]]))


def test_area_is_the_sum_of_mixed_voronoi_areas(rng: np.random.Generator) -> None:
    # What CodeTalker divides by (Meyer et al. 2003): a corner owns the circumcentric part of an
    # acute triangle; of an obtuse one half at the obtuse corner and a quarter at the others.
    vertices, faces = (
        rng.normal(size=(40, 3)),
        rng.permuted(np.tile(np.arange(40), (60, 1)), axis=1),
    )
    faces = faces[:, :3]
    total, obtuse = 0.0, 0
    for triangle in vertices[faces]:
        cosines, cotangents, opposite = np.empty(3), np.empty(3), np.empty(3)
        for i in range(3):
            a, b = triangle[(i + 1) % 3] - triangle[i], triangle[(i + 2) % 3] - triangle[i]
            twice = np.linalg.norm(np.cross(a, b))
            cosines[i], cotangents[i] = a @ b, a @ b / twice
            opposite[i] = np.linalg.norm(a - b) ** 2
        if (cosines < 0).any():
            obtuse += 1
            total += sum(twice / 2 * (0.5 if c < 0 else 0.25) for c in cosines)
        else:
            total += sum(
                (opposite[i - 1] * cotangents[i - 1] + opposite[i - 2] * cotangents[i - 2]) / 8
                for i in range(3)
            )
    assert 0 < obtuse < 60
    np.testing.assert_allclose(surface_area(vertices, faces), total, rtol=1e-12)


def test_the_public_biwi_mesh_has_this_normalisation(shared_data: Path) -> None:
    vertices, faces = load_mesh(shared_data / "biwi/BIWI.ply")
    assert len(vertices) == BIWI.n_vertices
    np.testing.assert_allclose(surface_area(vertices, faces), 1, atol=1e-6)
    corpus = 185 * vertices * [1, -1, -1] + [10, 20, -30]  # millimetres, somewhere
    np.testing.assert_allclose(normalise(corpus, faces), vertices, atol=1e-6)


@pytest.mark.parametrize("count", ["", "<u4", "<u8"])
def test_a_vl_is_read_with_and_without_its_count(count: str) -> None:
    np.testing.assert_array_equal(parse_vl(vl(SCAN, count), "x"), SCAN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x: 0 bytes, expected 12 per vertex"),
        (vl(SCAN)[:-3], "x: 61 bytes, expected 12 per vertex"),
        (vl(SCAN)[:-12], "x: 4 vertices, expected 5"),
        (vl(SCAN * np.nan), "x: has NaN"),
    ],
)
def test_a_broken_vl_is_named(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_vl(content, "x")


def test_every_clip_is_normalised_and_in_order(raw: Path, tmp_path: Path) -> None:
    shuffled = sorted(members("M3_e01").items(), key=lambda item: item[0][::-1], reverse=True)
    write_tar(raw / "faces/M3/e01.tar", {"./._frame_001.vl": b"macOS", **dict(shuffled)})
    out, reports = tmp_path / "out", []
    assert process(raw, out, report=reports.append) == 3 and reports == []
    with (out / "templates.pkl").open("rb") as file:
        templates = pickle.load(file)
    assert set(templates) == {"F2", "M3"}
    for clip in CLIPS:
        vertices = stored(out, clip)
        assert vertices.shape == (T, 15) and vertices.dtype == np.float32
        expected = [normalise(frame, FACES).ravel() for frame in frames_of(clip)]
        np.testing.assert_array_equal(vertices, expected)
        np.testing.assert_array_equal(templates[clip[:2]], normalise(SCAN, FACES))
        info = soundfile.info(out / f"wav/{clip}.wav")
        assert (info.samplerate, info.channels) == (16_000, 1)
        assert abs(info.frames - T * 16_000 // FPS) <= 1
    np.testing.assert_array_equal(load_mesh(out / "BIWI.ply")[1], FACES)
    assert sorted(path.stem for path in (out / "wav").iterdir()) == sorted(CLIPS)


def test_neutral_sentences_tgz_and_unpacked_folders_are_read(raw: Path, tmp_path: Path) -> None:
    unpacked = raw / "faces/M3/02"
    unpacked.mkdir()
    for name, content in members("M3_e01").items():
        (unpacked / name).write_bytes(content)
    (raw / "faces/F2/01.tar").unlink()
    write_tar(raw / "faces/F2/01.tgz", members("F2_e01"), "w:gz")
    for clip in ("F2_01", "M3_02"):
        (raw / f"audio/{clip}_cut.wav").write_bytes((raw / "audio/F2_e01_cut.wav").read_bytes())
    out = tmp_path / "out"
    assert process(raw, out, "neutral", workers=2) == 2
    assert stored(out, "F2_01").shape == stored(out, "M3_02").shape == (T, 15)


def test_audio_is_read_from_the_videos(raw: Path, tmp_path: Path) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe

    (raw / "videos").mkdir()
    made = subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", "-i", raw / "audio/F2_e01_cut.wav", "-c:a", "pcm_s16le"]
        + [raw / "videos/F2_e01.flv"],
        check=False,
    )
    if made.returncode:
        pytest.skip("this ffmpeg cannot write .flv")
    with_wav, with_flv = tmp_path / "wav", tmp_path / "flv"
    process(raw, with_wav)
    (raw / "audio/F2_e01_cut.wav").unlink()
    assert process(raw, with_flv) == 3
    expected, decoded = (soundfile.read(out / "wav/F2_e01.wav")[0] for out in (with_wav, with_flv))
    shorter = min(len(expected), len(decoded))
    assert shorter > 0.95 * len(expected)
    assert np.corrcoef(expected[:shorter], decoded[:shorter])[0, 1] > 0.95  # two resamplers


def test_audio_and_frames_are_cut_to_the_shorter_and_reported(raw: Path, tmp_path: Path) -> None:
    for clip, seconds in (("F2_e01", 0.48), ("F2_e02", 0.1)):  # the frames last 0.28 s
        soundfile.write(raw / f"audio/{clip}_cut.wav", np.ones(round(seconds * RATE)), RATE)
    reports: list[str] = []
    assert process(raw, tmp_path / "out", report=reports.append) == 3
    assert sorted(reports) == [
        "F2_e01: audio cut by 0.200 s to the shorter",
        "F2_e02: frames cut by 0.180 s to the shorter",
    ]
    assert len(stored(tmp_path / "out", "F2_e02")) == 3  # frames at 0, 0.04 and 0.08 s


def test_the_same_command_continues_a_stopped_run(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    process(raw, out)
    unchanged, removed = out / "vertices_npy/F2_e01.npy", out / "wav/M3_e01.wav"
    before, sound = unchanged.stat().st_mtime_ns, removed.read_bytes()
    removed.unlink()
    (out / leftover("vertices_npy/M3_e01.npy")).write_bytes(b"half")
    monkeypatch.setattr(whole_file, "_tidied", set())  # another process
    assert process(raw, out) == 1
    assert removed.read_bytes() == sound and unchanged.stat().st_mtime_ns == before
    assert not list(out.rglob("*partial*"))
    assert process(raw, out) == 0


@pytest.mark.parametrize("name", ["e01.tar", "e01.tgz"])
def test_a_truncated_archive_is_named_and_the_others_are_made(
    name: str, raw: Path, tmp_path: Path
) -> None:
    (raw / "faces/M3/e01.tar").unlink()
    noise = np.random.default_rng(1).bytes(40_000)  # so that the .tgz breaks off within it
    archive = raw / "faces/M3" / name
    write_tar(archive, {"notes.bin": noise, **members("M3_e01")}, "w:gz" if "gz" in name else "w")
    archive.write_bytes(archive.read_bytes()[:20_000])
    reports: list[str] = []
    with pytest.raises(UserError, match=rf"^2 clips written, 1 not: \S*/M3/{name}: broken archive"):
        process(raw, tmp_path / "out", report=reports.append)
    assert len(reports) == 1 and name in reports[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_003.vl": None}, "frame 4 follows a gap"),
        (
            {"frame_003.vl": vl(SCAN[:4])},
            "frame_003.vl: 4 vertices, expected 5 as in the scan",
        ),
        (
            {"frame_003.vl": vl(np.zeros((99, 3)))},
            "frame_003.vl has 1192 bytes, expected at most 68",
        ),
        ({"mean.vl": vl(SCAN)}, "mean.vl: expected a frame number"),
        ({"frame_001.vl": vl(SCAN[[4, 3, 2, 1, 0]])}, "the first frame is 0.*another vertex order"),
    ],
)
def test_frames_that_do_not_fit_are_named(
    change: dict, message: str, raw: Path, tmp_path: Path
) -> None:
    changed = {k: v for k, v in (members("M3_e01") | change).items() if v is not None}
    write_tar(raw / "faces/M3/e01.tar", changed)
    with pytest.raises(UserError, match=message):
        process(raw, tmp_path / "out", report=[].append)


def test_clips_with_half_of_their_data_are_left_out_and_named(raw: Path, tmp_path: Path) -> None:
    (raw / "audio/F2_e02_cut.wav").unlink()
    write_tar(raw / "faces/M3/e01.tar", {"readme.txt": b"nothing"})
    reports: list[str] = []
    assert process(raw, tmp_path / "out", report=reports.append) == 1
    left_out = sorted(line.split(",")[0] for line in reports)
    assert left_out == ["F2_e02: left out", "M3_e01: left out"]


def prepared(folder: Path, templates: dict[str, np.ndarray], n_vertices: int) -> Path:
    for clip in CLIPS:
        for part in ("wav", "vertices_npy"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        np.save(folder / f"vertices_npy/{clip}.npy", np.zeros((2, n_vertices, 3), np.float32))
        soundfile.write(folder / f"wav/{clip}.wav", np.zeros(1600), 16_000)
    (folder / "templates.pkl").write_bytes(pickle.dumps(templates))
    return folder


def test_a_prepared_folder_is_linked(tmp_path: Path) -> None:
    source = prepared(tmp_path / "theirs", {"F2": SCAN, "M3": SCAN}, 5)
    (source / "wav/M3_e01.wav").unlink()
    out, reports = tmp_path / "out", []
    assert place(source, out, prepared_templates(source), reports.append) == 2
    assert reports == ["M3_e01: left out, no wav for it"]
    assert stored(out, "F2_e01").shape == (2, 5, 3) and (out / "templates.pkl").is_file()
    assert not (out / "vertices_npy/M3_e01.npy").exists()
    np.save(source / "vertices_npy/F2_e02.npy", np.zeros((2, 12)))
    with pytest.raises(UserError, match=r"F2_e02.npy: shape \(2, 12\), expected \(frames, 15\)"):
        place(source, out, prepared_templates(source))


def test_biwi_6_is_recognised_by_its_vertices(shared_data: Path, tmp_path: Path) -> None:
    from files.meshes import load_templates

    theirs = load_templates(shared_data / "biwi6/templates")
    source = prepared(tmp_path / "Biwi_6", theirs, BIWI_6.n_vertices)
    (source / "BIWI_lip.pkl").write_bytes((shared_data / "biwi6/BIWI_lip.pkl").read_bytes())
    templates = prepared_templates(source)
    assert default_root(len(templates["F1"])) == PROJECT_ROOT / "BIWI/data6"
    assert default_root(BIWI.n_vertices) == PROJECT_ROOT / "BIWI/data"
    assert place(source, tmp_path / "out", templates) == 3
    x, y, _ = prepared_templates(tmp_path / "out")["F1"].T
    box = np.flatnonzero((abs(x) <= 0.035) & (y >= -0.08) & (y <= -0.035))
    assert len(box) == 758
    lips = load_region(tmp_path / "out/BIWI_lip.pkl", BIWI_6.n_vertices)
    np.testing.assert_array_equal(np.sort(lips), box)


def test_missing_files_are_named(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="faces/, rigid_scans/ missing; expected B3D.*Kinect"):
        find_raw(str(tmp_path / "nowhere"))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/faces01.tgz").touch()
    with pytest.raises(UserError, match="packed: archives not unpacked; unpack each"):
        find_raw(str(tmp_path / "packed"))
    with pytest.raises(UserError, match="5 vertices, expected 23370 .BIWI. or 3895"):
        main(["--raw", str(raw)])
    with pytest.raises(UserError, match="--workers 0"):
        main(["--raw", str(raw), "--workers", "0"])
    (raw / "faces/F2/01.tar").unlink()
    with pytest.raises(UserError, match="faces: no neutral sentences, expected <subject>/01"):
        process(raw, tmp_path / "out", "neutral")
    (raw / "rigid_scans/M3.obj").unlink()
    with pytest.raises(UserError, match="M3.obj: missing, the neutral scan of M3"):
        process(raw, tmp_path / "out")


@pytest.mark.parametrize("style", ["script", "module"])
def test_the_command_runs_as_a_script_and_as_a_module(
    style: str, raw: Path, tmp_path: Path
) -> None:
    what = ["BIWI/process_biwi_data.py"] if style == "script" else ["-m", "BIWI.process_biwi_data"]
    command = [sys.executable, *what, "--raw", str(raw), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 clips written to")
    (tmp_path / "out/wav/M3_e01.wav").unlink()
    (raw / "faces/M3/e01.tar").write_bytes(b"not a tar" * 100)
    broken = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert broken.returncode == 2
    errors = [line for line in broken.stderr.splitlines() if "clip/s" not in line]
    assert errors[-1].startswith("error: 0 clips written, 1 not: ") and "e01.tar" in errors[-1]
    assert "Traceback" not in broken.stderr


@pytest.mark.parametrize("n_bytes, name", [(50, "out/templates.pkl"), (2_000, "out")])
def test_a_full_disk_is_reported_in_one_line_and_nothing_is_lost(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], n_bytes: int, name: str
) -> None:
    out = tmp_path / "out"
    process(raw, out)
    (out / "wav/F2_e01.wav").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with full_disk(n_bytes):
        assert run_cli(main, ["--raw", str(raw), "--out", str(out), "--workers", "1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and f"{tmp_path / name}: " in error
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert process(raw, out) == 1


def test_a_flat_scan_ends_the_clips_of_its_subject_alone(raw: Path, tmp_path: Path) -> None:
    scan = raw / "rigid_scans/F2.obj"
    flat = [f"v {i} 0 0" if line.startswith("v ") else line
            for i, line in enumerate(scan.read_text().splitlines())]  # fmt: skip
    scan.write_text("\n".join(flat))
    reports: list[str] = []
    with pytest.raises(UserError, match=r"^1 clips written, 2 not: \S*F2.obj: no mesh of a face"):
        process(raw, tmp_path / "out", report=reports.append)
    assert len(reports) == 1 and "no clip of this subject is written" in reports[0]
    with pytest.raises(UserError, match="1 clips written|0 clips written, 2 not"):
        main(["--raw", str(raw), "--out", str(tmp_path / "out")])


def test_a_flat_frame_is_named_and_the_others_are_made(raw: Path, tmp_path: Path) -> None:
    (raw / "faces/M3/e01.tar").unlink()
    frames = members("M3_e01")
    first = min(frames)
    flat = np.zeros((len(parse_vl(frames[first], first)), 3), np.float32)
    write_tar(raw / "faces/M3/e01.tar", frames | {first: vl(flat)})
    with pytest.raises(UserError, match=r"^2 clips written, 1 not: .*M3/e01.tar: frame 1: no mesh"):
        process(raw, tmp_path / "out", report=[].append)


def test_an_archive_that_expands_too_much_is_not_read_to_its_end(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "faces/M3/e01.tar").unlink()
    write_tar(raw / "faces/M3/e01.tgz", {"x" * 10**6: b"", **members("M3_e01")}, "w:gz")
    monkeypatch.setattr(archives, "FREE_BYTES", 10**5)
    with pytest.raises(UserError, match=r"2 clips written, 1 not: .*expands to much more than"):
        process(raw, tmp_path / "out", report=[].append)


def test_scans_and_frames_may_end_in_capitals(raw: Path, tmp_path: Path) -> None:
    (raw / "faces/.AppleDouble").mkdir()
    (raw / "rigid_scans/M3.obj").rename(raw / "rigid_scans/M3.OBJ")
    capitals = {name.replace(".vl", ".VL"): content for name, content in members("M3_e01").items()}
    write_tar(raw / "faces/M3/e01.tar", capitals)
    assert process(raw, tmp_path / "out", report=[].append) == 3
