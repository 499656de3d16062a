"""Does this version take longer than another? `python -m benchmarks.compare REF [--only predict]`.

REF is a commit, branch or tag. It is checked out into a temporary folder, which is removed at the
end. Each piece of work of `timed_work.WORK` then runs in turns there and here (changes that are not
committed count), each time in a fresh process with one thread; in every other turn this version is
first. Figures are processor seconds, so that other programs disturb little, and ratios (here / REF)
are those of the two runs of a turn. A turn that is not counted comes first: it compiles kernels.

The interval holds the median ratio with a confidence of at least 95 %. Its ends are ordered ratios
(the sign test inverted: Conover, "Practical Nonparametric Statistics", 1999, section 3.2), so that
no distribution is assumed. Exit code 1: for one piece of work or more the whole interval is above
1 + `--tolerance`. Work that REF cannot do is left out, and a line says so.

The last line is JSON: the median ratios.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import common.interpreter  # noqa: F401  first: explains missing packages

from benchmarks.timed_work import WORK
from common.errors import EXIT_PARTLY, Parser, UserError, run_cli
from config import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "benchmarks/timed_work.py"
CONFIDENCE = 0.95
MIN_TURNS = 6  # with fewer, the least and largest of the ratios hold the median less often
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NUMBA_NUM_THREADS": "1"}


class WorkError(Exception):
    """A piece of work ended with an error; the message is its last line."""


class Times(NamedTuple):
    """Processor seconds of one turn."""

    ref: float
    here: float

    @property
    def ratio(self) -> float:
        """Of this version to REF."""
        return self.here / self.ref


def git(*words: str | Path) -> subprocess.CompletedProcess:
    """Run git in the project; the finished process, whatever its exit code."""
    try:
        return subprocess.run(
            ["git", "-C", PROJECT_ROOT, *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UserError("git: not found; install it") from error


def commit_of(ref: str) -> str:
    """The full hash of a commit; raises `UserError` for what is none."""
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode:
        raise UserError(
            f"REF {ref}: no commit of the repository in {PROJECT_ROOT}; git log lists them"
        )
    return found.stdout.strip()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A temporary folder with the files of a commit; removed at the end, after Ctrl-C as well."""
    with tempfile.TemporaryDirectory(prefix="compare_") as folder:
        tree = Path(folder) / "ref"
        try:
            done = git("worktree", "add", "--detach", "--quiet", tree, commit)
            if done.returncode:
                raise UserError(f"git worktree add: {last_line(done.stderr)}")
            yield tree
        finally:
            git("worktree", "remove", "--force", tree)


def last_line(text: str) -> str:
    """The last line of what a program printed."""
    return (text.strip().splitlines() or ["no message"])[-1]


def seconds_of(name: str, tree: Path) -> float:
    """Processor seconds of a piece of work with the files of a version."""
    with SCRIPT.open() as script:  # from stdin: then Python imports from the current folder
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-", name],
            stdin=script, cwd=tree, env=os.environ | ONE_THREAD, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    if done.returncode:
        raise WorkError(last_line(done.stderr))
    return json.loads(last_line(done.stdout))["seconds"]


def turn_of(name: str, ref: Path, number: int) -> Times:
    """Both versions, one after the other; raises `WorkError` for REF and `UserError` for ours."""
    seconds = {}
    for tree in (ref, PROJECT_ROOT) if number % 2 == 0 else (PROJECT_ROOT, ref):
        try:
            seconds[tree] = seconds_of(name, tree)
        except WorkError as error:
            if tree is ref:
                raise
            raise UserError(f"{name}: failed in this version ({error})") from error
    return Times(seconds[ref], seconds[PROJECT_ROOT])


def measure(names: Sequence[str], ref: Path, turns: int) -> dict[str, list[Times]]:
    """The turns of each piece of work that both versions can do."""
    times: dict[str, list[Times]] = {}
    for name in names:
        try:
            turn_of(name, ref, 0)
        except WorkError as error:
            print(f"{name}: left out, REF cannot do it ({error})", flush=True)
        else:
            times[name] = []
    for number in range(turns):
        for name, done in times.items():
            done.append(turn_of(name, ref, number))
        print(f"turn {number + 1} of {turns}", flush=True)
    return times


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values, between which the median lies with `CONFIDENCE`; at least `MIN_TURNS`."""
    n, outside, rank = len(values), 1 / 2 ** len(values), 0
    while 2 * outside <= 1 - CONFIDENCE:  # the chance that more than n - rank lie on one side
        rank += 1
        outside += math.comb(n, rank) / 2**n
    ordered = sorted(values)
    return ordered[rank - 1], ordered[n - rank]


def report(times: dict[str, list[Times]], tolerance: float) -> bool:
    """Print the table and the JSON line; whether any work takes longer than is tolerated."""
    print("| | REF s | here s | here / REF | 95 % interval | |\n|---|---|---|---|---|---|")
    ratios, slower = {}, False
    for name, turns in times.items():
        ref, here = (statistics.median(side) for side in zip(*turns, strict=True))
        low, high = interval([turn.ratio for turn in turns])
        ratios[name] = round(statistics.median(turn.ratio for turn in turns), 4)
        is_slower = low > 1 + tolerance
        slower |= is_slower
        verdict = "slower" if is_slower else "faster" if high < 1 else ""
        print(f"| {name} | {ref:.3f} | {here:.3f} | {ratios[name]:.3f} | {low:.3f} to {high:.3f} "
              f"| {verdict} |")  # fmt: skip
    print(json.dumps(ratios))
    return slower


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command; raises `UserError` for values that cannot be used."""
    parser = Parser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    parser.add_argument("ref", metavar="REF", help="the commit, branch or tag to compare with")
    parser.add_argument("--turns", type=int, default=9, help="counted runs of each; default: 9")
    parser.add_argument("--only", default=",".join(WORK), metavar="NAMES",
                        help=f"of {','.join(WORK)}; default: all")  # fmt: skip
    parser.add_argument("--tolerance", type=float, default=0.05,
                        help="how much slower is no error, as a share; default: 0.05")  # fmt: skip
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    for name in args.only:
        if name not in WORK:
            raise UserError(f"--only {name}: expected one of {', '.join(WORK)}")
    if args.turns < MIN_TURNS:
        raise UserError(f"--turns {args.turns}: expected at least {MIN_TURNS}")
    if not 0 <= args.tolerance < math.inf:
        raise UserError(f"--tolerance {args.tolerance}: expected 0 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Compare this version with REF; 1 where it is slower."""
    args = parse(argv)
    with checked_out(commit_of(args.ref)) as tree:
        times = measure(args.only, tree, args.turns)
    if not times:
        raise UserError(f"REF {args.ref}: it can do none of {', '.join(args.only)}")
    return EXIT_PARTLY if report(times, args.tolerance) else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
