"""Batches: each clip once, equal for any number of processes, continued where a run stopped."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from config import RECIPES
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BatchPlan, BucketedBatches, share
from synthetic import crops
from synthetic.crops import CORPUS_SHARE, MixedPlan

# clips, batch size, ranks: whole batches, a remainder, fewer clips than ranks, one clip a rank
CASES = [(48, 4, 3), (53, 4, 3), (53, 7, 1), (2, 4, 5), (13, 1, 3), (7, 1, 2), (1, 1, 1)]


@pytest.fixture
def lengths(rng: np.random.Generator) -> np.ndarray:
    """Clips of 1 to 12 s in frames, most of them short."""
    return np.clip(rng.lognormal(1.2, 0.5, 317), 1, 12) * 30 // 1


def by_rank(n_clips: int, size: int, world: int, epoch: int = 3) -> list[BucketedBatches]:
    lengths = np.random.default_rng(n_clips).integers(20, 400, n_clips)
    plans = [BucketedBatches(lengths, size, 5, rank, world) for rank in range(world)]
    for plan in plans:
        plan.set_epoch(epoch)
    return plans


def run_through(plan: BatchPlan) -> list[list[int]]:
    """The batches of the epoch without fillers: what is trained on."""
    batches = []
    for batch in plan:
        assert plan.counted in (0, len(batch))
        batches.append(batch if plan.counted else [])
        plan.advance()
    return batches


@pytest.mark.parametrize(("n_clips", "size", "world"), CASES)
def test_ranks_take_equal_steps_and_count_every_clip_once(
    n_clips: int, size: int, world: int
) -> None:
    plans = by_rank(n_clips, size, world)
    steps = -(-n_clips // (size * world))
    loaded = [list(plan) for plan in plans]
    assert {len(batches) for batches in loaded} == {len(plan) for plan in plans} == {steps}
    assert all(1 <= len(batch) <= size for batches in loaded for batch in batches)
    counted = [index for plan in plans for batch in run_through(plan) for index in batch]
    assert sorted(counted) == list(range(n_clips))


@pytest.mark.parametrize(("n_clips", "size", "world"), CASES)
def test_all_shares_are_the_batches_of_one_process(n_clips: int, size: int, world: int) -> None:
    (alone,) = by_rank(n_clips, size * world, 1)
    shares = [run_through(plan) for plan in by_rank(n_clips, size, world)]
    together = [sum(step, []) for step in zip(*shares, strict=True)]
    assert together == list(alone)


def test_clips_used_counts_the_clips_of_all_ranks() -> None:
    plans, used = by_rank(13, 1, 3), 0
    while plans[0].position < len(plans[0]):
        assert plans[2].clips_used == used
        used += sum(plan.counted for plan in plans)
        for plan in plans:
            plan.advance()
    assert plans[0].clips_used == plans[0].clips == 13


def test_an_epoch_is_cut_evenly(lengths: np.ndarray) -> None:
    sizes = [len(batch) for batch in BucketedBatches(lengths, 16, 0)]
    assert sum(sizes) == 317 and len(sizes) == 20 and set(sizes) == {15, 16}


def test_shares_are_contiguous_and_even() -> None:
    for n in range(1, 20):
        for world in range(1, 8):
            shares = [share(list(range(n)), rank, world) for rank in range(world)]
            assert sum(shares, []) == list(range(n))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_order_depends_only_on_seed_and_epoch(lengths: np.ndarray) -> None:
    def order(seed: int, epochs: tuple[int, ...]) -> list[list[int]]:
        plan = BucketedBatches(lengths, 8, seed)
        for epoch in epochs:
            plan.set_epoch(epoch)
            list(plan)
        return list(plan)

    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    expected = order(1, (4,))
    assert order(1, (1, 2, 3, 4)) == expected
    assert order(1, (5,)) != expected and order(2, (4,)) != expected
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("n_clips", [16, 40, 317])
def test_batches_change_between_epochs(n_clips: int) -> None:
    plan = BucketedBatches(np.arange(1, n_clips + 1), 8, 0)
    companies = []
    for epoch in (1, 2):
        plan.set_epoch(epoch)
        companies.append({frozenset(batch) for batch in plan})
    assert companies[0].isdisjoint(companies[1])


def padding_share(lengths: Sequence[float], plan: BucketedBatches) -> float:
    """Share of what all ranks load in an epoch that is padding or filler, 0 to 1."""
    lengths, loaded, counted = np.asarray(lengths, dtype=float), 0.0, 0.0
    for batch in plan.global_batches():
        for rank in range(plan.world):
            own = lengths[share(batch, rank, plan.world) or batch[:1]]
            loaded += len(own) * own.max()
        counted += lengths[batch].sum()
    return 1.0 - counted / loaded


def test_padding_share_by_hand() -> None:
    lengths = [4, 1, 3, 2]
    one = BucketedBatches(lengths, 2, 0, shuffle=False)
    assert list(one) == [[1, 3], [2, 0]]  # 2 of 4 and 4 of 8: 12 loaded for 10
    assert padding_share(lengths, one) == pytest.approx(1 - 10 / 12)
    of_two = BucketedBatches(lengths, 2, 0, 1, 2, shuffle=False)
    assert padding_share(lengths, of_two) == pytest.approx(
        1 - 10 / (2 + 2 + 4 + 4)  # one batch [1, 2, 3, 4], shared as [1, 2] and [3, 4]
    )
    alone = BucketedBatches([5.0], 1, 0, 0, 2)
    assert padding_share([5.0], alone) == pytest.approx(0.5)  # one filler


@pytest.mark.parametrize(("size", "world"), [(8, 1), (16, 1), (4, 4)])
def test_buckets_pad_far_less_than_random_batches(
    lengths: np.ndarray, size: int, world: int, rng: np.random.Generator
) -> None:
    order = rng.permutation(len(lengths))
    cut = [order[i : i + size] for i in range(0, len(order), size)]
    random = 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in cut)
    for epoch in (1, 2, 3):
        plan = BucketedBatches(lengths, size, 0, world=world)
        plan.set_epoch(epoch)
        assert padding_share(lengths, plan) < random / 3


def test_batches_are_not_sorted_by_length(lengths: np.ndarray) -> None:
    means = [lengths[batch].mean() for batch in BucketedBatches(lengths, 8, 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_without_shuffling_every_epoch_is_the_same(lengths: np.ndarray) -> None:
    plan = BucketedBatches(lengths, 8, 0, shuffle=False)
    first = list(plan)
    plan.set_epoch(7)
    assert list(plan) == first
    assert np.all(np.diff(lengths[sum(first, [])]) >= 0)


class Items(Dataset):
    """Items that return their epoch and index, and record which were loaded."""

    def __init__(self, n: int) -> None:
        self.n, self.epoch, self.loaded = n, 0, []

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.loaded.append(index)
        return self.epoch, index


def loader(plan: BatchPlan, n: int, workers: int = 0) -> PlannedLoader:
    return PlannedLoader(Items(n), plan, list, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_in_an_epoch_loads_only_the_rest(lengths: np.ndarray, workers: int) -> None:
    def plan() -> BucketedBatches:
        return BucketedBatches(lengths, 8, 1, rank=1, world=2)

    whole = loader(plan(), 317)
    whole.set_epoch(2)
    expected = list(whole)
    assert len(expected) == 20 and {epoch for batch in expected for epoch, _ in batch} == {2}

    stopped = loader(plan(), 317, workers)
    stopped.set_epoch(2)
    used = []
    for batch in stopped:  # workers are up to four batches ahead of this
        used.append(batch)
        stopped.plan.advance()
        if len(used) == 7:
            break
    state = stopped.plan.state_dict()
    assert state["position"] == 7 and used == expected[:7]

    resumed = loader(plan(), 317, workers)
    resumed.load_state_dict(state)
    for epoch in (2, 3):  # as the training loop does, starting with the current epoch
        resumed.set_epoch(epoch)
        rest = []
        for batch in resumed:
            rest.append(batch)
            resumed.plan.advance()
        whole.set_epoch(epoch)
        assert rest == (expected[7:] if epoch == 2 else list(whole))
    assert len(resumed) == 20  # steps of a whole epoch, wherever it starts


def test_used_batches_are_not_loaded_again(lengths: np.ndarray) -> None:
    batches = loader(BucketedBatches(lengths, 8, 1), 317)
    state = batches.plan.state_dict() | {"epoch": 2, "position": 30}
    batches.load_state_dict(state)
    rest = [index for batch in batches for _, index in batch]
    assert batches.items.loaded == rest and len(rest) < 100


def test_loading_does_not_change_the_global_generator(lengths: np.ndarray) -> None:
    before = torch.get_rng_state()
    list(loader(BucketedBatches(lengths, 64, 1), 317))
    list(loader(BucketedBatches(lengths, 64, 1), 317, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_at_the_end_of_an_epoch_has_nothing_left() -> None:
    (plan,) = by_rank(53, 7, 1)
    run_through(plan)
    other = by_rank(53, 7, 1, epoch=0)[0]
    other.load_state_dict(plan.state_dict())
    other.set_epoch(3)
    assert list(other) == []
    with pytest.raises(ValueError, match="all 8 batches of epoch 3 were used"):
        other.advance()
    other.set_epoch(4)
    assert len(list(other)) == 8


def test_a_state_survives_weights_only(tmp_path: Path, lengths: np.ndarray) -> None:
    state = BucketedBatches(lengths, 8, 1).state_dict()
    torch.save(state, tmp_path / "last.pt")
    assert torch.load(tmp_path / "last.pt", weights_only=True) == state


def test_a_state_of_another_run_is_refused_and_changes_nothing(lengths: np.ndarray) -> None:
    plan = BucketedBatches(lengths, 8, 1, 0, 2)
    plan.set_epoch(3)
    plan.advance()
    saved = plan.state_dict()
    assert plan.state_dict() == BucketedBatches(lengths, 8, 1, 1, 2).state_dict() | {
        "epoch": 3, "position": 1,
    }  # fmt: skip
    for other, message in (
        (BucketedBatches(lengths, 16, 1, 0, 1), "with world 2, this run has 1; start as many proc"),
        (BucketedBatches(lengths, 4, 1, 0, 2), "with batch_size 8, this run has 4; give the same"),
        (BucketedBatches(lengths, 8, 2, 0, 2), "with seed 1, this run has 2; give the same --seed"),
        (BucketedBatches(lengths[1:], 8, 1, 0, 2), "the training clips have changed"),
        (BucketedBatches(lengths + 1, 8, 1, 0, 2), "the training clips have changed"),
        (BucketedBatches(lengths, 8, 1, 0, 2, names=["a"]), "the training clips have changed"),
        (MixedPlan(317, 40, 8, 1, 0, 2), "with steps 20, this run has 40"),
    ):
        with pytest.raises(UserError) as error:
            other.load_state_dict(saved)
        assert message in str(error.value) and "\n" not in str(error.value)
        assert (other.epoch, other.position) == (0, 0)
    with pytest.raises(ValueError, match="position 99"):
        plan.load_state_dict(saved | {"position": 99})


def test_invalid_arguments_are_refused() -> None:
    for values in ((0, 0, 0, 1), (1, 0, 1, 1), (1, 0, -1, 2)):
        with pytest.raises(ValueError, match="batch_size"):
            BucketedBatches([1, 2], *values)
    for lengths in ([], [1, 0], [[1, 2]], [float("nan")]):
        with pytest.raises(ValueError, match="lengths"):
            BucketedBatches(lengths, 1, 0)


# the synthetic recipe


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


def test_a_crop_depends_only_on_seed_epoch_and_index(tmp_path: Path) -> None:
    tone = np.sin(np.arange(64_000) * 0.1).astype(np.float32) * 0.5
    soundfile.write(tmp_path / "a.flac", tone, 16_000, subtype="PCM_16")
    row = {"name": "a", "engine": "e", "speaker": "s", "text": "ah",
           "segments": [["sil", 0.0, 1.0], ["aa", 1.0, 3.0], ["m", 3.0, 4.0]]}  # fmt: skip
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    recipe = RECIPES["synthetic"]
    spec = dataclasses.replace(recipe.dataset, speech_pool=str(tmp_path))
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


ABANDONED = """
import sys
sys.path.insert(0, {root!r})
from dataset.batch_plan import BucketedBatches
from dataset.batch_loader import PlannedLoader

class Numbers(list):
    def set_epoch(self, epoch): ...

loader = PlannedLoader(Numbers(range(400)), BucketedBatches([1.0] * 400, 1, 0), list, workers=1)
source = iter(loader)
next(source)
kept = sys.modules["kept"] = source  # as a traceback would keep it
raise RuntimeError("our own bug")
"""


def test_a_run_that_fails_exits_although_its_workers_ignore_sigterm() -> None:
    code = ABANDONED.format(root=str(Path(__file__).resolve().parents[1]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "our own bug" in done.stderr
