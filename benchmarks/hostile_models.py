"""Models, training states and records of runs for `bench_hostile`: their loaders."""

import argparse
import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.hostile_formats import (
    mutate_json,
    mutate_members,
    mutate_pickle,
    mutate_safetensors,
    mutate_zip_fields,
)
from benchmarks.hostile_model_seeds import (
    CACHED,
    SPEC,
    cache_entries,
    converted_files,
    encoder_files,
    log_files,
    model_files,
    phone_lines,
    published_files,
    reader_files,
    record_files,
    state_files,
    toy_run,
)
from benchmarks.hostile_mutators import MUTATORS
from benchmarks.hostile_targets import Attempt, Target, require

OF_TORCH = (mutate_members(mutate_pickle), mutate_members(*MUTATORS), mutate_zip_fields)
MODEL_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def checkpoint(folder: Path) -> Attempt:
    """A model of demo.py, of this project or published: `load_checkpoint`."""
    from jambatalk import load_checkpoint

    def attempt(path: Path) -> None:
        model, spec = load_checkpoint(path)
        require(model.config.n_vertices >= 1 and spec.fps >= 1, "positive sizes")

    return attempt


def published(folder: Path) -> Attempt:
    """Published weights, which have fewer vertices here than any data set: `load_release`."""
    from released.weights import is_release, load_release

    def attempt(path: Path) -> None:
        is_release(path)
        require(load_release(path).config.n_vertices >= 1, "positive sizes")

    return attempt


def reader(folder: Path) -> Attempt:
    """The lip reader of a run: `load_reader`."""
    from lip_reader import load_reader

    return lambda path: load_reader(path)


def training_state(folder: Path) -> Attempt:
    """last.pt of a run: `find_state` and all that a resumed run takes from it."""
    from training.resume import find_state
    from training.run import Run

    run = toy_run()
    fresh = copy.deepcopy(run.step.optimizer.state_dict())

    def attempt(path: Path) -> None:
        run.step.optimizer.load_state_dict(fresh)
        state = find_state(folder, run.recipe, run.group)
        if state["epoch"] <= run.recipe.train.epochs:  # as in main.train
            Run._restore(SimpleNamespace(**vars(run)), state, run.batches)

    return attempt


def record(folder: Path) -> Attempt:
    """run.json of a run that `--from` repeats: `recipe_of_run`."""
    from training.flags import FIELD_FLAGS
    from training.recipe import FIXED_BY_RUN, recipe_of_run

    flags = dict.fromkeys((*FIXED_BY_RUN, *FIELD_FLAGS)) | {
        "set": [],
        "model": None,
        "source": str(folder),
    }
    args = argparse.Namespace(**flags, out=str(folder / "new"), mode="train")
    return lambda path: recipe_of_run(args)


def log(folder: Path) -> Attempt:
    """log.csv of a run and its run.json, compared with other runs: `training.plots`."""
    from training.plots import read_run

    (folder / "run.json").write_bytes(record_files()[0])
    return lambda path: read_run(folder)


def encoder(folder: Path) -> Attempt:
    """A folder of a pre-trained encoder: `load_pretrained`, as for `--encoder`."""
    from speech.pretrained import load_pretrained

    source = folder / "encoder"
    source.mkdir()
    for name, content in zip(("config.json", "model.safetensors"), encoder_files(), strict=True):
        (source / name).write_bytes(content)
    return lambda path: load_pretrained(str(source))


def vocabulary(folder: Path) -> Attempt:
    """vocab.json of a pre-trained encoder: `load_characters`."""
    from lip_reader import load_characters

    return lambda path: load_characters(folder)


def cache(folder: Path) -> Attempt:
    """An entry of a cache: a damaged one is computed again."""
    from files.cache import Cache

    stored = Cache(folder / "cache", {"what": "toy"})._place("key")[0]
    stored.parent.mkdir(parents=True)

    def attempt(path: Path) -> None:
        path.replace(stored)
        got = Cache(folder / "cache", {"what": "toy"}).get("key", lambda: CACHED)
        require(np.array_equal(got, CACHED), "the array that was computed")

    return attempt


def phones(folder: Path) -> Attempt:
    """Phones of clips and the index of a speech pool: `load_phones`, `read_index`."""
    from evaluation.phones import load_phones
    from synthetic.speech_pool import read_index

    spec = dataclasses.replace(SPEC, phones=str(folder / "index.jsonl"))

    def attempt(path: Path) -> None:
        read_index(folder)
        load_phones(spec)

    return attempt


TENSORS = (mutate_safetensors,)
MODEL_TARGETS = (
    Target("model", "x.safetensors", model_files, checkpoint, TENSORS, 0.3, MODEL_SUFFIXES),
    Target("published weights", "x.pth", published_files, published, OF_TORCH, 0.2, MODEL_SUFFIXES),
    Target("converted weights", "y.safetensors", converted_files, published, TENSORS, 0.15),
    Target("lip reader", "reader.safetensors", reader_files, reader, TENSORS, 0.4,
           (".safetensors",)),
    Target("training state", "last.pt", state_files, training_state, OF_TORCH, 0.3,
           MODEL_SUFFIXES, keeps_names=False),
    Target("run.json", "run.json", record_files, record, (mutate_json,), 2, (".json",),
           keeps_names=False),
    Target("log.csv", "log.csv", log_files, log, share=1, takes=(".csv",), keeps_names=False),
    Target("encoder config", "encoder/config.json", lambda: [encoder_files()[0]], encoder,
           (mutate_json,), 0.03, (".json",), keeps_names=False),
    Target("encoder weights", "encoder/model.safetensors", lambda: [encoder_files()[1]], encoder,
           TENSORS, 0.03, (".safetensors", ".bin"), keeps_names=False),
    Target("vocabulary", "vocab.json", lambda: [b'{"a": 0, "b": 1}'], vocabulary, (mutate_json,),
           0.5, (".json",), keeps_names=False),
    Target("cache entry", "entry.npy", cache_entries, cache, share=0.7, takes=(".npy",)),
    Target("phones", "index.jsonl", phone_lines, phones, (mutate_json,), 0.7, (".jsonl",),
           keeps_names=False),
)  # fmt: skip
