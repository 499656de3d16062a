"""Train and test: `python main.py --dataset synthetic [--mode train|test]`.

Without --mode both are done: training, then the test table of the best model of validation.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from augment import augment
from config import RECIPES, Recipe
from data_loader import MeshSpeechDataset, make_loader
from errors import UserError, run_cli, writable_folder

OVERRIDES = (  # flag, type, help; each replaces the recipe's field of that name
    ("epochs", int, "passes over the training data"),
    ("batch_size", int, "clips a step"),
    ("steps_per_epoch", int, "steps of one epoch, where there is a speech pool"),
    ("learning_rate", float, "of everything but the encoder"),
    ("encoder_learning_rate", float, "of the speech encoder"),
    ("closure_gain", float, "extra weight of the lips in frames where they touch"),
    ("seed", int, "of weights, crops and order"),
)
LEAST = {"epochs": 1, "batch_size": 1, "steps_per_epoch": 1, "closure_gain": 0, "seed": 0}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="synthetic", choices=sorted(RECIPES))
    parser.add_argument("--mode", choices=("train", "test"), help="default: train, then test")
    parser.add_argument("--out", help="run folder (default runs/<dataset>)")
    parser.add_argument("--checkpoint", help="model to test (default <out>/best.safetensors)")
    parser.add_argument("--wav2vec2", help="pre-trained encoder: a local folder or a hub name")
    parser.add_argument("--init", help="model file whose weights to start from (fine-tuning)")
    parser.add_argument("--split", default="test", help="split that is tested")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    for name, kind, text in OVERRIDES:
        parser.add_argument(f"--{name}", type=kind, help=text)
    return parser.parse_args(argv)


def resolve(args: argparse.Namespace) -> Recipe:
    """The recipe with the flags that were given put in."""
    recipe = RECIPES[args.dataset]
    given = {
        name: getattr(args, name) for name, _, _ in OVERRIDES if getattr(args, name) is not None
    }
    for name, least in LEAST.items():
        if given.get(name, least) < least:
            raise UserError(f"--{name} {given[name]}: wanted {least} or more")
    for name in ("learning_rate", "encoder_learning_rate"):
        if not 0 <= given.get(name, 0) < 1:
            raise UserError(f"--{name} {given[name]}: wanted 0 to 1")
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: wanted 0 or more")
    if args.split not in recipe.dataset.splits:
        known = ", ".join(recipe.dataset.splits)
        raise UserError(f"--split {args.split}: {args.dataset} has {known}")
    if args.checkpoint and args.mode != "test":
        raise UserError("--checkpoint goes with --mode test: it names the model to test")
    if "steps_per_epoch" in given and not recipe.dataset.speech_pool:
        raise UserError(f"--steps_per_epoch: an epoch of {args.dataset} is all its clips once")
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **given))
    return dataclasses.replace(recipe, wav2vec2=args.wav2vec2) if args.wav2vec2 else recipe


def training_batches(recipe: Recipe, workers: int) -> Any:
    """Batches of one epoch: the clips of the train split, with the speech pool if any."""
    config = recipe.train
    if recipe.dataset.speech_pool:
        from synthetic.crops import MixedBatches

        return MixedBatches(recipe, workers)
    data = MeshSpeechDataset(
        recipe.dataset,
        "train",
        crop_s=config.max_clip_s,
        augment=augment if config.augment else None,
        seed=config.seed,
    )
    return make_loader(data, config.batch_size, True, config.seed, workers)


def train(recipe: Recipe, out: Path, args: argparse.Namespace) -> None:
    """Train into `out`; `out`/best.safetensors is the best model of validation."""
    from jambatalk import load_checkpoint
    from training import Run

    start = load_checkpoint(args.init)[0] if args.init else None
    batches = training_batches(recipe, args.workers)
    validation = make_loader(MeshSpeechDataset(recipe.dataset, "val"), 1, False, 0)
    best = Run(recipe, out, args.precision, start).fit(batches, validation)
    print(f"best model of validation: {best}")


def test(checkpoint: Path, split: str, out: Path) -> None:
    """Score a model file on a split of its own data set; print and write the table."""
    from jambatalk import load_checkpoint
    from scoring import evaluate

    model, spec = load_checkpoint(checkpoint)
    if split not in spec.splits:
        known = ", ".join(spec.splits)
        raise UserError(f"--split {split}: {spec.name}, which {checkpoint} is for, has {known}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(evaluate(model.to(device), spec, [split], device, checkpoint, out))
    print(f"results: {out}/results.md, results.csv, results.json")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    recipe = resolve(args)
    out = writable_folder(args.out or f"runs/{args.dataset}")
    if args.mode != "test":
        train(recipe, out, args)
    if args.mode != "train":
        test(Path(args.checkpoint or out / "best.safetensors"), args.split, out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
