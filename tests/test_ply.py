"""Meshes .ply and .obj from outside: equal to what trimesh reads, and limits before any work."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from files.meshes import load_faces, load_mesh, load_templates
from files.ply import parse_ply
from tests.hostile import mutants

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5], [2, 2, 2]], np.float32)
QUAD = b"v 0 0 0 # tip\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4 # of the nose\nf 1/1 2/2 3/3#lips\n"


def ply(form: str, vertices: str, faces: str, *values: bytes) -> bytes:
    """A file with these lines for the two elements in its header, and these values."""
    head = f"ply\nformat {form} 1.0\ncomment x\n{vertices}\n{faces}\nend_header\n"
    return head.encode() + b"".join(values)


XYZ = "\nproperty float x\nproperty float y\nproperty float z"
LIST = "\nproperty list uchar int vertex_indices"


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
@pytest.mark.parametrize("colours", [False, True])
def test_a_mesh_is_what_trimesh_reads(encoding: str, colours: bool) -> None:
    import trimesh
    from trimesh.exchange.ply import load_ply

    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 1, 0]])
    mesh = trimesh.Trimesh(VERTICES, faces, process=False)
    if colours:
        mesh.visual.vertex_colors = np.arange(20).reshape(5, 4)
    content = mesh.export(file_type="ply", encoding=encoding)
    expected = load_ply(io.BytesIO(content), fix_texture=False)
    vertices, triangles = parse_ply(content)
    np.testing.assert_array_equal(vertices, expected["vertices"])
    np.testing.assert_array_equal(triangles, expected["faces"])


@pytest.mark.parametrize("order", ["<", ">"])
def test_polygons_of_different_lengths_become_fans(order: str) -> None:
    form = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    polygons = [(0, 1, 2), (0, 1, 2, 3), (3, 4), (4, 3, 2, 1, 0)]
    content = ply(
        form,
        f"element vertex 5{XYZ}\nproperty uchar red",
        f"element face 4\nproperty uchar flag{LIST}\nelement edge 1\nproperty short a",
        *(struct.pack(f"{order}fffB", *vertex, 7) for vertex in VERTICES.tolist()),
        *(struct.pack(f"{order}BB{len(p)}i", 1, len(p), *p) for p in polygons),
        b"\0\0",
    )
    vertices, faces = parse_ply(content)
    np.testing.assert_array_equal(vertices, VERTICES)
    fans = [(0, 1, 2), (0, 1, 2), (0, 2, 3), (4, 3, 2), (4, 2, 1), (4, 1, 0)]
    assert faces.tolist() == [list(fan) for fan in fans]
    text = b" ".join(b"1 %d %s" % (len(p), b" ".join(b"%d" % i for i in p)) for p in polygons)
    content = ply(
        "ascii",
        f"element vertex 5{XYZ}",
        f"element face 4\nproperty uchar flag{LIST}",
        b" ".join(b"%g" % value for value in VERTICES.ravel()) + b"\n" + text,
    )
    np.testing.assert_array_equal(parse_ply(content)[1], faces)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ply\nformat ascii 1.0\n", "no whole header"),
        (ply("binary_little_endian", f"element vertex 1000000000000{XYZ}", "", bytes(36)), "fewer"),
        (ply("ascii", f"element vertex 1000000000000{XYZ}", "", b"0 0 0"), "there are fewer"),
        (ply("ascii", f"element vertex -4{XYZ}", "", b"0 0 0"), "line 'element vertex -4'"),
        (ply("ascii", "element vertex 9", "", b"0 0 0"), "there are fewer"),
        (ply("ascii", "element vertex 1\nproperty float x", "", b"0 0 0"), "no numbers x, y and z"),
        (ply("ascii", "property float x", "", b""), "line 'property float x'"),
        (ply("mixed", f"element vertex 1{XYZ}", "", b"0 0 0"), "line 'format mixed 1.0'"),
        (ply("ascii", f"element vertex 1{XYZ}", f"element face 1{LIST}", b"0 0 0 -3"), "-3 values"),
        (ply("ascii", f"element vertex 1{XYZ}", f"element face 1{LIST}", b"0 0 0 9 1"), "9 values"),
        (
            ply("ascii", f"element vertex 1{XYZ}", "element face 1\nproperty float q", b"0 0 0 1"),
            "no list vertex_indices",
        ),
        (
            ply("ascii", f"element vertex 1{XYZ}", f"element face 1{LIST}".replace("int", "float")),
            "line 'property list uchar float",
        ),
        (
            ply(
                "binary_big_endian",
                f"element vertex 1{XYZ}",
                "element face 1\nproperty list uint int vertex_indices",
                bytes(12) + b"\xff" * 8,
            ),
            "4294967295 values, there are fewer",
        ),
        (
            ply(
                "ascii",
                f"element vertex 1{XYZ}",
                f"element face 1{LIST}",
                b"0 0 0 3 0 0 " + b"9" * 20,
            ),
            "too large",
        ),
    ],
)
def test_a_header_that_the_bytes_do_not_bear_out_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "x.ply").write_bytes(content)
    with pytest.raises(UserError, match=f"x.ply: broken .ply file: .*{message}"):
        load_mesh(tmp_path / "x.ply")


def test_many_short_lists_are_read_in_time() -> None:
    content = ply("binary_little_endian", f"element vertex 1{XYZ}", f"element face 100000{LIST}",
                  bytes(12), bytes(99_999), b"\x01\0\0\0\0")  # fmt: skip
    start = time.process_time()
    assert parse_ply(content)[1].shape == (0, 3)
    assert time.process_time() - start < 1  # 0.15 s


def test_comments_behind_the_lines_of_an_obj_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "FACE.OBJ").write_bytes(b"# \xff\n" + QUAD.replace(b"\n", b"\r\n"))
    vertices, faces = load_mesh(tmp_path / "FACE.OBJ")
    assert vertices.shape == (4, 3) and faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"f 0 1 2\n", "no vertex numbers from 1"),
        (b"f 1 2 99999999999\n", "no vertex numbers from 1"),
        (b"f 1 2 -9\n", "a face has vertex -5, expected less than 4"),
        (b"f 1 2 5\n", "a face has vertex 4, expected less than 4"),
        (b"f 1 2 x\n", "broken .obj file"),
        (b"v 1e99 0 0\n", "1 coordinates are NaN or infinite"),
    ],
)
def test_a_line_of_an_obj_that_fits_no_mesh_is_refused(
    line: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "x.obj").write_bytes(QUAD + line)
    with pytest.raises(UserError, match=message):
        load_mesh(tmp_path / "x.obj")


@pytest.mark.parametrize("faces", [np.array([["a"] * 3]), np.array([[0, 1, np.nan]]),
                                   np.array([[0, 1, -1]]), np.array([[0, 1, 2**40]])])  # fmt: skip
def test_faces_that_are_no_indices_are_refused(faces: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", faces=faces)
    with pytest.raises(UserError, match="other values than vertex indices"):
        load_faces(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": np.array("a")}, r"have shapes \(\), "),
        ({"template_offsets": np.zeros((1, 9, 3))}, r"expected \(N,\), \(V, 3\), \(N, V, 3\)"),
        ({"template_mean": np.full((5, 3), "a")}, "are no numbers"),
    ],
)
def test_templates_whose_arrays_do_not_fit_together_are_refused(
    change: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    arrays = {"subjects": np.array(["a"]), "template_mean": VERTICES,
              "template_offsets": np.zeros((1, 5, 3))}  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    assert list(load_templates(tmp_path / "x.npz")) == ["a"]
    np.savez(tmp_path / "x.npz", **(arrays | change))
    with pytest.raises(UserError, match=message):
        load_templates(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_mutated_meshes_are_read_or_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    content = QUAD
    if suffix == ".ply":
        corners = struct.pack("<B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 3)
        content = ply("binary_little_endian", f"element vertex 5{XYZ}", f"element face 2{LIST}",
                      VERTICES.tobytes(), corners)  # fmt: skip
    path = tmp_path / f"x{suffix}"
    for mutant in mutants(content, 150):
        path.write_bytes(mutant)
        try:
            load_mesh(path)
        except UserError as error:
            assert "\n" not in str(error)
