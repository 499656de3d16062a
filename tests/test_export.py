"""Files that `python -m export` writes, read by parsers of their own."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from common.errors import EXIT_BAD_INPUT, run_cli
from export.__main__ import main
from export.curves import unit_basis
from export.live_link import timecode
from export.visemes import OCULUS, VRM, pose_matrix, pose_weights
from synthetic.head import load_head
from synthetic.phones import PHONES

HEAD = load_head()
NAMES, BASIS = unit_basis()
HEADER = (  # the first line of a recording of the app
    "Timecode,BlendshapeCount,EyeBlinkLeft,EyeLookDownLeft,EyeLookInLeft,EyeLookOutLeft,"
    "EyeLookUpLeft,EyeSquintLeft,EyeWideLeft,EyeBlinkRight,EyeLookDownRight,EyeLookInRight,"
    "EyeLookOutRight,EyeLookUpRight,EyeSquintRight,EyeWideRight,JawForward,JawRight,JawLeft,"
    "JawOpen,MouthClose,MouthFunnel,MouthPucker,MouthRight,MouthLeft,MouthSmileLeft,"
    "MouthSmileRight,MouthFrownLeft,MouthFrownRight,MouthDimpleLeft,MouthDimpleRight,"
    "MouthStretchLeft,MouthStretchRight,MouthRollLower,MouthRollUpper,MouthShrugLower,"
    "MouthShrugUpper,MouthPressLeft,MouthPressRight,MouthLowerDownLeft,MouthLowerDownRight,"
    "MouthUpperUpLeft,MouthUpperUpRight,BrowDownLeft,BrowDownRight,BrowInnerUp,BrowOuterUpLeft,"
    "BrowOuterUpRight,CheekPuff,CheekSquintLeft,CheekSquintRight,NoseSneerLeft,NoseSneerRight,"
    "TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,LeftEyePitch,LeftEyeRoll,RightEyeYaw,"
    "RightEyePitch,RightEyeRoll"
)


@pytest.fixture
def prediction(tmp_path):
    """ben opens the jaw over 40 frames, with a raised tongue."""
    values = np.zeros((40, len(NAMES)))
    values[:, NAMES.index("jawOpen")] = np.linspace(0, 0.8, 40)
    values[:, NAMES.index("tongueUp")] = 0.5
    offsets = np.tensordot(values, BASIS / 1000, 1)
    path = tmp_path / "speech.npy"
    np.save(path, (HEAD.templates["ben"] + offsets).astype(np.float32))
    return path


def error_of(capsys, *arguments):
    assert run_cli(main, list(map(str, arguments))) == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_csv_is_that_of_live_link_face(prediction, capsys):
    main([str(prediction), "--fps", "30"])
    csv_path, json_path = map(Path, capsys.readouterr().out.splitlines()[-2:])
    text = csv_path.read_text()
    assert text.splitlines()[0] == HEADER
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 40 and len(rows[0]) == 63 and rows[0]["BlendshapeCount"] == "61"
    assert rows[0]["Timecode"] == "00:00:00:00.000" and rows[39]["Timecode"] == "00:00:01:09.000"
    jaw = [float(row["JawOpen"]) for row in rows]
    np.testing.assert_allclose(jaw, np.linspace(0, 0.8, 40), atol=1e-3)
    rest = [float(row[name]) for row in rows for name in HEADER.split(",")[2:] if name != "JawOpen"]
    np.testing.assert_allclose(rest, 0, atol=1e-3)

    content = json.loads(json_path.read_text())
    assert content["fps"] == 30 and content["error_mm"]["rms"] < 1e-3
    assert len(content["frames"]) == 40 and content["names"] == list(NAMES)
    tongue = np.array(content["frames"])[:, NAMES.index("tongueUp")]
    np.testing.assert_allclose(tongue, 0.5, atol=1e-3)


def test_the_mesh_of_the_curves_in_the_json_is_the_clip(prediction):
    main([str(prediction), "--subject", "ben"])
    content = json.loads(prediction.with_suffix(".json").read_text())
    units = np.stack([HEAD.units[name] for name in content["names"]])
    mesh = HEAD.templates["ben"] + np.tensordot(np.array(content["frames"]), units, 1)
    np.testing.assert_allclose(mesh, np.load(prediction), atol=1e-5)  # metres


def test_visemes_and_vowels_have_the_names_of_their_standards(prediction, tmp_path):
    main([str(prediction), "--formats", "visemes", "vrm", "--out", str(tmp_path / "new")])
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["speech.visemes.json", "speech.vrm.json"]
    oculus, vrm = (json.loads((tmp_path / "new" / name).read_text()) for name in files)
    assert " ".join(oculus["names"]) == "sil PP FF TH DD kk CH SS nn RR aa E I O U"
    assert " ".join(vrm["names"]) == "aa ih ou ee oh"
    np.testing.assert_allclose(np.sum(oculus["frames"], axis=1), 1, atol=1e-4)
    assert np.min(oculus["frames"]) >= 0 and np.min(vrm["frames"]) >= 0
    assert vrm["names"][int(np.argmax(vrm["frames"][39]))] == "aa"  # the jaw is open


@pytest.mark.parametrize("phones_of", [OCULUS, VRM])
def test_the_pose_of_a_viseme_is_that_viseme(phones_of):
    poses = pose_matrix(phones_of, NAMES)
    weights = pose_weights(poses, poses, BASIS)
    assert (weights[:, 1:].argmax(axis=1) == range(len(poses))).all()
    silence = pose_weights(np.zeros((1, len(NAMES))), poses, BASIS)
    assert silence[0, 0] > 0.99
    assert set(" ".join(phones_of.values()).split()) <= set(PHONES)


def test_timecodes_count_frames_by_the_next_whole_rate():
    assert timecode(3600 * 30 + 61, Fraction(30)) == "01:00:02:01.000"
    assert timecode(30, Fraction(30_000, 1001)) == "00:00:01:00.000"
    assert timecode(59, Fraction(60)) == "00:00:00:59.000"


def test_a_prediction_of_another_mesh_is_refused(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((2, 7, 3), np.float32))
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert "7 vertices, not those of the synthetic" in error_of(capsys, tmp_path / "a.npy")
    flags = tmp_path / "a.npy", "--faces", tmp_path / "a.obj"
    assert "7 vertices, expected 3 as in" in error_of(capsys, *flags)
    np.save(tmp_path / "a.npy", np.stack([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]] * 2).astype(float))
    line = error_of(capsys, *flags, "--out", tmp_path / "new")
    assert "no nose, lips and chin on its neutral face" in line
    assert list((tmp_path / "new").iterdir()) == []


def test_a_face_that_no_subject_has_is_refused(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((2, 6045, 3), np.float32))
    assert "no subject of the synthetic head has this face" in error_of(capsys, tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((2, 5), np.float32))
    assert "shape (2, 5), expected (frames," in error_of(capsys, tmp_path / "a.npy")


def other_mesh(tmp_path, order, scale=1.0):
    """Write a fan of 41 triangles in motion, and a template with its vertices in another order."""
    rng = np.random.default_rng(0)
    template = rng.normal(size=(41, 3)) * 0.1
    np.save(tmp_path / "own.npy", np.stack([template] * 3).astype(np.float32))
    lines = ["v {} {} {}\n".format(*vertex) for vertex in scale * template[order]]
    lines += [f"f 1 {n} {n + 1}\n" for n in range(2, 41)]
    (tmp_path / "face.obj").write_text("".join(lines))
    return tmp_path / "own.npy", "--template", tmp_path / "face.obj", "--formats", "glb"


def test_a_neutral_face_in_another_order_or_unit_is_refused(tmp_path, capsys):
    shuffled = other_mesh(tmp_path, np.random.default_rng(1).permutation(41))
    assert "its first frame differs" in error_of(capsys, *shuffled)
    assert "another order of vertices" in error_of(capsys, *shuffled)
    large = other_mesh(tmp_path, np.arange(41), scale=1000.0)
    assert "another scale or another mesh" in error_of(capsys, *large)
    assert not list(tmp_path.glob("*.glb"))


def test_triangles_that_are_not_connected_have_no_curves(tmp_path, capsys):
    own = other_mesh(tmp_path, np.arange(41))
    text = (tmp_path / "face.obj").read_text().split("f ")[0]
    (tmp_path / "face.obj").write_text(text + "f 1 2 3\nf 4 5 6\nf 7 8 9\n")
    line = error_of(capsys, *own[:-1], "arkit")
    assert "7 % of its vertices are connected by triangles, expected a skin of at least 25" in line


def test_a_folder_that_cannot_be_written_is_named(prediction, capsys):
    line = error_of(capsys, prediction, "--out", prediction / "in a file")
    assert f"folder {prediction / 'in a file'}: cannot be written" in line
