"""Training batches for the synthetic recipe: the corpus and the speech pool, mixed.

The pool stores audio and phones only. The vertices of a crop are computed here, for a randomly
drawn training subject in that subject's style.
"""

from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from config import Recipe
from data_loader import MeshSpeechDataset, collate
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BatchPlan
from synthetic.coarticulation import CHANNELS, style_of
from synthetic.head import channel_basis, load_head
from synthetic.speech import SpeechPool

CORPUS_SHARE = 0.15  # share of the batches that come from the corpus; the others are of the pool


class PoolCrops(Dataset):
    """Crops of the pool as items of `data_loader.MeshSpeechDataset`.

    Crop i of epoch e is fixed by the seed. Raises `UserError` when there is no pool.
    """

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
        """Select the crops of this epoch."""
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


class Mixture(ConcatDataset):
    """The corpus followed by the crops of the pool, as one data set."""

    def sounds(self) -> None:
        """None, since no crop repeats; see `data_loader.MeshSpeechDataset.sounds`."""

    def set_epoch(self, epoch: int) -> None:
        """Select the crops and augmentations of this epoch."""
        for part in self.datasets:
            part.set_epoch(epoch)


class MixedPlan(BatchPlan):
    """`steps` global batches per epoch, each from the corpus or the pool; indices of a `Mixture`.

    `CORPUS_SHARE` of the batches are of the corpus, each clip at most once per epoch. The others
    are of the pool's crops in order.
    """

    def __init__(
        self, n_clips: int, steps: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(batch_size, seed, rank, world)
        self.n_clips, self.steps, self.step_clips = n_clips, steps, batch_size * world
        one_pass = -(-n_clips // self.step_clips)
        self.n_corpus = min(round(CORPUS_SHARE * steps), one_pass)
        self.n_crops = (steps - self.n_corpus) * self.step_clips

    def __len__(self) -> int:
        return self.steps

    def global_batches(self) -> list[list[int]]:
        """See `BatchPlan.global_batches`."""
        shuffled = DataLoader(
            range(self.n_clips), self.step_clips, shuffle=True, collate_fn=list,
            generator=torch.Generator().manual_seed(self.seed + self.epoch),
        )  # fmt: skip
        corpus = iter(shuffled)
        crops = range(self.n_clips, self.n_clips + self.n_crops)
        pool = (list(crops[i : i + self.step_clips]) for i in range(0, len(crops), self.step_clips))
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.steps)
        return [next(corpus if position < self.n_corpus else pool) for position in order]

    def identity(self) -> dict[str, int | str]:
        """See `BatchPlan.identity`."""
        return super().identity() | {"steps": self.steps, "clips": self.n_clips}


class MixedBatches(PlannedLoader):
    """`steps_per_epoch` batches per epoch: one in seven from the corpus, the others from the pool.

    Each process of `world` gets its share of a batch, at most `recipe.train.batch_size` clips.
    corpus: the train split, cropped and augmented as the recipe says.
    """

    def __init__(
        self, recipe: Recipe, corpus: MeshSpeechDataset, workers: int, rank: int, world: int
    ) -> None:
        config = recipe.train
        plan = MixedPlan(
            len(corpus), config.steps_per_epoch, config.batch_size, config.seed, rank, world
        )
        mixture = Mixture([corpus, PoolCrops(recipe, plan.n_crops)])
        super().__init__(mixture, plan, collate, workers)
