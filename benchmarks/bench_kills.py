"""Whether killed commands lose files: `python -m benchmarks.bench_kills [--kills 200] [--seed 1]`.

The commands: preparation of VOCASET and of BIWI from small fabricated downloads, a training with
its test, the demo with and without a video, a test of a model, a plot of runs. Each is killed at
random times, two of three times by SIGKILL, else by SIGTERM; half of the kills wait until a file is
partly written. After each kill, no file under its final name may be anything but whole. After up to
four kills in the same folder the command runs to its end, and its files are compared, byte by byte,
with those of a run that was never disturbed. In every second round of commands that replace files,
older files stand under their names, and must stand there until the new ones are whole.

Attempts are forked from this process, which has imported torch: an import takes longer than most
commands. They run the scripts' `main` as `python SCRIPT ...` does, with one thread.

`--what` names commands. The last line is JSON: the number of kills, and of files that were missing,
different or partly written.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.killed_commands import Command, make_commands
from common.errors import Parser, UserError, run_cli
from common.whole_file import LEFTOVERS

KILLS_PER_ROUND = 4  # in one folder, before the command runs to its end
TERM_SHARE, PARTIAL_SHARE = 1 / 3, 1 / 2
PARTIAL_WAIT_S = 0.03  # at most, between the sight of a temporary file and the kill
POLL_S = 0.0005
SLOW = 1.3  # a disturbed run may take this much longer than the undisturbed one
CHILD_S = 2.0  # for an encoder whose parent was killed to notice it
OLDER = b"older"


@dataclass(frozen=True)
class Kill:
    """One kill of a command: the signal, and whether a file was partly written."""

    command: str
    number: int
    partial: bool


class Trial:
    """A command, its undisturbed results, and a folder in which it is killed."""

    def __init__(self, command: Command, folder: Path, rng: np.random.Generator) -> None:
        self.command, self.folder, self.rng = command, folder, rng
        self.out, self.output = folder / "killed", folder / "output.txt"
        self.lost: list[str] = []
        self.leftovers = 0
        started = time.time()
        self.finish(folder / "whole")
        self.duration_s = time.time() - started
        self.expected = command.content(folder / "whole")

    def start(self, out: Path) -> int:
        """Fork a process that runs the command; returns its id."""
        pid = os.fork()
        if not pid:
            attempt(self.command, out, self.output)
        return pid

    def finish(self, out: Path) -> None:
        """Run the command to its end; raises `UserError` with its last line if it fails."""
        _, status = os.waitpid(self.start(out), 0)
        if code := os.waitstatus_to_exitcode(status):
            last = self.output.read_text(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"{self.command.name}: exit code {code}: {' '.join(last)}")

    def round(self, older: bool, most: int) -> Iterator[Kill]:
        """Kill the command up to `most` times in a new folder, then let it end, and compare."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name in self.expected if older else ():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).write_bytes(OLDER)
        for _ in range(most):
            kill = self.kill()
            self.check_after(kill)
            if kill is not None:
                yield kill
        self.finish(self.out)
        found = self.command.content(self.out)
        names = [name for name, data in self.expected.items() if found.get(name) != data]
        self.lost += [f"{self.command.name}: {name} at the end" for name in names]
        self.leftovers += self.count_leftovers()

    def kill(self) -> Kill | None:
        """Start the command and kill it at a random time; None if it ended before."""
        number = signal.SIGTERM if self.rng.random() < TERM_SHARE else signal.SIGKILL
        sight = self.rng.random() < PARTIAL_SHARE
        delay_s = self.rng.uniform(0, PARTIAL_WAIT_S if sight else SLOW * self.duration_s)
        pid = self.start(self.out)
        status = None
        if sight:
            status = wait(pid, 60, lambda: self.partial_files(pid))
        if status is None:
            status = wait(pid, delay_s)
        if status is not None:
            return None
        partial = bool(self.partial_files(pid))
        os.kill(pid, number)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number == signal.SIGTERM and code not in (128 + number, 0):
            self.lost.append(f"{self.command.name}: exit code {code} after SIGTERM")
        if number == signal.SIGTERM and (n_left := self.count_leftovers(pid)):
            self.lost.append(f"{self.command.name}: {n_left} temporary files after SIGTERM")
        return Kill(self.command.name, number, partial)

    def check_after(self, kill: Kill | None) -> None:
        """Record every file under a final name that is not whole."""
        for path in self.out.rglob("*"):
            name = path.relative_to(self.out)
            if not path.is_file() or any(part.startswith(".") for part in name.parts):
                continue
            name, data = str(name), path.read_bytes()
            if data not in (OLDER, self.expected.get(name)) and not self.command.is_whole(path):
                self.lost.append(f"{self.command.name}: {name} after {kill}")

    def partial_files(self, pid: int | None = None) -> set[Path]:
        """The temporary files in the folder, of all processes or of one."""
        owner = "" if pid is None else f"-{pid}-"
        with contextlib.suppress(FileNotFoundError):  # renamed while we look
            return {path for path in self.out.rglob(LEFTOVERS) if owner in path.name}
        return set()

    def count_leftovers(self, pid: int | None = None) -> int:
        """How many temporary files remain, after some time for orphaned children to end."""
        end = time.time() + CHILD_S
        while (left := self.partial_files(pid)) and time.time() < end:
            time.sleep(0.05)
        return len(left)


