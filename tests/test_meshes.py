"""Pickles that cannot run code, meshes that keep their vertices, regions checked against V."""

import collections
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from files.arrays import load_npy
from files.meshes import load_faces, load_mesh, load_region, load_templates
from files.pickles import PickleReader, load_pickle

V = 7


def written(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays_come_back_at_every_protocol(protocol: int, tmp_path: Path) -> None:
    content = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float64(2.5),
        "more": collections.OrderedDict(x=[1, (2, None)], y={3}),
        "bytes": b"\xff\x00",
    }
    loaded = load_pickle(written(tmp_path / "x.pkl", content, protocol))
    np.testing.assert_array_equal(loaded["a"], content["a"])
    np.testing.assert_array_equal(loaded["fortran"], content["fortran"])
    assert loaded["scalar"] == 2.5 and loaded["more"] == content["more"]
    assert loaded["bytes"] == b"\xff\x00"


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_module_names_of_numpy_are_known(core: str) -> None:
    array = np.arange(3, dtype=np.int16)
    dumped = pickle.dumps(array, protocol=0)
    other = {"numpy.core": "numpy._core", "numpy._core": "numpy.core"}[core]
    renamed = dumped.replace(f"c{other}.".encode(), f"c{core}.".encode())
    assert f"c{core}.".encode() in renamed
    np.testing.assert_array_equal(PickleReader(io.BytesIO(renamed)).load(), array)


def test_python_2_pickles_are_read_as_latin_1() -> None:
    # What Python 2.7 writes for {'a': numpy.array([1, 128], '<i2')} at protocol 0.
    dumped = (
        b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4"
        b"\nS'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'i2'\np10\nI0\nI1\ntp11\nRp12\n"
        b"(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x01\\x00\\x80\\x00'\np15\ntp16\nbs."
    )
    loaded = PickleReader(io.BytesIO(dumped)).load()
    np.testing.assert_array_equal(loaded["a"], [1, 128])


class _Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("touch should_not_exist",)


def test_a_pickle_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "evil.pkl", {"a": _Attack()})
    with pytest.raises(UserError, match="evil.pkl.*system.*only numpy arrays"):
        load_pickle(path)
    assert not (tmp_path / "should_not_exist").exists()


@pytest.mark.parametrize("content", [b"not a pickle", pickle.dumps([1, 2, 3])[:-4], b"\x80"])
def test_a_broken_pickle_is_reported_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match="x.pkl: not a readable pickle"):
        load_pickle(tmp_path / "x.pkl")


SEAM_OBJ = """mtllib x.mtl
v 0 0 0
v 1 0 0 0.5 0.5 0.5
v 1 1 0
v 0 1 0
v 9 9 9
vt 0 0
vt 1 1
vn 0 0 1
f 1/1/1 2/1/1 3/2/1 4/2/1
f -5//1 -3//1 \\
 -2//1
"""


def test_an_obj_keeps_its_vertices_across_texture_seams(tmp_path: Path) -> None:
    (tmp_path / "x.obj").write_text(SEAM_OBJ)
    vertices, faces = load_mesh(tmp_path / "x.obj")
    assert vertices.tolist()[-1] == [9, 9, 9] and vertices.shape == (5, 3)
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 3]]


