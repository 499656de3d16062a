"""The field side by side: `python -m benchmarks.bench_field --dataset synthetic`.

Trains every model of `config.MODELS` with main.py on the same data, frozen features, losses and
budget, for each seed, and scores them in the same way: held-out clips of the data set, human
recordings of the dev half (`bench_lips`, synthetic head only), and cost. `--ablations` does so with
variants of JambaTalk. The budget is `--minutes` of one processor for each training, or `--steps`
for all. Steps of equal minutes follow from a few steps of each model that are timed one model after
the other before the first training; they are the same for all seeds. Time and memory are those of
one thread. One lip reader, trained on true lips (`field_reader`), judges all models.

Each model and seed is a cell, in a folder of its own under --out. A finished cell is not computed
again, an interrupted one continues; cells of other settings have other folders. After each cell
field.md, field.json and the picture field.png are written into --out. Other data than the synthetic
corpus have the network and the frozen encoder of `--base synthetic`, unless --base names another
recipe.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

from benchmarks.field_cell import RESULT_FILE, TIMING_FILE, WHOLE_CLIP, Cell
from benchmarks.field_plots import plot
from benchmarks.field_table import markdown, summary
from benchmarks.field_variants import variants
from benchmarks.real_speech import EXTRA_FOLDER
from common.errors import Parser, UserError, run_cli, writable_folder
from common.whole_file import write_whole
from config import MODELS, PROJECT_ROOT
from training.recipe import named_recipe

OWN = "jambatalk"
MINUTES = 5.0
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Train and score all models at equal budget.")
    add = parser.add_argument
    add("--dataset", default="synthetic", help="as of main.py")
    add("--base", help="as of main.py (default: synthetic, but for the synthetic corpus)")
    add("--models", nargs="+", default=list(MODELS), metavar="NAME",
        help=f"default: {' '.join(MODELS)}")
    add("--ablations", nargs="*", metavar="NAME",
        help="variants of JambaTalk instead of other models; without names: all")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED", help="default: 1 2 3")
    add("--minutes", type=float, default=MINUTES,
        help=f"processor minutes of each training (default {MINUTES:g})")
    add("--steps", type=int, default=0, help="steps of each training, instead of --minutes")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="as of main.py, for all")
    add("--extra_wav", default=EXTRA_FOLDER, metavar="DIR", help="as of bench_lips")
    add("--asterisk", default="", metavar="DIR", help="as of bench_lips")
    add("--out", default="runs/field", metavar="FOLDER", help="default: runs/field")
    return parser.parse_args(argv)
# fmt: on


def rows_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Row of the table -> arguments of main.py that make it; `UserError` for an unknown name."""
    common = data_arguments(args)
    common += ["--set", *args.set] if args.set else []
    if args.ablations is None:
        _check_names("--models", args.models, MODELS)
        return {name: [*common, "--model", name] for name in args.models}
    common += ["--model", OWN]
    known = variants(named_recipe(args.dataset, _base(args))[0].model)
    _check_names("--ablations", args.ablations, known)
    chosen = {name: known[name] for name in args.ablations or known}
    return {OWN: common} | {name: [*common, "--set", *known] for name, known in chosen.items()}


def data_arguments(args: argparse.Namespace) -> list[str]:
    """Which data and recipe, as arguments of main.py."""
    base = _base(args)
    return ["--dataset", args.dataset, *(["--base", base] if base else [])]


def _base(args: argparse.Namespace) -> str | None:
    return args.base or (None if args.dataset == "synthetic" else "synthetic")


