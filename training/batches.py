"""The training batches of a run: the train split, or takes of the speech pool if there is one."""

from config import Recipe
from data_loader import OpenDataset, collate
from dataset.batch_loader import PlannedLoader
from dataset.batch_plan import BucketedBatches
from speech.augment import augment
from training.processes import Group


def training_batches(
    recipe: Recipe, dataset: OpenDataset, workers: int, group: Group
) -> PlannedLoader:
    """This process's share of the batches of a recipe.

    workers: processes that load them, 0 for this one. Prints a summary of the clips.
    """
    config = recipe.train
    if recipe.dataset.speech_pool and config.takes:
        from synthetic.crops import TakeBatches

        batches = TakeBatches(recipe, workers, group.rank, group.world)
        group.gather(None)  # a barrier: each process has computed its share of the takes
        return batches
    clips = dataset.split(
        "train", config.max_clip_s, augment if config.augment else None, config.seed
    )
    plan = BucketedBatches(
        clips.lengths(), config.batch_size, config.seed, group.rank, group.world,
        steps=config.steps_per_epoch, names=[name for name, _ in clips.clips],
    )  # fmt: skip
    print(clips.summary())
    return PlannedLoader(clips, plan, collate, workers)
