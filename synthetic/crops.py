"""Training batches of the synthetic recipe: crops of takes with cached features.

The store has features, phones, loudness and noise. The curves of a crop are computed here, for a
randomly drawn training subject in that subject's style.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.errors import UserError
from config import SAMPLE_RATE, Recipe
from data_loader import collate
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BucketedBatches
from speech.timing import mesh_frames
from synthetic.coarticulation import CHANNELS, LOUDNESS_HZ, Style, curves, style_of
from synthetic.feature_store import TAKE_S, CachedTake, FeatureStore, fill, store_of
from synthetic.head import channel_basis, load_head
from synthetic.phones import Segment

DETAILS = ("tongue", "left_brow", "right_brow")  # parts of the head with a loss of their own
SHORTEST_CROP_S = 0.1
NOISE_DB = (-20.0, -8.0)  # level of noise over the voices: a frame is clean; it is noisy
MARGIN_S = 1.0  # seconds of phones before and after a crop, which its curves depend on


class TakeCrops(Dataset):
    """Random crops of a store's takes, as items for `data_loader.collate`.

    An item has `conv`, the encoder's features (N, C0) float16 at its own frames; its `audio` is
    zeros (S,), since the features replace it. Its vertices are template + curves @ basis, curves
    (T, K), basis (K, V, 3). Its `noise` (T,) is 0 in clean frames, 1 in noisy ones. Crop i of epoch
    e is fixed by the seed.
    """

    def __init__(self, recipe: Recipe, store: FeatureStore) -> None:
        spec = recipe.dataset
        self.store, self.fps = store, spec.fps
        self.n_takes, self.seed, self.epoch = recipe.train.takes, recipe.train.seed, 0
        self.n_samples = round(recipe.train.max_clip_s * SAMPLE_RATE)
        head = load_head(spec.path(spec.topology))
        self.basis = channel_basis(head, CHANNELS).astype(np.float32)  # (K, V, 3)
        self.details = np.concatenate([head.parts[name] for name in DETAILS])
        self.templates = {s: head.templates[s] for s in spec.splits["train"].subjects}

    def __len__(self) -> int:
        return self.n_takes

    def sounds(self) -> None:
        """None, since no crop repeats; see `data_loader.MeshSpeechDataset.sounds`."""

    def set_epoch(self, epoch: int) -> None:
        """Select the crops of this epoch."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Index i is a crop of take i modulo their number; larger ones are further draws."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        number = index % self.n_takes
        subject = str(rng.choice(list(self.templates)))
        conv, lips, noise = self.crop(self.store[number], rng, style_of(subject))
        return {
            "name": f"take {number}", "subject": subject, "template": self.templates[subject],
            "audio": np.zeros(self.n_samples, np.float32), "conv": conv, "noise": noise,
            "curves": lips, "basis": self.basis, "details": self.details, "frames": len(lips),
        }  # fmt: skip

    def crop(
        self, take: CachedTake, rng: Generator, style: Style
    ) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.float32]]:
        """Features (N, C0), curves (T, channels) and noise (T,) of a random stretch of a take."""
        states, start_s = self.store.stretch(take, rng, self.n_samples)
        frames = mesh_frames(self.n_samples, self.fps)
        noise = self.noise(take, start_s, frames)
        return states, self.curves(take, start_s, frames, style), noise

    def curves(
        self, take: CachedTake, start_s: float, frames: int, style: Style
    ) -> NDArray[np.float32]:
        """Curves (frames, channels) of a take from `start_s` on."""
        margin = round(MARGIN_S * self.fps)
        start_s -= margin / self.fps
        total = frames + 2 * margin
        near = [
            Segment(phone, begin - start_s, end - start_s)
            for phone, begin, end in take.segments
            if end > start_s - MARGIN_S and begin < start_s + total / self.fps + MARGIN_S
        ]
        n = len(take.loudness)
        at = start_s * LOUDNESS_HZ + np.arange(round(total / self.fps * LOUDNESS_HZ))
        envelope = np.interp(at, np.arange(n), take.loudness)
        return curves(near, total, self.fps, loudness=envelope, style=style)[margin:-margin]

    def noise(self, take: CachedTake, start_s: float, frames: int) -> NDArray[np.float32]:
        """How noisy a take is from `start_s` on, 0 to 1 over `NOISE_DB`: (frames,)."""
        at = (start_s + np.arange(frames) / self.fps) * LOUDNESS_HZ - 0.5
        level_db = np.interp(at, np.arange(len(take.noise_db)), take.noise_db)
        return np.interp(level_db, NOISE_DB, (0, 1)).astype(np.float32)


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError` for a recipe that cannot be trained on takes."""
    crop_s = recipe.train.max_clip_s
    if not SHORTEST_CROP_S <= crop_s <= TAKE_S:
        raise UserError(
            f"train.max_clip_s {crop_s:g}: expected {SHORTEST_CROP_S:g} to {TAKE_S:g}, the seconds "
            "of a crop of a take"
        )
    if not recipe.model.vertex_rank:
        raise UserError(
            "model.vertex_rank 0: expected 1 or more: takes have curves instead of meshes; or give "
            "--set train.takes=0"
        )


class TakeBatches(PlannedLoader):
    """`steps_per_epoch` batches of crops per epoch; the features of missing takes are computed now.

    Each process of `world` gets its share of a batch. Raises `UserError` for a recipe that cannot
    be trained on takes.
    """

    def __init__(self, recipe: Recipe, workers: int, rank: int, world: int) -> None:
        check_recipe(recipe)
        config, store = recipe.train, store_of(recipe)
        fill(store, range(rank, config.takes, world), max((os.cpu_count() or 1) // world, 1))
        crops = TakeCrops(recipe, store)
        plan = BucketedBatches(
            [config.max_clip_s] * config.takes, config.batch_size, config.seed, rank, world,
            steps=config.steps_per_epoch, names=[store.cache.folder.name],
        )  # fmt: skip
        super().__init__(crops, plan, collate, workers)
        self.is_checked = False

    def __iter__(self) -> Iterator[Any]:
        """As of `PlannedLoader`; the takes are checked once, before its workers start."""
        if not self.is_checked:  # not at the start: other processes may compute takes until now
            self.items.store.check(range(len(self.items)))
        self.is_checked = True
        return super().__iter__()
