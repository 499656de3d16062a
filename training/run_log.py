"""What a run records for its user: run.json, log.csv, TensorBoard events, warnings."""

import csv
import dataclasses
import io
import json
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from common.errors import UserError, reason_of
from common.units import UNNAMED, metric_units, unit_name
from common.whole_file import whole_file, write_whole
from config import PROJECT_ROOT, Recipe
from files.texts import decode
from training.event_file import EventFile

if TYPE_CHECKING:  # logs are read without torch
    import torch

LOG_FILE, RECORD_FILE, DIFF_FILE = "log.csv", "run.json", "changes.diff"
BEST_FILE = "best.safetensors"
WORTH_KEEPING = (BEST_FILE, "last.pt")
OF_A_RUN = (
    *WORTH_KEEPING, "reader.safetensors", LOG_FILE, RECORD_FILE, DIFF_FILE, "previews",
    "results.*", "events.out.tfevents.*",
)  # fmt: skip
OLD_COLUMNS = {"val_choice": "val_selection_score"}  # names up to commit 4c337b8 -> names now
SQUARED, LENGTHS = ("val_lve", "val_selection_score"), ("val_mve",)  # columns that have a unit
STATIC_AFTER = 3  # epoch of the first warning about lips that do not move
STATIC_EVERY = 10  # epochs between two such warnings
DIVERGED = 3.0  # times the best validation error so far


def write_record(
    folder: Path,
    recipe: Recipe,
    arguments: Sequence[str],
    *,
    device: "torch.device",
    precision: "torch.dtype",
    world: int = 1,
) -> None:
    """Write run.json and, where the code differs from its commit, changes.diff."""
    import torch

    diff = git("diff", "HEAD")
    units = metric_units(unit_name(recipe.dataset.metres_per_unit))
    record = {
        "command": shlex.join(["main.py", *arguments]),
        "arguments": list(arguments),
        "commit": git("rev-parse", "HEAD"),
        "changed_files": git("diff", "--name-only", "HEAD").splitlines(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "processes": world,
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "units": {f"val_{name}": unit for name, unit in units.items() if name in ("lve", "mve")},
        "recipe": dataclasses.asdict(recipe),
    }
    write_whole(folder / RECORD_FILE, json.dumps(record, indent=1) + "\n")
    (folder / DIFF_FILE).unlink(missing_ok=True)
    if diff:
        write_whole(folder / DIFF_FILE, diff + "\n")


def git(*args: str) -> str:
    """The output of a git command in the project; "" where there is no git or no repository."""
    command = ["git", "-C", str(PROJECT_ROOT), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


class Log:
    """A row per epoch: log.csv, TensorBoard scalars, a line on the screen, warnings.

    Epoch 0 is the validation of the model that --init names, before the first step. done: the last
    epoch that an earlier part of this run finished, -1 for none; later rows are dropped. unit: of
    the vertices, printed on the screen.
    """

    def __init__(self, folder: Path, done: int = 0, unit: str = UNNAMED) -> None:
        self.path, self.unit = folder / LOG_FILE, unit
        try:
            self.rows = [row for row in read_log(self.path) if int(row["epoch"]) <= done]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path}: not a run's log ({reason_of(error)}); move it away to continue"
            ) from error
        self.events = EventFile(folder, first_step=done + 1)
        self._write()

    def add(self, row: dict[str, float], epochs: int) -> None:
        """Add an epoch; epochs: of the whole run. Raises `OSError` when the disk is full."""
        self._warn(row, epochs)
        self.rows.append({name: str(value) for name, value in row.items()})
        self._write()
        self.events.add_scalars(row, int(row["epoch"]))
        units = dict.fromkeys(SQUARED, f" {self.unit}²") | dict.fromkeys(LENGTHS, f" {self.unit}")
        printed = (
            f"{k} {v:.4g}{units.get(k, '')}" for k, v in row.items() if not k.startswith("router")
        )
        left = epochs - row["epoch"]
        remark = f"  {format_duration(left * row['seconds'])} left" if left else ""
        tqdm.write("  ".join(printed) + (remark if row["epoch"] else "  (start)"))

    def _write(self) -> None:
        names = {name: None for row in self.rows for name in row}  # in order, each once
        with whole_file(self.path) as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            if names:
                writer.writeheader()
            writer.writerows(self.rows)

    def _warn(self, row: dict[str, float], epochs: int) -> None:
        epoch = int(row["epoch"])
        due = epoch in (STATIC_AFTER, epochs) or (epoch > 0 and epoch % STATIC_EVERY == 0)
        if due and row.get("val_static") == 1:
            tqdm.write(
                f"warning: epoch {epoch}: STATIC FACE: in every validation clip the predicted "
                f"lips move {row['val_motion']:.2%} of what the recorded ones do. Try a lower "
                "--encoder_learning_rate (or 0), a lower --learning_rate, more epochs; "
                "check that vertices and templates have one scale and one order of vertices"
            )
        # the first epochs are often worse than a start (epoch 0) at the neutral face
        moving = [old for old in self.rows if old["epoch"] != "0" or old["val_static"] != "1.0"]
        before = [float(old["val_lve"]) for old in moving if old.get("val_lve")]
        if before and row["val_lve"] > DIVERGED * min(before):
            tqdm.write(
                f"warning: epoch {epoch}: DIVERGING: the validation error is "
                f"{row['val_lve'] / min(before):.1f} times the best so far; the best model is "
                "kept. Try a lower --learning_rate"
            )


def format_duration(seconds: float) -> str:
    """A duration in its usual unit: 40 s, 12 min, 3.4 h, 2.1 days."""
    for size, unit, digits in ((86_400, "days", 1), (3_600, "h", 1), (60, "min", 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def set_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run into a new folder inside; returns that folder.

    None where there is neither a model nor a state.
    """
    if not any((folder / name).exists() for name in WORTH_KEEPING):
        return None
    number = 1
    while (aside := folder / f"earlier_{number}").exists():
        number += 1
    aside.mkdir()
    for name in OF_A_RUN:
        for file in folder.glob(name):
            file.rename(aside / file.name)
    return aside


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log.csv, all values as strings; [] where there is none.

    Renames `OLD_COLUMNS`. Raises `ValueError` for a file that is not text.
    """
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(decode(path.read_bytes()), newline="")))
    except csv.Error as error:  # Python 3.10: a zero byte
        raise ValueError(str(error)) from error
    return [{OLD_COLUMNS.get(name, name): value for name, value in row.items()} for row in rows]
