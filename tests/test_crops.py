"""Batches of the synthetic recipe: a mixture of corpus and speech pool."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from config import RECIPES
from synthetic import crops
from synthetic.crops import CORPUS_SHARE, MixedPlan
from tests.batches import Items, run_through
from tests.spoken import write_pool


class Tones(Items):
    """Items with the fields of clips."""

    def __init__(self, n: int, name: str) -> None:
        super().__init__(n)
        self.name = name

    def __getitem__(self, index: int) -> dict:
        epoch, index = super().__getitem__(index)
        return {"name": f"{self.name}-{epoch}-{index}", "subject": "s",
                "audio": np.zeros(5, np.float32), "template": np.zeros((2, 3), np.float32),
                "vertices": np.zeros((3, 2, 3), np.float32), "frames": 3}  # fmt: skip


@pytest.mark.parametrize(("n_clips", "steps", "size"), [(320, 40, 8), (53, 300, 16), (7, 40, 3)])
def test_mixed_batches_equal_those_of_two_loaders(n_clips: int, steps: int, size: int) -> None:
    """The definition without plans: a loader for each source, mixed at random."""
    n_corpus = min(round(CORPUS_SHARE * steps), -(-n_clips // size))
    corpus = Items(n_clips)
    pool = Items((steps - n_corpus) * size)
    drawn = torch.Generator().manual_seed(1 + 6)
    loaders = (
        DataLoader(corpus, size, shuffle=True, generator=drawn, collate_fn=list),
        DataLoader(pool, size, collate_fn=list),
    )
    sources = [iter(loader) for loader in loaders]
    expected = []
    for position in np.random.default_rng((1, 6)).permutation(steps):
        source = 0 if position < n_corpus else 1
        expected.append([source * n_clips + index for _, index in next(sources[source])])
    plan = MixedPlan(n_clips, steps, size, 1)
    plan.set_epoch(6)
    assert list(plan) == expected


@pytest.mark.parametrize(("n_clips", "size", "world"), [(320, 4, 2), (7, 2, 3), (5, 1, 4)])
def test_all_shares_are_the_mixed_batches_of_one_process(
    n_clips: int, size: int, world: int
) -> None:
    alone = MixedPlan(n_clips, 40, size * world, 1)
    shares = [run_through(MixedPlan(n_clips, 40, size, 1, rank, world)) for rank in range(world)]
    assert [sum(step, []) for step in zip(*shares, strict=True)] == list(alone)


def test_a_crop_depends_only_on_seed_epoch_and_index(tmp_path: Path) -> None:
    pool = write_pool(tmp_path)
    recipe = RECIPES["synthetic"]
    spec = dataclasses.replace(recipe.dataset, speech_pool=str(pool))
    recipe = dataclasses.replace(recipe, dataset=spec)
    one, other = (crops.PoolCrops(recipe, 10) for _ in range(2))
    for part in (one, other):
        part.set_epoch(3)
    one[4], one[5]  # crops made before in the process do not matter
    for index in (5, 9):
        crop, same = one[index], other[index]
        assert crop["subject"] == same["subject"]
        for name in ("audio", "vertices", "template"):
            assert np.array_equal(crop[name], same[name])
    other.set_epoch(4)
    assert not np.array_equal(one[5]["audio"], other[5]["audio"])


def test_mixed_batches_continue_where_a_run_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["synthetic"]
    train = dataclasses.replace(recipe.train, batch_size=3, steps_per_epoch=20)
    recipe = dataclasses.replace(recipe, train=train)
    monkeypatch.setattr(crops, "PoolCrops", lambda recipe, n: Tones(n, "pool"))

    def names(batches: crops.MixedBatches) -> list[list[str]]:
        return [batch["names"] for batch in batches]

    whole = crops.MixedBatches(recipe, Tones(50, "corpus"), 0, rank=1, world=2)
    whole.set_epoch(4)
    expected = names(whole)
    assert len(expected) == 20 and sum("corpus-4-" in batch[0] for batch in expected) == 3
    resumed = crops.MixedBatches(recipe, Tones(50, "corpus"), 0, rank=1, world=2)
    resumed.load_state_dict(whole.plan.state_dict() | {"position": 13})
    resumed.set_epoch(4)
    assert names(resumed) == expected[13:]
    loaded = sum(len(part.loaded) for part in resumed.items.datasets)
    assert loaded == 7 * 3  # none of the batches already used


@pytest.mark.parametrize(("batch_size", "n_clips"), [(8, 320), (16, 320), (64, 320), (3, 7)])
def test_an_epoch_has_its_steps_for_every_batch_size(
    batch_size: int, n_clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["synthetic"]
    train = dataclasses.replace(recipe.train, batch_size=batch_size, steps_per_epoch=40)
    recipe = dataclasses.replace(recipe, train=train)
    monkeypatch.setattr(crops, "PoolCrops", lambda recipe, n: Tones(n, "pool"))
    batches = crops.MixedBatches(recipe, Tones(n_clips, "corpus"), workers=0, rank=0, world=1)
    sources = [batch["names"][0].partition("-")[0] for batch in batches]
    assert len(sources) == len(batches) == 40
    assert 0 < sources.count("corpus") <= 6
