"""Make a run the shipped model: `python -m synthetic.ship_model --run runs/synthetic`.

Writes synthetic/model.safetensors in half precision, and beside the benchmarks the run's record:
its recipe and command, its log, its test table, its loss curves as a picture.
"""

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from config import PROJECT_ROOT
from errors import Parser, UserError, run_cli
from jambatalk import load_checkpoint, save_checkpoint

MODEL = PROJECT_ROOT / "synthetic/model.safetensors"
RECORDS = PROJECT_ROOT / "benchmarks/runs/synthetic"
RECORD_FILES = ("run.json", "log.csv", "results.md", "results.csv")
MAX_MB = 16.0


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/synthetic"), help="run folder")
    run = parser.parse_args(argv).run
    missing = [name for name in RECORD_FILES if not (run / name).is_file()]
    if missing:
        raise UserError(f"--run {run}: no {', '.join(missing)}; train and test with main.py first")
    model, spec = load_checkpoint(run / "best.safetensors")
    save_checkpoint(MODEL, model, spec, half=True)
    size_mb = MODEL.stat().st_size / 1e6
    if size_mb > MAX_MB:
        raise UserError(f"{MODEL}: {size_mb:.1f} MB; wanted at most {MAX_MB:.0f}, a smaller model")
    RECORDS.mkdir(parents=True, exist_ok=True)
    for name in RECORD_FILES:
        shutil.copyfile(run / name, RECORDS / name)
    plot_log(run / "log.csv", RECORDS / "losses.png")
    print(f"{MODEL}: {size_mb:.1f} MB; record in {RECORDS}")


def plot_log(log: Path, picture: Path) -> None:
    """Draw every loss of log.csv over the epochs, each in a small plot of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("epoch", "seconds", "learning_rate")]
    epochs = [int(row["epoch"]) for row in rows]
    columns = 3
    figure, axes = pyplot.subplots(-(-len(names) // columns), columns, figsize=(11, 7))
    for name, axis in zip(names, axes.flat, strict=False):
        axis.plot(epochs, [float(row[name]) for row in rows], color="#30506f")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("epoch")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(run_cli(main))