def test_a_ply_keeps_order_and_splits_quads(tmp_path: Path) -> None:
    (tmp_path / "x.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
        "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
        "0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"
    )
    vertices, faces = load_mesh(tmp_path / "x.ply")
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert sorted(map(tuple, np.sort(faces, axis=1).tolist())) in (
        [(0, 1, 2), (0, 2, 3)],
        [(0, 1, 3), (1, 2, 3)],
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.obj", b"", "x.obj: the file is empty"),
        ("x.obj", b"hello\n", "no vertices; is it a mesh"),
        ("x.obj", b"v 1 2\n", "has fewer than 3 coordinates"),
        ("x.obj", b"v 1 2 nan\n", "1 coordinates are NaN"),
        ("x.obj", b"v 1 2 3\nf 1 2 3\n", "a face has vertex 2, expected less than 1"),
        ("x.ply", b"nonsense", "x.ply: broken .ply file"),
        ("x.stl", b"solid", "expected .ply or .obj, got .stl"),
    ],
)
def test_a_broken_mesh_is_reported_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_mesh(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing.ply: no such file"):
        load_mesh(tmp_path / "nothing.ply")
    with pytest.raises(UserError, match="cannot be opened .*File name too long"):
        load_mesh(tmp_path / f"{'x' * 300}.ply")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"x.ply: no such file"):
        load_mesh(tmp_path / "file" / "x.ply")
    with pytest.raises(UserError, match="is a folder"):
        load_mesh(tmp_path)


def test_the_real_meshes_have_their_known_sizes(shared_data: Path) -> None:
    with_texture, faces = load_mesh(shared_data / "vocaset/texture_mesh.obj")
    plain, plain_faces = load_mesh(shared_data / "vocaset/FLAME_sample.ply")
    assert with_texture.shape == plain.shape == (5023, 3)
    assert sorted(map(sorted, faces.tolist())) == sorted(map(sorted, plain_faces.tolist()))
    assert load_mesh(shared_data / "biwi/BIWI.ply")[0].shape == (23370, 3)
    assert load_mesh(shared_data / "biwi6/templates/F1.obj")[0].shape == (3895, 3)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("flat", [False, True])
def test_templates_from_a_pickle(
    protocol: int, flat: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    mesh = rng.normal(size=(V, 3))
    content = {b"F1": mesh.ravel() if flat else mesh, "M1": mesh + 1}
    templates = load_templates(written(tmp_path / "templates.pkl", content, protocol))
    assert list(templates) == ["F1", "M1"]
    assert templates["F1"].dtype == np.float32
    np.testing.assert_array_equal(templates["F1"], mesh.astype(np.float32))


def test_templates_from_npz_of_either_layout(tmp_path: Path, rng: np.random.Generator) -> None:
    mesh = rng.normal(size=(V, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", ada=mesh, faces=np.zeros((2, 3), int))
    np.savez(
        tmp_path / "b.npz",
        subjects=["ada", "ben"],
        template_mean=mesh - 1,
        template_offsets=np.ones((2, V, 3), np.float16),
        colors=np.zeros((V, 3)),
    )
    np.testing.assert_array_equal(load_templates(tmp_path / "a.npz")["ada"], mesh)
    assert load_faces(tmp_path / "a.npz").shape == (2, 3)
    b = load_templates(tmp_path / "b.npz")
    assert list(b) == ["ada", "ben"]
    np.testing.assert_allclose(b["ben"], mesh, atol=1e-6)


def test_templates_from_a_folder_agree_with_the_pickle(shared_data: Path) -> None:
    folder = load_templates(shared_data / "biwi6/templates")
    pickled = load_templates(shared_data / "biwi6/templates.pkl")
    assert set(folder) == set(pickled) and len(folder) == 14
    for subject, vertices in folder.items():
        np.testing.assert_allclose(vertices, pickled[subject], atol=1e-6)


def test_templates_of_different_topologies_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.pkl", {"a": np.zeros((V, 3)), "b": np.zeros((V + 1, 3))})
    with pytest.raises(UserError, match="differ in the number of vertices: {'a': 7, 'b': 8}"):
        load_templates(path)
    with pytest.raises(UserError, match="subject -> mesh"):
        load_templates(written(tmp_path / "list.pkl", [1, 2]))
    with pytest.raises(UserError, match="expected .pkl"):
        (tmp_path / "t.txt").write_text("x")
        load_templates(tmp_path / "t.txt")


def test_a_region_is_the_same_in_every_format(tmp_path: Path) -> None:
    from scipy.io import savemat

    indices = [5, 0, 3]
    mask = np.isin(np.arange(V), indices)
    (tmp_path / "commas.txt").write_text("5, 0, 3\n")
    (tmp_path / "lines.txt").write_text("5\n0\n3\n")
    np.save(tmp_path / "index.npy", np.array([[5], [0], [3]], np.uint16))
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "mask01.npy", mask.astype(np.uint8))
    written(tmp_path / "list.pkl", indices)
    written(tmp_path / "dict.pkl", {b"lips": np.array(indices), "nose": np.array([1])})
    savemat(tmp_path / "matlab.mat", {"lips_idx": np.array(indices) + 1})  # MATLAB counts from 1
    np.savez(tmp_path / "x.npz", lips=indices, upper=[1])
    for name in ("commas.txt", "lines.txt", "index.npy", "list.pkl", "matlab.mat"):
        assert load_region(tmp_path / name, V).tolist() == indices, name
    for name in ("mask.npy", "mask01.npy"):
        assert load_region(tmp_path / name, V).tolist() == sorted(indices), name
    for name in ("dict.pkl", "x.npz"):
        assert load_region(tmp_path / name, V, key="lips").tolist() == indices, name
        assert load_region(tmp_path / f"{name}:lips", V).tolist() == indices, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", "1 2 7", "index 7, expected 0 to 6; was the file"),
        ("r.txt", "-1 2", "index -1, expected 0 to 6"),
        ("r.txt", "0.5 2", "expected integers"),
        ("r.txt", " \n", "r.txt: no vertices"),
        ("r.doc", "1", "expected .txt, .csv"),
    ],
)
def test_a_region_that_does_not_fit_is_refused(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_region(tmp_path / name, V)


def test_the_error_for_an_unknown_region_lists_the_known_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "masks.pkl", {"lips": [1], "nose": [2]})
    with pytest.raises(UserError, match="no region 'mouth'; it has lips, nose"):
        load_region(path, V, key="mouth")


