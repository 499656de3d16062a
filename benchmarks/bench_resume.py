"""Is a night's work ever lost? `python -m benchmarks.bench_resume [--kills 50] [--seed 1]`.

A toy run of `main.py` is killed with SIGKILL after random times, and resumed, until it has been
killed `--kills` times; a third of the kills wait for a moment in which a file is being written.
After each of them last.pt has to load (weights_only) and to hold no less than the last state that
was written. Then the run is stopped with SIGTERM, in a step, in validation and while it starts,
killed once more on a disk that takes no state any more, and finished. Its log (times apart) and its
models are compared, byte by byte, with those of a run of the same flags that nobody disturbed.

Data and encoder are made by the script, the network is tiny: what counts is how often a step, a
save, a validation is cut. Each attempt is a process of its own, with another hash seed than the one
before (`watched_run`); it tells through shared memory what it is doing when it is killed. The last
line is JSON: kills, those after which something was lost, and whether the outcomes are equal.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.watched_run import (
    EPOCHS,
    PHASES,
    STEPS,
    Attempt,
    Server,
    Watch,
    steps_of,
    write_data,
)
from common.errors import Parser, UserError, run_cli
from common.whole_file import LEFTOVERS

SAVE_EVERY_MIN = 0.002
HASH_SEEDS = (1, 2, 3)  # of the interpreters, which take turns
# Phases that a kill waits for, in turn; "" kills wherever the time falls.
AIMS = ("", "", "", "", "state", "state", "model", "log", "", "start")
TERMS = ("", "validation", "start")  # where SIGTERM comes
INSIDE_S = {
    "state": 0.012,
    "model": 0.005,
    "log": 0.006,
    "validation": 0.01,
}  # of it a random part is waited, inside
HANDLER_S = 0.1  # after which main.py handles signals
HASTE = 0.6  # of an even share of the steps, so that the run outlasts all kills
OUTCOME = ("best.safetensors", "reader.safetensors")
TIMES = ("seconds", "clips_per_s")  # columns of log.csv that no two runs share
WATCH_FILE = "watch"


@dataclass(frozen=True)
class Kill:
    """What a kill interrupted and what was lost."""

    phase: str
    partial: bool  # a file was half written
    redone_steps: int
    redone_s: float
    fault: str  # "" when nothing was lost


class Trial:
    """The disturbed run in `folder`/cut, beside the undisturbed one in `folder`/whole."""

    def __init__(self, folder: Path, seed: int, servers: Sequence[Server] = ()) -> None:
        self.folder, self.cut, self.watch = folder, folder / "cut", Watch(folder / WATCH_FILE)
        self.turns = itertools.cycle(servers)
        self.rng = np.random.default_rng(seed)
        self.step_s = self.start_s = 0.0
        self.stops_left = 0

    def arguments(self, name: str) -> list[str]:
        """Of main.py; the two runs differ in folders only."""
        return [
            "--dataset", str(self.folder / "data"), "--mode", "train", "--workers", "0",
            "--precision", "fp32", "--save_every", str(SAVE_EVERY_MIN), "--resume",
            "--cache", str(self.folder / f"cache_{name}"), "--out", str(self.folder / name),
        ]  # fmt: skip

    def run(self, name: str = "cut", largest_file: int = 0) -> Attempt:
        """Start a process for one of the runs, of another server than the one before."""
        return next(self.turns).start(
            self.arguments(name), self.folder / f"{name}.txt", largest_file
        )

    def undisturbed(self) -> None:
        """The run to compare with; measures what a start and a step take."""
        begun = time.time()
        whole = self.run("whole")
        whole.wait(120, lambda: self.watch.checked_s > 0)
        first = time.time()
        self.finish(whole, "whole")
        self.start_s, self.step_s = first - begun, (time.time() - first) / (EPOCHS * STEPS)
        self.watch.steps = self.watch.saved_steps = 0

    def finish(self, attempt: Attempt, name: str) -> None:
        """Wait for the end of a run; `UserError` with its last line when it failed."""
        if code := attempt.exit_code():
            last = (self.folder / f"{name}.txt").read_text().strip().splitlines()[-1:]
            raise UserError(f"the run {name} ended with {code}: {' '.join(last)}")

    def disturb(self, attempt: Attempt, aim: str) -> None:
        """Let a process work for a random time, then until it is at its aim.

        The time is drawn in steps and parts of one: other programs may slow the machine down.
        """
        if aim == "start":
            return attempt.wait(self.rng.uniform(HANDLER_S, self.start_s))
        attempt.wait(120, lambda: self.watch.checked_s > 0)
        begun = self.watch.saved_steps
        share = 2 * HASTE * (EPOCHS * STEPS - begun) / self.stops_left
        whole, part = divmod(self.rng.uniform(0, share), 1)
        attempt.wait(120, lambda: self.watch.steps >= begun + whole)
        attempt.wait(part * self.step_s)
        if aim:
            end = self.watch.steps + STEPS  # not every epoch has a best model
            there = PHASES.index(aim)
            attempt.wait(120, lambda: self.watch.phase == there or self.watch.steps > end)
            time.sleep(self.rng.uniform(0, INSIDE_S[aim]))

    def kill(self, aim: str) -> Kill | None:
        """One attempt, killed; None when the run came to its end before."""
        attempt = self.run()
        self.disturb(attempt, aim)
        attempt.kill(signal.SIGKILL)
        killed_s = time.time()
        if attempt.exit_code() != -signal.SIGKILL:
            return None
        self.stops_left -= 1
        return self.inspect(killed_s)

    def inspect(self, killed_s: float) -> Kill:
        """What is on disk after a kill."""
        from training.state_file import STATE_FILE, load_state

        watch, fault, steps = self.watch, "", 0
        if (self.cut / STATE_FILE).exists():
            try:
                state = load_state(self.cut / STATE_FILE)
                steps = steps_of(state)
                fault = whole_records(self.cut, state["epoch"] - 1)
            except UserError as error:
                fault = str(error)
                (self.cut / STATE_FILE).unlink()  # the next process starts from the beginning
        redone_s = 0.0
        if watch.checked_s:  # it has trained
            redone_s = max(killed_s - watch.saved_s, 0.0)
            longest = max(watch.longest_s, killed_s - watch.checked_s)
            if redone_s > 60 * SAVE_EVERY_MIN + 2 * longest:  # the time is checked between steps
                fault = fault or f"{redone_s:.2f} s lost, steps took {longest:.2f} s at most"
        if steps < watch.saved_steps:
            fault = (
                fault or f"the state has {steps} steps, one of {watch.saved_steps:.0f} was saved"
            )
        redone = max(int(watch.steps) - steps, 0)
        watch.steps = watch.saved_steps = steps
        partial = any(self.cut.glob(LEFTOVERS))
        return Kill(PHASES[int(watch.phase)], partial, redone, redone_s, fault)

    def terminate(self, aim: str) -> str:
        """SIGTERM at an aim: "" when the process ended with 0 and has lost no step."""
        attempt = self.run()
        self.disturb(attempt, aim)
        attempt.kill(signal.SIGTERM)
        code = attempt.exit_code()
        self.stops_left -= 1
        if code or self.watch.saved_steps != self.watch.steps:
            return f"exit code {code}, {self.watch.saved_steps} of {self.watch.steps} steps saved"
        return ""

    def fill_disk(self) -> str:
        """A process that cannot write states, killed: "" when it went on and the old one stayed."""
        state = self.cut / "last.pt"
        before, n_read = state.read_bytes(), len((self.folder / "cut.txt").read_text())
        attempt = self.run(largest_file=len(before) // 2)
        self.disturb(attempt, "")
        worked = not attempt.ended()
        attempt.kill(signal.SIGKILL)
        attempt.exit_code()
        self.stops_left -= 1
        refused = (self.folder / "cut.txt").read_text()[n_read:].count("could not be written")
        if worked and refused and state.read_bytes() == before:
            return ""
        return f"worked on: {worked}, refusals: {refused}, same: {state.read_bytes() == before}"

    def differences(self) -> list[str]:
        """In what the two runs' outcomes differ, and files that are left half written."""
        from training.run_log import LOG_FILE, read_log

        whole, cut = self.folder / "whole", self.cut
        logs = [read_log(folder / LOG_FILE) for folder in (whole, cut)]
        plain = [[{k: v for k, v in r.items() if k not in TIMES} for r in rows] for rows in logs]
        differing = [] if plain[0] == plain[1] and len(plain[0]) == EPOCHS else [LOG_FILE]
        differing += [n for n in OUTCOME if (whole / n).read_bytes() != (cut / n).read_bytes()]
        left = sorted(p.name for p in cut.rglob(LEFTOVERS))
        return differing + [f"{name} is left" for name in left]


