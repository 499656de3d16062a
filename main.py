"""Train and test: `python main.py --dataset vocaset|BIWI|BIWI_6|synthetic|path/to/your/folder`.

Without --mode both are done: training, then the test table of the best model of validation.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from augment import augment
from batches import BucketedBatches, PlannedLoader
from config import RECIPES, DatasetSpec, Recipe
from data_loader import MeshSpeechDataset, collate
from dataset_folder import read_folder
from distributed import Group, joined
from errors import UserError, run_cli, writable_folder
from overrides import from_dict, override, parse_settings, with_base
from prepared_data import locate
from pretrained import shown_source
from records import DIFF_FILE, RECORD_FILE, git
from regions import FIELDS, look_up

DEFAULT_DATASET = "synthetic"
SHORT = {  # flag that is short for a --set of the field of that name -> its help
    "epochs": "passes over the training data",
    "batch_size": "clips a step",
    "steps_per_epoch": "steps of one epoch; 0 for all clips once",
    "learning_rate": "of everything but the encoder",
    "encoder_learning_rate": "of the speech encoder",
    "closure_gain": "extra weight of the lips in frames where they touch",
    "seed": "of weights, crops and order",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help=f"{', '.join(RECIPES)}, or a folder of your own data")
    parser.add_argument("--mode", choices=("train", "test"), help="default: train, then test")
    parser.add_argument("--out", help="run folder (default runs/<dataset>)")
    parser.add_argument("--checkpoint", help="model to test (default <out>/best.safetensors)")
    parser.add_argument("--base", choices=sorted(RECIPES), metavar="RECIPE",
                        help="recipe whose network, encoder and training are used")  # fmt: skip
    parser.add_argument("--wav2vec2", help="pre-trained encoder: a local folder or a hub name")
    parser.add_argument("--init", help="model file whose weights to start from (fine-tuning)")
    parser.add_argument("--split", nargs="+", help="splits to test (default: all named test...)")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--from", dest="source", metavar="RUN",
                        help="repeat the run of that folder, into --out")  # fmt: skip
    parser.add_argument("--plot", nargs="+", metavar="RUN",
                        help="draw the curves of runs into --out")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="go on from <out>/last.pt if there is one")  # fmt: skip
    parser.add_argument("--save_every", type=float, default=10.0, metavar="MINUTES",
                        help="minutes between two states inside an epoch (default 10)")  # fmt: skip
    parser.add_argument("--cache", default="cache", metavar="DIR",
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
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: wanted 0 or more")
    if args.checkpoint and args.mode != "test":
        raise UserError("--checkpoint goes with --mode test: it names the model to test")
    facts = ""
    if name in RECIPES:
        recipe = RECIPES[name]
        recipe = with_base(recipe.dataset, RECIPES[args.base]) if args.base else recipe
    elif Path(name).is_dir():
        recipe, facts = read_folder(Path(name), args.base)
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
        recipe = dataclasses.replace(recipe, wav2vec2=shown_source(args.wav2vec2))
    test_splits(recipe.dataset, args.split)
    return dataclasses.replace(recipe, dataset=found(recipe.dataset, facts))


def recorded(args: argparse.Namespace) -> tuple[Recipe, argparse.Namespace]:
    """Recipe and flags of an earlier run, as its run.json has them; says when the code differs."""
    if args.dataset or args.base or args.wav2vec2 or args.init or settings_of(args):
        raise UserError("--from repeats a run as it was; leave --dataset, --set and the like out")
    file = Path(args.source) / RECORD_FILE
    if not args.out:
        raise UserError(f"--from {args.source}: give --out a folder for the repetition")
    try:
        record = json.loads(file.read_text())
        recipe, then = from_dict(Recipe, record["recipe"]), parse(record["arguments"])
        commit, changed = record["commit"], record["changed_files"]
    except OSError as error:
        raise UserError(f"--from {file}: {error.strerror}; wanted the folder of a run") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--from {file}: not the record of a run ({error!r})") from error
    if changed or commit != git("rev-parse", "HEAD"):
        with_diff = f" and {len(changed)} changed files ({DIFF_FILE})" if changed else ""
        print(f"warning: that run was made by commit {commit[:10]}{with_diff}, not by this code")
    then.out, then.mode, then.resume = args.out, args.mode, args.resume
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


def training_batches(recipe: Recipe, workers: int, group: Group) -> PlannedLoader:
    """This process's batches: the clips of the train split, with the speech pool if any."""
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
    )
    plan = BucketedBatches(
        data.lengths(), config.batch_size, config.seed, group.rank, group.world,
        steps=config.steps_per_epoch,
    )  # fmt: skip
    if group.is_first:
        print(data.summary())
    return PlannedLoader(data, plan, collate, workers)


def train(recipe: Recipe, out: Path, args: argparse.Namespace, group: Group) -> None:
    """Train into `out`; `out`/best.safetensors is the best model of validation."""
    from jambatalk import load_checkpoint
    from networks import large_pages
    from pretrained import encoder_of
    from training import Options, Run

    if args.save_every <= 0:
        raise UserError(f"--save_every {args.save_every}: wanted minutes, more than 0")
    large_pages()
    start = load_checkpoint(args.init)[0] if args.init else None
    validation = MeshSpeechDataset(recipe.dataset, "val")
    batches = training_batches(recipe, args.workers, group)
    encoder = encoder_of(recipe.wav2vec2, recipe.model.encoder)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))
    whole = not (recipe.train.max_clip_s or recipe.train.augment)  # else no clip is seen twice
    cache = args.cache if whole and args.cache != "off" else None
    options = Options(args.precision, args.resume, args.save_every, cache, args.arguments)
    run = Run(recipe, out, options, group, start)
    run.say(validation.summary())
    run.say(f"best model of validation: {run.fit(batches, validation)}")


def test(checkpoint: Path, spec: DatasetSpec | None, out: Path, args: argparse.Namespace) -> None:
    """Score a model file on splits of a data set (None: its own); print and write the table."""
    from jambatalk import load_checkpoint
    from scoring import evaluate

    model, own = load_checkpoint(checkpoint)
    spec = spec or found(own, "")
    for field in ("n_vertices", "fps", "metres_per_unit"):
        has, wanted = getattr(spec, field), getattr(own, field)
        if has != wanted:
            raise UserError(f"{checkpoint} is for {field} {wanted}; {spec.name} has {has}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = test_splits(spec, args.split)
    print(evaluate(model.to(device), spec, splits, device, checkpoint, out, args.wav2vec2))
    print(f"results: {out}/results.md, results.csv, results.json")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.plot:
        from plots import plot_runs

        plot_runs(args.plot, args.out or "runs/plot.png")
        return
    if args.mode == "test" and args.checkpoint and not args.dataset:
        test(Path(args.checkpoint), None, writable_folder(args.out or "runs/test"), args)
        return
    if args.source:
        recipe, args = recorded(args)
    else:
        recipe = resolve(args)
    out = writable_folder(args.out or f"runs/{recipe.dataset.name}")
    if args.mode is None:
        for split in test_splits(recipe.dataset, args.split):
            MeshSpeechDataset(recipe.dataset, split)  # whatever is wrong there is said at once
    if args.mode != "test":
        with joined("cuda" if torch.cuda.is_available() else "cpu") as group:
            train(recipe, out, args, group)
            if not group.is_first:  # one process tests
                return
    if args.mode != "train":
        test(Path(args.checkpoint or out / "best.safetensors"), recipe.dataset, out, args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
