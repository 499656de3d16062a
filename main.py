"""Train and test: `python main.py --dataset vocaset|BIWI|BIWI_6|synthetic|path/to/your/folder`.

Without --mode both are done: training, then the test table of the best model of validation.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, UserError, run_cli, writable_folder
from common.overrides import from_dict, override, parse_settings
from common.stop_signals import Stop, stopping
from config import RECIPES, DatasetSpec, Recipe
from dataset.base_recipe import with_base
from dataset.prepared import locate
from dataset.regions import FIELDS, look_up
from speech.pretrained import find_source, source_for_record
from training.processes import Group, from_environment, joined

if TYPE_CHECKING:
    from dataset.batch_loader import PlannedLoader

DEFAULT_DATASET = "synthetic"
SHORT = {  # flag that is short for a --set of the field of that name -> its help
    "epochs": "passes over the training data",
    "batch_size": "clips a step",
    "steps_per_epoch": "batches of one epoch; 0 for all clips once",
    "learning_rate": "of everything but the encoder",
    "encoder_learning_rate": "of the speech encoder",
    "closure_gain": "extra weight of the lips in frames where they touch",
    "seed": "of weights, crops and order",
}
DEFAULTS = {"workers": 1, "precision": "auto", "save_every": 10.0, "cache": "cache"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; those of `DEFAULTS` that were not given are None."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help=f"{', '.join(RECIPES)}, or a folder of your own data")
    parser.add_argument("--mode", choices=("train", "test"), help="default: train, then test")
    parser.add_argument("--out", help="run folder (default runs/<dataset>)")
    parser.add_argument("--checkpoint", help="model to test (default <out>/best.safetensors)")
    parser.add_argument("--base", metavar="RECIPE",
                        help="recipe whose network, encoder and training are used")  # fmt: skip
    parser.add_argument("--wav2vec2", help="pre-trained encoder: a local folder or a hub name")
    parser.add_argument("--init", help="model file whose weights to start from (fine-tuning)")
    parser.add_argument("--split", nargs="+", help="splits to test (default: all named test...)")
    parser.add_argument("--workers", type=int, help="processes that load data (default 1)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"),
                        help="auto: bf16 where the device is good at it")  # fmt: skip
    parser.add_argument("--from", dest="source", metavar="RUN",
                        help="repeat the run of that folder, into --out")  # fmt: skip
    parser.add_argument("--plot", nargs="+", metavar="RUN",
                        help="draw the curves of runs into the picture --out")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="go on from <out>/last.pt if there is one")  # fmt: skip
    parser.add_argument("--save_every", type=float, metavar="MINUTES",
                        help="minutes between two states inside an epoch (default 10)")  # fmt: skip
    parser.add_argument("--cache", metavar="DIR",
                        help="folder for what is computed once a clip, or off")  # fmt: skip
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
                        help="replace any field of config.py, as in model.n_experts=4")  # fmt: skip
    for name, text in SHORT.items():
        parser.add_argument(f"--{name}", help=text)
    args = parser.parse_args(argv)
    args.arguments = tuple(sys.argv[1:] if argv is None else argv)
    return args


def resolve(args: argparse.Namespace) -> Recipe:
    """The recipe that the flags name, with their changes put in and its data found on disk."""
    name = args.dataset or DEFAULT_DATASET
    if args.base and args.base not in RECIPES:
        raise UserError(f"--base {args.base}: no such recipe; there are {', '.join(RECIPES)}")
    if args.checkpoint and args.mode != "test":
        raise UserError("--checkpoint goes with --mode test: it names the model to test")
    for flag in ("init", "checkpoint"):
        if (file := getattr(args, flag)) and not Path(file).is_file():
            raise UserError(f"--{flag} {file}: no such file; wanted a model that main.py trained")
    facts = ""
    if name in RECIPES:
        recipe = RECIPES[name]
        recipe = with_base(recipe.dataset, RECIPES[args.base]) if args.base else recipe
    elif Path(name).is_dir():
        from data_loader import MeshSpeechDataset
        from dataset.own_folder import read_folder

        recipe, facts = read_folder(Path(name), args.base)
        for split in recipe.dataset.splits:
            MeshSpeechDataset(recipe.dataset, split)  # raises for clips that do not fit
        if args.mode == "test":  # the model's own counts, not what one would be trained with
            facts = "\n".join(x for x in facts.splitlines() if x.split()[:1] != ["recipe"])
    else:
        raise UserError(
            f"--dataset {name}: neither a recipe ({', '.join(RECIPES)}) nor a folder of your data"
        )
    before, recipe = recipe, override(recipe, settings_of(args))
    if args.mode == "test" and (before.model, before.train) != (recipe.model, recipe.train):
        raise UserError(
            "--mode test: the model file says network and training; set dataset... only"
        )
    if args.wav2vec2:
        recipe = dataclasses.replace(recipe, wav2vec2=source_for_record(args.wav2vec2))
    elif args.mode != "test":
        find_source(recipe.wav2vec2)
    test_splits(recipe.dataset, args.split)
    return dataclasses.replace(recipe, dataset=found(recipe.dataset, facts))


def recorded(args: argparse.Namespace) -> tuple[Recipe, argparse.Namespace]:
    """Recipe and flags of an earlier run, as its run.json has them; says when the code differs.

    Flags given now that leave the computation as it is go before those of then.
    """
    from training.run_log import DIFF_FILE, RECORD_FILE, git

    fixed = ("dataset", "base", "wav2vec2", "init", "checkpoint")
    typed = [f"--{name}" for name in fixed if getattr(args, name)]
    typed += [said for said, _, _ in settings_of(args)]
    if typed:
        raise UserError(f"--from repeats a run as it was; leave {', '.join(typed)} out")
    file = Path(args.source) / RECORD_FILE
    if not args.out or Path(args.out).resolve() == Path(args.source).resolve():
        raise UserError(f"--from {args.source}: give --out another folder for the repetition")
    try:
        record = json.loads(file.read_text())
        recipe, then = from_dict(Recipe, record["recipe"]), parse(record["arguments"])
        commit, changed = record["commit"], record["changed_files"]
        precision = {"float32": "fp32", "bfloat16": "bf16"}[record["precision"]]
    except OSError as error:
        raise UserError(f"--from {file}: {error.strerror}; wanted the folder of a run") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--from {file}: not the record of a run ({error!r})") from error
    if changed or commit != git("rev-parse", "HEAD"):
        with_diff = f" and {len(changed)} changed files ({DIFF_FILE})" if changed else ""
        print(f"warning: that run was made by commit {commit[:10]}{with_diff}, not by this code")
    for name in DEFAULTS:
        if (given := getattr(args, name)) is not None:
            setattr(then, name, given)
    then.precision = args.precision or precision  # what "auto" was there, it may not be here
    then.mode = args.mode or then.mode
    then.out, then.resume, then.split = args.out, args.resume, args.split
    return recipe, then


def settings_of(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """What --set and the short flags change, as `override` wants it."""
    settings = parse_settings(args.set)
    for field in SHORT:
        if (value := getattr(args, field)) is not None:
            settings.append((f"--{field} {value}", f"train.{field}", value))
    return settings


def found(spec: DatasetSpec, facts: str) -> DatasetSpec:
    """`spec` as it is on disk; prints where that is, `facts`, and what differs from the recipe."""
    spec, remarks = locate(spec)
    for which in FIELDS:
        look_up(spec, which)  # a region file that is not there is said before anything slow
    print("\n".join([f"{spec.name}: {spec.root}", *filter(None, [facts]), *remarks]))
    return spec


def check_splits(spec: DatasetSpec, splits: Sequence[str]) -> None:
    """Raise `UserError` for a split that the data set does not have."""
    for split in splits:
        if split not in spec.splits:
            raise UserError(f"--split {split}: {spec.name} has {', '.join(spec.splits)}")


def test_splits(spec: DatasetSpec, given: Sequence[str] | None) -> list[str]:
    """The splits to test: those given, else all whose name begins with "test"."""
    check_splits(spec, given or ())
    splits = list(given or [split for split in spec.splits if split.startswith("test")])
    if not splits:
        raise UserError(
            f"{spec.name} has no test split; --split names one: {', '.join(spec.splits)}"
        )
    return splits


def training_batches(
    recipe: Recipe, workers: int, group: Group, cache: str | None = None
) -> "PlannedLoader":
    """This process's batches: the clips of the train split, with the speech pool if any.

    cache: folder in which decoded audio is kept.
    """
    from data_loader import MeshSpeechDataset, collate
    from dataset.batch_loader import PlannedLoader
    from dataset.batch_plan import BucketedBatches
    from speech.augment import augment

    config = recipe.train
    if recipe.dataset.speech_pool and config.steps_per_epoch:
        from synthetic.crops import MixedBatches

        return MixedBatches(recipe, workers, group.rank, group.world)
    data = MeshSpeechDataset(
        recipe.dataset,
        "train",
        crop_s=config.max_clip_s,
        augment=augment if config.augment else None,
        seed=config.seed,
        cache=cache,
    )
    plan = BucketedBatches(
        data.lengths(), config.batch_size, config.seed, group.rank, group.world,
        steps=config.steps_per_epoch, names=[name for name, _ in data.clips],
    )  # fmt: skip
    if group.is_first:
        print(data.summary())
    return PlannedLoader(data, plan, collate, workers)


def train(recipe: Recipe, out: Path, args: argparse.Namespace, group: Group, stop: Stop) -> None:
    """Train into `out`; `out`/best.safetensors is the best model of validation."""
    from common.device import large_pages
    from data_loader import MeshSpeechDataset
    from jambatalk import JambaTalk, load_checkpoint
    from speech.pretrained import encoder_of
    from training.resume import find_state, longer_run_hint
    from training.run import Options, Run

    large_pages()
    encoder = encoder_of(recipe.wav2vec2, recipe.model.encoder)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))
    state = find_state(out, recipe, group) if args.resume else None
    epochs = recipe.train.epochs
    if state is not None and state["epoch"] > epochs:
        print(f"finished: all {epochs} epochs of {out} are done; {longer_run_hint(out, 'N')}")
        return
    start = load_checkpoint(args.init).model if args.init and state is None else None
    if not isinstance(start, JambaTalk | None):
        raise UserError(f"--init {args.init}: published weights cannot be trained further")
    cache = None if args.cache == "off" else args.cache
    validation = MeshSpeechDataset(recipe.dataset, "val", cache=cache)
    batches = training_batches(recipe, args.workers, group, cache)
    whole = not (recipe.train.max_clip_s or recipe.train.augment)  # else nothing is heard twice
    heard = cache if whole else None
    options = Options(args.precision, args.save_every, heard, args.arguments)
    run = Run(recipe, out, options, group, start, state, stop)
    run.say(validation.summary())
    run.say(f"best model of validation: {run.fit(batches, validation)}")


def test(checkpoint: Path, spec: DatasetSpec | None, out: Path, args: argparse.Namespace) -> None:
    """Score a model file on splits of a data set (None: its own); print and write the table."""
    import torch

    from evaluation.results import results_name
    from evaluation.scoring import evaluate
    from jambatalk import load_checkpoint

    model, own = load_checkpoint(checkpoint)
    spec = spec or found(own, "")
    for field in ("n_vertices", "fps", "metres_per_unit"):
        has, wanted = getattr(spec, field), getattr(own, field)
        if has != wanted:
            fix = f"; --init {checkpoint} trains one for these data" * (field == "metres_per_unit")
            raise UserError(f"{checkpoint} is for {field} {wanted}; {spec.name} has {has}{fix}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = test_splits(spec, args.split)
    print(evaluate(model.to(device), spec, splits, device, checkpoint, out, args.wav2vec2))
    name = results_name(spec, splits)
    print(f"results: {out}/{name}.md, {name}.csv, {name}.json")


def prepared(args: argparse.Namespace) -> tuple[Recipe, argparse.Namespace, Path]:
    """Recipe, flags and run folder; whatever is wrong with them is said before anything slow."""
    recipe, args = recorded(args) if args.source else (resolve(args), args)
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: wanted 0 or more")
    if not args.save_every > 0:  # NaN, too
        raise UserError(f"--save_every {args.save_every}: wanted minutes, more than 0")
    return recipe, args, writable_folder(args.out or f"runs/{recipe.dataset.name}")


def check_clips(recipe: Recipe, args: argparse.Namespace) -> None:
    """Raise `UserError` where the splits to be tested after the training have a fault."""
    from data_loader import MeshSpeechDataset

    for split in test_splits(recipe.dataset, args.split):
        MeshSpeechDataset(recipe.dataset, split)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.plot:
        from training.plots import plot_runs

        plot_runs(args.plot, args.out or "runs/plot.png")
        return
    if args.mode == "test":
        if from_environment().is_first:  # one process tests
            run_test(args)
        return
    with stopping() as stop:
        with joined() as group:
            recipe, args, out = prepared(args)
            from training.state_file import (
                folder_lock,  # torch comes along: not before flags are checked
            )

            with folder_lock(out) if group.is_first else nullcontext():
                if args.mode is None:
                    check_clips(recipe, args)
                train(recipe, out, args, group, stop)
        if args.mode is None and group.is_first:
            test(out / "best.safetensors", recipe.dataset, out, args)


def run_test(args: argparse.Namespace) -> None:
    """The test mode: a model on its own data set, or on that of the flags."""
    if args.checkpoint and not (args.dataset or args.source):
        if not Path(args.checkpoint).is_file():
            raise UserError(f"--checkpoint {args.checkpoint}: no such file")
        test(Path(args.checkpoint), None, writable_folder(args.out or "runs/test"), args)
        return
    recipe, args, out = prepared(args)
    test(Path(args.checkpoint or out / "best.safetensors"), recipe.dataset, out, args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
