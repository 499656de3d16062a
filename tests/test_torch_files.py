"""Files of torch.save whose sizes are checked before torch reads them."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from files.torch_files import BROKEN_ARCHIVE, TensorSize, check_state_dict, read_tensor_sizes
from released.weights import load_release
from tests.hostile import mutants
from tests.hostile_pickles import called, integer, many, text
from training.state_file import generators, load_state, save_state

READERS: dict[str, Callable[[Path], Any]] = {
    "state": load_state,
    "release": load_release,
    "encoder": lambda path: check_state_dict(path, "--encoder"),
}


def test_sizes_of_a_training_state_are_its_tensors(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    state = {
        "model": model.state_dict(),  # has _metadata
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "generators": generators(),
        "tied": [model[0].weight, model[0].weight.T],
        "none": torch.zeros(0, 3),
        "epoch": 7,
    }
    assert save_state(tmp_path / "last.pt", state) == ""
    sizes = read_tensor_sizes(tmp_path / "last.pt")
    assert sizes["epoch"] == 7 and sizes["none"] == TensorSize(0)
    assert sizes["tied"] == [TensorSize(60)] * 2
    for name, tensor in model.state_dict().items():
        assert sizes["model"][name] == TensorSize(tensor.nbytes)
    assert load_state(tmp_path / "last.pt")["epoch"] == 7


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
              "uint8", "bool"],
)  # fmt: skip
def test_every_usual_type_is_known(dtype: str, tmp_path: Path) -> None:
    tensor = torch.ones(2, 3, dtype=getattr(torch, dtype))
    torch.save(
        {"a": tensor, "b": torch.nn.Parameter(tensor, requires_grad=False)}, tmp_path / "x.pth"
    )
    check_state_dict(tmp_path / "x.pth", "file")
    assert read_tensor_sizes(tmp_path / "x.pth")["a"].nbytes == tensor.nbytes


def tensor(
    shape: tuple[int, ...], stride: tuple[int, ...], count: int = 4, offset: int = 0
) -> bytes:
    """The operations that make a tensor of a storage "0" with `count` float32."""
    storage = many(
        text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), integer(count)
    )
    sizes = many(*map(integer, shape)), many(*map(integer, stride))
    hooks = called(b"ccollections\nOrderedDict\n")
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return called(rebuild, storage + b"Q", integer(offset), *sizes, b"\x89", hooks)


def written(path: Path, value: bytes, values: bytes = bytes(16), **entries: bytes) -> Path:
    """A file of torch.save with {"generators": value} in its pickle, and more entries."""
    content = b"\x80\x02}" + text("generators") + value + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": content, "byteorder": b"little", "data/0": values,
                           "version": b"3\n", **entries}.items():  # fmt: skip
            archive.writestr(f"archive/{name}", data)
    return path


def test_the_written_file_is_one_of_torch(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", tensor((2, 2), (2, 1)))
    assert load_state(path)["generators"].tolist() == [[0, 0], [0, 0]]


HOSTILE = {
    "code": called(b"cposix\nsystem\n", text("true")),
    "bytearray(n)": called(b"cbuiltins\nbytearray\n", integer(3_000_000_000)),
    "a storage beyond its entry": tensor((2, 2), (2, 1), count=2**28),
    "a tensor beyond its storage": tensor((2**20,), (1,)),
    "a tensor that repeats a value": tensor((2**40,), (0,)),
    "an offset beyond the storage": tensor((2,), (1,), offset=3),
    "a stride beyond the storage": tensor((2,), (2**40,)),
    "a negative stride": tensor((2,), (-1,)),
    "a negative size": tensor((-2,), (1,)),
    "strides of another number": tensor((2,), (1, 1)),
    "a sparse tensor": called(b"ctorch._utils\n_rebuild_sparse_tensor\n", text("a")),
    "a persistent id of text": text("0") + b"Q",
    "an unknown storage": many(
        text("storage"), b"ctorch\nFloatStorage\n", text("1"), text("cpu"), integer(4)
    ) + b"Q",
    "lists in lists": b"]" * 900 + b"a" * 899,
    "a class with a state": b"}}b",
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_hostile_content_ends_in_one_line(reader: str, tmp_path: Path) -> None:
    for kind, value in HOSTILE.items():
        with pytest.raises(UserError, match="x.pth: "):
            READERS[reader](written(tmp_path / "x.pth", value))
            pytest.fail(kind)


@pytest.mark.parametrize("reader", READERS)
def test_hostile_archives_end_in_one_line(reader: str, tmp_path: Path) -> None:
    path, honest = tmp_path / "x.pth", tensor((2, 2), (2, 1))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # a bomb
        archive.writestr("archive/data.pkl", b"\x80\x02}" + text("a") + honest + b"s.")
        archive.writestr("archive/data/0", bytes(16))
    bomb = path.read_bytes()
    whole = written(path, honest).read_bytes()
    two = written(path, honest, **{"deep/data.pkl": b"\x80\x02N."}).read_bytes()
    old = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    for content in (bomb, two, whole[:-30], whole[: len(whole) // 2], b"PK\3\4", old, b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x.pth: "):
            READERS[reader](path)


@pytest.mark.parametrize("content", [[1], {"a": 1}, {1: torch.zeros(1)}, {"a": {}}, None])
def test_what_is_no_state_dict_is_no_encoder(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(UserError, match="--encoder .*x.bin: not a whole state dict of torch.save"):
        check_state_dict(tmp_path / "x.bin", "--encoder")


def test_mutants_are_read_or_end_in_an_expected_error(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(3, 5), "b": [1, 2.5, "c", np.pi]}, saved)
    path, n_refused = tmp_path / "x.pth", 0
    for mutant in mutants(saved.getvalue(), 300):
        path.write_bytes(mutant)
        try:
            read_tensor_sizes(path)
        except BROKEN_ARCHIVE:
            n_refused += 1
    assert n_refused > 50