def wait(pid: int, seconds: float, until: Callable[[], object] = lambda: False) -> int | None:
    """The status of a child that ended; None after `seconds`, or once `until()` is true."""
    end = time.time() + seconds
    while time.time() < end and not until():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(POLL_S)
    return None


def attempt(command: Command, out: Path, output: Path) -> None:
    """Run a command in this process, which ends with its exit code."""
    code = 1
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = run_cli(command.entry, command.arguments(out))
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_trials(trials: Sequence[Trial], n_kills: int) -> list[Kill]:
    """Kill the commands in turn until there are `n_kills` kills."""
    kills: list[Kill] = []
    number = 0
    while len(kills) < n_kills:
        trial = trials[number % len(trials)]
        older = trial.command.replaces and number // len(trials) % 2 == 1
        kills += trial.round(older, min(KILLS_PER_ROUND, n_kills - len(kills)))
        number += 1
    return kills


def print_table(trials: Sequence[Trial], kills: Sequence[Kill]) -> None:
    """Print for each command how often it was killed, and what was lost."""
    print(f"{'command':10}{'s':>6}{'kills':>7}{'SIGTERM':>9}{'half written':>14}{'lost':>6}"
          f"{'left over':>11}")  # fmt: skip
    n_kills = Counter(kill.command for kill in kills)
    n_term = Counter(kill.command for kill in kills if kill.number == signal.SIGTERM)
    n_partial = Counter(kill.command for kill in kills if kill.partial)
    for trial in trials:
        name = trial.command.name
        print(f"{name:10}{trial.duration_s:6.1f}{n_kills[name]:7}{n_term[name]:9}"
              f"{n_partial[name]:14}{len(trial.lost):6}{trial.leftovers:11}")  # fmt: skip
        for line in trial.lost:
            print(f"  lost: {line}")
    print("(s: of an undisturbed run; left over: temporary files after the last, whole run)")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Kill commands at random times; compare what they write.")
    parser.add_argument("--kills", type=int, default=200, help="number of kills (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of times and signals")
    parser.add_argument("--what", nargs="+", metavar="COMMAND", help="names; default: all")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run every command undisturbed, kill them, print a table and the JSON."""
    args = parse(argv)
    if args.kills < 1 or not hasattr(os, "fork"):
        raise UserError(f"--kills {args.kills}: expected 1 or more, on a system that can fork")
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        commands = make_commands(Path(folder), args.what)
        trials = []
        for command in commands:
            (place := Path(folder) / command.name).mkdir()
            trials.append(Trial(command, place, rng))
        kills = run_trials(trials, args.kills)
        print_table(trials, kills)
    n_lost = sum(len(trial.lost) for trial in trials)
    print(json.dumps({"kills": len(kills), "lost": n_lost}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
