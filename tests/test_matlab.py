"""Matrices of .mat files, against scipy's reader, and files that attack it."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from common.errors import UserError
from files.matlab import HEADER_BYTES, load_mat
from files.meshes import load_region
from tests.hostile import mutants

V = 7
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


@pytest.mark.parametrize("compressed", [False, True])
def test_matrices_are_those_of_scipy(compressed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "x.mat"
    numbers = {
        f"name_{dtype}_{n}": rng.integers(0, 99, (n, 3)).astype(dtype)
        for dtype in DTYPES
        for n in (0, 1, 5)
    }
    others = {"word": "text", "cell": np.array([1, "a"], object), "record": {"a": 1},
              "complex_": np.array([1j])}  # fmt: skip
    savemat(path, numbers | others, do_compression=compressed)
    loaded, expected = load_mat(path), loadmat(path)
    assert loaded.keys() == numbers.keys()
    for name, matrix in loaded.items():
        assert matrix.dtype == expected[name].dtype
        np.testing.assert_array_equal(matrix, expected[name])


def test_a_file_of_another_byte_order_is_read(tmp_path: Path) -> None:
    """[[258], [3]], uint16 in a big-endian file, written by hand."""
    big = [14, 0, 6, 8, 11, 0, 5, 8, 2, 1, 1 << 16 | 1, ord("a") << 24, 4, 4, 258 << 16 | 3, 0]
    big[1] = 4 * (len(big) - 2)
    header = b"by hand".ljust(124) + b"\x01\x00MI"
    (tmp_path / "x.mat").write_bytes(header + np.array(big, ">u4").tobytes())
    assert load_mat(tmp_path / "x.mat")["a"].tolist() == [[258], [3]]
    assert loadmat(tmp_path / "x.mat")["a"].tolist() == [[258], [3]]


def written(path: Path, elements: bytes) -> Path:
    path.write_bytes(b"by hand".ljust(124) + b"\x00\x01IM" + elements)
    return path


def element(kind: int, content: bytes, size: int | None = None) -> bytes:
    n_bytes = len(content) if size is None else size
    return np.array([kind, n_bytes], "<u4").tobytes() + content + bytes(-len(content) % 8)


def matrix(shape: tuple[int, ...], values: bytes, kind: int = 9, size: int | None = None) -> bytes:
    sizes = np.array(shape, "<i4").tobytes()
    parts = (element(6, b"\x06" + bytes(7)), element(5, sizes), element(1, b"lips"))
    return element(14, b"".join(parts) + element(kind, values, size))


BOMB = zlib.compress(bytes(20_000_000), 9)
HOSTILE = {
    "a decompression bomb": element(15, BOMB),
    "many bombs": element(15, BOMB) * 20,
    "a bomb in a bomb": element(15, zlib.compress(element(15, BOMB))),
    "a size beyond the file": matrix((1, 1), bytes(8), size=2**31),
    "a shape beyond the values": matrix((2**15, 2**15), bytes(8)),
    "a negative shape": matrix((-1, -1), bytes(8)),
    "no values of huge sizes": matrix((0, 2**31 - 1), b""),
    "a thousand dimensions": matrix((1,) * 1000, bytes(8)),
    "no dimensions": matrix((), bytes(8)),
    "an unknown type": matrix((1, 1), bytes(8), kind=99),
    "a small element of 9 bytes": np.array([9 << 16 | 1, 0, 0, 0], "<u4").tobytes(),
    "a cut tag": element(14, b"")[:5],
    "many elements": element(1, b"") * 100_000,
    "broken compression": element(15, b"\x78\x9c" + b"\xff" * 9),
    "cut compression": element(15, zlib.compress(matrix((1, 1), bytes(8)))[:-6]),
    "NaN": matrix((1, 1), np.array(np.nan).tobytes()),
    "a fraction": matrix((1, 1), np.array(1.5).tobytes()),
    "a number beyond integers": matrix((1, 1), np.array(1e300).tobytes()),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_ends_in_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"region .*x.mat: "):
        load_region(written(tmp_path / "x.mat", HOSTILE[kind]), V)


@pytest.mark.parametrize(
    "header", [b"MATLAB 7.3".ljust(124) + b"\x00\x02IM", b"\x00" * 200, b"short"]
)
def test_other_versions_are_refused_with_a_remedy(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(header)
    with pytest.raises(UserError, match="x.mat: not a readable .mat: .*; save the indices"):
        load_mat(tmp_path / "x.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_mutants_are_read_or_end_in_one_line(compressed: bool, tmp_path: Path) -> None:
    path, n_refused = tmp_path / "x.mat", 0
    savemat(path, {"lips": np.arange(1, V)}, do_compression=compressed)
    content = path.read_bytes()
    for mutant in mutants(content[HEADER_BYTES - 4 :], 400):
        path.write_bytes(content[: HEADER_BYTES - 4] + mutant)
        try:
            load_region(path, V)
        except UserError:
            n_refused += 1
    assert n_refused > 200
