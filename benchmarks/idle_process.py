"""Stalls of the machine: how much later than asked a process wakes that does nothing but sleep,
and the time that the host of a virtual machine took.

Run as a script, it sleeps in steps of 10 ms until its stdin closes, then prints milliseconds.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLEEP_S = 0.01
STAT, STOLEN = Path("/proc/stat"), 8  # the column of its first line, man 5 proc


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


def stolen_ms() -> float:
    """Milliseconds since the start of a virtual machine in which its host ran others instead of it,
    of all cores, in steps of 10; 0 where that is not known."""
    try:
        columns = STAT.read_text().split("\n", 1)[0].split()
        return 1000.0 * int(columns[STOLEN]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


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