def _check_names(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{flag} {name}: expected some of {', '.join(known)}")


def cells_of(args: argparse.Namespace, out: Path, steps: dict[str, int]) -> list[Cell]:
    """The cells, all models of a seed before the next seed; steps: of a training, by model."""
    reader, features = str(out / "reader.safetensors"), str(out / "features")
    cells = []
    for seed in args.seeds:
        for name, arguments in rows_of(args).items():
            cell = Cell(name, seed, "", tuple(arguments), steps[name], args.extra_wav,
                        args.asterisk, reader, features)  # fmt: skip
            cells.append(_in_folder(cell, out, f"_seed{seed}"))
    return cells


def _in_folder(cell: Cell, out: Path, suffix: str) -> Cell:
    """The cell with a folder of its own below `out`, whose name depends on the settings."""
    settings = dataclasses.asdict(dataclasses.replace(cell, reader="", features=""))  # no paths
    settings = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    label = "".join(c if c.isalnum() else "_" for c in cell.name)
    folder = out / "cells" / f"{label}{suffix}_{digest}"
    return dataclasses.replace(cell, folder=str(folder.resolve()))


def steps_of(args: argparse.Namespace, out: Path) -> dict[str, int]:
    """Steps of a training, by model: --steps, or as many as take --minutes of one processor.

    Raises `UserError` for a budget of nothing and where a model cannot be timed.
    """
    if args.steps < 0 or not args.minutes > 0:
        raise UserError("--steps and --minutes: expected more than 0")
    steps = {}
    for name, arguments in rows_of(args).items():
        steps[name] = args.steps
        if not args.steps:
            cell = Cell(name, 1, "", tuple(arguments), 0, "", "")
            seconds = run_cell(_in_folder(cell, out, "_probe"), TIMING_FILE, "probe")
            steps[name] = max(1, round(60 * args.minutes / seconds["seconds_a_step"]))
    return steps


def train_reader(args: argparse.Namespace, out: Path) -> None:
    """Train the lip reader that judges all models, unless `out` has one."""
    file = out / "reader.safetensors"
    if file.exists():
        return
    command = ["benchmarks.field_reader", *data_arguments(args), "--out", str(file)]
    log = out / "reader.txt"
    if code := compute(command, log):
        raise UserError(f"lip reader: exit code {code}; see {log}")


def run_cell(cell: Cell, result: str = RESULT_FILE, *task: str) -> dict[str, Any]:
    """The record of a cell: the stored one, or that of a process that computes it now.

    result: file of the record; task: of `field_cell`. Raises `UserError` where that process fails;
    its output is in the cell's folder.
    """
    file = cell.path / result
    if not file.exists():
        cell.path.mkdir(parents=True, exist_ok=True)
        write_whole(cell.path / "settings.json", json.dumps(dataclasses.asdict(cell)))
        log = cell.path / "output.txt"
        code = compute(["benchmarks.field_cell", f"{cell.folder}/settings.json", *task], log)
        if code or not file.exists():
            raise UserError(f"{cell.name}, seed {cell.seed}: exit code {code}; see {log}")
    return json.loads(file.read_text())


def compute(command: Sequence[str], log: Path) -> int:
    """Run a module with arguments in a process with one thread, its output into `log`; the exit
    code."""
    with open(log, "a") as output:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=PROJECT_ROOT, env=os.environ | THREADS,
            stdout=output, stderr=output,
        )  # fmt: skip
    return done.returncode


def commits_of(records: Sequence[dict[str, Any]]) -> str:
    """The commits whose code made the cells, which may be finished cells of earlier ones."""
    return ", ".join(dict.fromkeys(record.get("commit") or "unknown" for record in records))


def head_lines(args: argparse.Namespace, records: Sequence[dict[str, Any]]) -> list[str]:
    """What was compared and at which cost, above the table."""
    budget = f"{args.steps} steps" if args.steps else f"{args.minutes:g} processor minutes"
    seeds = sorted({record["cell"]["seed"] for record in records})
    spent = sum(record["processor_s"] for record in records) / 60
    lines = [
        f"`python -m benchmarks.bench_field {shlex.join(args.arguments)}`, commit "
        f"{commits_of(records)}, {time.strftime('%Y-%m-%d')}.",
        f"Budget of a training: {budget}. Seeds: {', '.join(map(str, seeds))}; ± is their standard "
        f"deviation. {len(records)} cells took {spent:.0f} processor minutes, scoring included. "
        f"A look-ahead of {WHOLE_CLIP} frames is the whole clip.",
    ]
    if any("real_clips" in record for record in records):
        first = next(record for record in records if "real_clips" in record)
        lines.append(
            f"Human recordings: {first['real_clips']} clips of the dev half with "
            f"{first['real_pbm']} p b m; {first['real_free']} consonants for false closures."
        )
    truth = next((r["cer_truth"] for r in records if r.get("cer_truth") is not None), None)
    if truth is not None:
        lines.append(f"The lip reader's error rate (CER) on true lips is {truth:.3f}.")
    return lines


def write_table(args: argparse.Namespace, records: Sequence[dict[str, Any]], out: Path) -> str:
    """Write field.md, field.json and field.png; the text of the first."""
    models = summary(records)
    text = "\n".join([*head_lines(args, records), "", markdown(models)])
    write_whole(out / "field.md", text + "\n")
    cells = [
        {key: record["cell"][key] for key in ("name", "seed")}
        | {key: value for key, value in record.items() if key != "cell"}
        for record in records
    ]
    content = {"models": models, "cells": cells}  # without the paths of this machine
    write_whole(out / "field.json", json.dumps(content, indent=1) + "\n")
    plot(models, out / "field.png")
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """Compute the cells and write the table after each; failed cells are listed last."""
    args = parse(argv)
    args.arguments = sys.argv[1:] if argv is None else list(argv)
    out = writable_folder(args.out).resolve()
    records, failures, text = [], [], ""
    cells = cells_of(args, out, steps_of(args, out))
    train_reader(args, out)
    for cell in cells:
        try:
            records.append(run_cell(cell))
        except UserError as error:
            failures.append(str(error))
            continue
        text = write_table(args, records, out)
        print(f"{cell.name}, seed {cell.seed}: {records[-1]['processor_s']:.0f} s", flush=True)
    print(text)
    if failures:
        raise UserError("; ".join(failures))


if __name__ == "__main__":
    sys.exit(run_cli(main))
