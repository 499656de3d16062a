"""Several training runs compared: their curves in one PNG, their figures in a table.

Reads run.json and log.csv of run folders, also of runs that are still training. Lip errors are in
mm² here, whatever unit the data set has; losses are as trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from common.whole_file import whole_file
from files.texts import read_json
from training.run_log import LOG_FILE, RECORD_FILE, read_log

MAX_NUMBER = 1e9  # of metres in a unit, and of steps in an epoch
HERO = ("val_lve", "validation LVE, mm² (ring: saved model)")
PANELS = (  # column of log.csv, title; losses before their weights, but for the first
    ("loss", "loss, weighted sum"),
    ("vertex", "vertex loss"),
    ("velocity", "velocity loss"),
    ("lips", "lip loss"),
    ("latent", "latent loss"),
    ("ctc", "CTC loss"),
    ("balance", "router balance"),
    ("gradient_norm", "gradient norm"),
)
COLUMNS = 4
PANEL_SIZE_IN, TOP_IN, DOTS_PER_INCH = (3.2, 2.4), 0.7, 120  # inches
LOG_SPAN = 3.0  # a panel whose values differ by more than this factor gets a logarithmic axis
LOG_TICKS = (1, 1.5, 2, 3, 4, 6)  # of each power of ten
HEADINGS = ("run", "epochs", "best", "val LVE mm²", "minutes", "steps/s", "commit", "command")
COMMIT_LETTERS = 10
MANY_RUNS = 10  # colours in matplotlib's cycle; later runs are dashed


@dataclass(frozen=True)
class RunLog:
    """A run folder as read: columns are (epochs,) float64, NaN where a row lacks a value."""

    folder: Path
    record: dict[str, Any]
    columns: dict[str, NDArray[np.float64]]

    @property
    def epochs(self) -> NDArray[np.float64]:
        """The number of each epoch, from 1; 0 for the start of --init."""
        return self.columns["epoch"]

    @property
    def steps(self) -> NDArray[np.float64] | None:
        """Optimizer steps up to the end of each epoch, None where the log lacks them."""
        if np.isfinite(self.columns.get("steps", np.array([np.nan]))).all():
            return self.columns["steps"]
        steps_per_epoch = self.record["recipe"].get("train", {}).get("steps_per_epoch", 0)
        return self.epochs * steps_per_epoch if steps_per_epoch else None

    @property
    def lve(self) -> NDArray[np.float64]:
        """Validation LVE of every epoch, mm²."""
        millimetres = self.record["recipe"]["dataset"]["metres_per_unit"] * 1e3
        return self.columns["val_lve"] * millimetres**2

    @property
    def best(self) -> int | None:
        """Row of the model that was saved: the lowest val_selection_score, or LVE in logs without
        that column; None where no epoch has one."""
        scores = self.columns.get("val_selection_score", self.lve)
        return int(np.nanargmin(scores)) if np.isfinite(scores).any() else None

    def values(self, column: str) -> NDArray[np.float64]:
        """A column as a panel shows it, (epochs,); all NaN where the log lacks it."""
        if column == HERO[0]:
            return self.lve
        return self.columns.get(column, np.full(len(self.epochs), math.nan))


def plot_runs(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Draw the curves of run folders into `out` (.png), print and write (.md) their table.

    Returns the path of the picture. Raises `UserError` for a folder that holds no run.
    """
    if not folders:
        raise UserError("--plot: expected one run folder or more, such as runs/synthetic")
    runs = [read_run(folder) for folder in folders]
    out = Path(out).with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out.with_suffix(".md")) as text, whole_file(out) as picture:
            text.write_text(table(runs) + "\n", encoding="utf-8")
            draw(runs, picture)
    except OSError as error:
        raise UserError(f"--plot: {out}: cannot be written ({reason_of(error)})") from error
    print(f"{table(runs)}\n{out}, {out.with_suffix('.md')}")
    return out


def _check_record(record: Any) -> None:
    """Raise an error unless the parts of a run.json that are used here have their types."""
    train = record["recipe"].get("train", {})
    numbers = record["recipe"]["dataset"]["metres_per_unit"], train.get("steps_per_epoch", 0)
    if not all(isinstance(n, int | float) and 0 <= n < MAX_NUMBER for n in numbers):
        raise ValueError("metres_per_unit or steps_per_epoch is not a number")
    if not isinstance(record.get("changed_files", []), list):
        raise ValueError("changed_files is not a list")


