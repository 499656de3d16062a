"""Hand-made hostile pickles for `bench_hostile`, written as opcodes.

Kinds: calls of functions that run code, numpy dtypes that turn bytes of the file into pointers,
lengths and shapes that nothing in the file covers, memo indices, nesting and self-reference, and
opcodes that data-set pickles do not need. Nothing in a data set looks like any of them.
"""

import struct

STOP, MARK, EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b".", b"(", b")", b"]", b"}"
REDUCE, BUILD, NEWOBJ, NEWOBJ_EX, OBJ = b"R", b"b", b"\x81", b"\x92", b"o"
EIGHT = b"A" * 8  # the bytes of a pointer
DEEP = 30_000


def name(module: str, attribute: str) -> bytes:
    """The opcode that looks up module.attribute."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """A string."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """An integer of any size."""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def block(value: bytes) -> bytes:
    """A byte string."""
    return b"B" + struct.pack("<I", len(value)) + value


def group(*items: bytes) -> bytes:
    """A tuple."""
    return MARK + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    """A call of a function."""
    return function + group(*arguments) + REDUCE


def in_templates(value: bytes) -> bytes:
    """{"a": value}, as a file of templates and of regions has it."""
    return EMPTY_DICT + text("a") + value + b"s"


NONE, TRUE = b"N", b"\x88"
DTYPE, NDARRAY = name("numpy", "dtype"), name("numpy", "ndarray")
CORES = ("numpy.core", "numpy._core")
BUILTINS = ("builtins", "__builtin__")


def dtype(kind: str, state: bytes = b"") -> bytes:
    """A numpy dtype, perhaps with a state."""
    made = call(DTYPE, text(kind), b"\x89", TRUE)
    return made + state + BUILD if state else made


def state_of(flags: int, size: int = 8, names: bytes = NONE, fields: bytes = NONE) -> bytes:
    """A dtype's state (version, order, subarray, names, fields, size, alignment, flags)."""
    return group(number(3), text("|"), NONE, names, fields, number(size), number(8), number(flags))


def array(shape: bytes, kind: bytes, data: bytes, core: str = CORES[0]) -> bytes:
    """An array as numpy pickles it."""
    made = call(name(f"{core}.multiarray", "_reconstruct"), NDARRAY, group(number(0)), block(b"b"))
    return made + group(number(1), shape, kind, b"\x89", data) + BUILD


def code(canary: str) -> dict[str, bytes]:
    """Pickles that run code; where it ran there is a file `canary` in the working directory."""
    touch, python = text(f"touch {canary}"), text(f"open({canary!r}, 'w').close()")
    pickles = {
        f"{module}_{function}": call(name(module, function), argument)
        for module, function, argument in (
            ("os", "system", touch), ("posix", "system", touch), ("nt", "system", touch),
            ("subprocess", "getoutput", touch), ("builtins", "eval", python),
            ("builtins", "exec", python), ("__builtin__", "eval", python),
            ("__builtin__", "execfile", text("/etc/hostname")), ("os", "popen", touch),
            ("builtins", "__import__", text("antigravity")), ("runpy", "run_path", text("/x.py")),
            ("timeit", "timeit", python), ("numpy.testing", "runstring", python),
            ("numpy", "load", text("/etc/passwd")), ("pickle", "loads", block(b"cos\nsystem\n.")),
            ("numpy._core", "load", text("/x")), ("torch", "load", text("/x")),
            ("builtins", "open", text("/etc/passwd")), ("webbrowser", "open", text("http://x")),
            ("importlib", "import_module", text("this")), ("os", "kill", number(0)),
            ("builtins", "getattr", name("os", "system")), ("operator", "call", touch),
            ("functools", "partial", name("os", "system")), ("builtins", "map", python),
            ("builtins", "breakpoint", b""), ("sys", "exit", number(0)), ("os", "abort", b""),
            ("ctypes", "string_at", number(0)), ("socket", "socket", b""), ("bdb", "Bdb", b""),
            ("files.arrays", "load_pickle", touch), ("common.whole_file", "write_whole", touch),
            ("config", "PROJECT_ROOT", b""), ("_codecs", "decode", block(b"x")),
            ("_codecs", "lookup", text("rot13")), ("codecs", "open", text("/etc/passwd")),
            ("copyreg", "_reconstructor", name("os", "system")), ("builtins", "print", touch),
        )
    }  # fmt: skip
    system = name("os", "system")
    return pickles | {
        "instance_opcode": MARK + touch + b"ios\nsystem\n",
        "object_opcode": MARK + system + touch + OBJ,
        "new_object": system + group(touch) + NEWOBJ,
        "new_object_keywords": system + group(touch) + EMPTY_DICT + NEWOBJ_EX,
        "name_on_stack": text("os") + text("system") + b"\x93" + group(touch) + REDUCE,
        "dotted_name": text("numpy") + text("os.system") + b"\x93" + group(touch) + REDUCE,
        "inside_templates": in_templates(call(system, touch)),
        "inside_list": EMPTY_LIST + call(system, touch) + b"a",
        "build_on_class": DTYPE + EMPTY_DICT + BUILD,
        "build_on_function": name("_codecs", "encode") + in_templates(system) + BUILD,
        "dict_of_function": call(name("collections", "defaultdict"), system),
        "persistent_text": b"Px\n",
        "persistent_binary": text("x") + b"Q",
        "extension_1": b"\x82\x01",
        "extension_2": b"\x83\x01\x00",
        "extension_4": b"\x84\x01\x00\x00\x00",
        "next_buffer": b"\x97",
        "readonly_buffer": b"\x97\x98",
    }


