"""Mesh sequences, the small .npz and the USD point cache, read back by other readers."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from export.clip import Clip
from export.formats import write_formats
from export.sequences import write_npz, write_obj, write_ply
from export.usd import write_usd
from files.meshes import load_mesh
from tests.clips import small_clip
from tests.toy import full_disk


@pytest.fixture
def clip(rng: np.random.Generator) -> Clip:
    return small_clip(rng, n_frames=11, colors=rng.random((41, 3), np.float32))


@pytest.mark.parametrize("write, suffix", [(write_obj, "obj"), (write_ply, "ply")])
def test_every_frame_is_a_mesh(clip: Clip, tmp_path: Path, write, suffix: str) -> None:
    (folder,) = write(clip, tmp_path)
    paths = sorted(folder.iterdir())
    assert folder == tmp_path / f"clip_{suffix}"
    assert [p.name for p in (paths[0], paths[-1])] == [f"clip_0001.{suffix}", f"clip_0011.{suffix}"]
    for path, expected in zip(paths, clip.vertices, strict=True):
        vertices, faces = load_mesh(path)
        assert vertices == pytest.approx(expected, abs=1e-6) and (faces == clip.faces).all()


def test_colours_of_an_obj_stand_behind_the_coordinates(clip: Clip, tmp_path: Path) -> None:
    words = (write_obj(clip, tmp_path)[0] / "clip_0001.obj").read_text().split("\n")[0].split()
    assert words[0] == "v" and len(words) == 7
    assert [float(word) for word in words[4:]] == pytest.approx(clip.colors[0], abs=1e-3)


def test_colours_of_a_ply_are_bytes(clip: Clip, tmp_path: Path) -> None:
    header, _, body = (
        (write_ply(clip, tmp_path)[0] / "clip_0001.ply").read_bytes().partition(b"end_header\n")
    )
    assert b"property uchar red\nproperty uchar green\nproperty uchar blue" in header
    assert list(body[12:15]) == np.round(255 * clip.colors[0]).tolist()


def test_a_sequence_replaces_an_earlier_longer_one(clip: Clip, tmp_path: Path, rng) -> None:
    write_obj(small_clip(rng, n_frames=17), tmp_path)
    (folder,) = write_obj(clip, tmp_path)
    assert len(list(folder.iterdir())) == 11


def test_a_folder_with_other_files_is_not_replaced(clip: Clip, tmp_path: Path) -> None:
    notes = tmp_path / "clip_obj" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt is not of an earlier sequence"):
        write_obj(clip, tmp_path)
    assert notes.read_text() == "mine"


def test_a_sequence_that_fails_leaves_no_folder(clip: Clip, tmp_path: Path) -> None:
    clip.vertices[7, 0, 0] = np.inf
    with pytest.raises(UserError, match="frame 7"):
        write_ply(clip, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["obj", "ply", "npz", "usd"])
def test_a_full_disk_is_named_and_leaves_nothing(clip: Clip, tmp_path: Path, name: str) -> None:
    if name == "usd":
        pytest.importorskip("pxr", reason="usd-core is missing")
    with full_disk(900), pytest.raises(UserError, match="cannot be written .*File too large"):
        write_formats(clip, [name], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_npz_gives_the_vertices_back(clip: Clip, tmp_path: Path) -> None:
    (path,) = write_npz(clip, tmp_path)
    with np.load(path) as arrays:
        vertices = arrays["template"] + arrays["offsets"].astype(np.float32)
        assert arrays["offsets"].dtype == np.float16 and (arrays["faces"] == clip.faces).all()
        assert arrays["fps"].tolist() == [30, 1] and (arrays["colors"] == clip.colors).all()
    assert vertices == pytest.approx(clip.vertices, abs=4e-6)


def test_equal_clips_give_equal_npz(clip: Clip, tmp_path: Path) -> None:
    first = write_npz(clip, tmp_path)[0].read_bytes()
    assert write_npz(clip, tmp_path)[0].read_bytes() == first


def test_offsets_beyond_float16_are_refused(clip: Clip, tmp_path: Path) -> None:
    clip.vertices[3, 2] = 1e6
    with pytest.raises(UserError, match=r"clip clip: offsets of 1e\+06 m, expected a face"):
        write_npz(clip, tmp_path)
    assert not list(tmp_path.iterdir())


def test_usd_holds_points_colours_and_sound(clip: Clip, tmp_path: Path, rng) -> None:
    pytest.importorskip("pxr", reason="usd-core is missing")
    from pxr import Usd, UsdGeom, UsdMedia

    audio = tmp_path / "speech.wav"
    fields = dict(fps=Fraction(30_000, 1_001), colors=clip.colors, audio=audio)
    sounding = small_clip(rng, n_frames=11, **fields)
    (path,) = write_usd(sounding, tmp_path)
    stage = Usd.Stage.Open(str(path))
    mesh = UsdGeom.Mesh(stage.GetDefaultPrim().GetChild("Face"))
    assert stage.GetTimeCodesPerSecond() == 30_000 / 1_001
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0, 10)
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1 and UsdGeom.GetStageUpAxis(stage) == "Y"
    points = [np.array(mesh.GetPointsAttr().Get(frame)) for frame in range(11)]
    assert (np.array(points) == sounding.vertices).all()
    assert (np.array(mesh.GetFaceVertexIndicesAttr().Get()) == sounding.faces.ravel()).all()
    assert len(mesh.GetDisplayColorPrimvar().Get()) == 41
    sound = UsdMedia.SpatialAudio(stage.GetPrimAtPath("/Head/Speech"))
    assert sound.GetFilePathAttr().Get().path == "speech.wav"


def test_usd_without_its_package_names_it(clip: Clip, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(UserError, match=r"usd: needs the package usd-core .*pip install usd-core"):
        write_usd(clip, tmp_path)
    assert not list(tmp_path.iterdir())