@pytest.mark.parametrize(
    ("name", "n_vertices", "count"),
    [
        ("vocaset/FLAME_masks.pkl", 5023, 254),
        ("vocaset/masks/FLAME_lips_idx.mat", 5023, 371),
        ("vocaset/regions/lve.txt", 5023, 428),
        ("vocaset/regions/fdd.txt", 5023, 1501),
        ("biwi/lve.txt", 23370, 4996),
        ("biwi/fdd.txt", 23370, 7784),
        ("biwi/BIWI_lip.pkl", 23370, 4996),
        ("biwi6/BIWI_lip.pkl", 3895, 758),
        ("biwi6/masks/mouth_indices.npy", 3895, 731),
        ("biwi6/masks/upper_indices.npy", 3895, 402),
    ],
)
def test_the_real_regions_have_their_known_sizes(
    name: str, n_vertices: int, count: int, shared_data: Path
) -> None:
    assert len(load_region(shared_data / name, n_vertices, key="lips")) == count


def test_matlab_indices_are_counted_from_one(shared_data: Path) -> None:
    """Counted from 1, the .mat holds 250 of FLAME's lips; counted from 0, 218."""
    lips = set(load_region(shared_data / "vocaset/FLAME_masks.pkl", 5023, "lips").tolist())
    matlab = set(load_region(shared_data / "vocaset/masks/FLAME_lips_idx.mat", 5023).tolist())
    assert len(lips & matlab) == 250
    assert len(lips & {index + 1 for index in matlab}) == 218


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content.replace(b"}", b" "),  # numpy's header parser reaches the end
        lambda content: content.replace(b"(3,)", b"(9,)"),
        lambda content: content.replace(b"'<i8'", b"'|O8'"),
        lambda content: b"PK\x03\x04",
    ],
)
def test_a_broken_npy_is_reported_in_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(3))
    assert load_npy(path).tolist() == [0, 1, 2]
    path.write_bytes(damage(path.read_bytes()))
    for mapped in (False, True):
        with pytest.raises(UserError, match="array .*x.npy: not a"):
            load_npy(path, mapped=mapped)