def pointers() -> dict[str, bytes]:
    """Arrays of Python objects whose pointers are bytes of the file."""
    one = group(number(1))
    record = EMPTY_DICT + text("x") + group(dtype("O8"), number(0)) + b"s"
    with_object = state_of(0, names=group(text("x")), fields=record)
    pickles = {}
    for core in CORES:
        scalar = name(f"{core}.multiarray", "scalar")
        short = core[5:]
        pickles |= {
            f"scalar_object{short}": call(scalar, dtype("O8"), block(EIGHT)),
            f"scalar_object_no_flags{short}": call(scalar, dtype("O8", state_of(0)), block(EIGHT)),
            f"scalar_record{short}": call(scalar, dtype("V8", with_object), block(EIGHT)),
            f"array_object{short}": array(one, dtype("O8"), block(EIGHT), core),
            f"array_object_no_flags{short}": array(
                one, dtype("O8", state_of(0)), block(EIGHT), core
            ),
            f"array_record{short}": array(one, dtype("V8", with_object), block(EIGHT), core),
            f"array_object_list{short}": array(one, dtype("O8"), EMPTY_LIST + NONE + b"a", core),
            f"buffer_object{short}": call(
                name(f"{core}.numeric", "_frombuffer"), block(EIGHT), dtype("O8"), one, text("C")
            ),
            f"reconstruct_4g{short}": call(
                name(f"{core}.multiarray", "_reconstruct"), NDARRAY, group(number(2**32)), text("O")
            ),
        }
    return pickles | {
        "ndarray_object": call(NDARRAY, one, dtype("O8"), block(EIGHT)),
        "ndarray_strides": call(
            NDARRAY, group(number(9)), dtype("f8"), block(EIGHT), number(0), group(number(-8))
        ),
        "ndarray_zero_strides": call(
            NDARRAY, group(number(2**31)), dtype("f8"), block(EIGHT), number(0), group(number(0))
        ),
        "ndarray_offset": call(NDARRAY, one, dtype("f8"), block(EIGHT), number(-800)),
        "element_size_0": array(one, dtype("S8", state_of(0, 0)), block(EIGHT)),
        "element_size_large": array(one, dtype("S8", state_of(0, 2**30)), block(EIGHT)),
        "dtype_metadata": array(
            one, dtype("f8", state_of(0)[:-1] + in_templates(NONE) + b"t"), block(EIGHT)
        ),
        "date": array(one, dtype("M8[s]"), block(EIGHT)),
        "text_array": array(one, dtype("U2"), block(EIGHT)),
        "complex_array": array(one, dtype("c8"), block(EIGHT)),
        "void_array": array(one, dtype("V8"), block(EIGHT)),
        "masked": call(name("numpy.ma.core", "_mareconstruct"), NDARRAY, NDARRAY, one, text("f8")),
    }


