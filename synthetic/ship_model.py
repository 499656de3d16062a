"""Make a run's model the shipped model: `python -m synthetic.ship_model --run runs/synthetic`.

Writes synthetic/model.safetensors in half precision, and the run's record under benchmarks/runs:
recipe and command, log, test table, loss curves as a picture. `--last --share 0.25` takes the
averaged weights of the run's last epoch instead of its best ones, and a fourth of them with three
fourths of the model shipped so far (Wortsman et al. 2022, arXiv 2203.05482); of several runs, the
mean. `--out` writes the model to another file, without a record, to score it first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import torch

from common.errors import Parser, UserError, run_cli
from common.whole_file import whole_file, write_whole
from config import BUNDLED_MODEL, PROJECT_ROOT, DatasetSpec
from jambatalk import JambaTalk, load_checkpoint, save_checkpoint
from training.plots import plot_runs
from training.state_file import load_state

RECORDS = PROJECT_ROOT / "benchmarks/runs/synthetic"
RECORD_FILES = ("run.json", "log.csv", "results.md", "results.csv")
MAX_MB = 26.0


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the model and copy the record."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--run", type=Path, nargs="+", default=[Path("runs/synthetic")], metavar="FOLDER",
        help="run folder; several with --out: the mean of their weights",
    )  # fmt: skip
    parser.add_argument("--last", action="store_true", help="averaged weights of the last epoch")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the run's weights in a mean; default: 1"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the model here only")
    args = parser.parse_args(argv)
    run = args.run[0]
    if not 0 < args.share <= 1:
        raise UserError(f"--share {args.share}: expected more than 0, at most 1")
    if len(args.run) > 1 and args.out is None:
        raise UserError("--run: a mean of several runs has no record of its own; add --out FILE")
    model, spec = model_of(run, args.last)
    for i, other in enumerate(args.run[1:], start=2):
        mix(model, model_of(other, args.last)[0], 1 - 1 / i)
    if args.share < 1:
        mix(model, load_checkpoint(BUNDLED_MODEL).model, args.share)
    if args.out is not None:
        save_checkpoint(args.out, model, spec, half=True)
        return
    missing = [name for name in RECORD_FILES if not (run / name).is_file()]
    if missing:
        raise UserError(
            f"--run {run}: no {', '.join(missing)} in it; train and test with main.py first"
        )
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


def model_of(run: Path, last: bool) -> tuple[JambaTalk, DatasetSpec]:
    """A run's best model, or the averaged one of its last epoch, and its data set."""
    model, spec = load_checkpoint(run / "best.safetensors")
    if last:
        if not (run / "last.pt").is_file():
            raise UserError(f"--run {run} --last: no last.pt in it, the state of its last epoch")
        state = load_state(run / "last.pt")
        if state["average"] is None:
            raise UserError(f"--run {run} --last: expected a run with train.ema_decay above 0")
        if state["epoch"] < 2 or state["sums"]:  # 1 in the first; sums of an epoch that goes on
            raise UserError(
                f"--run {run} --last: epoch {max(state['epoch'], 1)} is not finished; wait for "
                "it, or continue the run with main.py --resume"
            )
        prefix = "module."
        averages = state["average"].items()
        named = {n.removeprefix(prefix): w for n, w in averages if n.startswith(prefix)}
        model.load_state_dict(named)
    return model, spec


@torch.no_grad()
def mix(model: torch.nn.Module, other: torch.nn.Module, share: float) -> None:
    """Make the weights of `model` the mean of its own, with weight `share`, and of `other`."""
    others = other.state_dict()
    for name, weight in model.state_dict().items():
        if weight.is_floating_point():
            weight.copy_(share * weight.float() + (1 - share) * others[name].float())


if __name__ == "__main__":
    sys.exit(run_cli(main))
