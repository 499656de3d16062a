"""Files of torch.save, checked before torch reads them: .pth, last.pt, pytorch_model.bin.

`torch.load(..., weights_only=True)` runs no code, but it trusts sizes: that of a storage is not
compared with the file, a compressed file may expand, a tensor may repeat one value a trillion
times, and `bytearray(n)` is allowed. `read_tensor_sizes` reads the pickle inside the archive with
our own reader, in which a tensor is only its size. See torch/serialization.py and
torch/_weights_only_unpickler.py.
"""

import collections
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import UserError, reason_of
from files.archives import open_zip, read_member
from files.arrays import check_file
from files.pickled_values import Function, PickleError
from files.pickles import PickleReader

MAX_ENTRIES = 200_000  # files in the archive, one for each tensor
MAX_DIMENSIONS = 64  # of torch
ITEM_BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2,
              "Char": 1, "Byte": 1, "Bool": 1}  # of a storage  # fmt: skip
STORAGES = {f"{name}Storage": n_bytes for name, n_bytes in ITEM_BYTES.items()}
BROKEN_ARCHIVE = (OSError, ValueError, OverflowError, MemoryError)
TORCH_FUNCTIONS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(("torch", name) for name in STORAGES),
}


@dataclass(frozen=True)
class Storage:
    """Stands for the values of tensors: how many, and bytes of one."""

    count: int
    item_bytes: int


@dataclass(frozen=True)
class TensorSize:
    """Stands for a tensor."""

    nbytes: int


class TorchPickleReader(PickleReader):
    """Reads the pickle of torch.save with a `TensorSize` for every tensor.

    storages: name -> bytes of the archive's entry. Raises `ValueError` where a tensor does not fit.
    """

    array_type = TensorSize
    functions = TORCH_FUNCTIONS
    arrays = "tensors"

    def __init__(self, file: BinaryIO, storages: dict[str, int]) -> None:
        super().__init__(file)
        self._size += sum(storages.values())
        self._storages = storages

    def persistent(self, key: Any) -> Storage:
        """A storage, ("storage", type, name, device, count); its bytes have to be there."""
        match key:
            case "storage", Function(kind), str(name), str(), int(count) if kind in STORAGES:
                n_bytes = self._storages.get(name, -1)
                if count < 0 or count * STORAGES[kind] != n_bytes:
                    raise ValueError(f"storage {ascii(name[:20])} of {count} values is incomplete")
                return Storage(count, STORAGES[kind])
        raise PickleError("a storage of an unknown kind")

    def call(self, name: str, arguments: tuple) -> Any:
        """The value of one of `TORCH_FUNCTIONS`."""
        match name, arguments:
            case "_rebuild_tensor_v2", (
                Storage() as storage,
                int(offset),
                tuple(shape),
                tuple(stride),
                bool(),
                collections.OrderedDict(),
            ):
                return _tensor_size(storage, offset, shape, stride)  # fmt: skip
            case "_rebuild_parameter", (TensorSize() as tensor, bool(), collections.OrderedDict()):
                return tensor
            case "OrderedDict", ():
                return collections.OrderedDict()
        raise PickleError(f"a call of {name} with unknown arguments")

    def build(self, target: Any, state: Any) -> Any:
        """`target`; a state dict has its `_metadata` as the state of an OrderedDict."""
        if type(target) is not collections.OrderedDict or type(state) is not dict:
            raise PickleError("a state of something else than a state dict")
        return target


def _tensor_size(storage: Storage, offset: int, shape: tuple, stride: tuple) -> TensorSize:
    """A tensor of these sizes; raises `ValueError` where it leaves or repeats its storage."""
    sizes = (offset, *shape, *stride)
    if any(type(n) is not int or n < 0 for n in sizes) or len(shape) != len(stride):
        raise ValueError("a tensor whose shape is not of sizes")
    count, last = 1, offset
    for n, step in zip(shape, stride, strict=True):
        count, last = count * n, last + max(n - 1, 0) * step
    if len(shape) > MAX_DIMENSIONS or (count and last >= storage.count) or count > storage.count:
        raise ValueError(f"a tensor of {count} values, its storage has {storage.count}")
    return TensorSize(count * storage.item_bytes)


def check_state_dict(path: str | Path, what: str) -> None:
    """Raise `UserError` unless a file of torch.save holds names and tensors that fit into it."""
    path = check_file(path, what)
    try:
        content = read_tensor_sizes(path)
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(tensor, TensorSize)
            for name, tensor in content.items()
        ):
            raise PickleError(f"a {type(content).__name__}, not names and tensors")
    except BROKEN_ARCHIVE as error:
        raise UserError(
            f"{what} {path}: not a whole state dict of torch.save ({reason_of(error)}); copy it "
            "again, or save it anew with PyTorch 1.6 or later"
        ) from error


def read_tensor_sizes(path: Path) -> Any:
    """The content of a file of torch.save with a `TensorSize` for every tensor.

    Raises one of `BROKEN_ARCHIVE`: `PickleError` for content that is more than tensors, numbers,
    text and plain containers, another `ValueError` for a damaged file.
    """
    with open_zip(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        _check_entries(archive.infolist(), pickles, path.stat().st_size)
        content = io.BytesIO(read_member(archive, entries[pickles[0]]))
    folder = pickles[0].removesuffix("data.pkl") + "data/"
    storages = {
        name.removeprefix(folder): entry.file_size
        for name, entry in entries.items()
        if name.startswith(folder)
    }
    return TorchPickleReader(content, storages).load()


def _check_entries(entries: list[zipfile.ZipInfo], pickles: list[str], size: int) -> None:
    if len(entries) > MAX_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two entries have one name, or there are too many")
    if len(pickles) != 1:
        raise ValueError("expected an archive with one data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed entries, expected those of torch.save")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("the entries have more bytes than the file")
