"""Files of arrays that data sets and people bring, read with suspicion: .pkl, .npy, .npz.

Data-set pickles were written by Python 2 and 3, numpy 1 and 2; they are read with an unpickler
that knows numpy arrays and plain containers alone, so that no file can run code.
"""

import codecs
import collections
import json
import pickle
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,  # a length of which the damage made an absurd one
)
MODEL_FILES = {  # key in the header of a .safetensors that the project writes -> what the file is
    "jambatalk": "our own model; nothing to convert, demo.py takes it as it is",
    "lip_reader": "the lip reader; give best.safetensors beside it",
    "jambatalk-release": "published weights as release.py converts them, which demo.py takes",
}
MODEL_WANTED = "main.py writes one, best.safetensors in the run's folder"
MAX_HEADER = 100_000_000  # bytes, of a .safetensors: its own reader's limit
# numpy parses the header of an .npy as Python; damaged ones fail in Python's tokenizer, too.
BROKEN_NPY = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    zipfile.BadZipFile,
)


def check_file(path: str | Path, what: str) -> Path:
    """`path` as a Path when it is a file with something in it; `UserError` otherwise."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{what} {path}: is a folder; a file is wanted")
    if not path.exists():
        raise UserError(f"{what} {path}: no such file; check the name")
    if path.stat().st_size == 0:
        raise UserError(f"{what} {path}: the file is empty; copy or download it again")
    return path


def other_model_file(path: Path) -> str:
    """What `path`, not the model file wanted, seems to be, and what to give; "" if unclear.

    Looks at the beginning of a .safetensors and at the keys of a file of torch.save; runs nothing.
    """
    with path.open("rb") as file:
        head = file.read(9)
        if head[8:] == b"{":
            try:
                length = min(int.from_bytes(head[:8], "little"), MAX_HEADER)
                names = json.loads(b"{" + file.read(length - 1)).get("__metadata__", {})
            except ValueError:
                return ""  # cut off
            return next((words for name, words in MODEL_FILES.items() if name in names), "")
    if not head.startswith(b"PK"):
        return f"not a model file; {MODEL_WANTED}"
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if keys and b"generators" in archive.read(keys[0]):
                return "a training state; give best.safetensors beside it"
    except (zipfile.BadZipFile, OSError, ValueError):
        return ""
    what = "a file of torch.save, which demo.py takes if published" if keys else "a zip archive"
    return f"{what}; {MODEL_WANTED}"


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What Python 3 writes for bytes at protocol 2: `_codecs.encode(text, 'latin1')`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding}")
    return codecs.encode(text, "latin1")


def _known_names() -> dict[tuple[str, str], Any]:
    """(module, name) -> object, for every global that a data file has reason to mention."""
    array = np.zeros(1)
    reconstruct, frombuffer = array.__reduce__()[0], array.__reduce_ex__(5)[0]
    scalar = np.float64(0).__reduce__()[0]
    known: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
        ("collections", "OrderedDict"): collections.OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):  # renamed in numpy 2
        known[f"{core}.multiarray", "_reconstruct"] = reconstruct
        known[f"{core}.multiarray", "scalar"] = scalar
        known[f"{core}.numeric", "_frombuffer"] = frombuffer
    for builtins in ("builtins", "__builtin__"):  # renamed in Python 3
        for kind in (bytes, bytearray, list, tuple, dict, set, frozenset):
            known[builtins, kind.__name__] = kind
    return known


def find_known(module: str, name: str) -> Any:
    """The object that a pickle may mention as `module.name`; `UnpicklingError` for all others."""
    known = _known_names()
    if (module, name) not in known:
        raise pickle.UnpicklingError(
            f"it refers to {module}.{name}; only numpy arrays and plain containers are read"
        )
    return known[module, name]


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that builds numpy arrays, numbers, strings and plain containers, nothing else.

    Strings of Python 2 come back as latin-1 text.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """See `find_known`."""
        return find_known(module, name)


def load_pickle(
    path: str | Path,
    what: str = "pickle",
    unpickler: Callable[[BinaryIO], Any] = RestrictedUnpickler,
) -> Any:
    """The content of a data-set pickle; `UserError` when it is broken or holds anything unusual."""
    path = check_file(path, what)
    with path.open("rb") as file:
        try:
            return unpickler(file).load()
        except BROKEN_PICKLE as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"{what} {path}: not a readable pickle of arrays: {reason}") from error


def load_npy(path: str | Path, what: str = "array", mapped: bool = False) -> NDArray:
    """The array of numbers in an .npy, memory-mapped (read-only) when `mapped`."""
    path = check_file(path, what)
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except BROKEN_NPY as error:
        raise UserError(f"{what} {path}: not a whole .npy of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biuf":
        raise UserError(f"{what} {path}: not an .npy of numbers")
    return array


def load_npz(path: Path, what: str = "archive") -> dict[str, NDArray]:
    """The arrays of an .npz by name."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive.items())
    except (*BROKEN_NPY, AttributeError) as error:
        raise UserError(f"{what} {path}: not a readable .npz: {error}") from error