def whole_records(folder: Path, epochs: int) -> str:
    """What is wrong with log.csv and run.json beside a state of `epochs` epochs; "" if nothing."""
    from training.run_log import LOG_FILE, RECORD_FILE, read_log

    rows = read_log(folder / LOG_FILE)
    if [row["epoch"] for row in rows[:epochs]] != [str(i + 1) for i in range(epochs)]:
        return f"{LOG_FILE} has {len(rows)} rows, the state {epochs} epochs"
    if any(None in row.values() or "" in row.values() for row in rows):
        return f"{LOG_FILE} has a row cut short"
    try:
        json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError) as error:
        return f"{RECORD_FILE}: {error}"
    return ""


def disturbed(trial: Trial, n_kills: int) -> list[Kill]:
    """Kill the run `n_kills` times; print a line for every fault."""
    kills: list[Kill] = []
    trial.stops_left = n_kills + len(TERMS) + 2  # a full disk, a rest to finish
    while len(kills) < n_kills:
        kill = trial.kill(AIMS[len(kills) % len(AIMS)])
        if kill is None:
            print(f"the run ended after {len(kills)} kills")
            break
        kills.append(kill)
        if kill.fault:
            print(f"kill {len(kills)}, during {kill.phase}: {kill.fault}")
    return kills


