"""Processes that try hostile files one after the other, watched for crashes, time and memory.

A child is forked for some hundred inputs of one target, so that nothing has to be imported again.
It reports the input at hand in shared memory and its faults through a pipe. The parent ends a child
that needs too long for an input and forks another one for the rest; so it does after a crash.
"""

import json
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.hostile_targets import Target
from common.errors import UserError
from config import PROJECT_ROOT

CHUNK = 500  # inputs for one child
HANG_S = 10.0  # of processor time for one input
WAIT_S = 60.0  # on the clock: other programs may use the machine, too
PEAK_BYTES = 10**9  # resident memory of a child, what it had at its start included
SPARE_BYTES = 4 * 10**9  # of address space beyond that at a child's start; protects the machine
POLL_S = 0.02
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
SHARED = "qdd"  # the index of an input, time.monotonic and processor time at its start
KINDS = ("tracebacks", "crashes", "hangs", "over_1gb")


class Inputs(Protocol):
    """Files to try with one target."""

    target: Target

    def __len__(self) -> int: ...

    def content(self, index: int) -> bytes:
        """The bytes of a file."""

    def write(self, index: int, folder: Path) -> Path:
        """Write a file where its target expects it; returns its path."""


class Fault(NamedTuple):
    """An input that did not end in a result or one line. kind: of KINDS; text: what happened."""

    inputs: Inputs
    index: int
    kind: str
    text: str


def describe(error: BaseException) -> str:
    """An exception with the innermost line of this project that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(str(PROJECT_ROOT))]
    own = [f for f in own if not re.search("/.venv/|/benchmarks/", f.filename)] or own
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if own:
        text += f" at {Path(own[-1].filename).relative_to(PROJECT_ROOT)}:{own[-1].lineno}"
    return text


def try_file(attempt, path: Path) -> tuple[str, str]:
    """(kind, text) of the fault in one attempt, ("", "") where there is none."""
    try:
        attempt(path)
    except UserError as error:
        cause: BaseException | None = error
        while cause is not None:  # a declared size was believed
            if isinstance(cause, MemoryError):
                return "over_1gb", f"ran out of memory: {describe(cause)}"
            cause = cause.__cause__
    except MemoryError as error:
        return "over_1gb", describe(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a file can cause
        return "tracebacks", describe(error)
    return "", ""


@dataclass
class Child:
    """A process that tries `inputs[first:stop]`."""

    inputs: Inputs
    stop: int
    pid: int
    reports: int  # file descriptor
    shared: mmap.mmap
    folder: Path

    def position(self) -> tuple[int, bool]:
        """The index of the input at hand, and whether it has taken too long."""
        index, started, used = struct.unpack(SHARED, self.shared[: struct.calcsize(SHARED)])
        waited = time.monotonic() - started
        if waited < HANG_S:
            return index, False
        return index, waited > WAIT_S or _processor_s(self.pid) - used > HANG_S

    def faults(self) -> Iterator[Fault]:
        """What the child has reported, after its end."""
        with os.fdopen(self.reports, "r", errors="replace") as file:
            for line in file:
                with suppress(ValueError):  # killed while it wrote
                    yield Fault(self.inputs, *json.loads(line))

    def kill(self) -> None:
        """End the child and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _report(shared: mmap.mmap, index: int) -> None:
    """Write into shared memory that an input begins now."""
    times = os.times()
    used = times.user + times.system + times.children_user + times.children_system
    shared[: struct.calcsize(SHARED)] = struct.pack(SHARED, index, time.monotonic(), used)


def _processor_s(pid: int) -> float:
    """Processor time of a process and of its children that have ended; infinite if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime to cstime of proc(5)


def start(inputs: Inputs, first: int, stop: int) -> Child:
    """Fork a child for a range of inputs."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    _report(shared, first)
    reader, writer = os.pipe()
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="hostile_", dir=place))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            os.close(reader)
            _work(inputs, range(first, stop), folder, writer, shared)
            code = 0
        except BaseException:
            with suppress(OSError):
                os.write(writer, _line(first, "tracebacks", traceback.format_exc()))
        finally:
            os._exit(code)  # nothing of the parent's clean-up
    os.close(writer)
    return Child(inputs, stop, pid, reader, shared, folder)


def _line(index: int, kind: str, text: str) -> bytes:
    return (json.dumps([index, kind, text]) + "\n").encode()


def _work(inputs: Inputs, indices: range, folder: Path, writer: int, shared: mmap.mmap) -> None:
    """Try the inputs; stops after one that took too much memory."""
    with open(os.devnull, "r+b") as null:
        for stream in (0, 1, 2):
            os.dup2(null.fileno(), stream)
    os.chdir(folder)
    attempt = inputs.target.prepare(folder)
    _limit_memory()
    for index in indices:
        _report(shared, index)
        kind, text = try_file(attempt, inputs.write(index, folder))
        peaks = (resource.getrusage(who).ru_maxrss * RSS_UNIT
                 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
        if (peak := max(peaks)) > PEAK_BYTES:
            kind, text = "over_1gb", f"{peak / 1e9:.1f} GB in memory"
        if kind:
            os.write(writer, _line(index, kind, text))
        if kind == "over_1gb":
            break
    _report(shared, index + 1)


def _limit_memory() -> None:
    """Refuse the process more address space than it has and SPARE_BYTES, where that is known."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_all(work: Sequence[Inputs], jobs: int) -> Iterator[tuple[Inputs, int, list[Fault]]]:
    """Try all inputs with `jobs` processes at a time.

    Yields (inputs, how many of them were tried, their faults) in the order in which children end.
    """
    waiting = [
        (inputs, first, min(first + CHUNK, len(inputs)))
        for inputs in work for first in range(0, len(inputs), CHUNK)
    ]  # fmt: skip
    waiting.reverse()
    children: list[tuple[Child, int]] = []
    try:
        while waiting or children:
            while waiting and len(children) < jobs:
                inputs, first, stop = waiting.pop()
                children.append((start(inputs, first, stop), first))
            time.sleep(POLL_S)
            for child, first in list(children):
                ended = _watch(child)
                if ended is not None:
                    children.remove((child, first))
                    reached, faults = ended
                    yield child.inputs, reached - first, faults
                    if reached < child.stop:
                        waiting.append((child.inputs, reached, child.stop))
    finally:
        for child, _ in children:
            child.kill()


def _watch(child: Child) -> tuple[int, list[Fault]] | None:
    """(index of the first input that was not tried, faults) of a child that has ended, else None.

    Ends a child that has waited too long for one input.
    """
    index, is_late = child.position()
    pid, status = os.waitpid(child.pid, os.WNOHANG)
    hangs = not pid and index < child.stop and is_late
    if not pid and not hangs:
        return None
    if hangs:
        child.kill()
        os.waitpid(child.pid, 0)
    faults = list(child.faults())
    reached, _ = child.position()
    if hangs:
        faults.append(Fault(child.inputs, index, "hangs", f"more than {HANG_S:g} s"))
        reached = index + 1
    elif os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        faults.append(Fault(child.inputs, reached, "crashes", name))
        reached += 1
    elif os.WEXITSTATUS(status):
        reached += 1
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
        if not hangs:
            faults.append(Fault(child.inputs, reached - 1, "hangs", "left a process behind"))
    shutil.rmtree(child.folder, ignore_errors=True)
    return reached, faults
