"""Model files: one .safetensors with its config as JSON in the header."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, reason_of
from common.mapped_values import map_values
from common.start_up import load_meta_kernels
from common.whole_file import whole_file
from files.archives import open_zip, read_member
from files.arrays import check_file
from files.pickled_values import PickleError
from files.texts import parse_json
from files.torch_files import BROKEN_ARCHIVE, read_tensor_sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_FILES = {  # key in the header of a .safetensors written by this project -> what it holds
    "jambatalk": "a model of this project; demo.py takes it as it is",
    "lip_reader": "a lip reader; give best.safetensors from the same folder",
    "jambatalk-release": "published weights converted by release.py; demo.py takes them",
}
MODEL_SOURCE = "give best.safetensors, which main.py writes to the run's folder"
TYPE_NAMES = {  # torch's names of types -> those of .safetensors
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<i2"}  # of weights: types of numpy
INITIALISERS = (  # functions of torch.nn.init and methods of tensors
    "kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_normal_",
    "xavier_uniform_",
)  # fmt: skip
MAX_HEADER = 2**24  # bytes that are parsed to name another kind of file
BUILD_ERRORS = (  # of networks whose numbers contradict each other
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def save_model_file(
    path: str | Path, weights: "dict[str, Tensor]", key: str, header: dict[str, Any]
) -> None:
    """Write `weights`, and `header` as JSON under `key` of the file's header; whole or not at all.

    The format is https://github.com/huggingface/safetensors#format. Its own writer makes a
    temporary file whose name does not tell whether the process that writes it still runs. Raises
    `OSError` when the file cannot be written.
    """
    import torch

    ordered = sorted(weights.items(), key=lambda item: (-item[1].element_size(), item[0]))
    entries: dict[str, Any] = {"__metadata__": {key: json.dumps(header)}}
    end = 0
    for name, value in ordered:
        start, end = end, end + value.numel() * value.element_size()
        dtype = TYPE_NAMES[str(value.dtype).removeprefix("torch.")]
        offsets = {"shape": list(value.shape), "data_offsets": [start, end]}
        entries[name] = {"dtype": dtype, **offsets}
    head = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, value in ordered:
            values = value.detach().cpu().contiguous().reshape(-1)
            file.write(values.view(torch.uint8).numpy().data)


def load_model_file(
    path: str | Path, key: str, what: str = "checkpoint", remedy: str = MODEL_SOURCE
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """(weights, header) of a file that `save_model_file` wrote under the same `key`.

    Weights have the types of the file and are read when they are used (`common.mapped_values`).
    Raises `UserError`, beginning with `what` and the path, for a file that is missing, damaged or
    of another kind; its message ends with `remedy` where the file itself suggests none.
    """
    from safetensors import SafetensorError, safe_open

    path = check_file(path, what)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            header = (file.metadata() or {}).get(key)
            types = {file.get_slice(name).get_dtype() for name in names}
        if types - set(FLOATS):
            raise UserError(
                f"{what} {path}: weights of type {min(types - set(FLOATS))}, expected "
                f"{', '.join(FLOATS)}; {other_model_file(path, key, remedy) or remedy}"
            )
        weights = _mapped(path)
    except (SafetensorError, OSError) as error:
        damage = f"not a whole .safetensors file ({reason_of(error)}); {remedy}"
        raise UserError(
            f"{what} {path}: {other_model_file(path, key, remedy) or damage}"
        ) from error
    try:
        content = parse_json(header or "")
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return weights, content
    except ValueError as error:
        lack = f"no {key} header; {remedy}"
        raise UserError(f"{what} {path}: {other_model_file(path, key, remedy) or lack}") from error


def _mapped(path: Path) -> "dict[str, Tensor]":
    """The tensors of a .safetensors that its own reader accepts, memory-mapped one by one."""
    import numpy as np
    import torch

    weights = {}
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(begin - 8))
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            (first, end), kind = entry["data_offsets"], np.dtype(FLOATS[entry["dtype"]])
            values = map_values(file, kind, begin + first, (end - first) // kind.itemsize)
            tensor = torch.from_numpy(values).view(entry["shape"])
            weights[name] = tensor.view(torch.bfloat16) if entry["dtype"] == "BF16" else tensor
    return weights


def load_torch_file(path: Path, mmap: bool) -> Any:
    """What torch.save wrote, on the CPU, of tensors and plain containers; nothing runs code.

    mmap: read tensors when they are used. Raises `pickle.UnpicklingError` for other objects,
    `ValueError` for a file that is damaged or that expands to much more than it has.
    """
    import torch

    try:
        read_tensor_sizes(path)
    except PickleError as error:
        raise pickle.UnpicklingError(str(error)) from error
    except BROKEN_ARCHIVE as error:
        raise ValueError(reason_of(error)) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # of zip, pickle and torch, without a common class
        raise ValueError(reason_of(error)) from error


def check_sizes(weights: "dict[str, Tensor]", n_bytes: int) -> None:
    """Raise `ValueError` where tensors have more values than their file of `n_bytes` can hold.

    The elements of a tensor may share one place in memory. Copies would not.
    """
    needed = sum(value.numel() * value.element_size() for value in weights.values())
    if needed > n_bytes:
        raise ValueError(f"its weights claim {needed} bytes, the file has {n_bytes}")


def built_without_memory(build: "Callable[[], nn.Module]") -> "nn.Module":
    """The network that `build` makes, on torch's device "meta" and without initial values.

    The numbers of a header are only allocated where tensors of these sizes are there. Raises
    `ValueError` where they make no network. Arithmetic on "meta", such as that of initialisers, is
    Python code of torch that imports torch._dynamo: 1.5 s.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class WithoutValues(TorchFunctionMode):
        """Initialisers return their tensor as it is."""

        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if getattr(function, "__name__", "") in INITIALISERS:
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    def built() -> "nn.Module":
        with torch.device("meta"), WithoutValues():
            return build()

    try:
        try:
            return built()
        except NotImplementedError:  # of an operation on "meta"
            if not load_meta_kernels():
                raise
            return built()
    except BUILD_ERRORS as error:
        raise ValueError(f"its numbers make no network: {reason_of(error)}") from error