def sizes() -> dict[str, bytes]:
    """Lengths, shapes, indices and depths that would take memory, time or the stack."""
    double = dtype("f8")
    pickles = {
        f"{module}_{kind}_{short}": call(name(module, kind), value)
        for module in BUILTINS
        for kind in ("bytes", "bytearray", "list", "tuple", "range")
        for short, value in (("3g", number(3 * 10**9)), ("100g", number(10**11)))
    }
    shapes = {
        "negative": (-1,), "huge": (2**40,), "overflow": (2**33, 2**31), "pair": (2**63, 0),
        "wrapped": (2**61, 8), "zeros": (0, 2**62), "two_negative": (-1, -8),
    }  # fmt: skip
    for kind, shape in shapes.items():
        size = group(*map(number, shape))
        pickles[f"shape_{kind}"] = in_templates(array(size, double, block(EIGHT)))
    return pickles | {
        "short_data": in_templates(array(group(number(3)), double, block(EIGHT))),
        "memo_put_2g": NONE + b"r\xff\xff\xff\x7f0" + NONE,
        "memo_put_text": NONE + b"p99999999999\n",
        "memo_get_missing": b"j\xff\xff\xff\x7f",
        "memo_put_negative": NONE + b"p-5\n",
        "text_2g": b"X\xff\xff\xff\x7fabc",
        "text_8": b"\x8d" + struct.pack("<Q", 2**62) + b"abc",
        "bytes_2g": b"B\xff\xff\xff\x7fabc",
        "bytes_8": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
        "bytearray_8": b"\x96" + struct.pack("<Q", 2**62) + b"abc",
        "frame_8": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N",
        "long_4": b"\x8b\xff\xff\xff\x7fabc",
        "long_negative": b"\x8b\x00\x00\x00\x80abc",
        "long_text": b"L" + b"9" * 200_000 + b"L\n",
        "integer_text": b"I" + b"9" * 200_000 + b"\n",
        "bad_integer": b"Ix\n",
        "bad_float": b"Fx\n",
        "deep_lists": EMPTY_LIST * DEEP + b"a" * (DEEP - 1),
        "deep_tuples": EMPTY_TUPLE + b"\x85" * DEEP,
        "deep_keys": in_templates(EMPTY_TUPLE + b"\x85" * DEEP) + EMPTY_TUPLE + b"\x85" * DEEP
        + NONE + b"s",
        "marks": MARK * 1_000_000,
        "self_list": EMPTY_LIST + b"q\x00h\x00a",
        "self_dict": EMPTY_DICT + b"q\x00" + text("a") + b"h\x00s",
        "laughs": b"".join([EMPTY_LIST, b"q\x00", *[
            EMPTY_LIST + MARK + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"eq"
            + bytes([i + 1]) for i in range(9)
        ]]),
        "unhashable_key": EMPTY_DICT + EMPTY_LIST + NONE + b"s",
        "empty_stack": b"0",
        "no_mark": b"t",
        "odd_items": EMPTY_DICT + MARK + NONE + b"u",
        "append_to_none": NONE + NONE + b"a",
        "unknown_opcode": b"\xf0",
        "no_stop": EMPTY_DICT,
        "protocol_99": b"\x80\x63N",
        "string_without_quotes": b"Sabc\n",
        "bad_utf8": b"X\x02\x00\x00\x00\xff\xfe",
        "name_not_utf8": b"c\xff\n\xff\n",
        "codec": call(name("_codecs", "encode"), text("x"), text("rot13")),
        "state_of_list": EMPTY_LIST + in_templates(NONE) + BUILD,
    }  # fmt: skip


def hostile_pickles(canary: str) -> dict[str, bytes]:
    """Name -> pickle, at protocol 4; `canary` as in `code`."""
    pickles = code(canary) | pointers() | sizes()
    return {
        kind: b"\x80\x04" + body + (b"" if kind == "no_stop" else STOP)
        for kind, body in pickles.items()
    }
