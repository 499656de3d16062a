"""The start of a run from a trained model (`--init`): which weights it takes and which are new.

A model of another topology, unit or frame rate fits. Only its vertex head is replaced, and only
where the topology or the head's rank differs.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, reason_of
from config import RECIPES, ModelConfig, Recipe
from dataset.base_recipe import with_base
from jambatalk import JambaTalk, load_checkpoint
from speech.bodies import encoder_config
from speech.kinds import kind_of

HEAD = "head."  # prefix of the vertex head's weights
# No weight outside the vertex head depends on these, nor on the encoder's dropouts and masks.
FREE_FIELDS = ("n_vertices", "vertex_rank", "units_per_metre", "fps", "dropout")
FIELDS_LISTED = 4  # in a message

Differences = list[tuple[str, Any, Any]]  # field, value in the recipe, value in the file


def load_start(path: str | Path, recipe: Recipe) -> JambaTalk:
    """The model that a run starts from. Raises `UserError` where its decoder is not the recipe's.

    Its encoder is compared by `check_encoder`, as that of the recipe may be a download.
    """
    model = load_checkpoint(path).model
    if not isinstance(model, JambaTalk):
        raise UserError(f"--init {path}: published weights cannot be trained further")
    if found := decoder_differences(model.config, recipe.model):
        values = " ".join(f"model.{name}={as_setting(value)}" for name, _, value in found)
        fix = fitting_base(model.config, recipe) or f"give the file's values: --set {values}"
        raise UserError(f"--init {path}: its decoder does not fit: {listed(found)}; {fix}")
    return model


def as_setting(value: Any) -> str:
    """The text of a field's value behind --set FIELD=."""
    return ",".join(value) if isinstance(value, tuple) else json.dumps(value).strip('"')


def check_encoder(path: str | Path, start: ModelConfig, recipe: Recipe) -> None:
    """Raise `UserError` where the encoder of a model file has another shape than the recipe's."""
    if found := encoder_differences(start.encoder, recipe.model.encoder):
        fix = fitting_base(start, recipe) or (
            'give the encoder of that model with --encoder ("wav2vec2" in its run.json)'
        )
        raise UserError(f"--init {path}: its speech encoder does not fit: {listed(found)}; {fix}")


def decoder_differences(start: ModelConfig, now: ModelConfig) -> Differences:
    """The fields in which two networks differ, without the encoder and `FREE_FIELDS`."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    pairs = [(n, getattr(now, n), getattr(start, n)) for n in names if n not in FREE_FIELDS]
    return [(n, ours, theirs) for n, ours, theirs in pairs if n != "encoder" and ours != theirs]


def encoder_differences(start: dict[str, Any], now: dict[str, Any]) -> Differences:
    """The fields of two encoders' configs in which the shapes of their weights differ."""
    ours, theirs = encoder_config(now), encoder_config(start)
    if ours.model_type != theirs.model_type:
        return [("model_type", ours.model_type, theirs.model_type)]
    pairs = [
        (name, getattr(ours, name, None), getattr(theirs, name, None))
        for name in kind_of(ours.model_type).shape_fields
    ]
    return [pair for pair in pairs if json.dumps(pair[1] or 0) != json.dumps(pair[2] or 0)]


def listed(differences: Differences) -> str:
    """The first differences in words."""
    return "; ".join(
        f"{name}: expected {ours}, got {theirs}"
        for name, ours, theirs in differences[:FIELDS_LISTED]
    )


def fitting_base(start: ModelConfig, recipe: Recipe) -> str:
    """How to choose the recipe whose network a model has; "" if there is none."""
    for name, base in RECIPES.items():
        model = with_base(recipe.dataset, base).model
        if not (
            decoder_differences(start, model) or encoder_differences(start.encoder, model.encoder)
        ):
            return f"its network is that of --base {name} without changes by --set or --encoder"
    return ""


def take_weights(model: JambaTalk, start: JambaTalk) -> bool:
    """Load the weights of `start` into `model`; returns whether the vertex head stays new.

    Frozen weights that differ by the rounding of a file in half precision alone stay as they are:
    the teacher and cached features share them. Raises `UserError` where weights do not fit.
    """
    is_new = head_differs(start.config, model.config)
    weights = start.state_dict()
    if is_new:
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        weights |= {k: value for k, value in model.state_dict().items() if k.startswith(HEAD)}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    weights |= {name: own for name, own in frozen.items() if _equal_in_half(own, weights.get(name))}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"--init: the weights do not fit ({reason_of(error, 200)})") from error
    return is_new


def _equal_in_half(ours: Tensor, theirs: Tensor | None) -> bool:
    """Whether two weights are equal once they are rounded to float16."""
    return theirs is not None and torch.equal(ours.cpu().half(), theirs.half())


def head_differs(start: ModelConfig, now: ModelConfig) -> bool:
    """Whether the weights of two vertex heads have different shapes."""
    return (start.n_vertices, start.vertex_rank) != (now.n_vertices, now.vertex_rank)


def start_summary(path: str | Path, start: ModelConfig, now: ModelConfig) -> str:
    """One line: which parts of a model a run keeps, and which are new."""
    text = f"--init {path}: kept: speech encoder, decoder"
    if not head_differs(start, now):
        text += ", vertex head"
    elif start.n_vertices != now.n_vertices:
        text += f"; new: vertex head ({now.n_vertices} vertices, the file has {start.n_vertices})"
    else:
        text += f"; new: vertex head (rank {now.vertex_rank}, the file has {start.vertex_rank})"
    if start.fps != now.fps:
        text += f"; {now.fps} frames per second, the file was trained at {start.fps}"
    return text
