"""Train and test: `python main.py --dataset vocaset|BIWI|BIWI_6|synthetic|path/to/your/folder`.

Without --mode, a run trains, then tests its best model on the validation split.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, UserError, run_cli, writable_folder
from common.start_up import prepare_process
from common.stop_signals import Stop, stopping
from config import RECIPES, Recipe
from training.flags import FIELD_FLAGS

if TYPE_CHECKING:  # --help waits for neither numpy nor torch
    from data_loader import OpenDataset
    from training.processes import Group

DEFAULTS = {"workers": 1, "precision": "auto", "save_every": 10.0, "cache": "cache"}
MODEL_FIELDS = ("n_vertices", "fps", "metres_per_unit")  # that model and data must share


@dataclasses.dataclass(frozen=True)
class ResolvedRun:
    """A command line after all checks: recipe, opened data, run folder, and the flags."""

    recipe: Recipe
    dataset: "OpenDataset"
    out: Path
    args: argparse.Namespace


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; those of `DEFAULTS` that were not given are None."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help=f"{', '.join(RECIPES)}, or a folder of your own data "
                        "(default synthetic)")  # fmt: skip
    parser.add_argument("--mode", choices=("train", "test"), help="default: train, then test")
    parser.add_argument("--out", help="run folder (default runs/<dataset>, "
                        "runs/<dataset>_<model> with --model, or runs/test for a --checkpoint "
                        "without --dataset)")  # fmt: skip
    parser.add_argument("--checkpoint", help="model to test (default <out>/best.safetensors)")
    parser.add_argument("--base", metavar="RECIPE",
                        help="recipe whose network, encoder and training are used, such as "
                        "synthetic: small, its encoder is included")  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="whose decoder: jambatalk (default), or a "
                        "baseline of docs/comparison.md")  # fmt: skip
    parser.add_argument("--encoder", "--wav2vec2", metavar="NAME_OR_FOLDER",
                        help="pre-trained encoder: a local folder, such as synthetic/encoder, "
                        "or a hub name (--wav2vec2 is the same flag)")  # fmt: skip
    parser.add_argument("--init", metavar="MODEL",
                        help="model file whose weights to start from; the topology may differ"
                        )  # fmt: skip
    parser.add_argument("--split", nargs="+", help="splits to test (default: all named test...)")
    parser.add_argument("--save_predictions", metavar="DIR",
                        help="with the test: write each clip's vertices as DIR/<clip>.npy, "
                        "which metrics.py reads")  # fmt: skip
    parser.add_argument("--report", action="store_true",
                        help="with the test: write one HTML page with tables and pictures; keeps "
                        "the predictions in <out>/predictions if --save_predictions names no "
                        "other folder")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes that load data (default 1)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"),
                        help="auto (default): bf16 where the hardware is fast at it")  # fmt: skip
    parser.add_argument("--from", dest="source", metavar="RUN",
                        help="repeat the run of that folder, into --out")  # fmt: skip
    parser.add_argument("--plot", nargs="+", metavar="RUN",
                        help="draw the curves of runs into the picture --out")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="continue from <out>/last.pt if there is one")  # fmt: skip
    parser.add_argument("--save_every", type=float, metavar="MINUTES",
                        help="minutes between two saved states (default 10)")  # fmt: skip
    parser.add_argument("--cache", metavar="DIR",
                        help="folder for decoded audio and teacher targets, or off")  # fmt: skip
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
                        help="replace any field of config.py, as in model.n_experts=4")  # fmt: skip
    for name, text in FIELD_FLAGS.items():
        parser.add_argument(f"--{name}", help=text)
    args = parser.parse_args(argv)
    args.arguments = tuple(sys.argv[1:] if argv is None else argv)
    return args


def check_files(args: argparse.Namespace) -> None:
    """Raise `UserError` for a model file that is named where it has no use, or does not exist."""
    if args.checkpoint and args.mode != "test":
        raise UserError("--checkpoint names the model to test; add --mode test")
    for flag in ("save_predictions", "report"):
        if getattr(args, flag) and (args.mode == "train" or args.plot):
            raise UserError(f"--{flag}: the test makes the predictions; add --mode test")
    if args.init and args.mode == "test":
        raise UserError("--init names the model to train further; name one to test by --checkpoint")
    for flag in ("init", "checkpoint"):
        if (file := getattr(args, flag)) and not Path(file).is_file():
            raise UserError(f"--{flag} {file}: no such file, expected a model from main.py")


def resolve_flags(args: argparse.Namespace) -> tuple[Recipe, dict[str, str], argparse.Namespace]:
    """Recipe, facts about a folder of own data, and flags with their defaults.

    With --from, recipe and flags are those of that run; flags that leave its results as they are
    may be given anew.
    """
    from training.recipe import recipe_of_flags, recipe_of_run

    if args.source:
        recipe, arguments, precision = recipe_of_run(args)
        given, facts, args = args, {}, parse(arguments)
        for name in DEFAULTS:
            if (value := getattr(given, name)) is not None:
                setattr(args, name, value)
        args.precision = given.precision or precision  # "auto" may choose another one here
        args.mode = given.mode or args.mode
        args.source, args.out = given.source, given.out
        args.resume, args.split = given.resume, given.split
        args.save_predictions, args.report = given.save_predictions, given.report
    else:
        recipe, facts = recipe_of_flags(args)
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: expected 0 or more")
    if not args.save_every > 0:  # NaN, too
        raise UserError(f"--save_every {args.save_every}: expected minutes, more than 0")
    return recipe, facts, args


def resolve_run(args: argparse.Namespace) -> ResolvedRun:
    """Recipe, data and run folder; raises `UserError` before anything slow where one is wrong."""
    from training.recipe import locate_data, run_name, splits_to_test, with_subjects

    recipe, facts, args = resolve_flags(args)
    needed = [] if args.mode == "test" else ["train", "val"]
    if args.mode != "train" or args.split:
        needed += splits_to_test(recipe.dataset, args.split)
    spec, regions = recipe.dataset, None
    if not args.source:  # a recorded recipe is located already
        spec, regions = locate_data(spec, facts)
        recipe = dataclasses.replace(recipe, dataset=spec)
    if args.mode != "test":
        recipe = with_subjects(recipe)
    out = writable_folder(args.out or f"runs/{run_name(recipe)}")
    if args.save_predictions:
        from evaluation.saved import check_predictions_folder

        check_predictions_folder(Path(args.save_predictions), spec)
    from data_loader import OpenDataset  # imports torch: not before the flags are checked

    dataset = OpenDataset(spec, regions, None if args.cache == "off" else args.cache)
    for split in spec.splits if facts else needed:  # of own data, every clip is checked
        dataset.split(split)
    return ResolvedRun(recipe, dataset, out, args)


def train(run: ResolvedRun, group: "Group", stop: Stop) -> None:
    """Train into the run folder; best.safetensors is the best model on the validation split."""
    from speech.pretrained import encoder_of
    from training.batches import training_batches
    from training.resume import find_state, longer_run_hint
    from training.run import Options, Run
    from training.start import check_encoder, load_start, start_summary
    from training.state_file import STATE_FILE

    recipe, args, out = run.recipe, run.args, run.out
    has_state = args.resume and (out / STATE_FILE).exists()
    start = load_start(args.init, recipe) if args.init and not has_state else None
    encoder = encoder_of(recipe.wav2vec2, recipe.model.encoder)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))
    state = find_state(out, recipe, group) if args.resume else None
    epochs = recipe.train.epochs
    if state is not None and state["epoch"] > epochs:
        print(f"finished: all {epochs} epochs of {out} are done; {longer_run_hint(out, 'N')}")
        return
    if start is not None:
        check_encoder(args.init, start.config, recipe)
        print(start_summary(args.init, start.config, recipe.model))
    batches = training_batches(recipe, run.dataset, args.workers, group)
    options = Options(args.precision, args.save_every, args.arguments)
    training = Run(recipe, run.dataset, out, options, group, start, state, stop)
    print(f"best model on validation: {training.fit(batches)}")


def test(
    checkpoint: Path, dataset: "OpenDataset | None", out: Path, args: argparse.Namespace
) -> None:
    """Score a model file on splits of a data set (None: its own); print and write the table."""
    from common.device import pick_device
    from data_loader import OpenDataset
    from evaluation.results import results_name
    from evaluation.scoring import evaluate
    from jambatalk import load_checkpoint
    from training.recipe import locate_data, splits_to_test

    model, own = load_checkpoint(checkpoint)
    name = getattr(model.config, "model", "published weights")
    if args.model not in (None, name):
        raise UserError(f"--model {args.model}: {checkpoint} is a model of {name}")
    if dataset is None:
        dataset = OpenDataset(*locate_data(own))
    spec = dataset.spec
    for field in MODEL_FIELDS:
        expected, got = getattr(own, field), getattr(spec, field)
        if got != expected:
            fix = f"; --init {checkpoint} trains one for these data"
            raise UserError(
                f"{checkpoint}: expected data of {field} {expected}, "
                f"got {spec.name} with {got}{fix}"
            )
    device, splits = pick_device()[0], splits_to_test(spec, args.split)
    predictions = args.save_predictions or (out / "predictions" if args.report else None)
    predictions = Path(predictions) if predictions else None
    print(
        evaluate(
            model.to(device), dataset, splits, device, checkpoint, out, args.encoder, predictions
        )
    )
    name = results_name(spec, splits)
    print(f"results: {out}/{name}.md, {name}.csv, {name}.json")
    if predictions:
        print(f"predictions: {predictions}")
    if args.report:
        from evaluation.report import write_report

        print(f"report: {write_report(out, name, spec, predictions)}")


def run_test(args: argparse.Namespace) -> None:
    """The test mode: a model on its own data set, or on that of the flags."""
    if args.checkpoint and not (args.dataset or args.source):
        test(Path(args.checkpoint), None, writable_folder(args.out or "runs/test"), args)
        return
    from training.run_log import BEST_FILE

    run = resolve_run(args)
    test(Path(args.checkpoint or run.out / BEST_FILE), run.dataset, run.out, run.args)


def run_training(args: argparse.Namespace) -> None:
    """Training, and the test of its best model unless --mode train."""
    from training.processes import joined
    from training.run_log import BEST_FILE

    with stopping() as stop, joined() as group:
        run = resolve_run(args)
        from training.state_file import folder_lock

        with folder_lock(run.out) if group.is_first else nullcontext():
            train(run, group, stop)
    if run.args.mode is None and group.is_first:
        test(run.out / BEST_FILE, run.dataset, run.out, run.args)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, test or plot, as the flags say. Raises `UserError` for bad flags and files."""
    args = parse(argv)
    prepare_process()
    from training.processes import from_environment

    check_files(args)
    if args.plot:
        from training.plots import plot_runs

        plot_runs(args.plot, args.out or "runs/plot.png")
    elif args.mode != "test":
        run_training(args)
    elif from_environment().is_first:  # one process tests
        run_test(args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
