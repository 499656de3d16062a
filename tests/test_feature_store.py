"""Cached features of takes, and the crops that training reads from them."""

import dataclasses
import os
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from config import RECIPES, SAMPLE_RATE, Recipe
from speech.audio import normalise
from speech.timing import mesh_frames
from synthetic import feature_store
from synthetic.coarticulation import CHANNELS, NEUTRAL, curves
from synthetic.crops import TakeBatches, TakeCrops
from synthetic.feature_store import FeatureStore, fill, store_of
from synthetic.phones import Segment
from tests.spoken import write_pool
from tests.toy import moonshine_folder


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The synthetic recipe with takes of 8 s, a tiny encoder and a pool of one clip."""
    monkeypatch.setattr(feature_store, "TAKE_S", 8.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    (tmp_path / "moon").mkdir()
    encoder = moonshine_folder(tmp_path / "moon")
    synthetic = RECIPES["synthetic"]
    pool = write_pool(tmp_path / "speech")
    spec = dataclasses.replace(synthetic.dataset, speech_pool=str(pool))
    train = dataclasses.replace(
        synthetic.train, takes=3, max_clip_s=2.0, batch_size=2, steps_per_epoch=4
    )
    return dataclasses.replace(synthetic, dataset=spec, train=train, wav2vec2=encoder)


def test_states_are_those_of_the_takes_audio_in_float16(recipe: Recipe) -> None:
    store = store_of(recipe)
    with torch.no_grad():
        audio = torch.from_numpy(normalise(store.draw(1).audio))[None]
        expected = store.kind.convolve(store.body, audio)[0].numpy()
    take = store[1]
    assert take.states.dtype == np.float16
    np.testing.assert_allclose(take.states, expected, atol=2e-3, rtol=1e-3)
    assert take.segments == store.draw(1).segments
    np.testing.assert_array_equal(take.noise_db, store.draw(1).noise_db)


def test_a_take_is_computed_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_of(recipe), range(3), jobs=1)
    monkeypatch.setattr(FeatureStore, "draw", lambda *_: pytest.fail("drawn again"))
    store = store_of(recipe)
    fill(store, range(3), jobs=1)
    assert all(store.is_cached(number) for number in range(3)) and not store.is_cached(3)
    store[2]


def test_a_store_of_before_takes_had_noise_is_completed(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of its takes, nearly all of the time, are not computed again."""
    store = store_of(recipe)
    fill(store, range(3), jobs=1)
    noise = [np.array(store[number].noise_db) for number in range(3)]
    for number in range(3):
        store.cache._place(f"{number} noise")[0].unlink()
    monkeypatch.setattr(FeatureStore, "_states", lambda *_: pytest.fail("encoded again"))
    store = store_of(recipe)
    assert not store.is_cached(1)
    fill(store, range(3), jobs=1)
    for number in range(3):
        np.testing.assert_array_equal(store[number].noise_db, noise[number])


def test_another_pool_has_takes_of_its_own(recipe: Recipe) -> None:
    first = store_of(recipe)
    index = Path(recipe.dataset.speech_pool) / "index.jsonl"
    index.write_text(index.read_text().replace('"aa"', '"ae"'))
    assert store_of(recipe).cache.folder != first.cache.folder


