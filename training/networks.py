"""What a training run holds: the network, its lip reader, the frozen teacher, averaged weights.

Lip reader and teacher are separate modules, used in training alone; the network does not use them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.errors import UserError, reason_of
from config import Recipe
from jambatalk import JambaTalk
from layers.lean_linear import make_lean
from lip_reader import LipReader
from speech.bodies import body_of
from speech.features import length_mask
from speech.pretrained import load_pretrained
from wav2vec import TextTeacher

CLOSURE_REACH_M = 0.002  # metres
TOUCH_M = 0.0012  # lips that are closer count as closed
COMPONENT_FRAMES = 2_000  # from which the start of a low-rank vertex head is computed


@dataclass
class Networks:
    """The networks of a run: `model` and `reader` are trained, `teacher` is not."""

    model: JambaTalk
    reader: LipReader
    teacher: TextTeacher
    average: AveragedModel | None
    loss_scale: float = 1.0  # factor from the vertices' unit to TrainConfig.loss_unit
    inner_lips: Tensor | None = None  # (2n,) upper, lower, ...: touch when the mouth is shut
    closure_reach: float = 0.0  # see `losses.closure_weight`, in the vertices' unit
    touch: float = 0.0  # see `losses.open_loss`, in the vertices' unit
    source: str = ""  # of the pre-trained encoder and teacher: a folder or a hub name

    @property
    def best(self) -> JambaTalk:
        """The weights that are validated and saved: averaged ones where there are any."""
        return self.average.module if self.average is not None else self.model


def build(
    recipe: Recipe, device: torch.device, n_lips: int, inner_lips: Tensor | None = None
) -> Networks:
    """The networks of a recipe on a device, encoder and teacher loaded from `recipe.wav2vec2`.

    n_lips: number of vertices that the lip reader takes; inner_lips: (2n,) vertices, needed with
    `closure_gain` and `w_open`. Raises `UserError` when the pre-trained encoder cannot be loaded
    or has another shape.
    """
    spec, config = recipe.dataset, recipe.train
    model = JambaTalk(recipe.model)
    if config.checkpointing:
        model.checkpoint_activations()
    make_lean(model)
    teacher = TextTeacher(load_encoder(model, recipe.wav2vec2))
    reader = LipReader(n_lips, teacher.width, teacher.n_characters, spec.fps, spec.metres_per_unit)
    model, reader, teacher = model.to(device), reader.to(device), teacher.to(device)
    decay = config.ema_decay
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    loss_scale = spec.metres_per_unit / config.loss_unit
    nets = Networks(model, reader, teacher, average, loss_scale, source=recipe.wav2vec2)
    if config.closure_gain or config.w_open:
        if inner_lips is None:
            raise ValueError(f"closure_gain {config.closure_gain} or w_open without inner_lips")
        nets.inner_lips = inner_lips.to(device)
        nets.closure_reach = CLOSURE_REACH_M / spec.metres_per_unit
        nets.touch = TOUCH_M / spec.metres_per_unit
    return nets


def load_encoder(model: JambaTalk, source: str) -> nn.Module:
    """Load pre-trained weights into the model's encoder, freeze the part that its kind does not
    train; returns the pre-trained model."""
    pretrained = load_pretrained(source)
    try:
        model.encoder.body.load_state_dict(body_of(pretrained).state_dict())
    except RuntimeError as error:
        raise UserError(
            f"--encoder {source}: not the recipe's encoder ({reason_of(error, 200)})"
        ) from error
    model.encoder.freeze_features()
    return pretrained


def start_components(model: JambaTalk, batches: Iterable[dict[str, Any]]) -> None:
    """Start a low-rank vertex head from the principal components of the training offsets.

    batches: of `data_loader.collate`, read until they hold enough frames.
    """
    if model.head.coefficients is None:
        return
    rows, n_frames = [], 0
    for batch in batches:
        if "curves" in batch:
            offsets = torch.tensordot(batch["curves"], batch["basis"], dims=1)
        else:
            offsets = batch["vertices"] - batch["template"][:, None]
        offsets = offsets[length_mask(batch["frames"], offsets.shape[1])]
        rows.append(offsets[::3])
        n_frames += len(rows[-1])
        if n_frames >= COMPONENT_FRAMES:
            break
    offsets = torch.cat(rows) / model.config.units_per_metre  # (n, V, 3)
    mean = offsets.mean(0)
    flat, rank = (offsets - mean).flatten(1), model.config.vertex_rank
    _, scale, directions = torch.svd_lowrank(flat, q=min(rank + 8, *flat.shape))
    scaled = (directions.T * (scale / math.sqrt(len(offsets)))[:, None])[:rank]
    components = flat.new_zeros(rank, flat.shape[1])  # few frames span fewer than `rank`
    components[: len(scaled)] = scaled
    model.head.set_components(mean, components.unflatten(1, mean.shape))
