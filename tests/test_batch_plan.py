"""Plans of batches: each clip once, equal for any number of processes, restored from a state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataset.batch_plan import BucketedBatches, share
from tests.batches import run_through

# clips, batch size, ranks: whole batches, a remainder, fewer clips than ranks, one clip a rank
CASES = [(48, 4, 3), (53, 4, 3), (53, 7, 1), (2, 4, 5), (13, 1, 3), (7, 1, 2), (1, 1, 1)]


def by_rank(n_clips: int, size: int, world: int, epoch: int = 3) -> list[BucketedBatches]:
    lengths = np.random.default_rng(n_clips).integers(20, 400, n_clips)
    plans = [BucketedBatches(lengths, size, 5, rank, world) for rank in range(world)]
    for plan in plans:
        plan.set_epoch(epoch)
    return plans


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
        (BucketedBatches(lengths, 8, 1, 0, 2, steps=40), "with steps 20, this run has 40"),
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
