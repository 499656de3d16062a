"""Stalls of the machine: how much later than asked a process wakes that does nothing but sleep.

Run as a script, it sleeps in steps of 10 ms until its stdin closes, then prints milliseconds.
"""

import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SLEEP_S = 0.01


@contextmanager
def idle_process() -> Iterator[list[float]]:
    """Beside the work of this context a process sleeps; the list gets its largest oversleep, ms."""
    result: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield result
        finally:
            output, _ = child.communicate()  # closes its stdin
    result.append(float(output))


def largest_oversleep() -> float:
    """Milliseconds; returns when stdin is closed."""
    largest, closed = 0.0, False
    while not closed:
        begin = time.monotonic()
        closed, _, _ = select.select([sys.stdin], [], [], SLEEP_S)
        largest = max(largest, time.monotonic() - begin - SLEEP_S)
    return 1000.0 * largest


if __name__ == "__main__":
    print(round(largest_oversleep(), 1))
