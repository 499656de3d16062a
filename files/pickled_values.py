"""What data-set pickles may contain, made of checked sizes and plain bytes.

numpy's own functions for this trust the pickle: a dtype with a manipulated state makes bytes of the
file object pointers. Here a dtype is one of `DTYPES` with a byte order, and an array is made only
of as many bytes as its shape needs.
"""

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {
    name: np.dtype(name)
    for name in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
BYTE_ORDERS = ("<", ">", "|", "=")
MAX_DIMENSIONS = 32  # of numpy 1
MAX_DEPTH = 32  # containers in containers
VALUE_BYTES = 64  # memory of a Python object, about
MAX_EMPTY = 2**20  # product of the other dimensions of an array without values

NUMPY_CORES = ("numpy.core", "numpy._core")  # renamed in numpy 2
BUILTINS = ("builtins", "__builtin__")  # renamed in Python 3
FUNCTIONS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *((f"{core}.multiarray", name) for core in NUMPY_CORES for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in NUMPY_CORES),
    *((module, name) for module in BUILTINS for name in ("bytes", "bytearray", "set", "frozenset")),
}
KEYS = (str, bytes, int, float, type(None), np.generic)  # of dicts and sets; bool is an int


class PickleError(ValueError):
    """A pickle that is broken, or with content that is not read."""


@dataclass
class PickledDtype:
    """Stands for a numpy.dtype."""

    name: str
    order: str = "="

    def __post_init__(self) -> None:
        if self.name not in DTYPES:
            raise PickleError(f"a dtype {ascii(self.name[:20])}; expected numbers")

    def set_state(self, state: Any) -> None:
        """Take the byte order from numpy's state (version, order, None, None, None, ...)."""
        match state:
            case (int(), str(order), None, None, None, int(), int(), int()):
                if order not in BYTE_ORDERS:
                    raise PickleError(f"a dtype with the byte order {ascii(order[:20])}")
                self.order = order
            case _:
                raise PickleError("a dtype of records or with metadata; expected numbers")

    def numpy(self) -> np.dtype:
        """The dtype as numpy's."""
        return DTYPES[self.name].newbyteorder(self.order)


