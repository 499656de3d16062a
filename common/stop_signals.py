"""Signals that ask a process to stop: SIGTERM of a scheduler, Ctrl-C, SIGHUP of a closed terminal.

Every script ends on SIGTERM and SIGHUP as it does on Ctrl-C: partly written files are deleted, and
the exit code is 128 + the number of the signal, as shells report it (`ending_on_signals`).

During training a signal is deferred: the run saves its state at the next step and ends, with exit
code 0 or, after Ctrl-C, 130. Before the first step there is nothing to save, and the process ends
at once (`stopping`).

The demo ends its files after the first Ctrl-C (`noting_interrupt`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from common.whole_file import delete_own

ENDING = ("SIGTERM", "SIGHUP")  # SIGHUP is unknown to Windows
SIGNALS = (*ENDING, "SIGINT")
EXIT_INTERRUPTED = 130  # what a shell reports for SIGINT
REPEAT_S = 1.0  # a SIGINT this soon after the first is its copy, which torchrun passes on

Handler = Callable[[int, FrameType | None], None]


class EndedBySignal(SystemExit):
    """Raised in the main thread when SIGTERM or SIGHUP arrives; `code` is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `EndedBySignal`; a second one ends the process at once.

    A process that was forked inside, such as a data worker, ends without any clean-up of its own.
    """
    owner, received = os.getpid(), []

    def handle(number: int, _: FrameType | None) -> None:
        if received or os.getpid() != owner:
            end_now(number, None)
        received.append(number)
        raise EndedBySignal(number)

    with handlers(ENDING, handle):
        yield


def end_now(number: int, _: FrameType | None) -> None:
    """A signal handler that deletes what this process has partly written, and ends it."""
    delete_own()
    os._exit(128 + number)


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
            delete_own()
            os._exit(0)  # no clean-up that could wait for a half imported library
        if by_hand and self.interrupted and time.monotonic() - self.interrupted_s > REPEAT_S:
            raise KeyboardInterrupt
        if by_hand and not self.interrupted:
            print_in_handler("stopping after the state is saved; press Ctrl-C again to end at once")
            self.interrupted_s = time.monotonic()
        self.terminated |= not by_hand
        self.interrupted |= by_hand


@contextmanager
def noting_interrupt(line: str) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C prints `line`, and a second one raises `KeyboardInterrupt`.

    Yields a function that says whether the first has come.
    """
    received = []

    def handle(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        os.write(2, f"\n{line}\n".encode())

    with handlers(("SIGINT",), handle):
        yield lambda: bool(received)


def exit_code(interrupted: bool) -> int:
    """The exit code of a run that stopped on request: 130 after Ctrl-C, else 0."""
    return EXIT_INTERRUPTED if interrupted else 0


def print_in_handler(line: str) -> None:
    """Print a line from a signal handler, where print is not safe; on the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        os.write(1, f"{line}\n".encode())


@contextmanager
def stopping() -> Iterator[Stop]:
    """A `Stop` that receives this process's signals."""
    stop = Stop()
    with handlers(SIGNALS, stop.handle):
        yield stop


@contextmanager
def handlers(names: tuple[str, ...], handle: Handler) -> Iterator[None]:
    """Inside, `handle` receives these signals; a SIGHUP ignored by nohup stays ignored.

    In a thread it receives none: Python gives signals to the main thread alone.
    """
    before = {}
    in_main = threading.current_thread() is threading.main_thread()
    for name in names if in_main else ():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
