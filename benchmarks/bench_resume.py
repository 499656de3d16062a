"""Whether a killed run loses work: `python -m benchmarks.bench_resume [--kills 50] [--seed 1]`.

A toy run of `main.py` is killed with SIGKILL after random times and resumed, until it has been
killed `--kills` times. A third of the kills wait until a file is being written. After each kill
last.pt has to load (weights_only) and must not be older than the last state that was written. Then
the run is stopped with SIGTERM (in a step, in validation and during the start), killed once more
while the disk accepts no state, and finished. Its log (without times) and its models are compared,
byte by byte, with those of a reference run with the same flags that was never interrupted.

The script makes the data and the encoder. The network is tiny, because only the number of
interrupted steps, saves and validations matters. Each attempt is a process of its own, with another
hash seed than the one before (`watched_run`). It reports through shared memory what it is doing.
The last line is JSON: the number of kills, the number of kills that lost something, and whether the
results are equal.
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
from typing import NamedTuple

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
from common.errors import Parser, UserError, reason_of, run_cli
from common.whole_file import LEFTOVERS

SAVE_EVERY_MIN = 0.002
HASH_SEEDS = (1, 2, 3)  # of the servers, which take turns
# Phases that a kill waits for, in turn; "" kills at any time.
KILL_PHASES = ("", "", "", "", "state", "state", "model", "log", "", "start")
SIGTERM_PHASES = ("", "validation", "start")
MAX_DELAY_S = {"state": 0.012, "model": 0.005, "log": 0.006, "validation": 0.01}  # inside a phase
HANDLER_S = 0.1  # main.py handles signals after this time
STEP_SHARE = 0.6  # of an even share of the steps per kill, so that the run outlasts all kills
MODEL_FILES = ("best.safetensors", "reader.safetensors")
TIME_COLUMNS = ("seconds", "clips_per_s")  # of log.csv; they differ between runs
WATCH_FILE = "watch"
INTERRUPTED, REFERENCE = "interrupted", "reference"  # names of the two runs and their folders


@dataclass(frozen=True)
class Kill:
    """What a kill interrupted and what was lost."""

    phase: str
    partial: bool  # a file was partly written
    redone_steps: int
    redone_s: float
    loss: str  # "" if nothing was lost


class Stopped(NamedTuple):
    """An attempt that got a signal at `time_s` (of `time.time`)."""

    exit_code: int
    was_running: bool
    time_s: float


class Trial:
    """An interrupted run and a reference run, in two folders below `folder`."""

    def __init__(self, folder: Path, seed: int, servers: Sequence[Server] = ()) -> None:
        self.folder, self.watch = folder, Watch(folder / WATCH_FILE)
        self.interrupted = folder / INTERRUPTED
        self.servers = itertools.cycle(servers)
        self.rng = np.random.default_rng(seed)
        self.step_s = self.start_s = 0.0
        self.stops_left = 0

    def arguments(self, name: str) -> list[str]:
        """The flags of main.py; those of the two runs differ in folders only."""
        return [
            "--dataset", str(self.folder / "data"), "--mode", "train", "--workers", "0",
            "--precision", "fp32", "--save_every", str(SAVE_EVERY_MIN), "--resume",
            "--cache", str(self.folder / f"cache_{name}"), "--out", str(self.folder / name),
        ]  # fmt: skip

    def output(self, name: str) -> Path:
        """The file with what the processes of a run print."""
        return self.folder / f"{name}.txt"

    def start(self, name: str = INTERRUPTED, largest_file: int = 0) -> Attempt:
        """Start a process of one of the runs, on another server than the one before."""
        server = next(self.servers)
        return server.start(self.arguments(name), self.output(name), largest_file)

    def run_reference(self) -> None:
        """Train the reference run; measures how long a start and a step take."""
        started = time.time()
        attempt = self.start(REFERENCE)
        attempt.wait(120, lambda: self.watch.checked_s > 0)
        first_step = time.time()
        self.finish(attempt, REFERENCE)
        self.start_s = first_step - started
        self.step_s = (time.time() - first_step) / (EPOCHS * STEPS)
        self.watch.steps = self.watch.saved_steps = 0

    def finish(self, attempt: Attempt, name: str) -> None:
        """Wait for the end of a run; raises `UserError` with its last line if it failed."""
        if code := attempt.exit_code():
            last = self.output(name).read_text().strip().splitlines()[-1:]
            raise UserError(f"the {name} run ended with exit code {code}: {' '.join(last)}")

    def wait(self, attempt: Attempt, phase: str) -> None:
        """Wait for a random time, then until the process is in `phase` ("": any).

        The time is drawn in steps, because other programs may slow the machine down.
        """
        if phase == "start":
            return attempt.wait(self.rng.uniform(HANDLER_S, self.start_s))
        attempt.wait(120, lambda: self.watch.checked_s > 0)
        saved_steps = self.watch.saved_steps
        most = 2 * STEP_SHARE * (EPOCHS * STEPS - saved_steps) / self.stops_left
        whole, part = divmod(self.rng.uniform(0, most), 1)
        attempt.wait(120, lambda: self.watch.steps >= saved_steps + whole)
        attempt.wait(part * self.step_s)
        if phase:
            last_step = self.watch.steps + STEPS  # not every epoch has a best model
            number = PHASES.index(phase)
            attempt.wait(120, lambda: self.watch.phase == number or self.watch.steps > last_step)
            time.sleep(self.rng.uniform(0, MAX_DELAY_S[phase]))

    def stop(self, phase: str, number: int, largest_file: int = 0) -> Stopped:
        """Start an attempt and send it a signal in a phase."""
        attempt = self.start(largest_file=largest_file)
        self.wait(attempt, phase)
        was_running = not attempt.ended()
        attempt.kill(number)
        time_s = time.time()
        return Stopped(attempt.exit_code(), was_running, time_s)

    def kill(self, phase: str) -> Kill | None:
        """Kill one attempt; None if the run ended before."""
        stopped = self.stop(phase, signal.SIGKILL)
        if stopped.exit_code != -signal.SIGKILL:
            return None
        self.stops_left -= 1
        return self.inspect(stopped.time_s)

    def inspect(self, killed_s: float) -> Kill:
        """Compare the files on disk with what the process reported before the kill."""
        from training.state_file import STATE_FILE, load_state

        watch, loss, steps = self.watch, "", 0
        if (self.interrupted / STATE_FILE).exists():
            try:
                state = load_state(self.interrupted / STATE_FILE)
                steps = steps_of(state)
                loss = record_loss(self.interrupted, state["epoch"] - 1)
            except UserError as error:
                loss = str(error)
                (self.interrupted / STATE_FILE).unlink()  # the next process starts a new run
        redone_s = 0.0
        if watch.checked_s:  # it has trained
            redone_s = max(killed_s - watch.saved_s, 0.0)
            longest = max(watch.longest_s, killed_s - watch.checked_s)
            if redone_s > 60 * SAVE_EVERY_MIN + 2 * longest:  # the time is checked between steps
                loss = loss or f"{redone_s:.2f} s lost, steps took at most {longest:.2f} s"
        if steps < watch.saved_steps:
            loss = loss or f"the state has {steps} steps, expected {watch.saved_steps:.0f} as saved"
        redone = max(int(watch.steps) - steps, 0)
        watch.steps = watch.saved_steps = steps
        partial = any(self.interrupted.glob(LEFTOVERS))
        return Kill(PHASES[int(watch.phase)], partial, redone, redone_s, loss)

    def terminate(self, phase: str) -> str:
        """Stop an attempt with SIGTERM; "" if it ended with exit code 0 and has lost no step."""
        code = self.stop(phase, signal.SIGTERM).exit_code
        self.stops_left -= 1
        if code or self.watch.saved_steps != self.watch.steps:
            return f"exit code {code}, {self.watch.saved_steps} of {self.watch.steps} steps saved"
        return ""

    def fill_disk(self) -> str:
        """Kill an attempt that cannot write states; "" if it trained on and the old one stayed."""
        state, output = self.interrupted / "last.pt", self.output(INTERRUPTED)
        before, n_read = state.read_bytes(), len(output.read_text())
        was_running = self.stop("", signal.SIGKILL, len(before) // 2).was_running
        self.stops_left -= 1
        warnings = output.read_text()[n_read:].count("could not be written")
        is_same = state.read_bytes() == before
        if was_running and warnings and is_same:
            return ""
        return f"still running: {was_running}, warnings: {warnings}, state unchanged: {is_same}"

    def differences(self) -> list[str]:
        """Files in which the two runs differ, and temporary files that were not deleted."""
        from training.run_log import LOG_FILE, read_log

        folders = (self.folder / REFERENCE, self.interrupted)
        logs = [
            [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in rows]
            for rows in (read_log(folder / LOG_FILE) for folder in folders)
        ]
        differing = [] if logs[0] == logs[1] and len(logs[0]) == EPOCHS else [LOG_FILE]
        for name in MODEL_FILES:
            reference, interrupted = ((folder / name).read_bytes() for folder in folders)
            differing += [name] if reference != interrupted else []
        leftovers = sorted(path.name for path in self.interrupted.rglob(LEFTOVERS))
        return differing + [f"{name} was not deleted" for name in leftovers]


def record_loss(folder: Path, epochs: int) -> str:
    """What is wrong with log.csv and run.json beside a state of `epochs` epochs; "" if nothing."""
    from training.run_log import LOG_FILE, RECORD_FILE, read_log

    rows = read_log(folder / LOG_FILE)
    if [row["epoch"] for row in rows[:epochs]] != [str(i + 1) for i in range(epochs)]:
        return f"{LOG_FILE} has {len(rows)} rows, expected {epochs} as in the state"
    if any(None in row.values() or "" in row.values() for row in rows):
        return f"{LOG_FILE} has an incomplete row"
    try:
        json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError) as error:
        return f"{RECORD_FILE}: {reason_of(error)}"
    return ""


def kill_repeatedly(trial: Trial, n_kills: int) -> list[Kill]:
    """Kill and resume the run `n_kills` times; print a line for every loss."""
    kills: list[Kill] = []
    trial.stops_left = n_kills + len(SIGTERM_PHASES) + 2  # the full disk, and steps to finish
    while len(kills) < n_kills:
        kill = trial.kill(KILL_PHASES[len(kills) % len(KILL_PHASES)])
        if kill is None:
            print(f"the run ended after {len(kills)} kills")
            break
        kills.append(kill)
        if kill.loss:
            print(f"kill {len(kills)}, during {kill.phase}: {kill.loss}")
    return kills


def print_table(kills: list[Kill]) -> None:
    """Print how often each phase was killed and how much was done again."""
    print(
        f"{'killed during':16}{'kills':>6}{'file half written':>19}{'steps done again':>18}{'s':>7}"
    )
    for phase in PHASES:
        of_phase = [kill for kill in kills if kill.phase == phase]
        if of_phase:
            steps = [kill.redone_steps for kill in of_phase]
            redone = f"{np.mean(steps):.1f}, {max(steps)}"
            n_partial = sum(kill.partial for kill in of_phase)
            longest_s = max(kill.redone_s for kill in of_phase)
            print(f"{phase:16}{len(of_phase):6}{n_partial:19}{redone:>18}{longest_s:7.2f}")
    print("(steps: mean, maximum; s: the longest time that was done again)")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Kill and resume a run; compare it with an uninterrupted one.")
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the times of the kills")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the reference run, interrupt and finish the other, print the comparison."""
    args = parse(argv)
    if args.kills < 1 or not hasattr(os, "fork"):
        raise UserError(f"--kills {args.kills}: expected 1 or more, on a system that can fork")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_data(Path(folder) / "data")
        Watch(Path(folder) / WATCH_FILE)
        servers = [Server(seed, Path(folder) / WATCH_FILE) for seed in HASH_SEEDS]
        for server in servers:
            stack.callback(server.close)
        trial = Trial(Path(folder), args.seed, servers)
        trial.run_reference()
        print(f"uninterrupted: {EPOCHS * STEPS} steps of {1e3 * trial.step_s:.0f} ms with saves "
              f"and validations; a start takes {trial.start_s:.1f} s")  # fmt: skip
        kills = kill_repeatedly(trial, args.kills)
        print_table(kills)
        for phase in SIGTERM_PHASES:
            outcome = trial.terminate(phase) or "no step lost, exit code 0"
            print(f"SIGTERM, {phase or 'step'}: {outcome}")
        outcome = trial.fill_disk() or "the previous state remained, training went on"
        print(f"full disk: {outcome}")
        trial.finish(trial.start(), INTERRUPTED)
        differing = trial.differences()
    outcome = f"differ in {', '.join(differing)}" if differing else "equal, byte by byte"
    print(f"results: {outcome}")
    n_losses = sum(bool(kill.loss) for kill in kills)
    print(json.dumps({"kills": len(kills), "lost": n_losses, "bit_equal": not differing}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
