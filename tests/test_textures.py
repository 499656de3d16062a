"""Textures of mesh files: which picture, where its corners lie, and how a .glb carries them."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.read_glb import Glb
from common.errors import UserError
from export.glb import write_glb
from export.textured import split_at_seams
from files.textures import load_texture
from tests.clips import small_clip

PICTURE = b"\x89PNG of one pixel"
SQUARE = """mtllib own head.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 0.5 0
vt 0.5 1
vt 1 0.25
usemtl skin
f 1/1 2/2 3/3
f 1/4/1 3/3/1 -1/-2/1
"""
PLACES = [[[0, 0], [0.5, 0], [0.5, 1]], [[1, 0.25], [0.5, 1], [0.5, 1]]]  # of the corners, by hand


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """An .obj of two triangles with a texture; vertex 1 has two places on it."""
    (tmp_path / "square.obj").write_text(SQUARE)
    (tmp_path / "own head.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd my skin.png\n")
    (tmp_path / "my skin.png").write_bytes(PICTURE)
    return tmp_path / "square.obj"


def test_an_obj_has_the_picture_of_its_material(square: Path) -> None:
    texture = load_texture(square)
    assert (texture.picture, texture.kind) == (PICTURE, "image/png")
    assert texture.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    np.testing.assert_array_equal(texture.coordinates, PLACES)


def test_a_ply_has_the_picture_of_its_comment(tmp_path: Path) -> None:
    (tmp_path / "skin.jpg").write_bytes(b"\xff\xd8\xff")
    lines = [
        "ply", "format binary_little_endian 1.0", "comment TextureFile skin.jpg",
        "element vertex 3", *(f"property float {name}" for name in "xyzst"),
        "element face 1", "property list uchar int vertex_indices", "end_header\n",
    ]  # fmt: skip
    rows = np.array([[0, 0, 0, 0, 1], [1, 0, 0, 0.5, 1], [0, 1, 0, 0.25, 0]], "<f4")
    content = "\n".join(lines).encode() + rows.tobytes() + struct.pack("<Biii", 3, 2, 0, 1)
    (tmp_path / "face.ply").write_bytes(content)
    texture = load_texture(tmp_path / "face.ply")
    assert texture.kind == "image/jpeg" and texture.faces.tolist() == [[2, 0, 1]]
    np.testing.assert_array_equal(texture.coordinates, [[[0.25, 0], [0, 1], [0.5, 1]]])


def test_a_mesh_without_a_picture_has_no_texture(square: Path, shared_data: Path) -> None:
    (square.parent / "own head.mtl").unlink()
    assert load_texture(square) is None
    assert load_texture(shared_data / "vocaset/FLAME_sample.ply") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my skin.png", None, "cannot be read (No such file or directory); copy it there"),
        ("my skin.png", b"GIF89a", "expected a .png or .jpg"),
        ("square.obj", SQUARE.replace("2/2", "2/9").encode(), "coordinates 9 of 4"),
        ("square.obj", SQUARE.replace("2/2", "2").encode(), "a corner has no coordinates"),
        (
            "square.obj",
            SQUARE.replace("f 1/4", "usemtl hair\nf 1/4").encode(),
            "2 materials with different pictures, expected one",
        ),
    ],
)
def test_a_broken_texture_is_refused(square: Path, name, content, message) -> None:
    (square.parent / name).unlink()
    if content is not None:
        (square.parent / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_texture(square)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_vertex_on_a_seam_is_written_for_each_place() -> None:
    source, faces, places = split_at_seams(5, np.array([[0, 1, 2], [0, 2, 3]]), np.array(PLACES))
    assert source.tolist() == [0, 1, 2, 3, 4, 0]
    assert faces.tolist() == [[0, 1, 2], [5, 2, 3]]
    np.testing.assert_array_equal(places[faces], PLACES)
    assert places[4].tolist() == [0, 0]  # in no face


def test_a_glb_has_the_texture_and_the_vertices_of_the_clip(
    square: Path, rng: np.random.Generator, tmp_path: Path
) -> None:
    clip = dataclasses.replace(small_clip(rng), mesh=square)
    (path,) = write_glb(clip, tmp_path)
    glb = Glb(path)
    assert glb.attribute("POSITION").shape == (42, 3)
    np.testing.assert_allclose(glb.vertices_at(0.3)[:41], clip.vertices[9], atol=1e-4)
    uv = glb.attribute("TEXCOORD_0")[glb.accessor(glb.primitive["indices"])[:, 0]]
    np.testing.assert_allclose(uv.reshape(2, 3, 2), np.array(PLACES) * [1, -1] + [0, 1])
    image = glb.json["images"][glb.json["textures"][0]["source"]]
    view = glb.json["bufferViews"][image["bufferView"]]
    start = view["byteOffset"]
    assert glb.bytes[start : start + view["byteLength"]] == PICTURE
    material = glb.json["materials"][0]["pbrMetallicRoughness"]
    assert (
        material["baseColorTexture"] == {"index": 0}
        and "COLOR_0" not in (glb.primitive["attributes"])
    )


def test_a_missing_picture_leaves_no_glb(square: Path, rng: np.random.Generator, tmp_path) -> None:
    (square.parent / "my skin.png").unlink()
    with pytest.raises(UserError, match="named by"):
        write_glb(dataclasses.replace(small_clip(rng), mesh=square), tmp_path)
    assert not list(tmp_path.glob("*.glb"))
