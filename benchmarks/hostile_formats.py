"""Mutations that know a file's format, for `bench_hostile`: pickle, npy, zip, wav, JSON.

They change one field and keep the rest of the file valid, so that the change reaches the code
behind the first checks: the checksums of a zip, the length of a header. A file that is too damaged
for that already gets a mutation of `hostile_mutators`.
"""

import io
import json
import pickletools
import random
import re
import struct
import zipfile
import zlib
from typing import Any

from benchmarks.hostile_mutators import MUTATORS, NAMES, NUMBERS, Mutator, set_bytes, set_integer

DEEP = 20_000  # nested containers


def _json_values(rng: random.Random) -> Any:
    values = (
        None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), 0.5,
        "", "x", [], {}, [[]], [1], {"a": 1}, [None], "9" * 5000, *NAMES,
    )  # fmt: skip
    return rng.choice(values)


def mutate_json_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts replaced, left out, renamed or repeated."""
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return _json_values(rng)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        part = [mutate_json_value(value[at], rng)] * rng.choice((1, 1, 1, 0, 2))
        return [*value[:at], *part, *value[at + 1 :]]
    key = rng.choice(list(value))
    rest = {k: v for k, v in value.items() if k != key}
    match rng.randrange(8):
        case 0:
            return rest
        case 1:
            return rest | {rng.choice((key.upper(), f"{key}s", *NAMES)): value[key]}
        case 2:
            return value | {rng.choice((*NAMES, *value)): _json_values(rng)}
        case _:
            return value | {key: mutate_json_value(value[key], rng)}


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON text with a changed value, or too deeply nested, or in another encoding."""
    if rng.random() < 0.02:
        return rng.choice((b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"9" * 9000))
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return set_bytes(data, rng)
    text = json.dumps(mutate_json_value(value, rng), ensure_ascii=rng.random() < 0.9)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    return text.encode(encoding, errors="replace")


PICKLE_PARTS = (
    b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n",
    b"c__builtin__\nexec\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cbuiltins\nbytearray\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"\x8c\x02os\x8c\x06system\x93",
    b"R", b"b", b"\x81", b"o", b"(", b")", b"]", b"}", b"\x8f", b"t", b"l", b"d", b"a", b"e", b"s",
    b"u", b"0", b"1", b"2", b"N", b"\x88", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91", b"\x92",
    b"\x94", b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x97", b"\x98", b"Q", b"Pa\n", b"\x82\x01",
    b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"p999999999\n", b"g7\n", b"h\x00", b"q\x00",
    b"\x8a\x08\x00\x00\x00\x00\x01\x00\x00\x00", b"\x8b\x00\x00\x00\x80", b"I-5\n", b"I1000000\n",
    b"J\x00\x00\x00\x40", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00", b"X\x00\x00\x00\x40",
    b"B\xff\xff\xff\x7f", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8e" + b"\0" * 7 + b"\x10",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"S'O'\n", b"X\x01\x00\x00\x00O", b"S'V8'\n", b".",
    b"X\x08\x00\x00\x00../../ev", b"X\x01\x00\x00\x00/", b"(l" * 3000, b"}" * 3000, b"\x85" * 3000,
)  # fmt: skip


