"""Whether hostile files do harm: `python -m benchmarks.bench_hostile [--inputs 200000] [--jobs 1]`.

Small valid files of every format that the project reads are mutated at random (`hostile_mutators`,
`hostile_formats`), and each mutant is given to its loader (`hostile_targets` and others) in
a process that is watched (`hostile_pool`). Hand-made hostile pickles (`hostile_pickles`) go through
all four readers of pickles. Faults are: an exception other than `UserError`, or a file that was
accepted but gave something else than promised ("tracebacks"); a process ended by a signal
("crashes"); more than 10 s of processor time for one file, or of 60 s in all ("hangs"); more than
1 GB of memory ("over_1gb"). The mutants depend on `--seed` alone. Each kind of fault is printed
once, with a file that shows it in `--save`. `--kills` also runs `bench_kills`, for the last two
figures.

`--files DIR` tries the files of a folder instead, each with every loader that could take it. The
last line is JSON; "pickles_refused" is "all" where every hostile pickle was refused.
"""

import argparse
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

from benchmarks.hostile_characters import CHARACTER_TARGETS
from benchmarks.hostile_models import MODEL_TARGETS
from benchmarks.hostile_mutators import mutant
from benchmarks.hostile_pickles import hostile_pickles
from benchmarks.hostile_pool import KINDS, Fault, Inputs, run_all
from benchmarks.hostile_targets import AUDIO_SUFFIXES, DATA_TARGETS, Attempt, Target
from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT

TARGETS = (*DATA_TARGETS, *CHARACTER_TARGETS, *MODEL_TARGETS)
EXAMPLES = 2  # saved files for one kind of fault
CANARY = "code_was_run"  # the file that hostile pickles try to make in the working directory


@dataclass(frozen=True)
class Mutants:
    """Mutated seeds of a target."""

    target: Target
    seed: int
    n: int

    def __len__(self) -> int:
        return self.n

    def content(self, index: int) -> bytes:
        """The bytes of a mutant, which depend on seed, target and index alone."""
        rng = random.Random(f"{self.seed} {self.target.name} {index}")
        return mutant(self.target.seeds(), self.target.mutators, rng)

    def write(self, index: int, folder: Path) -> Path:
        """Write a mutant to the target's place."""
        return _place(self.target, folder, self.content(index))


@dataclass(frozen=True)
class Given:
    """Files of other people, or hand-made ones: names and contents."""

    target: Target
    files: Sequence[tuple[str, bytes]]

    def __len__(self) -> int:
        return len(self.files)

    def content(self, index: int) -> bytes:
        """The bytes of a file."""
        return self.files[index][1]

    def write(self, index: int, folder: Path) -> Path:
        """Write a file under its own name, or where the target needs it."""
        name, content = self.files[index]
        target = replace(self.target, place=name) if self.target.keeps_names else self.target
        return _place(target, folder, content)


def _place(target: Target, folder: Path, content: bytes) -> Path:
    path = folder / target.place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a mapped file must not be shortened
    path.write_bytes(content)
    return path


def mutants(n_inputs: int, seed: int, targets: Sequence[Target] = TARGETS) -> list[Inputs]:
    """At least `n_inputs` mutants over the targets, as their shares say."""
    total = sum(target.share for target in targets)
    return [Mutants(t, seed, int(n_inputs * t.share / total) + 1) for t in targets]


def pickle_inputs() -> list[Inputs]:
    """Every hostile pickle for every reader of pickles, which must refuse it."""
    readers = [target for target in TARGETS if ".pkl" in target.takes]
    files = [(f"{name}.pkl", content) for name, content in hostile_pickles(CANARY).items()]
    return [
        Given(replace(t, name=f"hostile {t.name}", prepare=_refusing(t.prepare)), files)
        for t in readers
    ]


def _refusing(prepare):
    """`prepare` of a target, with attempts that raise `ValueError` for a file that was accepted."""

    def prepared(folder: Path) -> Attempt:
        attempt = prepare(folder)

        def refuse(path: Path) -> None:
            try:
                attempt(path)
            except UserError:
                if not Path(CANARY).exists():
                    return
            raise ValueError("ran code" if Path(CANARY).exists() else "accepted a hostile pickle")

        return refuse

    return prepared