@pytest.mark.parametrize("constant", ["moonshine.LEVEL", "moonshine.HOP_FRAMES", "level.REACH"])
def test_other_windows_or_another_level_have_takes_of_their_own(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    first = store_of(recipe).cache
    assert "level" not in first.made_by  # so stores of before these were in the key stay valid
    monkeypatch.setattr(f"speech.{constant}", 2)
    assert store_of(recipe).cache.folder != first.folder


def test_no_more_processes_are_started_than_takes_are_missing(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "ProcessPoolExecutor", lambda *_: pytest.fail("started"))
    store = store_of(recipe)
    fill(store, range(1), jobs=64)
    assert store.is_cached(0)


def test_loading_processes_do_not_check_a_take_again(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that starts them has checked all takes, and a damaged one is computed again."""
    fill(store_of(recipe), range(3), jobs=1)
    checked: list[int] = []

    def crc32(data: np.ndarray) -> int:
        checked.append(len(data))
        return zlib.crc32(data)

    monkeypatch.setattr("files.cache.zlib", SimpleNamespace(crc32=crc32))
    batches = TakeBatches(recipe, 0, 0, 1)
    damaged = max(batches.items.store.cache.folder.glob("*.npy"), key=lambda f: f.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    source = iter(batches)
    assert len(checked) >= 12  # states, phones, loudness and noise of three takes
    assert damaged.read_bytes() != bytes(content)
    checked.clear()
    assert len(list(source)) == 4 and len(list(iter(batches))) == 4
    assert not checked


def test_a_crop_depends_only_on_seed_epoch_and_index(recipe: Recipe) -> None:
    one, other = (TakeCrops(recipe, store_of(recipe)) for _ in range(2))
    for part in (one, other):
        part.set_epoch(3)
    one[4]  # crops made before in the process do not matter
    crop, same = one[5], other[5]
    assert crop["subject"] == same["subject"]
    for name in ("conv", "curves", "template"):
        assert np.array_equal(crop[name], same[name])
    other.set_epoch(4)
    assert not np.array_equal(one[5]["conv"], other[5]["conv"])


def test_noise_of_a_crop_is_that_of_its_frames_by_hand(recipe: Recipe) -> None:
    """The level rises by 1 dB in 10 ms, so by 3.33 in a frame: -20 dB is clean, -8 dB noisy."""
    crops = TakeCrops(recipe, store_of(recipe))
    level_db = np.linspace(-40.0, 9.0, 50).astype(np.float32)  # value i at (i + 0.5) / 100 s
    take = dataclasses.replace(crops.store[0], noise_db=level_db)
    at_db = -40.0 + (0.105 + np.arange(8) / 30) * 100 - 0.5
    assert at_db[3] == pytest.approx(-20.0) and at_db[6] == pytest.approx(-10.0)
    expected = [0.0, 0.0, 0.0, 0.0, 10 / 3 / 12, 20 / 3 / 12, 10 / 12, 1.0]
    np.testing.assert_allclose(crops.noise(take, 0.105, 8), expected, atol=1e-5)
    item = crops[0]
    assert item["noise"].shape == (item["frames"],) and item["noise"].min() >= 0


def test_a_share_of_the_crops_begins_with_the_take(recipe: Recipe) -> None:
    store = store_of(recipe)
    take, rng = store[0], np.random.default_rng(3)
    starts = [store.stretch(take, rng, 2 * SAMPLE_RATE)[1] for _ in range(400)]
    share = np.mean(np.array(starts) == 0)
    assert feature_store.FIRST_SHARE - 0.05 < share < feature_store.FIRST_SHARE + 0.06
    assert max(starts) > 5


def test_features_and_vertices_of_a_crop_are_of_the_same_instants(recipe: Recipe) -> None:
    """From the start of a take on: the curves of its own phones, the first rows of its states."""
    crops = TakeCrops(recipe, store_of(recipe))
    take = crops.store[0]
    kind, n = crops.store.kind, crops.n_samples
    frames = mesh_frames(n, 30)
    for first in (0, 50):
        start_s = first * kind.stride / 16_000
        moved = [Segment(p, a - start_s, b - start_s) for p, a, b in take.segments]
        expected = curves(moved, frames, 30)
        got = crops.curves(take, start_s, frames, NEUTRAL)
        jaw = CHANNELS.index("jawOpen")
        # without loudness the jaw is between 0.7 and 1.3 times as open
        assert np.corrcoef(got[:, jaw], expected[:, jaw])[0, 1] > 0.95
    item = crops[0]
    assert item["conv"].shape == (kind.native_lengths(n), 3 * 16)
    assert item["frames"] == len(item["curves"]) == frames and len(item["audio"]) == n


def test_batches_carry_the_features(recipe: Recipe) -> None:
    batches = TakeBatches(recipe, 0, 0, 1)
    batch = next(iter(batches))
    assert batch["conv"].shape[:1] == (2,) and batch["conv"].dtype == torch.float16
    assert batch["basis"].shape == (len(CHANNELS), 6_045, 3) and "vertices" not in batch
    assert len(batches) == 4 and len(batches.items) == 3


def test_an_encoder_without_frozen_features_is_refused(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speech.moonshine import Moonshine

    monkeypatch.setattr(Moonshine, "frozen_part", staticmethod(lambda body: None))
    with pytest.raises(UserError, match="its features are not frozen"):
        store_of(recipe)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("train", {"max_clip_s": 0.0}, "train.max_clip_s 0: expected 0.1 to 40, the seconds"),
        ("train", {"max_clip_s": 40.5}, "train.max_clip_s 40.5: expected 0.1 to 40, the seconds"),
        ("model", {"vertex_rank": 0}, "model.vertex_rank 0: expected 1 or more"),
    ],
)
def test_a_recipe_that_takes_cannot_serve_is_refused(
    recipe: Recipe, part: str, changes: dict, message: str
) -> None:
    changed = dataclasses.replace(getattr(recipe, part), **changes)
    with pytest.raises(UserError, match=message):
        TakeBatches(dataclasses.replace(recipe, **{part: changed}), 0, 0, 1)


def test_a_missing_pool_is_reported_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no speech pool; make one with"):
        FeatureStore(tmp_path / "speech", "no/such/encoder")
    assert not list(tmp_path.iterdir())
