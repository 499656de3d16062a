"""The data set whose faces published weights animate; their files do not name one."""

import dataclasses
from pathlib import Path

from common.errors import UserError
from config import RECIPES, DatasetSpec, ModelConfig


def published_dataset(checkpoint: Path, dataset: str | None, config: ModelConfig) -> DatasetSpec:
    """The data set with as many vertices as the weights of `config`, at their frame rate.

    dataset: the beginning of its name, or None for the first that fits: BIWI also selects BIWI_6,
    because what the release calls BIWI has 3,895 vertices. Raises `UserError` if none fits.
    """
    known = {name: recipe.dataset for name, recipe in RECIPES.items()}
    for name, spec in known.items():
        if spec.n_vertices == config.n_vertices and name.startswith(dataset or ""):
            return dataclasses.replace(spec, fps=config.fps)
    given = f"dataset {dataset}" if dataset else "no known data set fits"
    counts = ", ".join(f"{name} has {spec.n_vertices}" for name, spec in known.items())
    raise UserError(
        f"{given}: the weights in {checkpoint} move {config.n_vertices} vertices; {counts}"
    )
