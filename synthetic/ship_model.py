"""Make a run's model the shipped model: `python -m synthetic.ship_model --run runs/synthetic`.

Writes synthetic/model.safetensors in half precision, and the run's record under benchmarks/runs:
recipe and command, log, test table, loss curves as a picture.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, UserError, run_cli
from common.whole_file import whole_file, write_whole
from config import BUNDLED_MODEL, PROJECT_ROOT
from jambatalk import load_checkpoint, save_checkpoint
from training.plots import plot_runs

RECORDS = PROJECT_ROOT / "benchmarks/runs/synthetic"
RECORD_FILES = ("run.json", "log.csv", "results.md", "results.csv")
MAX_MB = 26.0


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the model and copy the record."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/synthetic"), help="run folder")
    run = parser.parse_args(argv).run
    missing = [name for name in RECORD_FILES if not (run / name).is_file()]
    if missing:
        raise UserError(
            f"--run {run}: no {', '.join(missing)} in it; train and test with main.py first"
        )
    model, spec = load_checkpoint(run / "best.safetensors")
    with whole_file(BUNDLED_MODEL) as partial:
        save_checkpoint(partial, model, spec, half=True)
        size_mb = partial.stat().st_size / 1e6
        if size_mb > MAX_MB:
            raise UserError(
                f"--run {run}: expected a model of at most {MAX_MB:.0f} MB, got {size_mb:.1f} MB; "
                "train a smaller one"
            )
    RECORDS.mkdir(parents=True, exist_ok=True)
    for name in RECORD_FILES:
        write_whole(RECORDS / name, (run / name).read_bytes())
    plot_runs([run], RECORDS / "losses.png")
    print(
        f"{BUNDLED_MODEL}: {size_mb:.1f} MB; record in {RECORDS}; "
        "python -m files.shipped records its hash"
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
