"""How bad input is reported: one line on stderr, exit code 2, no results overwritten.

`UserError` means that something outside the program is wrong: a file, a flag, a missing package.
Its message names the object, the place, what was expected, what was found and the remedy. Every
other exception is a bug in this project and keeps its traceback.
"""

import argparse
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from common.stop_signals import EXIT_INTERRUPTED, EndedBySignal, ending_on_signals
from common.whole_file import FULL_DISK

EXIT_PARTLY = 1  # some of several inputs failed, the others are done
EXIT_BAD_INPUT = 2


class UserError(Exception):
    """Bad input from outside; the message is one line for the person who ran the command."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for a line that it cannot parse."""
        raise UserError(f"{message}; {self.prog} --help lists the flags")


def reason_of(error: BaseException, length: int = 160) -> str:
    """The reason for an exception in one line of at most `length` characters.

    The text of the operating system (`OSError`) or of libsndfile, which leaves out the path; else
    the first line of the message, with the second if the first ends with a colon; else the name of
    the exception's type. Of a `KeyError`, whose message is the key alone: "no entry 'key'".
    """
    if isinstance(error, KeyError) and error.args:
        return f"no entry {error}"[:length]
    texts = (getattr(error, name, None) for name in ("strerror", "error_string"))
    text = (next(filter(None, texts), None) or str(error)).strip()
    if not text:
        return type(error).__name__
    first, *others = text.splitlines()
    if first.endswith(":") and others:  # torch's "Error(s) in loading state_dict for X:"
        first = f"{first} {others[0].strip()}"
    return first[:length]


def writable_folder(path: str | Path) -> Path:
    """Make the folder `path` if needed; raises `UserError` if no file can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"folder {path}: cannot be written ({reason_of(error)}); choose another folder"
        ) from error
    return path


def report(message: str) -> None:
    """Print a message for the person who ran the command: one line on stderr, of its own.

    Progress bars are closed first, as they end without a line feed. Control characters, which a
    name from a file may have, are escaped (`printable`).
    """
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(printable(" ".join(message.split())), file=sys.stderr)


def printable(text: str) -> str:
    """`text` with control characters escaped, which act on a terminal; spaces stay."""
    plain = (c.isprintable() or unicodedata.category(c) == "Zs" for c in text)
    return "".join(
        c if is_plain else ascii(c)[1:-1] for c, is_plain in zip(text, plain, strict=True)
    )


def print_any_text() -> None:
    """Let stdout and stderr escape what their encoding lacks, as ASCII does most letters."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def message_of(error: UserError | OSError) -> str:
    """The message for an error of the input or of the system."""
    if isinstance(error, UserError):
        return str(error)
    what = error.filename or "a file"
    if error.errno in FULL_DISK:
        return f"{what}: cannot be written ({reason_of(error)}); free some space"
    return f"{what}: {reason_of(error)}"


def run_cli(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> int:
    """Run a script's `main(argv)` and return its exit code: 0, 2 for a `UserError`, 130 for Ctrl-C.

    A code that `main` returns is returned. The text of a `KeyboardInterrupt` is printed.

    128 + n for SIGTERM and SIGHUP. What the system refuses (`OSError`) is reported like a
    `UserError`; other exceptions pass.

    Call as `sys.exit(run_cli(main))`.
    """
    print_any_text()
    try:
        with ending_on_signals():
            return main(argv) or 0
    except (UserError, OSError) as error:
        report(f"error: {message_of(error)}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:
        report(str(interrupt) or "interrupted")
        return EXIT_INTERRUPTED
    except EndedBySignal as end:
        with suppress(OSError):  # the terminal may be gone
            report(f"ended by {end.name}")
        return end.code
