"""Signals that ask a run to stop: SIGTERM of a scheduler, Ctrl-C, SIGHUP of a closed terminal.

During training a signal is deferred: the run saves its state at the next step and ends, with exit
code 0 or, after Ctrl-C, 130 as shells do. Before the first step and after the last there is nothing
to save, and the process ends at once. Files are written whole or not at all, so that is safe.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from common.errors import EXIT_INTERRUPTED

SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT")  # SIGHUP is unknown to Windows
REPEAT_S = 1.0  # a SIGINT this soon after the first is its copy, which torchrun passes on


class Stop:
    """Which signals this process has received; see `stopping`."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.terminated = self.interrupted = self.deferring = False
        self.interrupted_s = 0.0  # time.monotonic of the first Ctrl-C

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self.terminated or self.interrupted

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, signals only set the flags; the caller saves and stops."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        by_hand = number == signal.SIGINT
        if os.getpid() != self.owner:  # a data worker: it has nothing to save
            os._exit(0)
        if not self.deferring:
            if by_hand:
                raise KeyboardInterrupt
            print_in_handler("stopped on request; there was nothing to save")
            os._exit(0)  # no clean-up that could wait for a half imported library
        if by_hand and self.interrupted and time.monotonic() - self.interrupted_s > REPEAT_S:
            raise KeyboardInterrupt
        if by_hand and not self.interrupted:
            print_in_handler("stopping after the state is saved; press Ctrl-C again to end at once")
            self.interrupted_s = time.monotonic()
        self.terminated |= not by_hand
        self.interrupted |= by_hand


def exit_code(interrupted: bool) -> int:
    """The exit code of a run that stopped on request: 130 after Ctrl-C, else 0."""
    return EXIT_INTERRUPTED if interrupted else 0


def print_in_handler(line: str) -> None:
    """Print a line from a signal handler, where print is not safe; on the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        os.write(1, f"{line}\n".encode())


@contextmanager
def stopping() -> Iterator[Stop]:
    """A `Stop` that receives this process's signals; a SIGHUP ignored by nohup stays ignored.

    In a thread it receives none: Python gives signals to the main thread alone.
    """
    stop, before = Stop(), {}
    in_main = threading.current_thread() is threading.main_thread()
    for name in SIGNALS if in_main else ():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