def misfits(network: "nn.Module", weights: "dict[str, Tensor]") -> list[str]:
    """The weights whose shapes differ from those of a network, in words."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    return [
        f"{name}: {given.get(name, 'none')}, expected {expected.get(name, 'none')}"
        for name in sorted(expected | given)
        if expected.get(name) != given.get(name)
    ]


def other_model_file(path: Path, key: str = "", remedy: str = MODEL_SOURCE) -> str:
    """What a file that is not the expected model file holds, and the remedy; "" if unknown.

    key: that of the expected file, for which "" is returned; remedy: for files that suggest none
    themselves. Reads the header of a .safetensors, or the names inside a file of torch.save.
    Nothing in the file is unpickled.
    """
    with path.open("rb") as file:
        head = file.read(9)
        if head[8:] == b"{":
            length = min(int.from_bytes(head[:8], "little"), MAX_HEADER)
            try:
                metadata = parse_json(b"{" + file.read(length - 1)).get("__metadata__", {})
            except ValueError:
                return ""  # truncated
            if not isinstance(metadata, dict):
                return ""
            others = (
                text for name, text in MODEL_FILES.items() if name != key and name in metadata
            )
            return next(others, "")
    if not head.startswith(b"PK"):
        return f"not a model file; {remedy}"
    try:
        with open_zip(path) as archive:
            pickles = [m for m in archive.infolist() if m.filename.endswith("/data.pkl")]
            if pickles and b"generators" in read_member(archive, pickles[0]):
                return "a training state; give best.safetensors from the same folder"
    except (OSError, ValueError):
        return ""
    if pickles:
        return f"a file of torch.save (demo.py takes published weights); {remedy}"
    return f"a zip archive; {remedy}"
