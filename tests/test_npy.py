"""Files .npy and .npz from outside: what a header claims is compared with the bytes first."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from files import archives
from files.arrays import check_file, load_npy, load_npz
from tests.hostile import mutants

GOOD = {"descr": "<f4", "fortran_order": False, "shape": (4, 3)}


def npy(header: str, n_bytes: int = 48, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + bytes(n_bytes)


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


ARRAYS = (
    np.arange(6, dtype=">f8").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 5), np.uint8), np.array([True, False]), np.arange(3, dtype=np.float16),
)  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.dtype.str)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_arrays_come_back_as_numpy_reads_them(
    array: np.ndarray, version: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version)
    for mapped in (False, True):
        loaded, expected = load_npy(path, mapped=mapped), np.load(path)
        assert (loaded.dtype, loaded.flags.f_contiguous) == (
            expected.dtype,
            expected.flags.f_contiguous,
        )
        np.testing.assert_array_equal(loaded, expected)


def test_a_header_of_python_2_and_one_in_another_order_are_read(tmp_path: Path) -> None:
    for header in (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4L, 3L), }  \n",
        "{'shape':(4,3),'fortran_order':False,'descr':'<f4'}",
    ):
        (tmp_path / "x.npy").write_bytes(npy(header))
        assert load_npy(tmp_path / "x.npy").shape == (4, 3)


def test_an_npz_gives_its_numbers_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros((2, 3)), names=np.array(["ä", "bc"]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._a.npy", b"\x00\x05\x16\x07")
    arrays = load_npz(path)
    assert sorted(arrays) == ["a", "names"] and list(arrays["names"]) == ["ä", "bc"]


@pytest.mark.parametrize(
    "content",
    [
        npy(repr(GOOD | {"shape": (2**60, 3)})),
        npy(repr(GOOD | {"shape": (2**60, 2**60, 0)})),
        npy(repr(GOOD | {"shape": (-4, -3)})),
        npy(repr(GOOD | {"shape": (True, 12)})),
        npy(repr(GOOD | {"shape": (4, 3j)})),
        npy(repr(GOOD | {"descr": "|V0"})),
        npy(repr(GOOD | {"descr": "<U0"})),
        npy(repr(GOOD | {"descr": "|O"})),
        npy(repr(GOOD | {"descr": ("<f4", (10**9,)), "shape": (0,)})),
        npy(repr(GOOD | {"descr": "<f3"})),
        npy("(" * 5000),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, " + "-" * 5000 + "3)}"),
        npy(repr(GOOD).replace("4, 3", "9" * 5000)),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
        b"\x93NUMPY",
        zipped(("a.npy", npy(repr(GOOD)))),
    ],
)
def test_a_header_that_is_no_plain_one_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    for mapped in (False, True):
        with pytest.raises(UserError, match="x.npy: not a complete .npy of numbers: it"):
            load_npy(tmp_path / "x.npy", mapped=mapped)


def with_method(content: bytes, method: int) -> bytes:
    """The zip archive with another compression method in its headers."""
    local, central = content.index(b"PK\x03\x04") + 8, content.index(b"PK\x01\x02") + 10
    patched = bytearray(content)
    for place in (local, central):
        patched[place : place + 2] = struct.pack("<H", method)
    return bytes(patched)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(repr(GOOD)), "it is an .npy; rename it"),
        (b"PK\x03\x04 and no more", "its zip directory is damaged"),
        (zipped(("a.txt", b"text")), "is not an .npy"),
        (zipped(("a.npy", npy(repr(GOOD | {"descr": "|O"})))), "a.npy: its header"),
        (zipped(("a.npy", np.array(b"").tobytes())), "a.npy: it does not begin"),
        (with_method(zipped(("a.npy", npy(repr(GOOD)))), 99), "compressed unusually"),
        (
            zipped(("a.npy", npy(repr(GOOD | {"descr": "<U1", "shape": (1,)}), 0) + b"\xff" * 4)),
            "its text is not Unicode",
        ),
    ],
)
def test_a_broken_npz_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"x.npz: not a readable .npz: .*{message}"):
        load_npz(tmp_path / "x.npz")


def test_an_archive_that_expands_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(zipped(("a.npy", npy(repr(GOOD | {"shape": (10**6,)}), 4 * 10**6))))
    assert load_npz(path)["a"].shape == (10**6,)
    monkeypatch.setattr(archives, "FREE_BYTES", 10**5)  # 64 MiB take long to write
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("a member was read"))
    with pytest.raises(UserError, match=r"its members claim \d+ bytes, the file has \d+"):
        load_npz(path)


@pytest.mark.parametrize("load", [load_npy, load_npz])
def test_mutated_files_are_read_or_refused_in_one_line(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = tmp_path / "x"
    if load is load_npy:
        np.save(path.with_suffix(".npy"), array)
        content = path.with_suffix(".npy").read_bytes()
    else:
        np.savez_compressed(path, a=array, names=np.array(["a", "b"]))
        content = path.with_suffix(".npz").read_bytes()
    for mutant in mutants(content, 120):
        path.write_bytes(mutant)
        try:
            load(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(UserError, match=r"pipe.npy: is a pipe or a device, expected a file"):
        load_npy(tmp_path / "pipe.npy")


def test_a_file_that_cannot_be_opened_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.npy").write_bytes(b"content")
    monkeypatch.setattr(Path, "open", refuse)  # the owner of a test may read every file
    with pytest.raises(UserError, match=r"cannot be opened \(Permission denied\); check its perm"):
        check_file(tmp_path / "x.npy", "array")