def given_files(folder: Path) -> list[Inputs]:
    """The files of a folder, for each target that could take them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UserError(f"--files {folder}: no files in it; give a folder of hostile files")
    known = {suffix for target in TARGETS for suffix in target.takes}
    work = []
    for target in TARGETS:
        # what no loader claims is tried as a recording, to which any file may be given
        takes = set(target.takes) | ({""} if target.takes == AUDIO_SUFFIXES else set())
        chosen = [
            (path.name, path.read_bytes())
            for path in files
            if (path.suffix.lower() if path.suffix.lower() in known else "") in takes
        ]
        if chosen:
            work.append(Given(target, chosen))
    return work


def warm_up(target: Target) -> str:
    """Load the first seed of a target, so that forked children need not import anything.

    Returns the message where this valid file is refused, else "".
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        attempt = target.prepare(Path(folder))
        try:
            attempt(_place(target, Path(folder), target.seeds()[0]))
        except UserError as error:
            return str(error)
    return ""


def run(work: list[Inputs], jobs: int, save: Path) -> tuple[int, list[Fault]]:
    """Try everything; prints new kinds of faults and the progress; returns the faults."""
    tried, faults, shown = 0, [], Counter()
    total, started, last = sum(map(len, work)), time.monotonic(), 0.0
    for inputs, n_tried, found in run_all(work, jobs):
        tried += n_tried
        for fault in found:
            faults.append(fault)
            place = re.sub(r"\d+\.\d GB|[0-9]+ (?=bytes)", "N", fault.text.rpartition(" at ")[2])
            kind = (inputs.target.name, fault.kind, place)
            shown[kind] += 1
            if shown[kind] <= EXAMPLES:
                print(f"{inputs.target.name}: {fault.kind}: {fault.text}: {_save(fault, save)}",
                      flush=True)  # fmt: skip
        seconds = time.monotonic() - started
        if seconds - last > 30:
            last = seconds
            print(f"{tried} of {total} inputs, {seconds:.0f} s", flush=True)
    for (name, kind, text), n in sorted(shown.items()):
        print(f"{n:6} {name}: {kind}: {text}")
    print(f"{tried} inputs in {time.monotonic() - started:.0f} s")
    return tried, faults


def _save(fault: Fault, save: Path) -> Path:
    """Write the input of a fault into the folder `save`."""
    target = fault.inputs.target
    name = re.sub(r"\W+", "_", f"{target.name} {fault.kind} {fault.index}")
    save.mkdir(parents=True, exist_ok=True)
    path = save / (name + Path(target.place).suffix)
    path.write_bytes(fault.inputs.content(fault.index))
    return path


def kills(wanted: int) -> dict[str, int]:
    """The figures of `bench_kills` with that many kills."""
    command = [sys.executable, "-m", "benchmarks.bench_kills", "--kills", str(wanted)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    try:
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        return {name: figures[name] for name in ("kills", "lost")}
    except (IndexError, ValueError, KeyError) as error:
        raise UserError("bench_kills: no figures; run it alone to see why") from error


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Try mutated files with every loader; count faults.")
    add = parser.add_argument
    add("--inputs", type=int, default=200_000, help="mutants in all (default: 200000)")
    add("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    add("--seed", type=int, default=1, help="of the mutations (default: 1)")
    add("--kills", type=int, default=0, help="kills of commands by bench_kills (default: none)")
    add("--targets", default="", metavar="TEXT", help="only targets whose names contain this")
    add("--files", type=Path, metavar="DIR", help="try the files of this folder instead")
    add("--save", type=Path, default=Path("out/hostile"), metavar="DIR",
        help="folder for files that show a fault (default: out/hostile)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Try all inputs and print what went wrong, then the figures."""
    args = parse(argv)
    if args.inputs < 1 or args.jobs < 1 or not hasattr(os, "fork"):
        raise UserError(
            f"--inputs {args.inputs}, --jobs {args.jobs}: expected 1 or more each, on a system "
            "that can fork"
        )
    targets = [target for target in TARGETS if args.targets in target.name]
    if not targets:
        names = ", ".join(target.name for target in TARGETS)
        raise UserError(f"--targets {args.targets}: none of {names}")
    work = given_files(args.files) if args.files else mutants(args.inputs, args.seed, targets)
    work = [inputs for inputs in work + pickle_inputs() if args.targets in inputs.target.name]
    for target in targets:
        if refusal := warm_up(target):
            print(f"{target.name}: the valid file is refused: {refusal}")
    tried, faults = run(work, args.jobs, args.save.absolute())
    print(json.dumps(figures(tried, faults) | (kills(args.kills) if args.kills else {})))


def figures(tried: int, faults: Iterable[Fault]) -> dict[str, int | str | None]:
    """Number of inputs and of faults by kind; kills and lost are null without `--kills`."""
    faults = list(faults)
    count = Counter(fault.kind for fault in faults)
    accepted = sum(fault.inputs.target.name.startswith("hostile ") for fault in faults)
    refused = f"{accepted} not" if accepted else "all"
    return {"inputs": tried, **{kind: count[kind] for kind in KINDS}, "pickles_refused": refused,
            "kills": None, "lost": None}  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_cli(main))