@dataclass(eq=False)
class PendingArray:
    """Stands for an array until its state is read."""

    memo_keys: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How the values of an array follow from its bytes; `axes` as for `numpy.transpose`."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    axes: tuple[int, ...] | None = None

    @property
    def n_bytes(self) -> int:
        """Size of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array_of(self, content: bytes | bytearray) -> NDArray:
        """The array of these bytes, which it may share."""
        stored = self.dtype if self.dtype.kind != "b" else np.dtype(np.uint8)
        array = np.frombuffer(content, stored).reshape(self.shape, order=self.order)
        if self.dtype.kind == "b":  # another byte than 0 and 1 is no valid bool
            array = array != 0
        return array if self.axes is None else array.transpose(self.axes)


def layout_of(
    n_bytes: int, dtype: PickledDtype, shape: tuple, order: str, axes: tuple | None = None
) -> Layout:
    """The layout of an array of `n_bytes`; raises `PickleError` where its parts do not fit."""
    if len(shape) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise PickleError("an array with a shape that is not of sizes")
    layout = Layout(dtype.numpy(), shape, order, axes)
    if layout.n_bytes != n_bytes:
        raise PickleError(
            f"an array of shape {shape} has {n_bytes} bytes, expected {layout.n_bytes}"
        )
    if n_bytes == 0 and math.prod(n for n in shape if n) > MAX_EMPTY:
        raise PickleError(f"an array of shape {shape} without values")
    if axes is not None and (
        any(type(n) is not int for n in axes) or sorted(axes) != list(range(len(shape)))
    ):
        raise PickleError("an array whose axes are not those of its shape")
    return layout


def latin1_bytes(content: bytes | bytearray | str) -> bytes | bytearray:
    """The data of an array; Python 2 pickled it as text."""
    return content.encode("latin1") if isinstance(content, str) else content


def scalar_of(content: bytes | str, dtype: PickledDtype) -> np.generic:
    """The numpy scalar of these bytes; raises `PickleError` for another number of them."""
    layout = layout_of(len(content), dtype, (1,), "C")
    return layout.array_of(latin1_bytes(content))[0]


def array_with_state(state: Any) -> tuple[bytes | bytearray, Layout]:
    """Bytes and layout of numpy's state of an array: (version,) shape, dtype, is_fortran, data.

    Raises `PickleError` for any other state, such as that of an array of objects.
    """
    match state:
        case (int(), tuple(shape), PickledDtype() as dtype, int(is_fortran), data) | (
            tuple(shape),
            PickledDtype() as dtype,
            int(is_fortran),
            data,
        ) if isinstance(data, bytes | bytearray | str):
            content = latin1_bytes(data)
            return content, layout_of(len(content), dtype, shape, "F" if is_fortran else "C")
    raise PickleError("an array with an unknown state; expected one of numbers")


@dataclass(frozen=True)
class Function:
    """Stands for a function or class that a pickle refers to."""

    name: str


def call(
    name: str,
    arguments: tuple,
    make_array: Callable[[bytes | bytearray, Layout], Any],
    copied: Callable[[Any], Any],
) -> Any:
    """The value of a function in `FUNCTIONS` for arguments as pickles have them.

    make_array: makes an array of bytes and layout. copied: counts bytes or items that are copied,
    and returns them. Raises `PickleError` for other arguments.
    """
    match name, arguments:
        case "dtype", (str(kind), int(), int()):
            return PickledDtype(kind)
        case "_reconstruct", (Function("ndarray"), (0,), b"b" | "b"):
            return PendingArray()
        case "scalar", (PickledDtype() as dtype, (bytes() | str()) as content):
            return scalar_of(content, dtype)
        case "_frombuffer", (
            (bytes() | bytearray() | str()) as data, PickledDtype() as dtype, tuple(shape),
            "C" | "F" | "K" as order, *axes,
        ) if len(axes) == (order == "K") and all(type(a) is tuple for a in axes):  # fmt: skip
            content = copied(latin1_bytes(data))
            layout = layout_of(len(data), dtype, shape, order.replace("K", "C"), *axes)
            return make_array(content, layout)
        case "encode", (str(text), "latin1" | "latin-1"):
            return copied(text.encode("latin1"))
        case ("bytes", ()):
            return b""
        case "bytearray", () | (bytes(),) | (str(), "latin1" | "latin-1"):
            return bytearray(copied(latin1_bytes(*arguments[:1] or (b"",))))
        case "set" | "frozenset", (list(items),):
            kind = {"set": set, "frozenset": frozenset}[name]
            return kind(map(checked_key, copied(items)))
        case "OrderedDict", () | (list(),):
            pairs = copied(arguments[0]) if arguments else []
            if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
                raise PickleError("an OrderedDict that is not of pairs")
            return collections.OrderedDict((checked_key(key), item) for key, item in pairs)
    raise PickleError(f"a call of {name} with unknown arguments")


def checked_key(key: Any) -> Any:
    """`key` if it may be one of a dict or in a set; raises `PickleError` otherwise.

    Hashing a tuple in tuples has no limit of depth in Python.
    """
    if not isinstance(key, KEYS):
        raise PickleError(f"a key of type {type(key).__name__}; expected text or a number")
    return key


def weigh(
    value: Any, array_type: type, limit: int, depth: int, known: dict[int, tuple[int, int]]
) -> tuple[int, int]:
    """(bytes, height) of a value, with everything counted as often as it appears.

    Consumers copy shared parts and descend, so both are limited: raises `PickleError` above `limit`
    or MAX_DEPTH, as for a container in itself, and for anything but content. known: results by the
    `id` of a container.
    """
    kind = type(value)
    if kind in (int, float, bool, type(None)):
        return VALUE_BYTES, 0
    if kind in (str, bytes, bytearray):
        return VALUE_BYTES + len(value), 0
    if kind is array_type or isinstance(value, np.generic):
        return VALUE_BYTES + value.nbytes, 0
    if kind not in (list, tuple, dict, collections.OrderedDict, set, frozenset):
        raise PickleError("a function or an unfinished array as content")
    if id(value) in known:
        return known[id(value)]
    if depth > MAX_DEPTH:
        raise PickleError(f"more than {MAX_DEPTH} containers in one another")
    n_bytes, height = VALUE_BYTES, 0
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    for item in items:
        item_bytes, item_height = weigh(item, array_type, limit, depth + 1, known)
        n_bytes, height = n_bytes + item_bytes, max(height, item_height + 1)
        if n_bytes > limit:
            raise PickleError(f"content of more than {limit / 1e6:,.0f} MB in a smaller file")
    if height > MAX_DEPTH:
        raise PickleError(f"more than {MAX_DEPTH} containers in one another")
    known[id(value)] = n_bytes, height
    return n_bytes, height


def as_numbers(value: Any) -> NDArray:
    """The array of a pickle's array, number or nested lists of these.

    Raises `ValueError` for other content and for lists of different lengths.
    """
    if not _is_numeric(value):
        raise ValueError(f"expected numbers, got {type(value).__name__}")
    return np.asarray(value)


def _is_numeric(value: Any) -> bool:
    """numpy would make text of a list of numbers and one word."""
    if isinstance(value, list | tuple):
        return all(map(_is_numeric, value))
    return isinstance(value, int | float | np.generic | np.ndarray)
