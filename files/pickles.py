"""Data-set pickles, read without Python's unpickler, so that no file can run code.

Pickles of Python 2 and 3 (protocols 0 to 5) and of numpy 1 and 2 are read as `pickle.load(file,
encoding="latin1")` reads them, as long as they hold only arrays of numbers, numbers, text, bytes
and plain containers. Names of functions in a pickle select a branch of `pickled_values.call`, never
a Python object. What a file makes is limited by its own size and by the numbers below. The opcodes
are described in https://github.com/python/cpython/blob/3.13/Lib/pickletools.py.
"""

import codecs
import collections
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError, reason_of
from files.arrays import check_file
from files.pickled_values import (
    FUNCTIONS,
    MAX_DEPTH,
    Function,
    Layout,
    PendingArray,
    PickledDtype,
    PickleError,
    array_with_state,
    call,
    checked_key,
    weigh,
)

MAX_OPERATIONS = 5_000_000  # opcodes; VOCASET's index has half a million
MAX_CONTAINERS = 1_000_000
MAX_MEMO = 2_000_000  # entries, which pickles number from 0
MAX_INTEGER = 2**64  # larger ones are in no array; many of them can have one hash
LONGEST_NUMBER = 64  # characters of a number in text
LONGEST_KEPT = 1 << 16  # bytes; longer strings are an array's data, which nothing refers to twice
STRINGS = (str, bytes, bytearray)
NO_VALUES = "an operation without its values"
FORGOTTEN = object()  # in the memo
FREE_BYTES = 2**28  # that the content may take in addition to twice the size of the file


