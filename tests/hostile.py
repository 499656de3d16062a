"""Damaged files for tests of loaders."""

import random


def mutants(content: bytes, n: int) -> list[bytes]:
    """`content` damaged in `n` ways: a byte changed, bytes cut, repeated or set to the maximum."""
    rng = random.Random(1)
    damaged = []
    for _ in range(n):
        place, length, mutant = (
            rng.randrange(len(content)),
            rng.randrange(1, 40),
            bytearray(content),
        )
        kind = rng.randrange(4)
        if kind == 0:
            mutant[place] = rng.randrange(256)
        elif kind == 1:
            del mutant[place : place + length]
        elif kind == 2:
            mutant[place:place] = mutant[place : place + length]
        else:
            mutant[place : place + 4] = b"\xff" * 4
        damaged.append(bytes(mutant))
    return damaged