def table(kills: list[Kill]) -> None:
    """Print how often each phase was killed and what was lost."""
    print(
        f"{'killed during':16}{'kills':>6}{'file half written':>19}{'steps done again':>18}{'s':>7}"
    )
    for phase in PHASES:
        hit = [kill for kill in kills if kill.phase == phase]
        if hit:
            again = (
                f"{np.mean([k.redone_steps for k in hit]):.1f}, {max(k.redone_steps for k in hit)}"
            )
            print(f"{phase:16}{len(hit):6}{sum(k.partial for k in hit):19}{again:>18}"
                  f"{max(k.redone_s for k in hit):7.2f}")  # fmt: skip
    print("(steps: mean, most; s: the longest time whose work was done again)")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description="Kill and resume a run; compare with a whole one.")
    parser.add_argument("--kills", type=int, default=50, help="default 50")
    parser.add_argument("--seed", type=int, default=1, help="of the times of the kills")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.kills < 1 or not hasattr(os, "fork"):
        raise UserError(f"--kills {args.kills}: expected 1 or more, on a system that can fork")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        Watch(Path(folder) / WATCH_FILE)
        started = [Server(seed, Path(folder) / WATCH_FILE) for seed in HASH_SEEDS]
        for server in started:
            servers.callback(server.close)
        trial = Trial(Path(folder), args.seed, started)
        write_data(trial.folder / "data")
        trial.undisturbed()
        print(f"undisturbed: {EPOCHS * STEPS} steps of {1e3 * trial.step_s:.0f} ms with saves and "
              f"validations; a start takes {trial.start_s:.1f} s")  # fmt: skip
        kills = disturbed(trial, args.kills)
        table(kills)
        for aim in TERMS:
            print(
                f"SIGTERM, {aim or 'step'}: {trial.terminate(aim) or 'no step lost, exit code 0'}"
            )
        print(f"full disk: {trial.fill_disk() or 'the previous state remained, training went on'}")
        trial.finish(trial.run(), "cut")
        differing = trial.differences()
    outcome = f"differ in {', '.join(differing)}" if differing else "equal, byte by byte"
    print(f"outcomes: {outcome}")
    lost = sum(bool(kill.fault) for kill in kills)
    print(json.dumps({"kills": len(kills), "lost": lost, "bit_equal": not differing}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
