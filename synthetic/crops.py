"""Training batches for the synthetic recipe: the corpus and the hours of the speech pool mixed.

The pool holds audio and phones alone; the lips that belong to a crop are expanded to vertices
here, for a training subject drawn at random with that subject's own manner.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from config import Recipe
from data_loader import MeshSpeechDataset, collate, make_loader
from synthetic.coarticulation import CHANNELS, style_of
from synthetic.head import channel_basis, load_head
from synthetic.speech import SpeechPool

CORPUS_SHARE = 0.15  # of the batches; the rest is drawn from the pool


class PoolCrops(Dataset):
    """Crops of the pool as items of data_loader.MeshSpeechDataset; crop i of epoch e is fixed."""

    def __init__(self, recipe: Recipe, n_crops: int) -> None:
        spec = recipe.dataset
        self.pool = SpeechPool(spec.path(spec.speech_pool))
        self.fps, self.seconds = spec.fps, recipe.train.max_clip_s
        self.clean, self.seed, self.epoch = not recipe.train.augment, recipe.train.seed, 0
        head = load_head(spec.path(spec.topology))
        self.basis = channel_basis(head, CHANNELS)
        self.templates = {s: head.templates[s] for s in spec.splits["train"].subjects}
        self.n_crops = n_crops

    def __len__(self) -> int:
        return self.n_crops

    def set_epoch(self, epoch: int) -> None:
        """Choose other crops."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        subject = str(rng.choice(list(self.templates)))
        crop = self.pool.crop(rng, self.seconds, self.fps, style_of(subject), self.clean)
        template = self.templates[subject]
        offsets = np.tensordot(crop.curves, self.basis, axes=1)  # (T, V, 3)
        return {
            "name": crop.name, "subject": subject, "audio": crop.audio, "template": template,
            "vertices": template + offsets, "frames": len(offsets),
        }  # fmt: skip


class MixedBatches:
    """`steps` batches an epoch: one in seven from the corpus, the others from the pool."""

    def __init__(self, recipe: Recipe, workers: int = 1) -> None:
        from augment import augment

        config = recipe.train
        self.config, self.epoch = config, 0
        self.corpus = MeshSpeechDataset(
            recipe.dataset, "train", crop_s=config.max_clip_s, seed=config.seed,
            augment=augment if config.augment else None,
        )  # fmt: skip
        one_pass = -(-len(self.corpus) // config.batch_size)
        self.n_corpus = min(round(CORPUS_SHARE * config.steps_per_epoch), one_pass)
        self.n_pool = config.steps_per_epoch - self.n_corpus
        self.crops = PoolCrops(recipe, self.n_pool * config.batch_size)
        self.workers = workers
        self.dataset = self  # where training looks for set_epoch

    def __len__(self) -> int:
        return self.n_corpus + self.n_pool

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops, augmentations and order of this epoch."""
        self.epoch = epoch
        self.corpus.set_epoch(epoch)
        self.crops.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        config = self.config
        corpus = iter(make_loader(self.corpus, config.batch_size, True, config.seed + self.epoch))
        pool = iter(DataLoader(self.crops, config.batch_size, num_workers=self.workers,
                               collate_fn=collate))  # fmt: skip
        order = np.random.default_rng((config.seed, self.epoch)).permutation(len(self))
        for position in order:
            yield next(corpus if position < self.n_corpus else pool)
