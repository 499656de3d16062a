"""From flags to a recipe: recipes looked up, settings put in, data located on disk.

Nothing here needs torch, so that a wrong flag is reported at once.
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, reason_of
from common.overrides import check, from_dict, override, parse_settings
from config import MODELS, RECIPES, DatasetSpec, Recipe
from dataset.base_recipe import with_base
from dataset.own_folder import lines_of, read_folder
from dataset.prepared import locate
from dataset.regions import Region, find_regions
from files.texts import read_json
from speech.pretrained import find_source, source_for_record
from training.flags import FIELD_FLAGS
from training.run_log import DIFF_FILE, RECORD_FILE, git

DEFAULT_DATASET = "synthetic"
FIXED_BY_RUN = ("dataset", "base", "encoder", "init", "checkpoint")  # cannot go with --from
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}  # in run.json -> as a flag


def recipe_of_flags(args: argparse.Namespace) -> tuple[Recipe, dict[str, str]]:
    """The recipe that the flags describe, and facts about a folder of own data ({} for others)."""
    recipe, facts = named_recipe(args.dataset or DEFAULT_DATASET, args.base)
    default, recipe = recipe, override(recipe, settings_of(args))
    if args.mode == "test":
        facts.pop("recipe", None)
        network = dataclasses.replace(
            recipe.model, model=default.model.model
        )  # --model may be given
        if (default.model, default.train) != (network, recipe.train):
            raise UserError(
                "--mode test: the model file determines network and training; "
                "only settings of dataset are allowed"
            )
    if args.encoder:
        recipe = dataclasses.replace(recipe, wav2vec2=source_for_record(args.encoder))
    elif args.mode != "test":
        find_source(recipe.wav2vec2)  # raises `UserError` for a missing encoder
    return recipe, facts


def named_recipe(name: str, base: str | None) -> tuple[Recipe, dict[str, str]]:
    """The recipe `name`, or that of a folder of own data with facts about the folder.

    base: recipe whose network, encoder and training are taken instead.
    """
    if base and base not in RECIPES:
        raise UserError(f"--base {base}: unknown recipe, expected one of {', '.join(RECIPES)}")
    if name in RECIPES:
        recipe = RECIPES[name]
        return (with_base(recipe.dataset, RECIPES[base]) if base else recipe), {}
    if Path(name).is_dir():
        return read_folder(Path(name), base)
    raise UserError(
        f"--dataset {name}: neither a recipe ({', '.join(RECIPES)}) nor a folder of your data"
    )


def settings_of(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """What --set, --model and `FIELD_FLAGS` change, as triples for `override`."""
    settings = parse_settings(args.set)
    if args.model is not None:
        settings.append((f"--model {args.model}", "model.model", args.model))
    for field in FIELD_FLAGS:
        if (value := getattr(args, field)) is not None:
            settings.append((f"--{field} {value}", f"train.{field}", value))
    return settings


def with_subjects(recipe: Recipe) -> Recipe:
    """`recipe` with the subjects of the train split in its network, if the decoder has styles.

    Subjects that are set already stay: those of the model of `--init`, given by `--set`.
    """
    model = recipe.model
    if not MODELS[model.model].has_styles or model.subjects:
        return recipe
    subjects = recipe.dataset.splits["train"].subjects
    return dataclasses.replace(recipe, model=dataclasses.replace(model, subjects=subjects))


def run_name(recipe: Recipe) -> str:
    """The name of a recipe's run folder: of the data set, and of the decoder if not JambaTalk's."""
    name, model = recipe.dataset.name, recipe.model.model
    return name if model == next(iter(MODELS)) else f"{name}_{model}"


def recipe_of_run(args: argparse.Namespace) -> tuple[Recipe, list[str], str]:
    """Recipe, flags as typed and precision ("fp32" or "bf16") of the run that --from names.

    Prints a warning when that run was trained with other code.
    """
    conflicting = [f"--{name}" for name in FIXED_BY_RUN if getattr(args, name)]
    conflicting += [typed for typed, _, _ in settings_of(args)]
    if conflicting:
        raise UserError(
            f"--from {args.source}: repeats a run with its own settings; "
            f"remove {', '.join(conflicting)}"
        )
    if not args.out or os.path.realpath(args.out) == os.path.realpath(args.source):
        raise UserError(f"--from {args.source}: name another folder for the new run with --out")
    file = Path(args.source) / RECORD_FILE
    if not file.is_file():
        raise UserError(f"--from {file}: no such file; expected the folder of a training run")
    record = read_json(file, "--from")
    try:
        recipe, arguments = from_dict(Recipe, record["recipe"]), _texts(record, "arguments")
        commit, changed = str(record["commit"]), _texts(record, "changed_files")
        precision = PRECISIONS[record["precision"]]
        check(recipe)
    except UserError as error:
        raise UserError(f"--from {file}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--from {file}: not the record of a run ({reason_of(error)})") from error
    if changed or commit != git("rev-parse", "HEAD"):
        with_diff = f" and {len(changed)} changed files ({DIFF_FILE})" if changed else ""
        print(f"warning: {args.source} was trained with commit {commit[:10]}{with_diff}; "
              "the code at hand differs")  # fmt: skip
    return recipe, arguments, precision


def _texts(record: dict[str, Any], name: str) -> list[str]:
    """A list of texts in the record of a run; `ValueError` for anything else."""
    values = record[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'"{name}" is not a list of texts')
    return values


def locate_data(
    spec: DatasetSpec, facts: dict[str, str] | None = None
) -> tuple[DatasetSpec, dict[str, Region]]:
    """`spec` as it is on disk, and its regions.

    Prints where the data are, the facts about a folder of own data, and how the files differ from
    the recipe.
    """
    spec, remarks = locate(spec)
    regions = find_regions(spec)
    print("\n".join([f"{spec.name}: {spec.root}", *lines_of(facts or {}), *remarks]))
    return spec, regions


def splits_to_test(spec: DatasetSpec, given: Sequence[str] | None) -> list[str]:
    """The splits to test: those given, else all whose name begins with "test"."""
    for split in given or ():
        if split not in spec.splits:
            raise UserError(
                f"--split {split}: unknown split of {spec.name}, expected one of "
                f"{', '.join(spec.splits)}"
            )
    splits = list(given or [split for split in spec.splits if split.startswith("test")])
    if not splits:
        raise UserError(
            f"{spec.name}: no split is named test...; choose with --split among "
            f"{', '.join(spec.splits)}"
        )
    return splits
