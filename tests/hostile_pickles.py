"""Pickles that attack a loader, by name: each is a few operations written by hand."""

import pickle

DTYPE = b"cnumpy\ndtype\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
FROMBUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
ENCODE = b"c_codecs\nencode\n"
BUILTINS = b"c__builtin__\n"


def text(value: str) -> bytes:
    """The operation that pushes a string."""
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + len(content).to_bytes(4, "little") + content


def integer(value: int) -> bytes:
    """The operation that pushes an integer."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def called(function: bytes, *arguments: bytes) -> bytes:
    """The operations of a call."""
    return function + b"(" + b"".join(arguments) + b"tR"


def many(*values: bytes) -> bytes:
    """The operations that push a tuple."""
    return b"(" + b"".join(values) + b"t"


def dtype(name: str, *state: bytes) -> bytes:
    """A dtype, with these items of its state after the version if there are any."""
    built = called(DTYPE, text(name), b"\x89", b"\x88")
    return built + many(integer(3), *state) + b"b" if state else built


def plain_dtype(name: str, order: str = "<") -> bytes:
    """A dtype as numpy pickles it."""
    return dtype(name, text(order), b"NNN", integer(-1), integer(-1), integer(0))


def array(
    content: bytes, shape: tuple[int, ...], kind: bytes | None = None, extra: bytes = b""
) -> bytes:
    """An array with this state; `content` is the operation that pushes its data."""
    shell = called(RECONSTRUCT, b"cnumpy\nndarray\n", many(integer(0)), b"C\x01b")
    kind = plain_dtype("f8") if kind is None else kind
    sizes = many(*map(integer, shape))
    return shell + many(integer(1), sizes, kind, b"\x89", content, extra) + b"b"


def data(content: bytes) -> bytes:
    """The operation that pushes bytes."""
    return b"B" + len(content).to_bytes(4, "little") + content


def _records() -> bytes:
    """A dtype of 8 bytes whose state declares a field of object pointers in it."""
    field = b"}" + text("x") + many(dtype("O8"), integer(0)) + b"s"
    flags = (integer(8), integer(1), integer(0))
    return dtype("V8", text("|"), b"N", many(text("x")), field, *flags)


def _laughs() -> bytes:
    """Ten lists in one another, each eight times the one before: 8**10 items in 300 bytes."""
    levels = b"](" + b"K\x00" * 8 + b"eq\x000"
    for level in range(1, 11):
        levels += b"](" + bytes([ord("h"), level - 1]) * 8 + b"eq" + bytes([level]) + b"0"
    return levels + b"h\x0a"


def _attacks() -> dict[str, bytes]:
    command = text("echo attacked")
    eight = data(b"A" * 8)
    return {
        "code by GLOBAL": called(b"cos\nsystem\n", command),
        "code by STACK_GLOBAL": called(text("posix") + text("system") + b"\x93", command),
        "code by a dotted name": text("numpy") + text("ndarray.tofile") + b"\x93",
        "code by INST": b"(" + command + b"ios\nsystem\n",
        "code by OBJ": b"(cos\nsystem\n" + command + b"o",
        "code by NEWOBJ": b"cos\nsystem\n" + many(command) + b"\x81",
        "code by NEWOBJ_EX": b"cos\nsystem\n" + many(command) + b"}\x92",
        "code by an extension": b"\x82\x01",
        "code by a persistent id": b"Pattack\n",
        "code by BUILD": b"}}" + text("append") + integer(1) + b"sb",
        "code by getattr": called(BUILTINS + b"getattr\n", b"]", text("append")),
        "a dtype of objects": called(SCALAR, dtype("O"), eight),
        "a dtype of records with objects": called(SCALAR, _records(), eight),
        "an array of records with objects": array(data(b"A" * 24), (3,), _records()),
        "an array of objects": array(b"]", (0,), dtype("O8")),
        "a dtype with metadata": array(
            eight, (1,), dtype("f8", text("<"), b"NNN", integer(-1), integer(-1), b"K\x00", b"}")
        ),
        "an item size changed later": (
            plain_dtype("S8") + b"q\x010" + called(SCALAR, b"h\x01", eight)
        ),
        "a byte order of another kind": array(eight, (1,), plain_dtype("f8", "S")),
        "a long double": array(data(bytes(16)), (1,), plain_dtype("f16")),
        "bytes(n)": called(BUILTINS + b"bytes\n", integer(3_000_000_000)),
        "bytearray(n)": called(BUILTINS + b"bytearray\n", integer(10**11)),
        "list(...)": called(BUILTINS + b"list\n", eight),
        "ndarray(n)": called(b"cnumpy\nndarray\n", many(integer(2**30)), plain_dtype("f8")),
        "another codec": called(ENCODE, text("a"), text("rot13")),
        "an array made large at once": called(
            RECONSTRUCT, b"cnumpy\nndarray\n", many(integer(2**32)), b"C\x01b"
        ),
        "a shape beyond the data": array(eight, (2**30,)),
        "a shape that overflows": array(eight, (2**32, 2**32)),
        "a negative shape": array(eight, (-1,)),
        "an empty shape of huge sizes": array(data(b""), (0, 2**40)),
        "64 dimensions": array(eight, (1,) * 64),
        "a buffer too short": called(
            FROMBUFFER, eight, plain_dtype("f8"), many(integer(2)), text("C")
        ),
        "axes that are not of the shape": called(
            FROMBUFFER, eight, plain_dtype("f8"), many(integer(1)), text("K"), many(integer(7))
        ),
        "an array without state": called(
            RECONSTRUCT, b"cnumpy\nndarray\n", many(b"K\0"), b"C\x01b"
        ),
        "an array with more state": array(eight, (1,), extra=b"N"),
        "content repeated by a call": (
            text("a" * 60_000) + b"q\x000("
            + called(ENCODE, b"h\x00", text("latin1")) * 500 + b"l"
        ),
        "a memo of 2 GB": b"Nr\x00\x00\x00\x08",
        "a memo index of text": b"Np99999999999999999999\n",
        "a negative memo index": b"Np-1\n",
        "an unknown reference": b"h\x07",
        "lists in lists": b"]" * 2000 + b"a" * 1999,
        "tuples in tuples": b")" + b"\x85" * 2000,
        "marks in marks": b"(" * 2000 + b"t" * 2000,
        "a deep key": b"}" + b")" + b"\x85" * 2000 + b"Ns",
        "a deep set": b"(" + b")" + b"\x85" * 2000 + b"\x91",
        "a list in itself": b"]q\x00h\x00a",
        "a tuple in its list": b"]q\x00(h\x00t\x85a",
        "a dict in itself": b"}q\x00" + text("a") + b"h\x00s",
        "a billion laughs": _laughs(),
        "keys of one hash": b"}(" + b"".join(
            integer(k * (2**61 - 1)) + b"N" for k in range(1, 2000)
        ) + b"u",
        "an unhashable key": b"}]Ns",
        "a number of a million digits": b"I" + b"9" * 10**6 + b"\n",
        "a number of a million bytes": b"\x8b" + (10**6).to_bytes(4, "little") + b"\x01" * 10**6,
        "a string of 4 GB": b"X\xff\xff\xff\xff",
        "bytes of 2**63": b"\x8e" + b"\xff" * 7 + b"\x7f",
        "a function as content": b"cnumpy\ndtype\n",
        "a dtype as content": plain_dtype("f8"),
        "text that is not UTF-8": b"X\x01\x00\x00\x00\xff",
        "a string without quotes": b"Sabc\n",
        "a number that is none": b"Iabc\n",
        "an out-of-band buffer": b"\x97",
        "nothing on the stack": b"2",
        "too few for a tuple": b"N\x87",
        "no mark": b"Nt",
        "an unknown operation": b"\xfe",
        "an unknown protocol": b"\x80\x09N",
        "half a dict": b"}(Nu",
        "an append to a dict": b"}Na",
    }  # fmt: skip


ATTACKS = {name: b"\x80\x02" + operations + b"." for name, operations in _attacks().items()}
BAD_NAMES = {
    "of the folder above": "../../evil",
    "of a folder": "a/b",
    "of a folder on Windows": "a\\b",
    "of a drive": "C:x",
    "hidden": ".hidden",
    "with a zero byte": "a\0b",
    "with a line break": "a\nb",
    "with an escape sequence": "a\x1b[31mb",
    "too long": "a" * 201,
    "too long in bytes": "か" * 82,
    "with a surrogate": "a\udcffb",
    "empty": "",
}


def in_layouts(content: bytes) -> list[bytes]:
    """A pickle alone, as a value of a dict, and as the entry of a clip."""
    body = content[2:-1]
    start = b"\x80\x02"
    entry = b"}" + text("audio") + body + b"s" + text("sample_rate") + integer(22_000) + b"s"
    return [
        content,
        start + b"}" + text("ada") + body + b"s.",
        start + b"}" + text("ada") + b"}" + text("sentence01") + entry + b"ss.",
    ]


def dumped(content: object, protocol: int = 2) -> bytes:
    """A pickle of Python's own, for what it can write."""
    return pickle.dumps(content, protocol=protocol)