def read_run(folder: str | Path) -> RunLog:
    """The record and the log of a run folder.

    Raises `UserError` where they are missing or damaged, or before the end of the first epoch.
    """
    folder = Path(folder)
    for name in (RECORD_FILE, LOG_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"run {folder}: no {name}; expected a folder that main.py has trained into"
            )
    try:
        record = read_json(folder / RECORD_FILE, "run")
        _check_record(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"run {folder}: {RECORD_FILE} is not a run's record ({reason_of(error)})"
        ) from error
    try:
        rows = read_log(folder / LOG_FILE)
        columns = (
            {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
            if rows
            else {}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"run {folder}: {LOG_FILE} is not a run's log ({reason_of(error)})"
        ) from error
    if not rows:
        raise UserError(f"run {folder}: no epoch has ended yet; wait for the first")
    if missing := {"epoch", "val_lve", "seconds"} - columns.keys():
        raise UserError(f"run {folder}: {LOG_FILE} has no column {', '.join(sorted(missing))}")
    return RunLog(folder, record, columns)


def table(runs: Sequence[RunLog]) -> str:
    """A Markdown table with a row per run, aligned for terminals.

    steps/s includes the time of validation, as the log's seconds do; - where the log lacks it.
    """
    rows = [HEADINGS, *(_row(run, name) for run, name in zip(runs, names_of(runs), strict=True))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(run: RunLog, name: str) -> tuple[str, ...]:
    train = run.record["recipe"].get("train", {})
    done, planned = (run.epochs > 0).sum(), train.get("epochs", "?")
    best = run.best
    seconds = np.nansum(run.columns["seconds"])
    steps = 0 if run.steps is None else run.steps[-1]
    changed = len(run.record.get("changed_files", ()))
    commit = str(run.record.get("commit", ""))[:COMMIT_LETTERS] or "-"
    return (
        name,
        f"{done} of {planned}",
        "-" if best is None else f"{run.epochs[best]:.0f}",
        "-" if best is None else f"{run.lve[best]:.4g}",
        f"{seconds / 60:.1f}",
        f"{steps / seconds:.3g}" if steps and seconds else "-",
        commit + (f" + {changed} changed files" if changed else ""),
        str(run.record.get("command", "-")).replace("|", "\\|"),
    )


def progress_of(runs: Sequence[RunLog]) -> tuple[str, list[NDArray[np.float64]]]:
    """The unit of the horizontal axis and each run's values: epochs, or steps where the runs
    differ in steps per epoch."""
    steps = [run.steps for run in runs]
    if all(one is not None for one in steps):
        steps_per_epoch = {
            one[-1] / run.epochs[-1]
            for one, run in zip(steps, runs, strict=True)
            if run.epochs[-1] > 0
        }
        if len(steps_per_epoch) > 1:
            return "steps", steps
    return "epoch", [run.epochs for run in runs]


def names_of(runs: Sequence[RunLog]) -> list[str]:
    """Each run's folder name, or its whole path where two runs have the same name."""
    names = [run.folder.resolve().name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.folder)
        for run, name in zip(runs, names, strict=True)
    ]


def draw(runs: Sequence[RunLog], out: Path) -> None:
    """Write a PNG with a large panel of the validation LVE and small ones of every loss."""
    from matplotlib.figure import Figure

    panels = [p for p in PANELS if any(np.isfinite(run.values(p[0])).any() for run in runs)]
    n_rows = max(2, math.ceil((len(panels) + 4) / COLUMNS))  # the large one covers four places
    width, height = PANEL_SIZE_IN
    figure = Figure(figsize=(COLUMNS * width, n_rows * height + TOP_IN), layout="constrained")
    grid = figure.add_gridspec(n_rows, COLUMNS)
    hero = figure.add_subplot(grid[:2, :2])
    _draw_panel(hero, runs, *HERO)
    for run, line in zip(runs, hero.get_lines(), strict=True):
        if run.best is not None:
            best = (line.get_xdata()[run.best], run.lve[run.best])
            hero.plot(*best, "o", color=line.get_color(), markersize=8, fillstyle="none")
    places = [(row, column) for row in (0, 1) for column in (2, 3)]
    places += [(row, column) for row in range(2, n_rows) for column in range(COLUMNS)]
    for (column, title), place in zip(panels, places, strict=False):
        _draw_panel(figure.add_subplot(grid[place]), runs, column, title)
    figure.legend(
        hero.get_lines()[: len(runs)], names_of(runs), loc="outside upper left",
        ncols=min(len(runs), COLUMNS), frameon=False,
    )  # fmt: skip
    figure.savefig(out, dpi=DOTS_PER_INCH)


def _draw_panel(axes: Any, runs: Sequence[RunLog], column: str, title: str) -> None:
    """One line per run over its epochs or steps; a dot where there is only one epoch."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    unit, progress = progress_of(runs)
    for number, (run, done) in enumerate(zip(runs, progress, strict=True)):
        values = run.values(column)
        axes.plot(
            done, values, "--" if number >= MANY_RUNS else "-",
            marker="." if np.isfinite(values).sum() == 1 else None, linewidth=1.6,
        )  # fmt: skip
    values = np.concatenate([run.values(column) for run in runs])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > LOG_SPAN * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=LOG_TICKS))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_title(title, fontsize=10, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    """A tick label without leading zeros in the exponent: 2, 0.05, 1.2e-7."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")
