"""Mutations of files, for `bench_hostile`: deterministic in the generator that they are given.

A mutator takes the bytes of a file and a `random.Random`, and returns other bytes. `MUTATORS` know
nothing of formats; those of `hostile_formats` change the fields of one format.
"""

import random
import re
import struct
from collections.abc import Callable, Sequence

Mutator = Callable[[bytes, random.Random], bytes]

BYTES = (0x00, 0x01, 0x0A, 0x20, 0x7F, 0x80, 0xFE, 0xFF)
NUMBERS = (
    0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 32_767, 32_768, 65_535, 65_536, 10**6,
    2**24, 2**28, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63,
    2**64 - 1, -1, -2, -128, -(2**15), -(2**31), -(2**63),
)  # fmt: skip
FLOATS = (float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 1e-45, 1e300, 0.0, -0.0)
WORDS = (
    b"-1", b"0", b"1", b"2", b"1e999", b"-1e999", b"nan", b"inf", b"1e30", b"0x10", b"1_000",
    b"99999999999999999999", b"2147483648", b"4294967295", b"9223372036854775807", b"1000000000",
    b"", b"/", b"//", b"1.5", b"-", b"+", b".", b"\xd9\xa3", b"\xff", b"9" * 5000,
    b"1" + b"0" * 400,
)  # fmt: skip
NAMES = (
    "", ".", "..", "../evil", "../../evil/x", "/evil", "a/b", "a\\b", "a\0b", "\ud800", "x" * 300,
    "\u30ab" * 90, "e\u0301", "CON", "-y", "%d", "a:b", "a|b", "\n", "\u202e", " ", "~", "$HOME",
)  # fmt: skip


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits inverted."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four bytes replaced."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((*BYTES, rng.randrange(256)))
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The beginning of the file, or all but its last bytes."""
    keep = rng.choice((rng.randrange(len(data) + 1), len(data) - rng.randint(1, 16)))
    return data[: max(keep, 0)]


def delete_range(data: bytes, rng: random.Random) -> bytes:
    """Up to 64 bytes left out."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randint(1, 64) :]


def repeat_range(data: bytes, rng: random.Random) -> bytes:
    """A range of up to 64 bytes written twice or many times."""
    start, length = rng.randrange(len(data) + 1), rng.randint(1, 64)
    part = data[start : start + length]
    return data[: start + length] + part * rng.choice((1, 1, 2, 50)) + data[start + length :]


def move_range(data: bytes, rng: random.Random) -> bytes:
    """A range copied over another place of the file."""
    source, target, length = (rng.randrange(len(data) + 1) for _ in range(3))
    part = data[source : source + min(length, 64)]
    return data[:target] + part + data[target + len(part) :]


def set_integer(data: bytes, rng: random.Random) -> bytes:
    """An integer of 1, 2, 4 or 8 bytes, of either byte order, replaced by an extreme one."""
    size = rng.choice((1, 2, 4, 4, 8))
    number = rng.choice((*NUMBERS, len(data), len(data) - 1, len(data) + 1)) % 2 ** (8 * size)
    start = rng.randrange(max(len(data) - size, 0) + 1)
    written = number.to_bytes(size, rng.choice(("little", "big")))
    return data[:start] + written + data[start + size :]


def set_float(data: bytes, rng: random.Random) -> bytes:
    """A float32 or float64 replaced by an extreme one, at a multiple of its size mostly."""
    kind = rng.choice("fd")
    size = struct.calcsize(kind)
    start = rng.randrange(max(len(data) - size, 0) + 1)
    start -= start % size * rng.randrange(2)
    value = rng.choice(FLOATS)
    value = float("inf") if kind == "f" and abs(value) > 3e38 else value
    return data[:start] + struct.pack(rng.choice("<>") + kind, value) + data[start + size :]


def set_number_word(data: bytes, rng: random.Random) -> bytes:
    """A number in decimal digits replaced by another word."""
    words = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
    if not words:
        return set_bytes(data, rng)
    word = rng.choice(words)
    return data[: word.start()] + rng.choice(WORDS) + data[word.end() :]


MUTATORS: tuple[Mutator, ...] = (
    flip_bits, set_bytes, truncate, delete_range, repeat_range, move_range, set_integer, set_float,
    set_number_word,
)  # fmt: skip


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """A text with a line left out, repeated, exchanged or with a changed word."""
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines[at:at] = [lines[at]] * rng.choice((1, 3, 200))
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            words = lines[at].split(b" ")
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            lines[at] = b" ".join(words)
        case _:
            lines[at] = rng.choice((lines[at].upper(), b"", b"\xef\xbb\xbf" + lines[at], b"\\"))
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\0")).join(lines)


def mutant(
    seeds: Sequence[bytes], own: Sequence[Mutator], rng: random.Random, rounds: int = 3
) -> bytes:
    """A seed changed by one to `rounds` mutators, half of them those of its format (`own`)."""
    data = rng.choice(seeds)
    for _ in range(rng.choice(range(1, rounds + 1))):
        mutators = own if own and rng.random() < 0.5 else MUTATORS
        data = rng.choice(mutators)(data, rng) if data else rng.choice(seeds)
    if rng.random() < 0.03:  # the head of one file and the tail of another
        other = rng.choice(seeds)
        data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]
    return data
