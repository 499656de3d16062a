"""How a run is asked to stop: by a scheduler (SIGTERM), a person (Ctrl-C), a terminal that closes.

While it trains, a signal is a wish: the run saves its state and ends, with 0 or, after Ctrl-C,
with 130 as shells have it. Before the first step and after the last there is nothing to save: it
ends at once. Files are whole or not there at all, so that costs nothing.
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
SAME_WISH_S = 1.0  # a second SIGINT this soon is no second Ctrl-C: torchrun passes the first on


class Stop:
    """Whether somebody has asked this process to stop."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.terminated = self.interrupted = self.deferred = False
        self.asked_s = 0.0

    @property
    def asked(self) -> bool:
        """Whether there is a wish to stop."""
        return self.terminated or self.interrupted

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While this lasts signals are wishes, which the run grants by saving its state."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """What a signal does."""
        by_hand = number == signal.SIGINT
        if os.getpid() != self.owner:  # a worker that loads data: it has nothing to save
            os._exit(0)
        if not self.deferred:
            if by_hand:
                raise KeyboardInterrupt
            told("stopped as asked: nothing was to be saved")
            os._exit(0)  # no clean-up that could wait for a library half imported
        if by_hand and self.interrupted and time.monotonic() - self.asked_s > SAME_WISH_S:
            raise KeyboardInterrupt
        if by_hand and not self.interrupted:
            told("stopping: the state is saved first; Ctrl-C again ends at once")
            self.asked_s = time.monotonic()
        self.terminated |= not by_hand
        self.interrupted |= by_hand


def exit_code(interrupted: bool) -> int:
    """Of a run that has stopped as asked: 0 tells a scheduler that all is well."""
    return EXIT_INTERRUPTED if interrupted else 0


def told(line: str) -> None:
    """Print a line of the first process from where printing is not safe: a signal's handler."""
    if os.environ.get("RANK", "0") == "0":
        os.write(1, f"{line}\n".encode())


@contextmanager
def stopping() -> Iterator[Stop]:
    """A `Stop` that listens to signals; a hangup that nohup ignores stays ignored.

    In a thread it hears none: Python gives signals to the main thread alone.
    """
    stop, before = Stop(), {}
    in_main = threading.current_thread() is threading.main_thread()
    for name in SIGNALS if in_main else ():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, stop.ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