def mutate_pickle(data: bytes, rng: random.Random) -> bytes:
    """A pickle with opcodes left out, repeated, exchanged, put in, or with another argument."""
    try:
        starts = [position for _, _, position in pickletools.genops(data)]
    except Exception:  # damaged already; pickletools has no common class of errors
        return rng.choice(MUTATORS)(data, rng)
    starts.append(len(data))
    parts = [data[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                del parts[at : at + rng.choice((1, 1, 2, 5))]
            case 1:
                parts[at:at] = [parts[other]] * rng.choice((1, 1, 2, 500))
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = rng.choice(PICKLE_PARTS)
            case 4:
                parts.insert(at, rng.choice(PICKLE_PARTS))
            case _:
                parts[at] = parts[at][:1] + set_integer(parts[at][1:], rng)
        if not parts:
            break
    return b"".join(parts)


NPY_WORDS = (
    "'|O'", "'<f4'", "'<f8'", "'<i8'", "'<i4'", "'|b1'", "'<c16'", "'<f2'", "'<f16'", "'|V0'",
    "'|S0'", "'<U9'", "'<M8[s]'", "'|V1000000000'", "[]", "[('a', '<f4')]", "[('a', '|O')]",
    "('<f4', (1000000000,))", "4", "True", "None", "()", "(-1,)", "(0, 5)", "(2, -2)", "(1 << 60,)",
    "(1152921504606846976,)", "(1.5,)", "(1j,)", "('a',)", "(True,)", "(10**10, 0)", "'a'", "b'a'",
    "[1]", "{}", "(" * 300, "[" * 90 + "]" * 90, "lambda: 1", "__import__('os')", "\0", "9" * 5000,
)  # fmt: skip


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    """An .npy with a changed header of a correct length, or of a wrong one."""
    if data[:6] != b"\x93NUMPY" or len(data) < 10:
        return set_bytes(data, rng)
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    tokens = list(re.finditer(r"'[^']*'|\([^)]*\)|True|False|\d+", header))
    for token in sorted(rng.sample(tokens, min(len(tokens), rng.choice((1, 1, 2)))), key=_start):
        header = header[: token.start()] + rng.choice(NPY_WORDS) + header[token.end() :]
    encoded = header.encode("latin1", errors="replace")
    size = len(encoded) if rng.random() < 0.8 else rng.choice((0, 1, 65_535, len(encoded) - 2))
    version = rng.choice((b"\x01\x00",) * 6 + (b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    width = 2 if version[0] == 1 else 4
    return data[:6] + version + (size % 2 ** (8 * width)).to_bytes(width, "little") + encoded + body


def _start(match: re.Match) -> int:
    return -match.start()


def mutate_members(*inner: Mutator) -> Mutator:
    """A mutator of zip archives that changes one member by `inner` and writes a valid archive."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = {info.filename: archive.read(info) for info in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError, zlib.error,
                NotImplementedError, struct.error):  # fmt: skip
            return rng.choice(MUTATORS)(data, rng)
        names = list(members) or ["a"]
        name = rng.choice(names)
        content = members.pop(name, b"")
        kind = rng.randrange(10)
        if kind == 0:
            name = rng.choice((f"../{name}", f"/{name}", name.upper(), "\0", "x" * 500, f"{name}x"))
        elif kind != 1:  # 1: the member is left out
            content = rng.choice(inner)(content, rng)
        if kind != 1:
            members[name] = content
        method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", method) as archive:
            for member, content in members.items():
                archive.writestr(zipfile.ZipInfo(member), content)
        return written.getvalue()

    return mutate


def mutate_zip_fields(data: bytes, rng: random.Random) -> bytes:
    """A zip archive with another number in a header: method, flags, checksum, sizes, offset."""
    heads = [(m.start(), 6, 30) for m in re.finditer(b"PK\x03\x04", data)]
    heads += [(m.start(), 6, 46) for m in re.finditer(b"PK\x01\x02", data)]
    heads += [(m.start(), 4, 22) for m in re.finditer(b"PK\x05\x06", data)]
    if not heads:
        return set_bytes(data, rng)
    start, first, last = rng.choice(heads)
    size = rng.choice((2, 4))
    at = start + rng.randrange(first, last - size + 1, 2)
    number = rng.choice((*NUMBERS, 8, 9, 12, 14, 93, 99, len(data))) % 2 ** (8 * size)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def mutate_chunks(data: bytes, rng: random.Random) -> bytes:
    """A RIFF file with a chunk left out, repeated, exchanged, renamed, or of another size."""
    chunks, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append([data[at : at + 4], size, data[at + 8 : at + 8 + size]])
        at += 8 + size + size % 2
    if not chunks:
        return set_bytes(data, rng)
    chosen = rng.randrange(len(chunks))
    match rng.randrange(6):
        case 0:
            del chunks[chosen]
        case 1:
            chunks.insert(rng.randrange(len(chunks) + 1), list(chunks[chosen]))
        case 2:
            chunks.reverse()
        case 3:
            chunks[chosen][0] = rng.choice((b"data", b"fmt ", b"fact", b"LIST", b"junk", b"ds64"))
        case 4:
            chunks[chosen][1] = rng.choice((*NUMBERS, chunks[chosen][1] + 1)) % 2**32
        case _:
            chunks[chosen][2] = set_integer(chunks[chosen][2], rng)
    body = b"".join(
        name + size.to_bytes(4, "little") + content + b"\0" * (size % 2)
        for name, size, content in chunks
    )
    return data[:4] + (len(body) + 4).to_bytes(4, "little") + data[8:12] + body


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A .safetensors with changed JSON in its header, or in the config inside that header."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        inner = header["__metadata__"]
        if rng.random() < 0.6:
            key = rng.choice(list(inner))
            inner[key] = json.dumps(mutate_json_value(json.loads(inner[key]), rng))
        else:
            header = mutate_json_value(header, rng)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return rng.choice(MUTATORS)(data, rng)
    encoded = json.dumps(header).encode()
    size = len(encoded) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    return size.to_bytes(8, "little") + encoded + data[8 + length :]
