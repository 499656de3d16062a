"""The contract for bad input: one clear line on stderr, exit code 2, nothing lost.

`UserError` says that the outside world is wrong (a file, a flag, a missing package); its message
names what, where, what was found, what was wanted and how to mend it. Every other exception is a
bug of ours and keeps its traceback.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell reports for SIGINT


class UserError(Exception):
    """Bad input from outside; the message is one line meant for the person at the keyboard."""


class Parser(argparse.ArgumentParser):
    """A parser of flags whose complaints are one line, as all bad input is here: a `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the flags")


def reason_of(error: BaseException, length: int = 160) -> str:
    """The reason that an exception gives, in one line: the system's words for an `OSError`, else
    the first line of its message, else its type."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0][:length] if text else type(error).__name__


def writable_folder(path: str | Path) -> Path:
    """Make the folder `path` if need be; raises `UserError` where it cannot be written into."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"folder {path}: cannot be written ({reason_of(error)}); name another"
        ) from error
    return path


def run_cli(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a script's `main(argv)` and return its exit code: 0, 2 for a `UserError`, 130 for Ctrl-C.

    Call as `sys.exit(run_cli(main))`.
    """
    try:
        main(argv)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