class PickleReader:
    """Reads one pickle from a file that can seek; see `load`."""

    array_type: type = np.ndarray
    functions = FUNCTIONS
    arrays = "numpy arrays"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._n_containers = 0
        self._n_copied = 0

    def load(self) -> Any:
        """The content. Raises `ValueError` (`PickleError`) for a broken or refused pickle."""
        read = self._file.read
        for _ in range(MAX_OPERATIONS):
            code = read(1)
            if code == b".":
                content = self._pop()
                self._memo, self._stack, self._marked = {}, [], []
                limit = 2 * self._size + FREE_BYTES
                weigh(content, self.array_type, limit, 0, {})
                return content
            handler = HANDLERS.get(code)
            if handler is None:
                if not code:
                    raise PickleError("it ends early")
                raise PickleError(f"operation {code!r}; only arrays and plain containers are read")
            handler(self)
        raise PickleError(f"more than {MAX_OPERATIONS:,} operations")

    def make_array(self, content: bytes | bytearray, layout: Layout) -> Any:
        """The array of these bytes."""
        return layout.array_of(content).copy(order="K")

    def call(self, name: str, arguments: tuple) -> Any:
        """The value of one of `functions`; raises `PickleError` for unknown arguments."""
        return call(name, arguments, self.make_array, self._copied)

    def build(self, target: Any, state: Any) -> Any:
        """What an object is after its state was set; raises `PickleError` for other objects."""
        if type(target) is PickledDtype:
            target.set_state(state)
            return target
        if type(target) is not PendingArray:
            raise PickleError("a state of something else than an array")
        content, layout = array_with_state(state)
        return self.make_array(self._copied(content), layout)

    def persistent(self, key: Any) -> Any:
        """What a reference to something outside of the pickle stands for."""
        raise PickleError("a reference to something outside of the pickle")

    # Input

    def _read(self, n_bytes: int) -> bytes:
        if n_bytes > LONGEST_KEPT and n_bytes > self._size - self._file.tell():
            raise PickleError("it ends early")
        content = self._file.read(n_bytes)
        if len(content) != n_bytes:
            raise PickleError("it ends early")
        return content

    def _read_sized(self, n_bytes: int) -> bytes:
        """The string after its length, an unsigned integer of `n_bytes`."""
        return self._read(int.from_bytes(self._read(n_bytes), "little"))

    def _line(self, longest: int = -1) -> bytes:
        line = self._file.readline(longest)
        if not line.endswith(b"\n"):
            raise PickleError("it ends early, or a number is too long")
        return line[:-1]

    # Stack and memo

    def _last(self, n: int) -> list[Any]:
        """The n values on top of the stack."""
        if len(self._stack) < n:
            raise PickleError(NO_VALUES)
        return self._stack[-n:]

    def _pop_last(self, n: int) -> list[Any]:
        values = self._last(n)
        del self._stack[-n:]
        return values

    def _pop(self) -> Any:
        if not self._stack:
            raise PickleError(NO_VALUES)
        return self._stack.pop()

    def _top(self, *kinds: type) -> Any:
        """The value on top of the stack, of one of these types if any are given."""
        if not self._stack:
            raise PickleError(NO_VALUES)
        value = self._stack[-1]
        if kinds and type(value) not in kinds:
            raise PickleError("an operation on another type of value")
        return value

    def _pop_marked(self) -> list[Any]:
        """The values above the last mark."""
        if not self._marked:
            raise PickleError("an operation without its mark")
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_container(self, value: Any) -> None:
        self._n_containers += 1
        if self._n_containers > MAX_CONTAINERS:
            raise PickleError(f"more than {MAX_CONTAINERS:,} containers")
        self._stack.append(value)

    def _push_integer(self, value: int) -> None:
        if not -MAX_INTEGER < value < MAX_INTEGER:
            raise PickleError("an integer of more than 64 bits")
        self._stack.append(value)

    def _copied(self, content: Any) -> Any:
        """`content`, counted: a pickle can repeat what it copies, an honest one does not."""
        self._n_copied += len(content)
        if self._n_copied > 2 * self._size + LONGEST_KEPT:
            raise PickleError("more content than the file can hold")
        return content

    def _mark(self) -> None:
        if len(self._marked) > 2 * MAX_DEPTH:
            raise PickleError(f"more than {MAX_DEPTH} containers in one another")
        self._marked.append(self._stack)
        self._stack = []

    def _put(self, key: int) -> None:
        value = self._top()
        if not 0 <= key < MAX_MEMO:
            raise PickleError(f"reference {key}, expected less than {MAX_MEMO:,}")
        if type(value) is PendingArray:
            value.memo_keys.append(key)
        parts = value if type(value) is tuple else (value,)
        is_data = any(type(p) in STRINGS and len(p) > LONGEST_KEPT for p in parts)
        self._memo[key] = FORGOTTEN if is_data else value

    def _get(self, key: int) -> None:
        value = self._memo.get(key, FORGOTTEN)
        if value is FORGOTTEN:
            raise PickleError("a reference to nothing, or to the data of an array")
        self._stack.append(value)

    # Operations

    def _protocol(self, number: int) -> None:
        if number > 5:
            raise PickleError(f"protocol {number}, expected 0 to 5")

    def _string(self) -> None:
        """A quoted string of Python 2 at protocol 0."""
        line = self._line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise PickleError("a string without quotation marks")
        self._push(codecs.escape_decode(line[1:-1])[0].decode("latin1"))

    def _integer_line(self) -> None:
        line = self._line(LONGEST_NUMBER)
        booleans = {b"00": False, b"01": True}
        self._push_integer(booleans[line] if line in booleans else int(line))

    def _global(self, module: str, name: str) -> None:
        if (module, name) not in self.functions:
            wanted = ascii(f"{module}.{name}"[:80])[1:-1]
            raise PickleError(
                f"it refers to {wanted}; only {self.arrays} and plain containers are read"
            )
        self._push(Function(name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise PickleError("a function without a name")
        self._global(module, name)

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _dict(self) -> None:
        items = self._pop_marked()
        self._push_container({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict, collections.OrderedDict)
        if len(items) % 2:
            raise PickleError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        self._top(set).update(map(checked_key, items))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not Function or type(arguments) is not tuple:
            raise PickleError("a call of something that is not a function")
        value = self.call(function.name, arguments)
        if isinstance(value, np.generic):
            self._push(value)
        else:
            self._push_container(value)

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        built = self._stack[-1] = self.build(target, state)
        for key in target.memo_keys if type(target) is PendingArray else ():
            if self._memo[key] is target:
                self._memo[key] = built


HANDLERS: dict[bytes, Callable[[PickleReader], Any]] = {
    b"\x80": lambda r: r._protocol(r._read(1)[0]),
    b"\x95": lambda r: r._read(8),  # the length of a frame, which a file does not need
    b"N": lambda r: r._push(None),
    b"\x88": lambda r: r._push(True),
    b"\x89": lambda r: r._push(False),
    b"I": PickleReader._integer_line,
    b"L": lambda r: r._push_integer(int(r._line(LONGEST_NUMBER).rstrip(b"L"))),
    b"J": lambda r: r._push(int.from_bytes(r._read(4), "little", signed=True)),
    b"K": lambda r: r._push(r._read(1)[0]),
    b"M": lambda r: r._push(int.from_bytes(r._read(2), "little")),
    b"\x8a": lambda r: r._push_integer(int.from_bytes(r._read_sized(1), "little", signed=True)),
    b"F": lambda r: r._push(float(r._line(LONGEST_NUMBER))),
    b"G": lambda r: r._push(struct.unpack(">d", r._read(8))[0]),
    b"S": PickleReader._string,
    b"T": lambda r: r._push(r._read_sized(4).decode("latin1")),
    b"U": lambda r: r._push(r._read_sized(1).decode("latin1")),
    b"V": lambda r: r._push(r._line().decode("raw-unicode-escape")),
    b"X": lambda r: r._push(r._read_sized(4).decode("utf-8", "surrogatepass")),
    b"\x8c": lambda r: r._push(r._read_sized(1).decode("utf-8", "surrogatepass")),
    b"\x8d": lambda r: r._push(r._read_sized(8).decode("utf-8", "surrogatepass")),
    b"B": lambda r: r._push(r._read_sized(4)),
    b"C": lambda r: r._push(r._read_sized(1)),
    b"\x8e": lambda r: r._push(r._read_sized(8)),
    b"\x96": lambda r: r._push(bytearray(r._read_sized(8))),
    b"(": PickleReader._mark,
    b"0": PickleReader._pop,
    b"1": PickleReader._pop_marked,
    b"2": lambda r: r._push(r._top()),
    b")": lambda r: r._push(()),
    b"t": lambda r: r._push_container(tuple(r._pop_marked())),
    b"\x85": lambda r: r._push_container(tuple(r._pop_last(1))),
    b"\x86": lambda r: r._push_container(tuple(r._pop_last(2))),
    b"\x87": lambda r: r._push_container(tuple(r._pop_last(3))),
    b"]": lambda r: r._push_container([]),
    b"l": lambda r: r._push_container(r._pop_marked()),
    b"a": lambda r: r._append(r._pop_last(1)),
    b"e": lambda r: r._append(r._pop_marked()),
    b"}": lambda r: r._push_container({}),
    b"d": PickleReader._dict,
    b"s": lambda r: r._set_items(r._pop_last(2)),
    b"u": lambda r: r._set_items(r._pop_marked()),
    b"\x8f": lambda r: r._push_container(set()),
    b"\x90": lambda r: r._add_items(r._pop_marked()),
    b"\x91": lambda r: r._push_container(frozenset(map(checked_key, r._pop_marked()))),
    b"p": lambda r: r._put(int(r._line(LONGEST_NUMBER))),
    b"q": lambda r: r._put(r._read(1)[0]),
    b"r": lambda r: r._put(int.from_bytes(r._read(4), "little")),
    b"\x94": lambda r: r._put(len(r._memo)),
    b"g": lambda r: r._get(int(r._line(LONGEST_NUMBER))),
    b"h": lambda r: r._get(r._read(1)[0]),
    b"j": lambda r: r._get(int.from_bytes(r._read(4), "little")),
    b"c": lambda r: r._global(r._line().decode(), r._line().decode()),
    b"\x93": PickleReader._stack_global,
    b"Q": lambda r: r._push(r.persistent(r._pop())),
    b"R": PickleReader._reduce,
    b"b": PickleReader._build,
}


def load_pickle(
    path: str | Path,
    what: str = "pickle",
    reader: Callable[[BinaryIO], PickleReader] = PickleReader,
) -> Any:
    """The content of a data-set pickle.

    Raises `UserError` if it is broken or holds anything but arrays, numbers, text and plain
    containers.
    """
    path = check_file(path, what)
    with path.open("rb") as file:
        try:
            return reader(file).load()
        except (ValueError, OverflowError, MemoryError) as error:
            raise UserError(
                f"{what} {path}: not a readable pickle of arrays: {reason_of(error)}"
            ) from error
